//! Volumes that are mounted where they are served, on stock Debian kernels in emulated machines: with little
//! memory, and with other file systems than ext4.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blackbox::{etherpool, require_root};

#[path = "../qemu/vm.rs"]
#[allow(dead_code)]
mod vm;

use vm::{Switch, Vm, VmOptions, require_qemu};

/// What is written by `make test`: several times the machine's memory. Variable `MEMORY_MEBIBYTES` says
/// another number; `make test-long` writes 2 GiB.
const MEBIBYTES: u64 = 1024;
const MEMORY_MB: u32 = 512;

/// More words for QEMU: two empty disks, of which only what is written takes space.
fn two_disks(directory: &Path, megabytes: u64) -> Vec<String> {
    let drive = |name: &str| {
        let image = directory.join(name);
        std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        let what = format!("file={},format=raw,if=virtio,cache=unsafe", image.display());
        ["-drive".to_owned(), what]
    };
    [drive("vda"), drive("vdb")].into_iter().flatten().collect()
}

/// A program of this machine, for the other one.
fn program(name: &str) -> PathBuf {
    let directories = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Path::new);
    let found = directories.iter().map(|dir| dir.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is missing: run scripts/setup-qemu as root"))
}

/// All in one machine of 512 MiB: who writes waits for the engine, and the engine for nobody who waits for
/// its writer's memory.
#[test]
fn a_writer_with_little_memory_comes_to_its_end() {
    require_root();
    require_qemu();
    vm::sweep();
    let mebibytes =
        std::env::var("MEMORY_MEBIBYTES").map_or(MEBIBYTES, |text| text.parse().unwrap());
    assert!(mebibytes >= 2 * u64::from(MEMORY_MB), "that fits into memory");
    let directory =
        tempfile::Builder::new().prefix("etherpool-disks").tempdir_in("/var/tmp").unwrap();
    let switch = Switch::new("memory");
    // Beside the file, the file system's own and the pool's.
    let volume = format!("{}M", mebibytes + mebibytes / 8 + 64);
    let options = VmOptions {
        name: "memory",
        netns: switch.netns(),
        nics: &[],
        script: "memory.sh",
        programs: &[etherpool().get_program().into(), env!("CARGO_BIN_EXE_buffered-writer").into()],
        variables: &[("VM_MEBIBYTES", &mebibytes.to_string()), ("VM_VOLUME", &volume)],
        memory_mb: MEMORY_MB,
        disk_mb: None,
        limit: Duration::from_secs(1200),
    };
    let disks = two_disks(directory.path(), 2 * mebibytes + 1024);
    let mut machine = Vm::start_with(&options, &disks);
    machine.wait_for("WRITING").unwrap();
    let start = Instant::now();
    machine.wait_for("WROTE").unwrap();
    machine.wait_for("VERIFIED").unwrap();
    println!("{mebibytes} MiB written and read: {:.1} s", start.elapsed().as_secs_f64());
    machine.finish().unwrap();
}

/// This machine's own kernel has the same tests without emulation (crate `frontend`, `kinds`), where it has
/// the drivers.
#[test]
#[ignore = "takes long: make test-long"]
fn a_stock_kernel_mounts_and_grows_xfs_and_btrfs() {
    require_root();
    require_qemu();
    vm::sweep();
    let directory =
        tempfile::Builder::new().prefix("etherpool-disks").tempdir_in("/var/tmp").unwrap();
    let switch = Switch::new("kinds");
    let tools = ["mkfs.xfs", "xfs_growfs", "xfs_repair", "xfs_logprint", "mkfs.btrfs", "btrfs"];
    let programs: Vec<PathBuf> =
        tools.into_iter().map(program).chain([etherpool().get_program().into()]).collect();
    let options = VmOptions {
        name: "kinds",
        netns: switch.netns(),
        nics: &[],
        script: "kinds.sh",
        programs: &programs,
        variables: &[],
        memory_mb: 1024,
        disk_mb: None,
        limit: Duration::from_secs(600),
    };
    let mut machine = Vm::start_with(&options, &two_disks(directory.path(), 4096));
    for word in ["MOUNTED", "MOUNTED", "BACK", "CHECKED", "CHECKED"] {
        machine.wait_for(word).unwrap();
    }
    machine.finish().unwrap();
}
