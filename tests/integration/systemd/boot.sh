#!/bin/sh
# Runs as root in new mount, pid, uts, ipc, net and cgroup namespaces, and becomes systemd on a root of its own:
#   boot.sh NAME LOWER UPPER WORK ROOT
# LOWER (layers, topmost first) stays as it is; what changes goes to UPPER, from where the next boot goes on. Where ROOT is mounted
# already, it is used as it is.
set -eu
name=$1 lower=$2 upper=$3 work=$4 root=$5

hostname "$name"
mount --make-rprivate /
if mountpoint -q "$root"; then
    # What was mounted outside of a user namespace cannot be moved.
    mount --rbind "$root" "$root"
else
    mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" "$root"
fi
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"

# The devices that a container may have.
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"

mkdir -p "$root/before"
cd "$root"
pivot_root . before
umount -l /before
rmdir /before
mount --make-rshared /
exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=journal --show-status=0
