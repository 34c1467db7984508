//! A mount that still looks like one while it is dead is told from a living one.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;

use block::FsType;
use frontend::attach;
use frontend::filesystem::{self, Condition, MkfsOptions, probe};
use support::{TestVolume, possible};

async fn mounted(options: &str) -> TestVolume {
    let volume = TestVolume::new(64 * 2048);
    let mkfs = MkfsOptions { fstype: FsType::Ext4, label: None, force: false };
    filesystem::mkfs(volume.device.clone(), mkfs, |_| {}).await.unwrap();
    mount(&volume, options).await;
    volume
}

async fn mount(volume: &TestVolume, options: &str) {
    let (device, target) = (volume.device.clone(), volume.mount_point());
    let rules = volume.place_rules();
    filesystem::mount(device, target, FsType::Ext4, options.into(), rules).await.unwrap();
}

fn look(volume: &TestVolume, thorough: bool) -> Condition {
    probe(&volume.device, &volume.mount_point(), false, thorough).unwrap()
}

fn assert_dead(volume: &TestVolume, thorough: bool) {
    let condition = look(volume, thorough);
    assert!(matches!(condition, Condition::Dead(_)), "{condition:?}");
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

#[tokio::test]
async fn a_look_costs_nothing_and_leaves_nothing() {
    if !possible("a_look_costs_nothing_and_leaves_nothing") {
        return;
    }
    let volume = mounted("noatime").await;
    std::fs::write(volume.mount_point().join("file"), "contents").unwrap();
    rustix::fs::syncfs(File::open(volume.mount_point()).unwrap()).unwrap();
    let modified = || std::fs::metadata(volume.mount_point()).unwrap().modified().unwrap();
    assert_eq!(look(&volume, true), Condition::Well);
    rustix::fs::syncfs(File::open(volume.mount_point()).unwrap()).unwrap();
    let (before, when) = (volume.control.get(), modified());
    for _ in 0..10 {
        assert_eq!(look(&volume, false), Condition::Well);
    }
    let after = volume.control.get();
    assert_eq!((before.reads, before.writes), (after.reads, after.writes));
    assert_eq!(look(&volume, true), Condition::Well);
    assert_eq!(modified(), when);
    assert_eq!(attach::check(&volume.places, &volume.name, &volume.device).unwrap(), None);
    let target = volume.mount_point();
    filesystem::unmount(volume.device.clone(), target.clone()).await.unwrap();
    assert_eq!(look(&volume, false), Condition::NotMounted(None));
    // What others mount there isn't ours to judge or to touch.
    run("mount", &["-t", "tmpfs", "other", target.to_str().unwrap()]);
    assert_eq!(look(&volume, false), Condition::NotMounted(Some("other".into())));
    let ours = (volume.device.clone(), target.clone());
    filesystem::unmount(ours.0.clone(), ours.1.clone()).await.unwrap_err();
    assert_eq!(filesystem::shutdown(ours.0, ours.1).await.unwrap(), []);
    std::fs::write(target.join("still"), "there").unwrap();
    run("umount", &[target.to_str().unwrap()]);
}

#[tokio::test]
async fn a_file_system_that_was_shut_down_is_dead() {
    if !possible("a_file_system_that_was_shut_down_is_dead") {
        return;
    }
    let volume = mounted("").await;
    let root = File::open(volume.mount_point()).unwrap();
    os::ioctl::shutdown_filesystem(root.as_fd()).unwrap();
    assert_dead(&volume, false);
}

#[tokio::test]
async fn a_device_without_its_engine_is_dead() {
    if !possible("a_device_without_its_engine_is_dead") {
        return;
    }
    let mut volume = mounted("").await;
    volume.file = None;
    let check = || attach::check(&volume.places, &volume.name, &volume.device).unwrap();
    assert!(check().is_some_and(|why| why.contains("serve")), "{:?}", check());
    assert_dead(&volume, true);
}

/// Nobody has met the error yet, and the device works again.
#[tokio::test]
async fn a_journal_that_gave_up_is_found_by_a_thorough_look() {
    if !possible("a_journal_that_gave_up_is_found_by_a_thorough_look") {
        return;
    }
    let volume = mounted("").await;
    File::create(volume.mount_point().join("file")).unwrap();
    volume.control.change(|state| state.fail_writes = true);
    File::open(volume.mount_point()).unwrap().sync_all().unwrap_err();
    volume.control.change(|state| state.fail_writes = false);
    assert_dead(&volume, true);
    assert_dead(&volume, false);
}

#[tokio::test]
async fn damage_and_peoples_deeds_are_told_apart_from_death() {
    if !possible("damage_and_peoples_deeds_are_told_apart_from_death") {
        return;
    }
    let volume = mounted("errors=remount-ro").await;
    let target = volume.mount_point();
    run("mount", &["-o", "remount,ro", target.to_str().unwrap()]);
    assert_eq!(look(&volume, false), Condition::ReadOnly);
    let read_only = probe(&volume.device, &target, true, true).unwrap();
    assert_eq!(read_only, Condition::Well);
    run("mount", &["-o", "remount,rw", target.to_str().unwrap()]);
    assert_eq!(look(&volume, true), Condition::Well);

    let name = volume.device.file_name().unwrap().to_str().unwrap();
    std::fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "test").unwrap();
    let condition = look(&volume, false);
    let codes = ["first", "last"]
        .map(|which| std::fs::read_to_string(format!("/sys/fs/ext4/{name}/{which}_error_errcode")));
    assert!(matches!(condition, Condition::Damaged(_)), "{condition:?}, {codes:?}");
}

#[tokio::test]
async fn a_device_that_is_detached_by_hand_is_kept_while_it_is_used() {
    if !possible("a_device_that_is_detached_by_hand_is_kept_while_it_is_used") {
        return;
    }
    let volume = mounted("").await;
    let (device, target) = (volume.device.clone(), volume.mount_point());
    let detach = || run("losetup", &["-d", device.to_str().unwrap()]);
    let check = || attach::check(&volume.places, &volume.name, &device).unwrap();
    detach();
    assert_eq!(attach::list(&volume.places).unwrap()[0].device, None, "it leaves");
    assert_eq!(check(), None);
    assert_eq!(attach::list(&volume.places).unwrap()[0].device, Some(device.clone()));
    assert_eq!(look(&volume, true), Condition::Well);
    filesystem::unmount(device.clone(), target).await.unwrap();
    assert_eq!(check(), None, "it stays without the mount");
    detach();
    assert!(check().is_some_and(|why| why.contains("detached")));
}
