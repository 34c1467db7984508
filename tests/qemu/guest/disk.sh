# A target with a SATA disk: sets the disk up, and lets a client outside ask for its health.
for module in ahci sd_mod; do modprobe $module || fail "no module $module"; done
until_true test -b /dev/sda
queue=/sys/block/sda/queue
mark BEFORE "$(cat $queue/write_cache)"

cat >/tmp/target.toml <<END
node-id = "00000000-0000-0000-0000-000000000003"
interfaces = ["eth0"]
[[drive]]
match = "ATA-TEST-*"
write-cache = $VM_CACHE
read-ahead = false
kernel-read-ahead-kib = 4
spin-down = "20min"
error-recovery = "7s"
[[export]]
address = "e1.0"
path = "/dev/sda"
END
etherpool target --config /tmp/target.toml >/tmp/log 2>&1 &
has_drive() { etherpool target status | grep -q '^/dev/sda  *refused'; }
until has_drive; do
    kill -0 $! 2>/dev/null || { cat /tmp/log; fail "the target ended"; }
    sleep 0.2
done
etherpool target status
cat /tmp/log
mark DRIVE "$(etherpool target status | grep '^/dev/sda  *refused')"
mark AFTER "$(cat $queue/write_cache), read ahead $(cat $queue/read_ahead_kb)"
# What the disk itself says: QEMU's word for its cache is in IDENTIFY, which sd reads anew on a rescan.
echo 1 >/sys/block/sda/device/rescan
mark DISK "$(cat $queue/write_cache)"
hear AGAIN
# The disk is pulled out, and comes back as it was before it was set up.
echo "write back" >"$(echo /sys/class/scsi_disk/*/cache_type)"
[ "$(cat $queue/write_cache)" = "write back" ] || fail "the cache stays off"
echo 1 >/sys/block/sda/device/delete
gone() { ! ls -d /sys/block/sd*; }
until_true gone
for scan in /sys/class/scsi_host/*/scan; do echo "- - -" >"$scan"; done
is_back() { ls -d /sys/block/sd*; }
until_true is_back
is_set_up() { [ "$(cat /sys/block/sd*/queue/write_cache)" = "write through" ]; }
until_true is_set_up
cat /tmp/log
mark CAME-BACK "$(basename /sys/block/sd*), $(cat /sys/block/sd*/queue/write_cache)"
