# The package in a Debian with systemd: installed beside Debian's vblade, started, upgraded, removed, purged.
# /dev/vda is an empty disk, which the node exports; /dev/vdc is a tar file with `former.deb` and `new.deb`.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive HOME=/root SYSTEMD_COLORS=0
state=/var/lib/etherpool
logs() {
    systemctl --no-pager --full --lines 0 status etherpool-node etherpool-supervisor
    journalctl --no-pager -b -n 50
}
install_package() { check dpkg -i "/run/test/$1.deb"; }
pid_of() { systemctl show --property MainPID --value "etherpool-$1"; }
since() { systemctl show --property ActiveEnterTimestampMonotonic --value "etherpool-$1"; }
is_active() { systemctl --quiet is-active "etherpool-$1"; }
expect() { [ "$2" = "$3" ] || { logs; fail "$1: $2, not $3"; }; }

(cd /run/test && tar -xf /dev/vdc) || fail "no packages"
mark BOOTED "$(now)"

install_package former
for unit in node target boot supervisor; do
    [ "$(systemctl is-enabled etherpool-$unit)" = disabled ] || fail "etherpool-$unit is enabled by its installation"
    ! is_active $unit || fail "etherpool-$unit runs by its installation"
done
must getent group etherpool
[ "$(stat -c '%a %U' $state)" = "700 root" ] || fail "$state: $(stat -c '%a %U' $state)"
# What Debian's vblade owns stays its own until it goes.
[ ! -L /usr/sbin/vblade ] || fail "the name was taken from vblade"
must dpkg --purge vblade
expect "vblade" "$(readlink -f /usr/sbin/vblade)" /usr/bin/etherpool
expect "vbladed" "$(readlink -f /usr/sbin/vbladed)" /usr/bin/etherpool
vblade 2>&1 | grep -q 'usage: vblade' || fail "called as vblade it says: $(vblade 2>&1 | head -n 3)"
# As they are they say nothing, and are understood. A target that exports nothing is none.
examples=/usr/share/doc/etherpool/examples
must etherpool supervisor --check --config $examples/supervisor.toml
must etherpool node --check -i eth0 --config $examples/node.toml
sed -n 's/^#\([a-z[]\)/\1/p' $examples/target.toml >/tmp/target.toml
must etherpool target --check --config /tmp/target.toml
must ip link set eth0 up
must ip address add 192.0.2.1/24 dev eth0
must etherpool boot serve --check -i eth0 --config $examples/boot.toml
mark INSTALLED "$(now)"

# The names of aoetools, with Linux's own driver, on a disk that vblade exports to this machine. The former version hasn't them.
aoetools() {
    check modprobe aoe
    check aoe-version
    must truncate -s 104000000 /run/exported
    vblade 9 1 lo /run/exported >/run/vblade.log 2>&1 &
    exporting=$!
    check aoe-interfaces lo
    expect "the driver's interfaces" "$(aoe-interfaces)" lo
    is_up() { aoe-discover && aoe-stat | grep -q '^ *e9.1  *0.104GB  *lo .* up *$'; }
    until_true is_up
    check aoe-revalidate e9.1
    [ -b /dev/etherd/e9.1 ] || fail "no device"
    # Whoever looks at a new disk has it open for a moment.
    until_true sh -c 'aoe-flush e9.1 && [ -z "$(aoe-stat)" ]'
    kill $exporting
    check aoe-interfaces -c
    expect "the driver's interfaces" "$(aoe-interfaces)" ""
}

