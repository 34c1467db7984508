# Uses AoE disks by the kernel's own driver while what exports them dies and comes back.
# VM_DISKS: disks with the payload that the driver must find for each, e0.1:1024,e0.2:8192.
# VM_ROUNDS: words that the test outside says when it has broken or repaired something.
# VM_REFUSED: disks that have an owner; they are seen, but neither read nor written.
disks=$(echo "$VM_DISKS" | tr , ' ')
modprobe aoe || fail "no aoe driver"
until_true [ -c /dev/etherd/discover ]

has_sectors() { [ "$(cat "/sys/block/etherd!$1/size")" = "$2" ]; }

is_up() {
    echo >/dev/etherd/discover
    sleep 0.2
    [ "$(cat "/sys/block/etherd!$1/state")" = up ] && [ -b "/dev/etherd/$1" ]
}

for disk in $disks; do
    name=${disk%%:*} payload=${disk##*:}
    until_true is_up "$name"
    found=$(cat "/sys/block/etherd!$name/payload")
    mark UP "$name $(cat "/sys/block/etherd!$name/size") sectors, payload $found"
    [ "$found" = "$payload" ] || fail "$name has payload $found, not $payload"
done

must mount -t debugfs debugfs /sys/kernel/debug
watch_driver "$disks" &

for name in $(echo "$VM_REFUSED" | tr , ' '); do
    until_true is_up "$name"
    dd if=/dev/etherd/$name of=/dev/null bs=4096 count=1 2>/dev/null && fail "$name was read"
    dd if=/dev/zero of=/dev/etherd/$name bs=4096 count=1 conv=notrunc,fsync 2>/dev/null && fail "$name was written"
    mark REFUSED "$name"
done

number=0
for disk in $disks; do
    number=$((number + 1)) name=${disk%%:*}
    device=/dev/etherd/$name
    mkdir -p "/mnt/$number"
    must mkfs.ext4 -q -F "$device"
    must mount -t ext4 "$device" "/mnt/$number"
    for file in 1 2 3 4; do
        must dd if=/dev/urandom of="/mnt/$number/file$file" bs=1M count=$file 2>/dev/null
    done
    (cd "/mnt/$number" && sha256sum file*) >"/tmp/sums$number"
    must umount "/mnt/$number"
    drop_caches
    must mount -t ext4 "$device" "/mnt/$number"
    (cd "/mnt/$number" && sha256sum -c -s "/tmp/sums$number") || fail "$name: files differ after a remount"
    mark FILES "$name"
    writer_start $number "/mnt/$number/writer" 1024
done

wait_for_writes() {
    for disk in $disks; do
        name=${disk%%:*}
        until_true wrote_more "etherd!$name" "$(writes_of "etherd!$name")" 50
    done
}
# Each round: writes go on, the test outside does something, writes go on.
for round in $(echo "$VM_ROUNDS" | tr , ' '); do
    wait_for_writes
    mark WRITING "$round"
    hear "$round"
    wait_for_writes
    mark WROTE "$round"
done

number=0
for disk in $disks; do
    number=$((number + 1)) name=${disk%%:*}
    device=/dev/etherd/$name
    writer_do $number stop
    must umount "/mnt/$number"
    drop_caches
    e2fsck -fn "$device" >/tmp/fsck 2>&1 || { cat /tmp/fsck; fail "$name: e2fsck complains"; }
    must mount -t ext4 "$device" "/mnt/$number"
    writer_do $number verify
    mark VERIFIED "$name: $(grep verified "/tmp/writer$number.out")"
    (cd "/mnt/$number" && sha256sum -c -s "/tmp/sums$number") || fail "$name: files differ"
    must umount "/mnt/$number"
    no_io_errors "etherd.$name"
done

# What must end with an error, and soon: a client that hangs is worse off. dd's own time is told.
must_fail_soon() {
    what=$1
    shift
    begun=$(now)
    if timeout 30 "$@" 2>/tmp/error; then fail "$what: it was done"; fi
    took=$(echo "$begun $(now)" | awk '{ printf "%.1f", $2 - $1 }')
    grep -q "Input/output error" /tmp/error || fail "$what: after $took s: $(cat /tmp/error)"
    mark FAILED "$what after $took s"
}

# VM_GROWN: disks that grow to 128 MiB once the test outside hears of it. They are closed now; the driver
# looks at their size when the target announces it.
if [ "$VM_GROWN" ]; then
    mark GROW
    for name in $(echo "$VM_GROWN" | tr , ' '); do
        until_true has_sectors "$name" 262144
        must dd if=/dev/urandom of=/tmp/end bs=1M count=1 2>/dev/null
        must dd if=/tmp/end of="/dev/etherd/$name" bs=1M seek=127 oflag=direct 2>/dev/null
        dd if="/dev/etherd/$name" bs=1M skip=127 iflag=direct 2>/dev/null | cmp - /tmp/end || fail "$name: the new end differs"
        mark GROWN "$name"
    done
fi

# VM_READ_ONLY: they are read; a write fails, and fails alone.
for name in $(echo "$VM_READ_ONLY" | tr , ' '); do
    until_true is_up "$name"
    must dd if="/dev/etherd/$name" of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null
    must_fail_soon "write to $name" dd if=/dev/zero of="/dev/etherd/$name" bs=4096 count=1 oflag=direct conv=notrunc
    must dd if="/dev/etherd/$name" of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null
done

# VM_RESERVED: the test outside reserves them for another client, and then for nobody.
for name in $(echo "$VM_RESERVED" | tr , ' '); do
    until_true is_up "$name"
    must dd if="/dev/etherd/$name" of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null
    mark RESERVE "$name"
    hear reserved
    must_fail_soon "read from $name" dd if="/dev/etherd/$name" of=/dev/null bs=4096 count=1 iflag=direct
    must_fail_soon "write to $name" dd if=/dev/zero of="/dev/etherd/$name" bs=4096 count=1 oflag=direct conv=notrunc
    mark RELEASE "$name"
    hear released
    must dd if="/dev/etherd/$name" of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null
    must dd if=/dev/zero of="/dev/etherd/$name" bs=4096 count=1 oflag=direct conv=notrunc 2>/dev/null
done

# VM_SEQUENTIAL: a disk that 1 MiB is written to in one go, while the test outside counts.
for name in $(echo "$VM_SEQUENTIAL" | tr , ' '); do
    until_true is_up "$name"
    # Round-trip times are known after some requests; before, one lost frame would take 16 seconds.
    must dd if="/dev/etherd/$name" of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null
    mark COUNT "$name"
    hear counting
    must dd if=/dev/zero of="/dev/etherd/$name" bs=1M count=1 oflag=direct conv=notrunc 2>/dev/null
    mark COUNTED "$name"
done
