//! XFS and btrfs on a volume: made, mounted, grown, checked, copied, and found dead.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use block::FsType;
use frontend::attach::{self, Detach};
use frontend::filesystem::{
    self, Condition, Contents, FilesystemError, MkfsOptions, Mounted, PlaceRules, Twin, probe,
};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use support::{TestVolume, eventually, has_driver, mounted_below, noise, possible};

const MIB_SECTORS: usize = 2048;
const SECTORS: usize = 320 * MIB_SECTORS;

/// Those of the two that this machine can have.
fn kinds(test: &str) -> Vec<FsType> {
    let both = [FsType::Xfs, FsType::Btrfs];
    both.into_iter().filter(|kind| possible(test) && has_driver(test, *kind)).collect()
}

async fn mkfs(volume: &TestVolume, fstype: FsType, force: bool) -> Result<(), FilesystemError> {
    let label = Some("a-rather-long-name-of-a-volume".to_owned());
    filesystem::mkfs(volume.device.clone(), MkfsOptions { fstype, label, force }, |_| {}).await
}

async fn mount_with(
    volume: &TestVolume,
    fstype: FsType,
    options: &str,
    rules: PlaceRules,
) -> Result<Mounted, FilesystemError> {
    let (device, target) = (volume.device.clone(), volume.mount_point());
    filesystem::mount(device, target, fstype, options.to_owned(), rules).await
}

async fn mount(volume: &TestVolume, fstype: FsType) -> Result<Mounted, FilesystemError> {
    mount_with(volume, fstype, "noatime", volume.place_rules()).await
}

/// Also waits for a namespace that another test made meanwhile: it keeps a copy of the mount until it ends, where the
/// machine's mounts aren't shared.
async fn unmount(volume: &TestVolume) {
    filesystem::unmount(volume.device.clone(), volume.mount_point()).await.unwrap();
    let exclusively = || open(&volume.device, OFlags::EXCL | OFlags::CLOEXEC, Mode::empty());
    let mut tries = 1..1000;
    while matches!(exclusively(), Err(Errno::BUSY)) {
        assert!(tries.next().is_some(), "{} is still mounted", volume.device.display());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

async fn check(volume: &TestVolume, fstype: FsType) -> Result<(), FilesystemError> {
    filesystem::check(volume.device.clone(), fstype).await
}

async fn fresh(fstype: FsType) -> TestVolume {
    let volume = TestVolume::new(SECTORS);
    mkfs(&volume, fstype, false).await.unwrap();
    assert_eq!(mount(&volume, fstype).await.unwrap(), Mounted::Now);
    volume
}

fn look(volume: &TestVolume, thorough: bool) -> Condition {
    probe(&volume.device, &volume.mount_point(), false, thorough).unwrap()
}

fn sync(volume: &TestVolume) -> std::io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(volume.mount_point())?)?)
}

#[tokio::test]
async fn files_stay_over_remounts_trim_and_growth() {
    for kind in kinds("files_stay_over_remounts_trim_and_growth") {
        let mut volume = fresh(kind).await;
        let device = volume.device.clone();
        assert_eq!(filesystem::kind_of(device.clone()).await.unwrap(), kind);
        assert_eq!(mount(&volume, kind).await.unwrap(), Mounted::Before);
        assert!(filesystem::is_mounted(&device, &volume.mount_point()).unwrap());
        let contents: Vec<Vec<u8>> = (0..20).map(|i| noise(i, 3_000_017 + i as usize)).collect();
        for (i, bytes) in contents.iter().enumerate() {
            std::fs::write(volume.mount_point().join(format!("file{i}")), bytes).unwrap();
        }
        let held = File::open(volume.mount_point().join("file3")).unwrap();
        match filesystem::unmount(device.clone(), volume.mount_point()).await {
            Err(FilesystemError::Busy { holders, .. }) => {
                assert!(holders.iter().any(|one| one.pid == std::process::id()), "{holders:?}");
            }
            other => panic!("{kind}: {other:?}"),
        }
        drop(held);
        let check_files = |what: &str| {
            for (i, bytes) in contents.iter().enumerate().skip(10) {
                let path = volume.mount_point().join(format!("file{i}"));
                assert!(std::fs::read(path).unwrap() == *bytes, "{kind}: file{i} {what}");
            }
        };
        for i in 0..10 {
            std::fs::remove_file(volume.mount_point().join(format!("file{i}"))).unwrap();
        }
        sync(&volume).unwrap();
        let before = volume.control.get().zeroed_sectors;
        let trim = Command::new("fstrim").arg("-v").arg(volume.mount_point()).output().unwrap();
        assert!(trim.status.success(), "{kind}: {trim:?}");
        let trimmed = volume.control.get().zeroed_sectors - before;
        assert!(trimmed > 20 * MIB_SECTORS as u64, "{kind}: only {trimmed} sectors");

        let space = || {
            let stat = rustix::fs::statvfs(volume.mount_point()).unwrap();
            stat.f_blocks * stat.f_frsize
        };
        let small = space();
        volume.resize(400 * MIB_SECTORS);
        filesystem::grow(device.clone(), kind, &volume.scratch(), |_| {}).await.unwrap();
        assert!(space() > small + (70 << 20), "{kind}: {} after {small}", space());
        assert!(!volume.scratch().exists(), "{kind}: it grew where it was");
        check_files("after growing");
        unmount(&volume).await;
        check(&volume, kind).await.unwrap();

        // It grows while it is mounted only, so it is, somewhere else.
        volume.resize(480 * MIB_SECTORS);
        filesystem::grow(device.clone(), kind, &volume.scratch(), |_| {}).await.unwrap();
        assert!(!mounted_below(&volume.scratch()), "{kind}: it is left there");
        assert_eq!(mount(&volume, kind).await.unwrap(), Mounted::Now);
        assert!(space() > small + (150 << 20), "{kind}: {} after {small}", space());
        check_files("after growing unmounted");
        unmount(&volume).await;
        check(&volume, kind).await.unwrap();
        volume.detach(Detach::Clean);
        assert!(!mounted_below(volume.root.path()));
    }
}

