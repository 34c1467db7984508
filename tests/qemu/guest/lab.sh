# A whole lab inside of this machine, whose kernel lets a mounted file system grow.
for module in ext4 loop fuse veth bridge tun; do modprobe $module || fail "no module $module"; done
lab=/var/lib/etherpool/lab
files=$lab/hyperspace
mkdir -p $lab
must mkfs.ext4 -q -F /dev/vda
must mount -t ext4 /dev/vda $lab
export ETHERPOOL_SOCKET=$lab/supervisor/run/api.sock

logs() {
    for log in $lab/log/*.log; do
        echo "--- $log"
        tail -n 40 "$log"
    done
}

check etherpool lab up --nodes 3 --disks 1 --size 192M
mark UP "$(etherpool lab status | tr '\n' ';')"
device=$(awk -v at=$files '$2 == at { print $1 }' /proc/mounts)
[ -b "$device" ] || fail "nothing is mounted at $files"
blocks() { stat -f -c %b $files; }
before=$(blocks)

for file in 1 2 3 4; do check dd if=/dev/urandom of=$files/file$file bs=1M count=$file 2>/dev/null; done
(cd $files && sha256sum file*) >/tmp/sums
writer_start 1 $files/writer 1024
# All but 8 MiB is taken, so that what is written later lies where the file system grew.
check fallocate -l $((($(stat -f -c %a $files) - 2048) * 4096)) $files/filler
until_true wrote_more "${device#/dev/}" "$(writes_of "${device#/dev/}")" 50
mark WRITING "$before blocks"

# Two machines: the copies of what is new lie on different ones, and nothing old is moved.
check etherpool lab add-node
check etherpool lab add-node
mark ADDED
check etherpool pool extend cluster e4.0 e5.0 --yes
check etherpool volume extend cluster/hyperspace --size 100%FREE --resizefs
after=$(blocks)
mark GROWN "from $before to $after blocks"
# From three disks to five of the same size: two thirds more, less the file system's own tables.
[ "$after" -gt $((before * 3 / 2)) ] || { logs; fail "$before blocks before, $after after"; }
# A disk that this slow machine kept waiting too long was evicted and is resynced; nothing else is copied.
# Sizes there have three digits: a hundredth more may have been missed.
missed=$(cat $lab/log/*.log | sed -n 's/.* in again, \([0-9.]* [KMGT]*i*B\) to resync.*/\1/p' | awk '
    { bytes = $1; for (unit = index("KMGT", substr($2, 1, 1)); unit > 0; unit--) bytes *= 1024; all += bytes * 1.01 }
    END { printf "%d\n", all }')
copied=$(etherpool volume list --json | tr -d ' ' | sed -n 's/.*"resynced_bytes":\([0-9]*\).*/\1/p')
[ "$copied" -le "$missed" ] || { logs; fail "$copied bytes were copied, $missed were missed"; }
mark COPIED "$copied bytes of $missed that were missed"
grep -q "^$device $files ext4 rw" /proc/mounts || fail "not mounted any more"

until_true wrote_more "${device#/dev/}" "$(writes_of "${device#/dev/}")" 50
# Before the rest: its longest pause shall be that of growing.
writer_do 1 stop
check dd if=/dev/urandom of=$files/more bs=1M count=24 2>/dev/null
(cd $files && sha256sum more) >>/tmp/sums
mark FILLED "$(df -h $files | tail -1)"
drop_caches
writer_do 1 verify
mark VERIFIED "$(grep verified /tmp/writer1.out)"
(cd $files && sha256sum -c -s /tmp/sums) || { logs; fail "files differ"; }
check etherpool volume verify cluster/hyperspace
exec 4>&-
check etherpool volume unmount cluster/hyperspace
check etherpool volume check cluster/hyperspace
no_io_errors 'dev loop|fuse'
check etherpool lab down --wipe
[ -z "$(ip netns)" ] || fail "namespaces are left: $(ip netns)"
