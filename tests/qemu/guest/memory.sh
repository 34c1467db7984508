# Everything on one machine that has little memory: node, engine, services, and a program that writes far more
# than fits through the page cache of a volume that is mounted here. Nobody may wait for memory that only
# waits for him.
for module in ext4 loop fuse; do modprobe $module || fail "no module $module"; done
file=/srv/files/file
free_of() { awk -v what="$1:" '$1 == what { printf "%d MiB", $2 / 1024 }' /proc/meminfo; }
# What of each process stays in memory whatever happens.
locked() {
    for process in /proc/[0-9]*; do
        case "$(tr '\0' ' ' <"$process/cmdline" 2>/dev/null)" in *etherpool*) ;; *) continue ;; esac
        awk -v of="$(tr '\0' '\n' <"$process/cmdline" | sed -n 2p)" \
            '$1 == "VmLck:" || $1 == "VmRSS:" { printf "%s %s %d MiB; ", of, $1, $2 / 1024 }' "$process/status"
    done
}
no_trouble() {
    if dmesg | grep -iE "out of memory|oom-kill|blocked for more than|page allocation failure|i/o error|EXT4-fs error" >/tmp/trouble; then
        dmesg | tail -40
        logs
        fail "the kernel reports: $(head -1 /tmp/trouble)"
    fi
}

local_pool
check etherpool volume create local/files --size "$VM_VOLUME" --layout mirror:2
check etherpool volume mkfs local/files --yes
check etherpool volume mount local/files /srv/files
mark WRITING "$VM_MEBIBYTES MiB with $(free_of MemTotal) of memory, $(free_of MemAvailable) of it available; $(locked)"
(
    while sleep 20; do
        mark AT "$(($(stat -c %s $file) >> 20)) MiB, $(free_of Dirty) dirty, $(free_of Writeback) under way, $(free_of MemAvailable) available"
    done
) &
reporter=$!
check buffered-writer write $file "$VM_MEBIBYTES" >/tmp/out
mark WROTE "$(cat /tmp/out); $(free_of MemAvailable) available; $(locked)"
no_trouble
kill $reporter
# More than fits is read from the disks anyhow; what was written last is in the page cache.
drop_caches
check buffered-writer verify $file "$VM_MEBIBYTES" >/tmp/out
mark VERIFIED "$(cat /tmp/out)"
check etherpool volume unmount local/files
check etherpool volume check local/files
# Nobody had to be started again, and no disk was dropped.
check etherpool status
etherpool volume show local/files --json | tr -d ' ' >/tmp/volume
grep -q '"degraded":false' /tmp/volume || { logs; fail "the volume is degraded: $(cat /tmp/volume)"; }
no_trouble