/// What is there is refused by its name, and overwritten without a trace.
#[tokio::test]
async fn one_kind_takes_the_place_of_another() {
    if !possible("one_kind_takes_the_place_of_another") {
        return;
    }
    let volume = TestVolume::new(SECTORS);
    let device = volume.device.clone();
    let [ext4, xfs, btrfs] = [FsType::Ext4, FsType::Xfs, FsType::Btrfs];
    mkfs(&volume, ext4, false).await.unwrap();
    for kind in [btrfs, xfs, ext4, btrfs, ext4, xfs, btrfs] {
        let refused = mkfs(&volume, kind, false).await;
        assert!(matches!(refused, Err(FilesystemError::NotBlank { .. })), "{kind}: {refused:?}");
        mkfs(&volume, kind, true).await.unwrap();
        let contents = filesystem::contents(device.clone()).await.unwrap();
        let Contents::Carries { fstype, found } = contents else { panic!("{kind}: {contents:?}") };
        assert_eq!(fstype, Some(kind), "{found}");
        check(&volume, kind).await.unwrap();
    }
    // Two at once aren't taken for one of them.
    let raw = File::options().write(true).open(&device).unwrap();
    raw.write_all_at(b"XFSB", 0).unwrap();
    raw.sync_all().unwrap();
    let both = filesystem::kind_of(device).await;
    let Err(FilesystemError::NotKnown { contents, .. }) = both else { panic!("{both:?}") };
    assert!(contents.to_string().contains("XFS") && contents.to_string().contains("btrfs"));
}

#[tokio::test]
async fn what_is_too_small_is_said_before_the_tool_does() {
    if !possible("what_is_too_small_is_said_before_the_tool_does") {
        return;
    }
    let volume = TestVolume::new(64 * MIB_SECTORS);
    for kind in [FsType::Xfs, FsType::Btrfs] {
        let error = mkfs(&volume, kind, false).await.unwrap_err();
        assert!(matches!(error, FilesystemError::TooSmall { .. }), "{error}");
    }
    for (mib, kind) in [(109, FsType::Btrfs), (300, FsType::Xfs)] {
        let volume = TestVolume::new(mib * MIB_SECTORS);
        mkfs(&volume, kind, false).await.unwrap();
    }
}

/// xfs_repair doesn't replay a log, and takes what waits there for damage.
#[tokio::test]
async fn an_xfs_with_a_dirty_log_is_to_be_mounted_before_it_is_checked() {
    let test = "an_xfs_with_a_dirty_log_is_to_be_mounted_before_it_is_checked";
    if !possible(test) || !has_driver(test, FsType::Xfs) {
        return;
    }
    let volume = fresh(FsType::Xfs).await;
    File::create(volume.mount_point().join("file")).unwrap().sync_all().unwrap();
    let (device, target) = (volume.device.clone(), volume.mount_point());
    filesystem::shutdown(device, target).await.unwrap();
    let error = check(&volume, FsType::Xfs).await.unwrap_err();
    assert!(matches!(error, FilesystemError::NeedsReplay { .. }), "{error}");
    mount(&volume, FsType::Xfs).await.unwrap();
    assert!(volume.mount_point().join("file").exists());
    unmount(&volume).await;
    check(&volume, FsType::Xfs).await.unwrap();
}

