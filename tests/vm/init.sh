#!/bin/busybox sh
# The first process of a test machine: readies it, runs /command, reports on the second serial
# port, and switches off. The first port is the kernel's.
export PATH=/bin:/sbin:/usr/sbin:/usr/bin

if [ ! -e /moved ]; then
    # Off the initramfs, for pivot_root refuses to leave that one.
    # Moved one by one, so that memory need not hold everything twice.
    /bin/busybox mount -t tmpfs -o mode=755 root /new
    # (switch_root wants to see /init here too, as the sign that this is an initramfs.)
    /bin/busybox cp /bin/busybox /busybox
    for thing in /*; do
        case $thing in
        /new | /busybox) ;;
        /init) /busybox cp /init /new/ ;;
        *) /busybox mv "$thing" /new/ ;;
        esac
    done
    /busybox touch /new/moved
    exec /new/bin/busybox switch_root /new /init
fi

/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /run /tmp /root /var/lib /mnt
chmod 1777 /tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
hostname vm
for module in $(cat /modules); do
    modprobe "$module" || echo "no module $module" >/dev/console
done
if [ -b /dev/vda ]; then
    mkdir -p /disk
    mount -t ext4 /dev/vda /disk 2>/dev/console || echo "no file system on /dev/vda" >/dev/console
fi

stty -F /dev/ttyS1 raw 115200
cd /root
HOME=/root setsid sh /command </dev/null >/dev/ttyS1 2>&1
status=$?
# The output may have ended within a line.
printf '\nVM-EXIT %d\n' "$status" >/dev/ttyS1
umount /disk 2>/dev/null
sync
poweroff -f
