//! Metadata areas that move: whatever comes between, label and metadata agree, the metadata is all there,
//! and nobody else's extents are touched.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use block::{Instance, IoError, Lba};

use super::super::CreatePool;
use super::super::areas::AreaError;
use super::super::member::Member;
use super::super::observe::read_label;
use super::super::open_pool::OpenPool;
use super::super::testing::{Bench, Mode, TestDisk};
use super::super::unlabel::wipe;
use super::{MIB, pattern};
use crate::check::{CheckOptions, DiskImage, Severity, check};
use crate::format::{DiskGeometry, DiskNumber, ExtentNumber, ExtentRange, Label, LabelState};
use crate::metadata::Layout;
use crate::report::PoolState;

/// Extents of the areas that a pool begins with, here.
const FIRST: u32 = 32;
const LONGER: u32 = 40;

fn range(first: u32, count: u32) -> ExtentRange {
    ExtentRange::new(ExtentNumber(first), count)
}

impl Bench {
    fn opened(&self) -> Rc<OpenPool> {
        self.engine.open_pool("pool").unwrap()
    }

    fn member_of(&self, disk: u32) -> Rc<Member> {
        self.opened().pool.member(DiskNumber(disk)).unwrap()
    }

    pub(super) fn give_area(&self, disk: u32, extents: u32) -> Result<(), AreaError> {
        let (open, member) = (self.opened(), self.member_of(disk));
        self.run(async move { open.pool.give_area(&member, extents).await })
    }

    pub(super) fn label(&self, disk: usize) -> Label {
        let device = Rc::clone(&self.devices.borrow()[disk]);
        let found = self.run(async move { read_label(&*device).await });
        let Ok(LabelState::Labelled(found)) = found else { panic!("{found:?}") };
        found.label
    }

