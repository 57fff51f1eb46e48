#!/bin/sh
# Fetches Debian's cloud kernel and unpacks it into target/vm/kernel, for tests that need a
# kernel other than this machine's (cgroup v2 only, Debian's modules). Nothing is installed.
# Needs: apt-get (or a linux-image-*-cloud-amd64 .deb as argument), dpkg-deb, kmod or busybox.
set -eu
started_in=$PWD
cd "$(dirname "$0")/../.."
mkdir -p target/vm
cd target/vm

package=${1:-}
if [ -n "$package" ]; then
    case $package in /*) ;; *) package=$started_in/$package ;; esac
else
    # The metapackage names the kernel of the day.
    name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    [ -n "$name" ] || { echo "apt knows no linux-image-cloud-amd64; try: apt-get update" >&2; exit 1; }
    ls "$name"_*.deb >/dev/null 2>&1 || apt-get download "$name"
    package=$(ls "$PWD/$name"_*.deb | tail -n 1)
fi

rm -rf kernel.new
dpkg-deb -x "$package" kernel.new
version=$(ls kernel.new/lib/modules)
if command -v depmod >/dev/null; then
    depmod -b "$PWD/kernel.new" "$version"
else
    busybox depmod -b "$PWD/kernel.new/lib/modules/$version" "$version"
fi
rm -rf kernel
mv kernel.new kernel
echo "target/vm/kernel: Linux $version"
