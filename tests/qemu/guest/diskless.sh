# A machine without disks whose root is a volume: it writes, starts itself anew, finds what it wrote, and writes on while
# the test outside kills the supervisor that serves its root.
# VM_DISK: the root's disk, e100.0.
must mount -t debugfs debugfs /sys/kernel/debug
watch_driver "$VM_DISK" &
awk '$2 == "/" { root = $1 } END { exit root != "/dev/etherd/'"$VM_DISK"'p1" }' /proc/mounts || fail "another root: $(cat /proc/mounts)"

if [ ! -e /data ]; then
    must dd if=/dev/urandom of=/data bs=1M count=4 2>/dev/null
    (sha256sum /data >/data.sum) || fail "no sum of what was written"
    sync
    mark WROTE "$(cut -c1-16 /data.sum)"
    no_io_errors "etherd.$VM_DISK"
    reboot -f
    # Nothing is to happen before it does.
    sleep 1000
fi
sha256sum -c -s /data.sum || fail "what was written before the start is another now"
mark FOUND "$(cut -c1-16 /data.sum)"

wait_for_writes() { until_true wrote_more "etherd!$VM_DISK" "$(writes_of "etherd!$VM_DISK")" 50; }
writer_start 1 /writer 1024
wait_for_writes
mark WRITING
hear restarted
# The supervisor is there again, and so is what was written while it wasn't.
wait_for_writes
mark WROTE
writer_do 1 stop
drop_caches
writer_do 1 verify
mark VERIFIED "$(grep verified /tmp/writer1.out)"
no_io_errors "etherd.$VM_DISK"