#[tokio::test]
async fn damage_is_found_by_a_check() {
    if !possible("damage_is_found_by_a_check") {
        return;
    }
    for kind in [FsType::Xfs, FsType::Btrfs] {
        let volume = TestVolume::new(SECTORS);
        mkfs(&volume, kind, false).await.unwrap();
        check(&volume, kind).await.unwrap();
        // All but where it is recognised: XFS' free space headers, btrfs' trees.
        let (start, len) = if kind == FsType::Xfs { (4096, 12288) } else { (1 << 20, 100 << 20) };
        let raw = File::options().write(true).open(&volume.device).unwrap();
        for at in (start..start + len).step_by(4096) {
            raw.write_all_at(&[0x5a; 4096], at).unwrap();
        }
        raw.sync_all().unwrap();
        let error = check(&volume, kind).await.unwrap_err();
        assert!(matches!(error, FilesystemError::Tool { .. }), "{kind}: {error}");
    }
}

#[tokio::test]
async fn a_look_costs_nothing_while_all_is_well() {
    for kind in kinds("a_look_costs_nothing_while_all_is_well") {
        let volume = fresh(kind).await;
        std::fs::write(volume.mount_point().join("file"), "contents").unwrap();
        sync(&volume).unwrap();
        let modified = || std::fs::metadata(volume.mount_point()).unwrap().modified().unwrap();
        let (before, when) = (volume.control.get(), modified());
        for _ in 0..10 {
            assert_eq!(look(&volume, false), Condition::Well, "{kind}");
        }
        let after = volume.control.get();
        assert_eq!((before.reads, before.writes), (after.reads, after.writes), "{kind}");
        assert_eq!(look(&volume, true), Condition::Well, "{kind}");
        assert!(volume.control.get().writes > after.writes, "{kind}: nothing was written");
        assert_eq!(modified(), when, "{kind}");
        let target = volume.mount_point();
        let remount = |how: &str| {
            let output = Command::new("mount").args(["-o", how]).arg(&target).output().unwrap();
            assert!(output.status.success(), "{kind}: {output:?}");
        };
        remount("remount,ro");
        assert_eq!(look(&volume, false), Condition::ReadOnly, "{kind}");
        assert_eq!(probe(&volume.device, &target, true, true).unwrap(), Condition::Well, "{kind}");
        remount("remount,rw");
        assert_eq!(look(&volume, true), Condition::Well, "{kind}");
    }
}

#[tokio::test]
async fn one_that_was_shut_down_says_so_without_a_write() {
    let test = "one_that_was_shut_down_says_so_without_a_write";
    if !possible(test) || !has_driver(test, FsType::Xfs) {
        return;
    }
    let volume = fresh(FsType::Xfs).await;
    let root = File::open(volume.mount_point()).unwrap();
    os::ioctl::shutdown_filesystem(root.as_fd()).unwrap();
    for thorough in [false, true] {
        let condition = look(&volume, thorough);
        assert!(matches!(condition, Condition::Stopped(_)), "{condition:?}");
    }
}

/// Nobody has met the error yet, and the device works again.
#[tokio::test]
async fn errors_of_the_device_are_found_by_a_thorough_look() {
    for kind in kinds("errors_of_the_device_are_found_by_a_thorough_look") {
        let volume = fresh(kind).await;
        File::create(volume.mount_point().join("file")).unwrap();
        volume.control.change(|state| state.fail_writes = true);
        let condition = look(&volume, true);
        let dead =
            |condition: &Condition| matches!(condition, Condition::Dead(_) | Condition::Stopped(_));
        assert!(dead(&condition), "{kind}: {condition:?}");
        volume.control.change(|state| state.fail_writes = false);
        for thorough in [true, false] {
            let condition = look(&volume, thorough);
            assert!(matches!(condition, Condition::Stopped(_)), "{kind}: {condition:?}");
        }
        // It is taken away and comes back.
        filesystem::shutdown(volume.device.clone(), volume.mount_point()).await.unwrap();
        let target = volume.mount_point();
        assert!(!filesystem::is_mounted(&volume.device, &target).unwrap(), "{kind}");
        assert_eq!(mount(&volume, kind).await.unwrap(), Mounted::Now, "{kind}");
        assert_eq!(look(&volume, true), Condition::Well, "{kind}");
    }
}

/// The other volume's contents, but for zeros.
fn copy(from: &TestVolume, to: &TestVolume) {
    let source = File::open(&from.device).unwrap();
    let target = File::options().write(true).open(&to.device).unwrap();
    let mut piece = vec![0; 1 << 20];
    for at in 0..(SECTORS * 512 / piece.len()) {
        let at = (at * piece.len()) as u64;
        source.read_exact_at(&mut piece, at).unwrap();
        if piece.iter().any(|byte| *byte != 0) {
            target.write_all_at(&piece, at).unwrap();
        }
    }
    target.sync_all().unwrap();
}

