//! A volume as the kernel's own block device: FUSE file, loop device, ext4.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;

use block::BufferMut;
use block::FsType;
use frontend::attach::{self, AttachError, Detach};
use frontend::filesystem::{self, FilesystemError, MkfsOptions, Mounted};
use support::{TestVolume, eventually, mounted_below, noise, over_ring, possible};

const MIB_SECTORS: usize = 2048;

fn ext4(force: bool) -> MkfsOptions {
    MkfsOptions { fstype: FsType::Ext4, label: Some("test".to_owned()), force }
}

async fn mount(volume: &TestVolume) -> Result<Mounted, FilesystemError> {
    let options = "noatime".to_owned();
    let (device, target) = (volume.device.clone(), volume.mount_point());
    filesystem::mount(device, target, FsType::Ext4, options, volume.place_rules()).await
}

/// Online where the machine lets us; offline elsewhere.
async fn grow(volume: &TestVolume) {
    let (device, unused) = (volume.device.clone(), volume.scratch());
    let result = filesystem::grow(device.clone(), FsType::Ext4, &unused, |_| {}).await;
    if filesystem::can_grow_mounted(FsType::Ext4) {
        return result.unwrap();
    }
    assert!(matches!(result, Err(FilesystemError::MissingCapability { .. })), "{result:?}");
    support::shout("growing ext4 while mounted: needs CAP_SYS_RESOURCE, which is not here");
    filesystem::unmount(volume.device.clone(), volume.mount_point()).await.unwrap();
    filesystem::grow(device, FsType::Ext4, &unused, |_| {}).await.unwrap();
    mount(volume).await.unwrap();
}

#[tokio::test]
async fn a_file_system_keeps_its_files_over_remounts_trim_and_growth() {
    if !possible("a_file_system_keeps_its_files_over_remounts_trim_and_growth") {
        return;
    }
    let mut volume = TestVolume::new(128 * MIB_SECTORS);
    let device = volume.device.clone();
    let mut said = String::new();
    filesystem::mkfs(device.clone(), ext4(false), |text| said.push_str(text)).await.unwrap();
    assert!(said.contains("Writing superblocks"), "{said}");
    let again = filesystem::mkfs(device.clone(), ext4(false), |_| {}).await;
    assert!(matches!(again, Err(FilesystemError::NotBlank { .. })), "{again:?}");
    filesystem::mkfs(device.clone(), ext4(true), |_| {}).await.unwrap();

    assert_eq!(mount(&volume).await.unwrap(), Mounted::Now);
    assert_eq!(mount(&volume).await.unwrap(), Mounted::Before);
    assert!(filesystem::is_mounted(&device, &volume.mount_point()).unwrap());
    let contents: Vec<Vec<u8>> = (0..20).map(|i| noise(i, 3_000_017 + i as usize)).collect();
    for (i, bytes) in contents.iter().enumerate() {
        std::fs::write(volume.mount_point().join(format!("file{i}")), bytes).unwrap();
    }
    let busy_file = File::open(volume.mount_point().join("file3")).unwrap();
    match filesystem::unmount(volume.device.clone(), volume.mount_point()).await {
        Err(FilesystemError::Busy { holders, .. }) => {
            assert!(holders.iter().any(|holder| holder.pid == std::process::id()), "{holders:?}");
        }
        other => panic!("{other:?}"),
    }
    drop(busy_file);
    filesystem::unmount(volume.device.clone(), volume.mount_point()).await.unwrap();
    filesystem::check(device.clone(), FsType::Ext4).await.unwrap();

    assert_eq!(mount(&volume).await.unwrap(), Mounted::Now);
    let check_files = |what: &str| {
        for (i, bytes) in contents.iter().enumerate().skip(10) {
            let path = volume.mount_point().join(format!("file{i}"));
            assert!(std::fs::read(path).unwrap() == *bytes, "file{i} {what}");
        }
    };
    check_files("after a remount");
    for i in 0..10 {
        std::fs::remove_file(volume.mount_point().join(format!("file{i}"))).unwrap();
    }
    rustix::fs::syncfs(File::open(volume.mount_point()).unwrap()).unwrap();
    let before = volume.control.get().zeroed_sectors;
    let trim = Command::new("fstrim").arg("-v").arg(volume.mount_point()).output().unwrap();
    assert!(trim.status.success(), "{trim:?}");
    let trimmed = volume.control.get().zeroed_sectors - before;
    assert!(trimmed > 20 * MIB_SECTORS as u64, "only {trimmed} sectors");
    check_files("after a trim");

    let space = || {
        let stat = rustix::fs::statvfs(volume.mount_point()).unwrap();
        stat.f_blocks * stat.f_frsize
    };
    let small = space();
    volume.resize(256 * MIB_SECTORS);
    grow(&volume).await;
    assert!(space() > small + (100 << 20), "{} after {small}", space());
    check_files("after growing");
    filesystem::unmount(volume.device.clone(), volume.mount_point()).await.unwrap();
    filesystem::check(device, FsType::Ext4).await.unwrap();
    volume.detach(Detach::Clean);
    assert!(!mounted_below(volume.root.path()));
    assert!(std::fs::symlink_metadata(volume.places.link(&volume.name)).is_err());
}