sed -i 's/^#\(ETHERPOOL_NODE_OPTIONS="-i\) eth1/\1 eth0/' /etc/default/etherpool-node
mkdir -p /srv/files
check systemctl enable --now etherpool-node etherpool-supervisor
# Its shelf is of its address.
until_true sh -c "etherpool disk list --json | grep -q '\"e1.0\"'"
check etherpool pool create tank e1.0 --yes
check etherpool volume create tank/files --size 64M --layout raid0
check etherpool volume mkfs tank/files --yes
check etherpool volume mount tank/files /srv/files
echo kept >/srv/files/file
# udev has seen the volume's device, and looked at nothing on it.
device=$(awk '$2 == "/srv/files" { print $1 }' /proc/mounts)
check udevadm settle
udevadm info --query property "$device" >/tmp/properties
grep -q UDISKS_IGNORE=1 /tmp/properties || { cat /tmp/properties /sys/block/*/loop/backing_file; fail "udev took $device for any loop device"; }
! grep -q ID_FS_ /tmp/properties || fail "udev looked at what is on $device"
# Partitions come as ever, and have a name that stays.
check etherpool volume create tank/disk --size 16M --layout raid0
check etherpool volume attach tank/disk
check addpart /dev/etherpool/tank/disk 1 2048 4096
until_true [ -b /dev/disk/by-etherpool/tank/disk-part1 ]
check delpart /dev/etherpool/tank/disk 1
check etherpool volume detach tank/disk
mark STARTED "$(now)"

node=$(pid_of node) supervisor=$(pid_of supervisor)
install_package new
[ "$(pid_of node)" != "$node" ] || fail "the node goes on with the former program"
[ "$(pid_of supervisor)" != "$supervisor" ] || fail "the supervisor goes on with the former program"
[ "$(since node)" -lt "$(since supervisor)" ] || fail "the supervisor was restarted before the node"
for unit in node supervisor; do
    expect "the program of $unit" "$(readlink "/proc/$(pid_of $unit)/exe")" /usr/bin/etherpool
done
until_true [ -e /srv/files/file ]
expect "the file" "$(cat /srv/files/file)" kept
expect "its options" "$(grep -c '^ETHERPOOL_NODE_OPTIONS="-i eth0"' /etc/default/etherpool-node)" 1
aoetools
mark UPGRADED "$(now)"

# As dpkg does it at an upgrade. Without the disks of this machine the supervisor goes on as it was.
configure() { check sh /var/lib/dpkg/info/etherpool.postinst configure 0.0.1-1; }
node=$(pid_of node) supervisor=$(pid_of supervisor)
sed -i 's/^\(ETHERPOOL_NODE_OPTIONS="-i\) eth0/\1 none --no-such-option/' /etc/default/etherpool-node
configure
[ "$(pid_of node)" = 0 ] || fail "a node with wrong options runs"
expect "the supervisor" "$(pid_of supervisor)" "$supervisor"
sed -i 's/ none --no-such-option/ eth0/' /etc/default/etherpool-node
check systemctl start etherpool-node
# Who wants to restart it himself does.
sed -i s/RESTART_AT_UPGRADE=yes/RESTART_AT_UPGRADE=no/ /etc/default/etherpool
node=$(pid_of node)
configure
expect "pids" "$(pid_of node) $(pid_of supervisor)" "$node $supervisor"
# What ends then is started again as what the supervisor is, as dpkg has put another program in the place of the file.
engine() {
    for child in $(cat "/proc/$supervisor/task/"*/children); do
        ! tr '\0' ' ' <"/proc/$child/cmdline" | grep -q ' engine ' || echo "$child"
    done
}
program() { stat -L -c %i "/proc/$1/exe"; }
former=$(engine)
check cp /usr/bin/etherpool /usr/bin/etherpool.dpkg-new
check mv /usr/bin/etherpool.dpkg-new /usr/bin/etherpool
check kill -KILL "$former"
anew() {
    now_runs=$(engine)
    [ -n "$now_runs" ] && [ "$now_runs" != "$former" ]
}
until_true anew
until_true sh -c "etherpool pool show tank --json | grep -q online"
# It is in the journal with what it is about, and explained there.
journal() { journalctl --no-pager -b -u etherpool-supervisor "$@"; }
until_true sh -c "journalctl --no-pager -b -u etherpool-supervisor ETHERPOOL_EVENT=owned ETHERPOOL_POOL=tank | grep -q 'pool tank is opened by'"
ended=$(journal -o cat ETHERPOOL_EVENT=process-ended)
case $ended in
*"ended by itself"*'process="engine"'*) ;;
*) fail "the journal of the engine's end: $ended" ;;
esac
journal -x ETHERPOOL_EVENT=process-ended | grep -q "Subject: A process of the supervisor ended by itself" || fail "journalctl explains nothing"
expect "other pools' lines" "$(journal -q -o cat ETHERPOOL_POOL=other)" ""
expect "the engine's program" "$(program "$(engine)")" "$(program "$supervisor")"
[ "$(program "$supervisor")" != "$(stat -c %i /usr/bin/etherpool)" ] || fail "the file is still the former one"
until_true [ -e /srv/files/file ]
expect "the file" "$(cat /srv/files/file)" kept
mark HELD "$(now)"

check dpkg --remove etherpool
! is_active node && ! is_active supervisor || fail "they run without the package"
! grep -q /srv/files /proc/mounts || fail "it is still mounted"
[ ! -e /usr/sbin/vblade ] || fail "vblade is still there"
[ ! -e /usr/sbin/aoe-stat ] || fail "aoe-stat is still there"
[ -e $state/pools.json ] && [ -e $state/identity.key ] || { ls -lR $state; fail "removing it forgot the pools"; }
mkdir -p $state/lab/n1
echo disk >$state/lab/n1/disk
# An image that somebody exports, and what is mounted in here.
truncate -s 2M $state/image
mkdir -p $state/exports $state/boot
echo '{}' >$state/exports/e9.9
check mount -t tmpfs none $state/boot
echo kept >$state/boot/file
# The pool's structures are at its beginning.
digest() { head -c 16M /dev/vda | sha256sum; }
before=$(digest)
# While somebody runs who was started by hand it is all still needed.
(exec 9>/run/etherpool-running/1 && flock 9 && echo >/tmp/locked && exec sleep 1000) &
by_hand=$!
until_true [ -e /tmp/locked ]
check sh /var/lib/dpkg/info/etherpool.postrm purge
[ -e $state/pools.json ] || fail "what somebody uses was purged"
kill $by_hand
wait $by_hand
check dpkg --purge etherpool
expect "what is left" "$(cd / && find var/lib/etherpool run/etherpool* etc/etherpool etc/default/etherpool* 2>/dev/null | sort | tr '\n' ' ')" \
    "var/lib/etherpool var/lib/etherpool/boot var/lib/etherpool/boot/file var/lib/etherpool/image var/lib/etherpool/lab \
var/lib/etherpool/lab/n1 var/lib/etherpool/lab/n1/disk "
expect "links" "$(find /etc/systemd -name 'etherpool*')" ""
[ "$(digest)" = "$before" ] || fail "purging it changed a disk"
mark PURGED "$(now)"
