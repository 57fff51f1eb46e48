#!/usr/bin/env bash
# Puts Debian's kernel for virtual machines, and its modules, into target/vm.
# Needs apt and dpkg; not root.
set -euo pipefail
cd "$(dirname "$0")/../.."
vm=target/vm
if compgen -G "$vm/boot/vmlinuz-*" >/dev/null; then exit 0; fi
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
[ -n "$package" ] || { echo "apt knows no linux-image-cloud-amd64: run apt-get update" >&2; exit 1; }
mkdir -p "$vm/download"
(cd "$vm/download" && apt-get download "$package")
dpkg -x "$vm"/download/"$package"_*.deb "$vm"
rm -r "$vm/download"