#[test]
fn direct_io_of_all_sizes_and_the_stable_link() {
    if !possible("direct_io_of_all_sizes_and_the_stable_link") {
        return;
    }
    let mut volume = TestVolume::new(8 * MIB_SECTORS);
    let link = volume.places.link(&volume.name);
    assert_eq!(std::fs::read_link(&link).unwrap(), volume.device);
    assert_eq!(attach::attach(&volume.places, &volume.name, false).unwrap(), volume.device);
    let found = attach::list(&volume.places).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].name, &found[0].device), (&volume.name, &Some(volume.device.clone())));
    assert!(found[0].directory.is_some());
    assert!(matches!(
        attach::mount(&volume.places, &volume.name),
        Err(AttachError::AlreadyMounted(_))
    ));

    let direct =
        File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(&link).unwrap();
    for (offset, len) in [(0, 512), (512, 1536), (4096, 4096), (5120, 65_536), (1 << 20, 3 << 20)] {
        let mut data = BufferMut::copy_of(&noise(offset, len));
        direct.write_all_at(&data, offset).unwrap();
        let wanted = data.to_vec();
        data.fill(0);
        direct.read_exact_at(&mut data, offset).unwrap();
        assert!(data[..] == wanted[..], "{len} bytes at {offset}");
    }
    // The file itself can be read in any piece, but not be written outside of sectors.
    let directory = found[0].directory.clone().unwrap();
    let file = File::options().read(true).write(true).open(directory.join("volume")).unwrap();
    let mut odd = vec![0; 1000];
    file.read_exact_at(&mut odd, 4097).unwrap();
    let mut whole = BufferMut::zeroed(8192);
    direct.read_exact_at(&mut whole, 4096).unwrap();
    assert_eq!(odd, whole[1..1001]);
    assert_eq!(file.write_at(&[1; 100], 0).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(file.read_at(&mut odd, 8 << 20).unwrap(), 0);
    assert!(file.set_len(10).is_err());
    assert!(File::create(directory.join("other")).is_err());
    drop(file);

    // In use: refused, and still there.
    volume.control.change(|state| state.hold_writes = false);
    match attach::detach(&volume.places, &volume.name, Detach::Clean) {
        Err(AttachError::Busy { path }) => assert_eq!(path, volume.device),
        other => panic!("{other:?}"),
    }
    drop(direct);
    volume.detach(Detach::Clean);
    assert!(volume.file.is_none() && !mounted_below(volume.root.path()));
    attach::detach(&volume.places, &volume.name, Detach::Clean).unwrap();
}

#[tokio::test]
async fn a_dead_engine_fails_io_and_everything_can_be_taken_away() {
    if !possible("a_dead_engine_fails_io_and_everything_can_be_taken_away") {
        return;
    }
    let mut volume = TestVolume::new(64 * MIB_SECTORS);
    filesystem::mkfs(volume.device.clone(), ext4(false), |_| {}).await.unwrap();
    mount(&volume).await.unwrap();
    let mut held = File::create(volume.mount_point().join("held")).unwrap();
    held.write_all(&noise(1, 100_000)).unwrap();
    held.sync_all().unwrap();

    // A write is in the engine's hands when it dies: its waiter gets an error, not silence.
    volume.control.change(|state| state.hold_writes = true);
    held.write_all(b"more").unwrap();
    let (file, control) = (held.try_clone().unwrap(), std::sync::Arc::clone(&volume.control));
    let waiter = std::thread::spawn(move || file.sync_all());
    control.wait_for("a write", |state| state.held > 0);
    volume.kill_engine();
    assert!(waiter.join().unwrap().is_err());
    // A ring dies with its thread, and all that came by it.
    assert_eq!(volume.file.as_ref().unwrap().is_served(), !over_ring());

    // Then the process: the kernel gives up on its own.
    volume.file = None;
    let raw = File::open(&volume.device);
    assert!(raw.is_err() || raw.unwrap().read_exact_at(&mut [0; 4096], 32 << 20).is_err());
    let holders = filesystem::shutdown(volume.device.clone(), volume.mount_point()).await.unwrap();
    assert!(holders.iter().any(|holder| holder.pid == std::process::id()), "{holders:?}");
    assert!(held.write_all(b"even more").is_err() || held.sync_all().is_err());
    // The file that is held keeps the loop device, which keeps nobody from going on: all else goes
    // at once, the device with its last user.
    attach::detach(&volume.places, &volume.name, Detach::Abort).unwrap();
    assert!(!mounted_below(volume.root.path()));
    let name = volume.device.file_name().unwrap().to_owned();
    let backing = std::path::Path::new("/sys/block").join(name).join("loop/backing_file");
    drop(held);
    eventually("the loop device to go", || !backing.exists());
    assert_eq!(attach::list(&volume.places).unwrap(), []);
    assert!(!mounted_below(volume.root.path()));
    assert_eq!(
        filesystem::shutdown(volume.device.clone(), volume.mount_point()).await.unwrap(),
        []
    );
}

