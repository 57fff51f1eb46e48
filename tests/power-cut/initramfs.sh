#!/usr/bin/env bash
# usage: initramfs.sh OUT MODULES-DIR WRITER
# An initramfs of busybox, the modules for a virtio disk, and one static program.
# MODULES-DIR is lib/modules/VERSION of an unpacked kernel package.
set -euo pipefail
out=$1 modules=$2 writer=$3 here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,proc,sys,dev,modules}
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$here/init" "$root/init"
chmod +x "$root/init"
# Each after what it needs.
for name in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
  file=$(find "$modules" -name "$name.ko*" | head -n 1)
  [ -n "$file" ] || continue # built in
  case $file in *.xz) xz -dc "$file" >"$root/modules/$name.ko" ;; *) cp "$file" "$root/modules/$name.ko" ;; esac
  echo "$name.ko" >>"$root/modules/order"
done
strip -o "$root/writer" "$writer"
(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$out"
