# A machine of a page of the manual: a clean Debian that does what the test outside types, and says what that printed.
# /dev/vda is an empty disk; /dev/vdc is a tar file with the package, which somebody has copied to root's home.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root SYSTEMD_COLORS=0 TERM=dumb
cd /root
tar -xf /dev/vdc || fail "no package"
must hostname "$VM_NAME"
# Both are the same installation: an identity of its own each, as the installer gives.
tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
must ip link set eth0 up
must ip address add "$VM_ADDRESS" dev eth0
# An AoE disk that it will have.
[ -z "$VM_AOE" ] || (until_true [ -e "/sys/kernel/debug/aoe/$VM_AOE" ]; watch_driver "$VM_AOE") &

do_what_is_typed