/// The engine ends one device and goes on: nobody waits for it, and no memory of it is used any more.
#[test]
fn a_dropped_file_fails_what_is_under_way() {
    if !possible("a_dropped_file_fails_what_is_under_way") {
        return;
    }
    let mut volume = TestVolume::new(4 * MIB_SECTORS);
    volume.control.change(|state| state.hold_writes = true);
    let waiters: Vec<_> = (0..40)
        .map(|index| {
            let device = volume.device.clone();
            std::thread::spawn(move || {
                let direct = libc::O_DIRECT;
                let file = File::options().write(true).custom_flags(direct).open(device).unwrap();
                let data = BufferMut::copy_of(&noise(index, 65_536));
                file.write_all_at(&data, index * 65_536)
            })
        })
        .collect();
    volume.control.wait_for("writes", |state| state.held >= 16);
    volume.file = None;
    for waiter in waiters {
        assert!(waiter.join().unwrap().is_err());
    }
    // Answers that come too late reach nobody.
    volume.control.change(|state| state.hold_writes = false);
    volume.control.wait_for("the engine to answer", |state| state.held == 0);
    eventually("everything to be taken away", || {
        attach::detach(&volume.places, &volume.name, Detach::Abort).is_ok()
    });
    assert!(!mounted_below(volume.root.path()));
}

/// More requests at once than the kernel and we have room for.
#[test]
fn many_requests_at_once_find_their_answers() {
    if !possible("many_requests_at_once_find_their_answers") {
        return;
    }
    let mut volume = TestVolume::new(64 * MIB_SECTORS);
    let workers: Vec<_> = (0..96_u64)
        .map(|worker| {
            let device = volume.device.clone();
            std::thread::spawn(move || {
                let mut options = File::options();
                let options = options.read(true).write(true).custom_flags(libc::O_DIRECT);
                let file = options.open(device).unwrap();
                let (len, at) =
                    ([4096, 65_536, 512 * 1024][worker as usize % 3], worker * 640 * 1024);
                for round in 0..8 {
                    let wanted = noise(worker * 100 + round, len);
                    file.write_all_at(&BufferMut::copy_of(&wanted), at).unwrap();
                    let mut found = BufferMut::zeroed(len);
                    file.read_exact_at(&mut found, at).unwrap();
                    assert!(found[..] == wanted[..], "worker {worker}, round {round}");
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    volume.detach(Detach::Clean);
}

/// The engine's process is stopped while requests are under way and the predecessor's mounts are
/// there: what a new services process finds and clears away, without anything in memory.
#[test]
fn a_successor_finds_and_removes_what_a_predecessor_left() {
    if !possible("a_successor_finds_and_removes_what_a_predecessor_left") {
        return;
    }
    let mut volume = TestVolume::new(4 * MIB_SECTORS);
    volume.control.change(|state| state.hold_writes = true);
    let device = File::options().write(true).open(&volume.device).unwrap();
    device.write_all_at(&[7; 4096], 0).unwrap();
    let waiter = std::thread::spawn(move || device.sync_all());
    volume.control.wait_for("a write", |state| state.held > 0);
    let left = attach::list(&volume.places).unwrap();
    assert_eq!(left.len(), 1);
    // The abort fails the write, so that its waiter lets the device go.
    eventually("everything to be taken away", || {
        attach::detach(&volume.places, &left[0].name, Detach::Abort).is_ok()
    });
    assert!(waiter.join().unwrap().is_err());
    assert_eq!(attach::list(&volume.places).unwrap(), []);
    eventually("the server to notice", || !volume.file.as_ref().unwrap().is_served());
    volume.control.change(|state| state.hold_writes = false);
    volume.file = None;
}

/// Not a test of speed: prints what fio sees, for whoever asks (`--ignored --nocapture`).
#[test]
#[ignore = "a measurement"]
fn speed() {
    if !possible("speed") {
        return;
    }
    let mut volume = TestVolume::new(256 * MIB_SECTORS);
    for (rw, bs, depth) in [
        ("randread", "4k", "1"),
        ("randread", "4k", "32"),
        ("randwrite", "4k", "32"),
        ("write", "1M", "4"),
        ("read", "1M", "4"),
    ] {
        let device = volume.device.to_str().unwrap().to_owned();
        let fio = Command::new("fio")
            .args(["--name=x", "--direct=1", "--ioengine=libaio", "--runtime=2", "--time_based"])
            .args([format!("--filename={device}"), format!("--rw={rw}"), format!("--bs={bs}")])
            .args([format!("--iodepth={depth}")])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&fio.stdout);
        let line = text.lines().find(|line| line.contains("IOPS=")).unwrap_or(&text);
        println!("{rw} {bs} depth {depth}: {}", line.trim());
    }
    volume.detach(Detach::Clean);
}