    /// Puts a label in the place of a disk's own, in all four slots.
    pub(super) fn set_label(&self, disk: usize, label: &Label) {
        let slots = DiskGeometry::label_slots(label.geometry.labelled_bytes());
        let mut image = self.disks[disk].image();
        for (slot, at) in slots.into_iter().enumerate() {
            let bytes = label.encode(8 + slot as u64 % 2, slot);
            let at = at.byte_offset() as usize;
            image[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        self.disks[disk].set_image(&image);
    }

    /// What the metadata says of a disk's areas.
    fn areas(&self, disk: u32) -> (Option<ExtentRange>, Option<ExtentRange>) {
        let open = self.opened();
        let meta = open.pool.meta.borrow();
        let disk = &meta.disks()[&DiskNumber(disk)];
        (disk.area, disk.incoming_area)
    }

    /// All disks are in, all voters have everything, and label and metadata agree, for good.
    fn assert_resolved(&self, what: &str) {
        self.until(|report| report.state == PoolState::Online);
        self.pass(Duration::from_secs(30));
        let open = self.opened();
        assert_eq!(open.pool.config.borrow().copies.len(), 3, "{what}");
        let now = open.pool.meta.borrow().clone();
        for disk in 0..self.disks.len() {
            let (area, incoming) = self.areas(disk as u32);
            assert_eq!((self.label(disk).area, incoming), (area, None), "{what}, disk {disk}");
            if open.pool.is_voter(self.member_of(disk as u32).id) {
                assert!(self.copy_of(disk) == now, "{what}, copy {disk}");
            }
        }
        let images: Vec<Vec<u8>> = self.disks.iter().map(|disk| disk.image()).collect();
        let named = images.iter().enumerate();
        let images: Vec<DiskImage<'_>> =
            named.map(|(at, bytes)| DiskImage::of_bytes(format!("e{at}.0"), bytes)).collect();
        let report = check(&images, &CheckOptions { data: true, pool: None });
        let serious: Vec<_> =
            report.all_findings().filter(|found| found.severity != Severity::Note).collect();
        assert!(serious.is_empty(), "{what}: {serious:#?}");
        let metadata = &report.pools[0].metadata;
        assert_eq!(metadata.len(), 3, "{what}");
    }
}

#[test]
fn a_disk_gets_a_longer_area_and_then_another_one() {
    let (bench, volume) = Bench::mirrored(500);
    bench.write(&volume, 3, pattern(3, 4, 1)).unwrap();
    assert_eq!(bench.areas(1), (Some(range(0, FIRST)), None));
    let free = |bench: &Bench| bench.report().free_bytes;
    let before = free(&bench);
    bench.give_area(1, LONGER).unwrap();
    let (longer, _) = bench.areas(1);
    assert_eq!(longer.map(|area| area.count), Some(LONGER));
    assert_eq!(free(&bench), before - u64::from(LONGER - FIRST) * (256 << 10));
    let place = bench.place_of(1);
    assert_eq!(place.layout.area_bytes(), 10 * MIB);
    assert_eq!(bench.opened().pool.area.borrow().layout.area_bytes(), 8 * MIB);
    bench.add_volume("first");
    bench.assert_resolved("longer");
    // The extents of the first one are anybody's, also its own again.
    bench.give_area(1, FIRST).unwrap();
    let (shorter, _) = bench.areas(1);
    assert_eq!(shorter.map(|area| area.count), Some(FIRST));
    assert_ne!(shorter.map(|area| area.first), longer.map(|area| area.first));
    bench.add_volume("second");
    bench.assert_resolved("shorter");
    drop(volume);
    let bench = bench.power_cut();
    let volume = bench.reopened();
    assert_eq!(bench.read(&volume, 3, 4).unwrap(), pattern(3, 4, 1));
    bench.assert_resolved("after a power cut");
}

#[test]
fn the_metadata_may_grow_once_all_voters_have_longer_areas() {
    let (bench, _volume) = Bench::mirrored(501);
    for disk in 0..3 {
        bench.give_area(disk, LONGER).unwrap();
        let bytes = bench.opened().pool.area.borrow().layout.area_bytes();
        assert_eq!(bytes, if disk == 2 { 10 * MIB } else { 8 * MIB });
    }
    assert_eq!(bench.give_area(0, FIRST), Err(AreaError::TooShort));
    bench.add_volume("later");
    bench.assert_resolved("all longer");
    let bench = bench.power_cut();
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.opened().pool.area.borrow().layout.area_bytes(), 10 * MIB);
}

#[test]
fn a_disk_without_a_vote_gets_an_area() {
    let mut disks: Vec<Rc<TestDisk>> =
        (0..3).map(|n| TestDisk::new(&format!("e{n}.0"), n, 48 << 20)).collect();
    disks.push(TestDisk::new("e0.1", 0, 32 << 20));
    let bench = Bench::with(502, disks, block::Instant::from_nanos(1_000_000_000), 1);
    bench.create();
    let _volume = bench.create_volume(8, Layout::Mirror(2));
    assert_eq!((bench.areas(3), bench.label(3).area), ((None, None), None));
    bench.give_area(3, FIRST).unwrap();
    let (area, _) = bench.areas(3);
    assert_eq!((area.map(|area| area.count), bench.label(3).area), (Some(FIRST), area));
    // Nothing there may be taken for metadata.
    let bytes = bench.area_of(3);
    assert!(bench.disks[3].image()[bytes].iter().all(|byte| *byte == 0));
    bench.assert_resolved("an area without a vote");
    let bench = bench.crash_engine();
    bench.assert_resolved("after a crash");
    assert_eq!(bench.areas(3), (area, None));
}

#[test]
fn what_cannot_be_is_refused() {
    let (bench, _volume) = Bench::mirrored(503);
    assert_eq!(bench.give_area(0, u32::MAX), Err(AreaError::NoSpace));
    assert_eq!(bench.give_area(0, 0), Err(AreaError::NoSpace));
    assert_eq!(bench.give_area(0, FIRST - 1), Err(AreaError::TooShort));
    bench.assert_resolved("refused");
}

/// The only current copy stays where it is: for a moment there would be none.
#[test]
fn the_only_copy_keeps_its_area() {
    let bench = Bench::new(504, 1, 48);
    bench.create();
    assert_eq!(bench.give_area(0, LONGER), Err(AreaError::OnlyCopy));
    assert_eq!(bench.areas(0), (Some(range(0, FIRST)), None));
}

/// A power cut, or an engine's crash, at every moment of a move.
#[test]
fn a_cut_at_every_step_leaves_one_area() {
    let (mut switched, mut kept, mut begun) = (0, 0, 0);
    for step in 0.. {
        let (bench, volume) = Bench::mirrored(510 + step);
        bench.write(&volume, 3, pattern(3, 4, 1)).unwrap();
        let (open, member) = (bench.opened(), bench.member_of(1));
        let moving = async move { open.pool.give_area(&member, LONGER).await };
        // Steps of less than a write takes cut in between any two sooner or later.
        let done = bench.run_for(Duration::from_micros(step * 310), moving);
        begun += u64::from(bench.areas(1).1.is_some());
        drop(volume);
        let bench = if step % 3 == 0 { bench.crash_engine() } else { bench.power_cut() };
        let volume = bench.reopened();
        assert_eq!(bench.read(&volume, 3, 4).unwrap(), pattern(3, 4, 1), "step {step}");
        bench.add_volume("later");
        bench.assert_resolved(&format!("step {step}"));
        match bench.areas(1).0 {
            Some(area) if area.count == LONGER => switched += 1,
            Some(area) if area == range(0, FIRST) => kept += 1,
            other => panic!("{other:?}"),
        }
        if let Some(done) = done {
            assert_eq!((done, bench.areas(1).0.map(|area| area.count)), (Ok(()), Some(LONGER)));
            break;
        }
    }
    assert!(switched > 1 && kept > 1 && begun > 4, "{switched} {kept} {begun}");
}

/// The disk goes away at every moment of a move, and comes back.
#[test]
fn a_disk_that_goes_away_at_any_step_has_one_area() {
    for step in 0.. {
        let (bench, _volume) = Bench::mirrored(600 + step);
        let (open, member) = (bench.opened(), bench.member_of(1));
        let moving = async move { open.pool.give_area(&member, LONGER).await };
        let done = bench.run_for(Duration::from_micros(step * 910), moving);
        bench.set_mode(1, Mode::Lost);
        bench.add_volume("later");
        bench.pass(Duration::from_secs(5));
        if step % 2 == 0 {
            bench.disks[1].crash(&bench.executor.handle());
        }
        bench.set_mode(1, Mode::Well);
        bench.assert_resolved(&format!("step {step}"));
        if done.is_some() {
            break;
        }
    }
}

/// Its label names an area that was given up long ago, and whose extents others have by now.
#[test]
fn a_disk_that_was_rolled_back_over_a_move_gets_the_right_label() {
    let (bench, volume) = Bench::mirrored(700);
    let image = bench.disks[1].image();
    bench.give_area(1, LONGER).unwrap();
    let (area, _) = bench.areas(1);
    bench.write(&volume, 3, pattern(3, 4, 1)).unwrap();
    bench.add_volume("later");
    bench.set_mode(1, Mode::Lost);
    bench.pass(Duration::from_secs(5));
    bench.disks[1].set_image(&image);
    bench.set_mode(1, Mode::Well);
    bench.assert_resolved("rolled back");
    assert_eq!(bench.label(1).area, area);
    // And before an opening.
    drop(volume);
    bench.disks[1].set_image(&image);
    let bench = bench.power_cut();
    let volume = bench.reopened();
    bench.assert_resolved("rolled back before an opening");
    assert_eq!((bench.label(1).area, bench.areas(1).0), (area, area));
    assert_eq!(bench.read(&volume, 3, 4).unwrap(), pattern(3, 4, 1));
}

/// A label that names other extents is believed neither when the pool is opened nor later.
#[test]
fn a_label_that_names_another_place_is_not_believed() {
    for other in [None, Some(range(100, FIRST)), Some(range(0, LONGER))] {
        let (bench, volume) = Bench::mirrored(710);
        bench.write(&volume, 3, pattern(3, 4, 1)).unwrap();
        bench.pass(Duration::from_secs(5));
        drop(volume);
        let label = Label { area: other, ..bench.label(0) };
        bench.set_label(0, &label);
        let bench = bench.power_cut();
        let volume = bench.reopened();
        bench.assert_resolved(&format!("{other:?}"));
        assert_eq!(bench.label(0).area, Some(range(0, FIRST)));
        assert_eq!(bench.read(&volume, 3, 4).unwrap(), pattern(3, 4, 1));
    }
}

/// The metadata knows that a disk has no room for an area and something else.
#[test]
fn a_disk_too_small_for_an_area_makes_no_pool() {
    let bench = Bench::new(720, 1, 11);
    let request =
        |extent_bytes| CreatePool { extent_bytes: Some(extent_bytes), ..bench.request(1) };
    let plan = |extent_bytes| {
        let (engine, request) = (Rc::clone(&bench.engine), request(extent_bytes));
        bench.run(async move { engine.plan_create(&request).await })
    };
    // 9 MiB of extents: an area of 8 MiB, and one for something else.
    assert_eq!(plan(1 << 20).unwrap().capacity_bytes, MIB);
    assert_eq!(plan(256 << 10).unwrap().capacity_bytes, MIB);
    let error = plan(4 << 20).unwrap_err().to_string();
    assert!(error.contains("14.0 MiB"), "{error}");
}

/// Of several writes that are under way at once each is waited for, and each may fail.
#[test]
fn what_is_wiped_is_zeros_to_its_end_or_the_wiping_fails() {
    const LENGTH: u64 = 3 * MIB + 4096;
    for lost_after in (0..).step_by(150).map(Duration::from_micros) {
        let bench = Bench::new(700, 1, 8);
        let disk = Rc::clone(&bench.disks[0]);
        disk.latency.set(Duration::from_millis(1));
        disk.overwrite(Lba(0), &vec![0xa5; 4 << 20]);
        let device = Rc::clone(&bench.devices.borrow()[0]);
        let wiping = async move { wipe(&*device, None, MIB / 2, MIB / 2 + LENGTH).await };
        let wiped = Rc::new(RefCell::new(None));
        let told = Rc::clone(&wiped);
        bench.executor.handle().spawn(async move { *told.borrow_mut() = Some(wiping.await) });
        bench.pass(lost_after);
        let is_over = wiped.borrow().is_some();
        bench.set_mode(0, Mode::Lost);
        bench.pass(Duration::from_secs(1));
        let is_zero =
            |at: usize| disk.with_image(|image| image[at..at + 4096].iter().all(|b| *b == 0));
        match wiped.take() {
            Some(Ok(())) => {
                let end = MIB as usize / 2 + LENGTH as usize;
                assert!((MIB as usize / 2..end).step_by(4096).all(is_zero), "{lost_after:?}");
                assert!(!is_zero(MIB as usize / 2 - 4096) && !is_zero(end), "no more than that");
            }
            told => assert_eq!((told, is_over), (Some(Err(IoError::Lost)), false)),
        }
        if is_over {
            assert!(lost_after < Duration::from_millis(6), "one after the other: {lost_after:?}");
            break;
        }
    }
}

/// The first answer tells that another drive is there by now.
#[test]
fn a_drive_in_the_place_of_another_loses_one_piece_at_most() {
    let bench = Bench::new(701, 1, 8);
    let instance = Some(Instance(u64::MAX));
    let (device, before) = (Rc::clone(&bench.devices.borrow()[0]), bench.disks[0].writes.get());
    let wiped = bench.run(async move { wipe(&*device, instance, 0, 4 * MIB).await });
    assert!(matches!(wiped, Err(IoError::Restarted { .. })), "{wiped:?}");
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.disks[0].writes.get() - before, 1);
}