#[tokio::test]
async fn a_copy_beside_its_original_says_what_it_is() {
    for kind in kinds("a_copy_beside_its_original_says_what_it_is") {
        let original = fresh(kind).await;
        std::fs::write(original.mount_point().join("file"), "contents").unwrap();
        unmount(&original).await;
        let copied = TestVolume::new(SECTORS);
        copy(&original, &copied);
        mount(&original, kind).await.unwrap();
        let place = original.mount_point().canonicalize().unwrap();
        // One that comes back is no exception where the original is in sight.
        for comes_back in [false, true] {
            let rules = PlaceRules { comes_back, ..copied.place_rules() };
            match mount_with(&copied, kind, "noatime", rules).await {
                // Linux 6.7 gives the second a UUID for as long as it is mounted.
                Ok(_) if kind == FsType::Btrfs => unmount(&copied).await,
                Err(FilesystemError::SameUuid { whose, uuid, .. }) => {
                    assert_eq!(whose, Twin::MountedAt(place.clone()));
                    assert_eq!(uuid.len(), 36);
                }
                other => panic!("{kind}: {other:?}"),
            }
        }
        if kind == FsType::Xfs {
            mount_with(&copied, kind, "nouuid", copied.place_rules()).await.unwrap();
            let kept = std::fs::read(copied.mount_point().join("file")).unwrap();
            assert_eq!(kept, b"contents");
            unmount(&copied).await;
            // Nobody sees the mount in which it grows.
            let (device, scratch) = (copied.device.clone(), copied.scratch());
            filesystem::grow(device, kind, &scratch, |_| {}).await.unwrap();
        }
        unmount(&original).await;
        mount(&copied, kind).await.unwrap();
        unmount(&copied).await;
    }
}

/// The tools of btrfs give up where any mount of the machine has lost its device.
#[tokio::test]
async fn a_dead_mount_elsewhere_keeps_no_volume_from_its_tools() {
    for kind in kinds("a_dead_mount_elsewhere_keeps_no_volume_from_its_tools") {
        let mut dead = fresh(kind).await;
        dead.kill_engine();
        dead.file = None;
        let volume = TestVolume::new(SECTORS);
        mkfs(&volume, kind, false).await.unwrap();
        check(&volume, kind).await.unwrap();
        mount(&volume, kind).await.unwrap();
        let error = check(&volume, kind).await.unwrap_err();
        assert!(matches!(error, FilesystemError::Tool { .. }), "{kind}: {error}");
        let error = mkfs(&volume, kind, true).await.unwrap_err();
        assert!(matches!(error, FilesystemError::Tool { .. }), "{kind}: {error}");
        unmount(&volume).await;
        check(&volume, kind).await.unwrap();
    }
}

/// The engine dies under a mount of which a program has a file open; the volume comes back on another
/// device, while the kernel still keeps the dead one for that program.
#[tokio::test]
async fn a_file_that_is_held_keeps_nobody_from_mounting_again() {
    for kind in kinds("a_file_that_is_held_keeps_nobody_from_mounting_again") {
        let mut lost = fresh(kind).await;
        let mut held = File::create(lost.mount_point().join("held")).unwrap();
        held.write_all(b"contents").unwrap();
        sync(&lost).unwrap();
        let again = TestVolume::new(SECTORS);
        copy(&lost, &again);
        lost.kill_engine();
        lost.file = None;
        let (device, target) = (lost.device.clone(), lost.mount_point());
        let holders = filesystem::shutdown(device, target).await.unwrap();
        assert!(holders.iter().any(|one| one.pid == std::process::id()), "{kind}: {holders:?}");
        attach::detach(&lost.places, &lost.name, Detach::Abort).unwrap();

        let rules = PlaceRules { comes_back: true, ..again.place_rules() };
        match mount_with(&again, kind, "noatime", rules.clone()).await {
            Ok(_) => {}
            // Before Linux 6.7 it waits for that program.
            Err(FilesystemError::SameUuid { whose: Twin::Held, .. }) if kind == FsType::Btrfs => {
                support::shout("btrfs beside a held one: needs Linux 6.7, which is not here");
            }
            Err(error) => panic!("{kind}: {error}"),
        }
        assert!(held.write_all(b"more").and_then(|()| held.sync_all()).is_err(), "{kind}");
        drop(held);
        eventually("the lost file system to go", || attach::list(&lost.places).unwrap().is_empty());
        if !filesystem::is_mounted(&again.device, &again.mount_point()).unwrap() {
            mount_with(&again, kind, "noatime", rules).await.unwrap();
        }
        let kept: PathBuf = again.mount_point().join("held");
        assert_eq!(std::fs::read(kept).unwrap(), b"contents", "{kind}");
        unmount(&again).await;
        check(&again, kind).await.unwrap();
    }
}
