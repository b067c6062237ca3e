#!/bin/sh
# The first program of a host, as process 1 of its own namespaces: builds its file system, enters
# it, and becomes its init.
#   boot.sh FOLDER LOWER NAME BOOT_ID
# LOWER: layers that all hosts share, the topmost first. FOLDER/root and FOLDER/var: tmpfs of the
# host's own, which outlive a boot; /var is apart so that it can be full alone.
set -eu
folder=$1 lower=$2 name=$3 boot_id=$4
root=$folder/mnt
lower_var=$(printf %s "$lower" | sed 's,:,/var:,g')/var

hostname "$name"
mount -t overlay overlay -o "index=off,lowerdir=$lower,upperdir=$folder/root/upper,workdir=$folder/root/work" "$root"
mount -t overlay overlay \
    -o "index=off,lowerdir=$lower_var,upperdir=$folder/var/upper,workdir=$folder/var/work" "$root/var"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755,size=8m tmpfs "$root/run"
mount -t tmpfs -o mode=755,size=1m tmpfs "$root/sys"
mount -t tmpfs -o mode=755,size=1m tmpfs "$root/dev"
mkdir -p "$root/run/sshd" "$root/run/lock" "$root/run/systemd/system" "$root/run/gpu-stub" \
    "$root/sys/module" "$root/dev/pts" "$root/dev/shm"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777,size=16m tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

echo "$boot_id" >"$root/run/gpu-stub/boot_id"
chmod 0444 "$root/run/gpu-stub/boot_id"
mount --bind "$root/run/gpu-stub/boot_id" "$root/proc/sys/kernel/random/boot_id"
touch "$root/run/gpu-stub/modules"
# A kernel that was built without modules has no such list.
[ ! -e "$root/proc/modules" ] || mount --bind "$root/run/gpu-stub/modules" "$root/proc/modules"

cd "$root"
pivot_root . .
umount -l .
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/gpu-stub/init
