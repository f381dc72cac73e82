#!/bin/sh
# A machine to install packages on: this one's files, changes kept in memory, and systemd as its first process.
# What it may see of the real one: no process, no network but the namespace this is started in, kernel settings that it
# can't write, a control group of its own. `machine.py` starts it, in a mount namespace of its own.
set -eu
work=$1

if [ "${2:-}" != inside ]; then
	mount -t tmpfs tmpfs "$work"
	mkdir "$work/cgroup" "$work/upper" "$work/overlay" "$work/root"
	mount -t cgroup2 cgroup2 "$work/cgroup"
	group=$work/cgroup/mcr-machine-$$
	mkdir "$group"
	echo $$ >"$group/cgroup.procs"
	setpriv --pdeathsig KILL unshare --pid --cgroup --ipc --uts --mount --fork --kill-child "$0" "$work" inside || true
	echo $$ >"$work/cgroup/cgroup.procs"
	find "$group" -depth -type d -exec rmdir {} +
	exit
fi

cd "$work"
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=overlay root
cd root
mount -t proc proc proc
for each in proc/sys proc/sysrq-trigger; do
	[ ! -e "$each" ] || { mount --bind "$each" "$each" && mount -o remount,bind,ro "$each"; }
done
for each in rmem_max wmem_max; do # these are the whole machine's: here they are files, that can be written
	echo 212992 >"../$each"
	mount --bind "../$each" "proc/sys/net/core/$each"
done
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd

mkdir old
pivot_root . old
umount -l /old
rmdir /old

# From here on every path is the machine's. Nothing of this machine's own services: the journal, and what a test starts.
rm -rf /lib/systemd/system-generators /etc/systemd/system /lib/systemd/system/*.wants /var/log/journal
mkdir -p /etc/systemd/system/basic.target.wants
ln -s /lib/systemd/system/systemd-journald.service /etc/systemd/system/basic.target.wants/
rm -rf /var/lib/mcr /var/lib/private/mcr
rm -f /var/lib/man-db/auto-update # whatever dpkg does would have all manuals looked through
rm -f /usr/sbin/policy-rc.d # of container images: no service may start
: >/etc/fstab

exec env -i container=mcr-machine PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	/lib/systemd/systemd --unit=multi-user.target --show-status=no --log-target=journal
