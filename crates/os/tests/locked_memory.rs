//! A process that locks its memory. A test program of its own, since all of its threads' memory is locked.
#![allow(clippy::unwrap_used)]

use std::fs;

use os::process::lock_memory;

/// Far more than the test program uses.
const RESERVED_BYTES: usize = 1 << 30;
const USED_BYTES: usize = 1 << 20;

/// So many bytes of this kind (proc_pid_smaps(5)) have the mappings that can be read and whose name ends so.
fn mapping_bytes(kind: &str, name: &str) -> usize {
    let (mut bytes, mut is_meant) = (0, false);
    for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap(), words.next().unwrap());
        if first == kind && is_meant {
            bytes += second.parse::<usize>().unwrap() * 1024;
        } else if !first.ends_with(':') {
            is_meant = second.starts_with('r') && line.ends_with(name);
        }
    }
    bytes
}

#[test]
fn what_is_used_is_locked_and_what_is_reserved_costs_nothing() {
    let mut before: Vec<u8> = Vec::with_capacity(RESERVED_BYTES);
    if let Err(error) = lock_memory() {
        panic!("it needs root or CAP_IPC_LOCK: {error}");
    }
    let mut after: Vec<u8> = Vec::with_capacity(RESERVED_BYTES);
    let resident_bytes = mapping_bytes("Rss:", "");
    assert!(resident_bytes < RESERVED_BYTES / 4, "{resident_bytes} are resident");
    let program = std::env::current_exe().unwrap();
    let of_program = |kind| mapping_bytes(kind, program.to_str().unwrap());
    assert!(of_program("Size:") > 0);
    assert_eq!(of_program("Rss:"), of_program("Size:"), "instructions may have to be read");
    // What is used from now on stays, whenever it was reserved.
    let locked_before = mapping_bytes("Locked:", "");
    for reserved in [&mut before, &mut after] {
        reserved.extend(std::iter::repeat_n(1, USED_BYTES));
    }
    let locked_after = mapping_bytes("Locked:", "");
    assert!(locked_after >= locked_before + 2 * USED_BYTES, "{locked_before} {locked_after}");
}
