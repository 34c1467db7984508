# A machine with a stock kernel that is node and supervisor at once, at which somebody sits: it does what the test outside
# types. /dev/vda and /dev/vdb are a mirror by md, /dev/vdc and /dev/vdd a volume group of LVM, each with a file system in
# use; /dev/vde is a tar file with our units.
# As on an installed machine: the root can be left, and what is unmounted is unmounted for everybody.
[ -n "$WHOLE" ] || {
    mkdir /whole
    must mount --rbind / /whole
    must mount --make-rshared /whole
    export WHOLE=yes
    exec chroot /whole /bin/sh -c '. /guest.lib; . /test.sh'
}
must ip link set eth0 up
must ip address add "$VM_ADDRESS" dev eth0
for module in raid1 dm_mod dm_mirror ext4 loop fuse; do must modprobe $module; done
mkdir -p /run/units /etc/default /etc/etherpool /srv/old /srv/older
must tar -xf /dev/vde -C /run/units
export UNITS=/run/units
ln -s stand-in-systemctl /usr/bin/systemctl
for name in pvcreate pvmove pvremove pvs vgcreate vgchange vgreduce vgremove lvcreate lvremove; do ln -s lvm /usr/bin/$name; done
tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id

# There is no udev that makes devices.
mkdir -p /etc/lvm /run/lvm /run/lock/lvm /dev/mapper
echo 'activation { udev_sync = 0 udev_rules = 0 }' >/etc/lvm/lvm.conf
export LVM_SUPPRESS_FD_WARNINGS=1
must mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --assume-clean /dev/vda /dev/vdb
must mkfs.ext4 -q /dev/md0
must mount -t ext4 /dev/md0 /srv/old
echo dear >/srv/old/letter
must vgcreate -qq old /dev/vdc /dev/vdd
must lvcreate -qq -Zn -Wn -an -L 60M -n files old /dev/vdd
must vgchange -ay old
must mkfs.ext4 -q /dev/mapper/old-files
must mount -t ext4 /dev/mapper/old-files /srv/older
echo older >/srv/older/letter
sync
do_what_is_typed
