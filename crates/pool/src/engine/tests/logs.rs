//! Logs that are damaged, or of which one copy has more than the others.

use std::collections::BTreeSet;

use block::SECTOR_BYTES;
use futures::future::join_all;
use runtime::Semaphore;

use super::super::lease::Ended;
use super::super::pool::GROUP_LOCK_SHARES;
use super::*;
use crate::engine::volume::log::Append;
use crate::format::{RecordBody, SEGMENT_HEADER_BYTES};

/// A pool of three nodes with a striped volume of 8 MiB: each record has one copy.
fn striped(seed: u64) -> (Bench, Rc<dyn BlockDevice>) {
    let bench = Bench::new(seed, 3, 48);
    bench.create();
    let volume = bench.create_volume(8, Layout::Raid0);
    (bench, volume)
}

/// Where a record's header lies that has these contents as its only row.
fn records_of(bench: &Bench, contents: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (index, disk) in bench.disks.iter().enumerate() {
        let image = disk.image();
        for offset in (512..image.len() - BLOCK_BYTES).step_by(512) {
            let header = &image[offset - 512..offset];
            if header.starts_with(b"epLR") && image[offset..offset + BLOCK_BYTES] == *contents {
                found.push((index, offset - 512));
            }
        }
    }
    found
}

/// What the volume waits for, once the pool is open.
fn suspended(bench: &Bench) -> String {
    bench.until(|report| {
        report
            .volumes
            .iter()
            .any(|v| v.suspended().is_some_and(|why| !why.contains("being replayed")))
    });
    bench.report().volumes[0].suspended().map(str::to_owned).unwrap()
}

/// Five blocks, one record each, acknowledged and not in place.
fn five(bench: &Bench, volume: &Rc<dyn BlockDevice>) {
    // At once: a writer who lines up behind durable records has them brought into place.
    let writes: Vec<_> = (0..5)
        .map(|block| volume.write(Lba(block * 8), pattern(block, 1, 1), Durability::Durable))
        .collect();
    let done = bench.run(futures::future::join_all(writes));
    assert!(done.iter().all(Result::is_ok));
    // The MARK behind the last one; before the log is idle for so long that it is destaged.
    bench.pass(Duration::from_millis(300));
}

#[test]
fn damage_in_the_middle_of_a_log_is_not_its_end() {
    for block in [0, 2, 4] {
        let (bench, volume) = striped(100 + block);
        five(&bench, &volume);
        let place = records_of(&bench, &pattern(block, 1, 1));
        assert_eq!(place.len(), 1);
        let bench = bench.crash_engine();
        bench.disks[place[0].0].damage(place[0].1, |byte| *byte ^= 4);
        let why = suspended(&bench);
        let name = &bench.disks[place[0].0].name;
        assert!(why.contains("its log is damaged: records "), "{why}");
        assert!(why.contains(&format!("{name} (")), "{why}");
        // It stays so, also for the next engine, until somebody gives up what is lost.
        let bench = bench.crash_engine();
        assert_eq!(suspended(&bench), why);
        let engine = Rc::clone(&bench.engine);
        let lost = engine.accept_log_loss("pool", "v", true).unwrap();
        assert!(why.contains(&lost), "{why}");
        bench.pass(Duration::from_secs(1));
        assert_eq!(suspended(&bench), why, "a dry run changes nothing");
        assert_eq!(engine.accept_log_loss("pool", "v", false).unwrap(), lost);
        let volume = bench.reopened();
        for other in 0..5 {
            let expected = if other == block { pattern(0, 1, 0) } else { pattern(other, 1, 1) };
            let expected = if other == block { Buffer::zeroed(expected.len()) } else { expected };
            assert_eq!(bench.read(&volume, other, 1).unwrap(), expected, "block {other}");
        }
        let again = bench.engine.accept_log_loss("pool", "v", false);
        assert!(again.is_err(), "nothing is damaged any more");
    }
}

/// A header that is sound says which rows it has, and what they were.
#[test]
fn damage_of_acknowledged_rows_costs_these_rows() {
    for block in [0, 2, 4] {
        let (bench, volume) = striped(120 + block);
        five(&bench, &volume);
        let place = records_of(&bench, &pattern(block, 1, 1));
        let bench = bench.crash_engine();
        bench.disks[place[0].0].damage(place[0].1 + 512 + 77, |byte| *byte ^= 4);
        let check = |bench: &Bench, volume: &Rc<dyn BlockDevice>, is_lost: bool| {
            for other in (0..5).filter(|other| *other != block) {
                assert_eq!(bench.read(volume, other, 1).unwrap(), pattern(other, 1, 1));
            }
            let lost = bench.read(volume, block, 1);
            let expected = SectorRange::new(Lba(block * 8), 8);
            assert_eq!(lost.err(), is_lost.then_some(IoError::Medium(expected)));
            assert_eq!(bench.read(volume, 0, 5).is_err(), is_lost);
        };
        let volume = bench.reopened();
        check(&bench, &volume, true);
        // Once all is in place, and for the next engine.
        bench.pass(Duration::from_secs(3));
        check(&bench, &volume, true);
        assert_eq!(bench.report().volumes[0].log_bytes, 0);
        let bench = bench.crash_engine();
        let volume = bench.reopened();
        check(&bench, &volume, true);
        bench.write(&volume, block, pattern(block, 1, 2)).unwrap();
        check(&bench, &volume, false);
        bench.pass(Duration::from_secs(3));
        assert_eq!(bench.verify(None).bad, []);
    }
}

#[test]
fn a_sector_that_cannot_be_read_is_damage_as_well() {
    let (bench, volume) = striped(110);
    five(&bench, &volume);
    let place = records_of(&bench, &pattern(1, 1, 1));
    let bench = bench.crash_engine();
    let sector = (place[0].1 / 512) as u64;
    bench.disks[place[0].0].bad_sectors.borrow_mut().insert(sector);
    assert!(suspended(&bench).contains("its log is damaged"));
}

#[test]
fn what_was_being_written_may_be_torn_or_unreadable() {
    for unreadable in [false, true] {
        let (bench, volume) = striped(120);
        bench.write(&volume, 0, pattern(0, 1, 1)).unwrap();
        bench.write(&volume, 1, pattern(1, 1, 1)).unwrap();
        // At once: no record says yet that the second one was acknowledged.
        let place = records_of(&bench, &pattern(1, 1, 1));
        let bench = bench.crash_engine();
        let disk = &bench.disks[place[0].0];
        match unreadable {
            true => drop(disk.bad_sectors.borrow_mut().insert((place[0].1 / 512) as u64)),
            false => disk.damage(place[0].1 + 600, |byte| *byte ^= 1),
        }
        let volume = bench.reopened();
        assert_eq!(bench.read(&volume, 0, 1).unwrap(), pattern(0, 1, 1));
    }
}

#[test]
fn damage_in_what_is_in_place_already_is_ignored() {
    let (bench, volume) = striped(130);
    five(&bench, &volume);
    let place = records_of(&bench, &pattern(1, 1, 1));
    // In place, in a segment that goes on.
    bench.pass(Duration::from_secs(3));
    bench.write(&volume, 7, pattern(7, 1, 1)).unwrap();
    bench.pass(Duration::from_millis(300));
    let bench = bench.crash_engine();
    bench.disks[place[0].0].damage(place[0].1, |byte| *byte ^= 4);
    let volume = bench.reopened();
    for block in [0, 1, 2, 3, 4, 7] {
        assert_eq!(bench.read(&volume, block, 1).unwrap(), pattern(block, 1, 1));
    }
}

#[test]
fn a_mirrored_log_makes_up_for_damage_in_one_copy() {
    let (bench, volume) = Bench::mirrored(140);
    five(&bench, &volume);
    let places = records_of(&bench, &pattern(2, 1, 1));
    assert_eq!(places.len(), 2);
    let bench = bench.crash_engine();
    bench.disks[places[0].0].damage(places[0].1, |byte| *byte ^= 4);
    let volume = bench.reopened();
    for block in 0..5 {
        assert_eq!(bench.read(&volume, block, 1).unwrap(), pattern(block, 1, 1));
    }
    assert_eq!(bench.verify(None).bad, []);
}

#[test]
fn a_mark_says_once_what_was_acknowledged() {
    let (bench, volume) = striped(150);
    bench.write(&volume, 0, pattern(0, 1, 1)).unwrap();
    let writes = |bench: &Bench| bench.disks.iter().map(|disk| disk.writes.get()).sum::<u64>();
    let before = writes(&bench);
    bench.pass(Duration::from_millis(90));
    assert_eq!(writes(&bench), before);
    bench.pass(Duration::from_millis(20));
    assert_eq!(writes(&bench), before + 1);
    bench.pass(Duration::from_millis(700));
    assert_eq!(writes(&bench), before + 1, "a MARK isn't acknowledged by a MARK");
}

#[test]
fn a_tail_that_one_copy_has_is_on_all_before_anything_is_in_place() {
    let (bench, volume) = Bench::mirrored(160);
    bench.write(&volume, 0, pattern(0, 1, 1)).unwrap();
    let copies = records_of(&bench, &pattern(0, 1, 1));
    assert_eq!(copies.len(), 2);
    // In place, and the log goes on where it was; the region is marked dirty, which takes a commit.
    bench.pass(Duration::from_secs(3));
    bench.write(&volume, 8, pattern(1, 1, 1)).unwrap();
    // One copy's disk doesn't answer while the record is written: it was never acknowledged.
    bench.disks[copies[1].0].set_mode(Mode::Hanging);
    let write = volume.write(Lba(0), pattern(0, 1, 2), Durability::Durable);
    assert!(bench.run_for(Duration::from_millis(50), write).is_none());
    let lone = records_of(&bench, &pattern(0, 1, 2));
    assert_eq!(lone.iter().map(|place| place.0).collect::<Vec<_>>(), [copies[0].0]);
    let bench = bench.power_cut();
    // As soon as anything but logs has the new contents, two logs have them.
    for _ in 0..20_000 {
        bench.pass(Duration::from_micros(100));
        let logs = records_of(&bench, &pattern(0, 1, 2));
        let all = places_of(&bench, &pattern(0, 1, 2));
        let in_place =
            all.iter().filter(|(disk, at)| !logs.contains(&(*disk, at.wrapping_sub(512))));
        if in_place.count() > 0 {
            let disks: std::collections::BTreeSet<usize> =
                logs.iter().map(|place| place.0).collect();
            assert!(disks.len() >= 2, "{logs:?}");
            return;
        }
    }
    panic!("it never gets into place");
}

/// Its log copy, of what was acknowledged without it, is off the list from then on, also of the list that
/// the opening began with.
#[test]
fn a_disk_that_is_taken_in_while_a_log_is_read_gives_nothing_of_it() {
    let bench = Bench::new(260, 8, 48);
    bench.create();
    let volume = bench.create_volume(8, Layout::Mirror(2));
    let places = |contents: &[u8]| records_of(&bench, contents);
    let disks_with = |bench: &Bench, contents: &[u8]| -> Vec<usize> {
        records_of(bench, contents).into_iter().map(|place| place.0).collect()
    };
    let open = bench.engine.open_pool("pool").unwrap();
    // Nothing gets into place, so that the first segment is read as well.
    let locks: Vec<_> = {
        let meta = open.pool.meta.borrow();
        let groups = meta.volumes().values().flat_map(|volume| volume.groups());
        groups.map(|group| open.pool.group_lock(group.generation())).collect()
    };
    let take = |lock| bench.run(async move { Semaphore::acquire(&lock, GROUP_LOCK_SHARES).await });
    let _held: Vec<_> = locks.into_iter().map(take).collect();
    bench.write(&volume, 0, pattern(0, 1, 1)).unwrap();
    bench.write(&volume, 128, pattern(128, 110, 1)).unwrap();
    let slow = places(&pattern(0, 1, 1));
    let first: Vec<usize> = slow.iter().map(|place| place.0).collect();
    let is_first = |name: &str| first.iter().any(|disk| bench.disks[*disk].name == name);
    for member in open.pool.members().iter().filter(|member| is_first(&member.display_name())) {
        member.without_logs_until.set(bench.executor.handle().now() + Duration::from_secs(600));
    }
    let (mut second, mut block) = (first.clone(), 32);
    while second.iter().any(|disk| first.contains(disk)) {
        assert!(block < 64, "each segment lies on {first:?}");
        bench.write(&volume, block, pattern(block, 1, 1)).unwrap();
        second = disks_with(&bench, &pattern(block, 1, 1));
        block += 1;
    }
    // Without the one that has no vote.
    let (lone, stale) = (second[0].min(second[1]), second[0].max(second[1]));
    bench.set_mode(stale, Mode::Lost);
    bench.write(&volume, 16, pattern(16, 1, 2)).unwrap();
    assert_eq!(disks_with(&bench, &pattern(16, 1, 2)), [lone]);
    let (now, pools) = (bench.executor.handle().now(), bench.engine.known_pools());
    bench.executor.clear();
    let bench = Bench::alone(261, bench.disks.clone(), now, bench.owner, pools);
    bench.disks[stale].mode.set(Mode::Well);
    let away = [lone, stale];
    let others = bench.disks.iter().enumerate().filter(|(index, _)| !away.contains(index));
    others.for_each(|(_, disk)| bench.attach(disk));
    for (disk, at) in slow {
        let sectors = SectorRange::new(Lba((at / block::SECTOR_BYTES) as u64), 1);
        bench.disks[disk].slow_reads.set(Some((sectors, Duration::from_secs(1))));
    }
    while bench.engine.open_pool("pool").is_err() {
        bench.pass(Duration::from_millis(1));
    }
    bench.attach(&bench.disks[stale]);
    // It is taken in while the first segment is read.
    bench.pass(Duration::from_secs(3));
    let why = suspended(&bench);
    assert!(why.contains(&bench.disks[lone].name), "{why}");
    bench.attach(&bench.disks[lone]);
    let volume = bench.reopened();
    assert_eq!(bench.read(&volume, 16, 1).unwrap(), pattern(16, 1, 2));
}

#[test]
fn a_volume_is_removed_without_waiting_for_members() {
    let (bench, volume) = striped(170);
    five(&bench, &volume);
    // What is in the log can't be brought into place any more.
    bench.set_mode(1, Mode::Lost);
    bench.pass(Duration::from_secs(5));
    let engine = Rc::clone(&bench.engine);
    let removing = async move { engine.remove_volume("pool", "v").await };
    bench.run_for(Duration::from_secs(20), removing).expect("it waits").unwrap();
    bench.set_mode(1, Mode::Well);
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.report().volumes, []);
    bench.create_volume(8, Layout::Mirror(2));
}

#[test]
fn a_volume_that_waits_for_its_log_is_removed_and_stays_so() {
    let (bench, volume) = striped(180);
    five(&bench, &volume);
    let holder = records_of(&bench, &pattern(2, 1, 1))[0].0;
    let bench = bench.crash_engine();
    bench.disks[holder].set_mode(Mode::Lost);
    assert!(suspended(&bench).contains("no current copy of its log"));
    let engine = Rc::clone(&bench.engine);
    let removing = async move { engine.remove_volume("pool", "v").await };
    bench.run_for(Duration::from_secs(20), removing).expect("it waits").unwrap();
    bench.set_mode(holder, Mode::Well);
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.report().volumes, []);
}

/// Blocks whose only place is on a disk, and blocks that lie elsewhere, of a striped volume: a stripe
/// unit is on one disk.
fn on_and_off(
    bench: &Bench,
    volume: &Rc<dyn BlockDevice>,
    disk: usize,
    step: usize,
) -> (Vec<u64>, Vec<u64>) {
    let spread: Vec<u64> = (0..2048).step_by(step).collect();
    for block in &spread {
        bench.write(volume, *block, pattern(*block, 1, 1)).unwrap();
    }
    bench.pass(Duration::from_secs(3));
    spread.into_iter().partition(|block| {
        places_of(bench, &pattern(*block, 1, 1)).iter().all(|place| place.0 == disk)
    })
}

#[test]
fn what_waits_for_a_member_is_appended_again_and_the_rest_goes_on() {
    let (bench, volume) = striped(190);
    let (on, off) = on_and_off(&bench, &volume, 1, 48);
    assert!(on.len() >= 2 && off.len() >= 2, "{on:?} {off:?}");
    bench.set_mode(1, Mode::Lost);
    // The first of these evicts the disk; all of them are acknowledged by a log elsewhere.
    for block in on.iter().chain(&off) {
        bench.write(&volume, *block, pattern(*block, 1, 2)).unwrap();
    }
    // Much more than the log has room for: it goes on only if release advances.
    for round in 0..500 {
        let block = off[round as usize % off.len()];
        bench.write(&volume, block, pattern(block, 1, 3 + round)).unwrap();
    }
    for block in &on {
        assert_eq!(bench.read(&volume, *block, 1).unwrap(), pattern(*block, 1, 2));
    }
    // What the log gave back is discarded meanwhile.
    bench.pass(Duration::from_secs(15));
    let writes = |bench: &Bench| bench.disks.iter().map(|disk| disk.writes.get()).sum::<u64>();
    let before = writes(&bench);
    bench.pass(Duration::from_secs(5));
    assert_eq!(writes(&bench), before, "what is appended again stays where it is");
    // A newer write of such a block counts, and so does what is there after a power cut.
    bench.write(&volume, on[0], pattern(on[0], 1, 99)).unwrap();
    let bench = bench.power_cut();
    bench.disks[1].set_mode(Mode::Lost);
    bench.pass(Duration::from_secs(20));
    bench.set_mode(1, Mode::Well);
    let volume = bench.reopened();
    bench.until(|report| report.volumes[0].log_bytes == 0);
    assert_eq!(bench.read(&volume, on[0], 1).unwrap(), pattern(on[0], 1, 99));
    for block in &on[1..] {
        assert_eq!(bench.read(&volume, *block, 1).unwrap(), pattern(*block, 1, 2));
    }
    assert_eq!(bench.verify(None).bad, []);
}

#[test]
fn more_than_can_be_appended_again_is_waited_for_by_name() {
    let (bench, volume) = striped(200);
    let (on, off) = on_and_off(&bench, &volume, 1, 16);
    assert!(on.len() >= 36, "{on:?}");
    bench.set_mode(1, Mode::Lost);
    for block in &on {
        bench.write(&volume, *block, pattern(*block, 1, 2)).unwrap();
    }
    // More than the log has room for.
    let writes: Vec<_> = (0..500)
        .map(|round| {
            let block = off[round % off.len()];
            volume.write(Lba(block * 8), pattern(block, 1, 3), Durability::Durable)
        })
        .collect();
    let writes = futures::future::join_all(writes);
    let done = Rc::new(std::cell::Cell::new(false));
    let seen = Rc::clone(&done);
    bench.executor.handle().spawn(async move {
        seen.set(writes.await.iter().all(Result::is_ok));
    });
    bench.pass(Duration::from_secs(30));
    assert!(!done.get(), "nobody has room for all of that");
    let why = bench.report().volumes[0].suspended().map(str::to_owned).unwrap();
    assert!(why.contains("bring back e1.0 ("), "{why}");
    bench.set_mode(1, Mode::Well);
    bench.pass(Duration::from_secs(30));
    assert!(done.get());
    for block in &on {
        assert_eq!(bench.read(&volume, *block, 1).unwrap(), pattern(*block, 1, 2));
    }
    assert_eq!(bench.verify(None).bad, []);
}

/// A write that waits for an overlapping one comes to the log when nobody looks at it any more.
#[test]
fn who_is_in_line_when_the_pool_ends_is_answered() {
    let (bench, volume) = Bench::mirrored(67);
    bench.disks.iter().for_each(|disk| disk.latency.set(Duration::from_millis(5)));
    let write = |version| volume.write(Lba(0), pattern(0, 1, version), Durability::Durable);
    let both = join_all([write(1), write(2)]);
    let (engine, runtime) = (Rc::clone(&bench.engine), bench.executor.handle());
    let end = async move {
        runtime.sleep(Duration::from_millis(2)).await;
        engine.open_pool("pool").unwrap().pool.lease.end(Ended::Closed);
    };
    let (answers, ()) = bench.run(async move { futures::join!(both, end) });
    assert_eq!(answers, [Err(IoError::Lost), Err(IoError::Lost)]);
}

/// Damages all checksum blocks of the groups that were made first, on some disks.
fn spoil_first_checksums(bench: &Bench, disks: &[usize], groups: usize) {
    let generation_of = |block: &[u8]| u64::from_le_bytes(block[8..16].try_into().unwrap());
    let sums = |image: &[u8]| -> Vec<(usize, u64)> {
        let blocks = image.chunks_exact(BLOCK_BYTES).enumerate();
        let sums = blocks.filter(|(_, block)| block.starts_with(b"epCS"));
        sums.map(|(at, block)| (at * BLOCK_BYTES, generation_of(block))).collect()
    };
    for disk in disks.iter().map(|index| &bench.disks[*index]) {
        let sums = sums(&disk.image());
        let generations: std::collections::BTreeSet<u64> = sums.iter().map(|sum| sum.1).collect();
        let first: Vec<u64> = generations.into_iter().take(groups).collect();
        for (at, _) in sums.iter().filter(|(_, generation)| first.contains(generation)) {
            disk.damage(at + 1000, |byte| *byte ^= 4);
        }
    }
}

/// Moved one segment after the other, each time what the last one closed would be due next.
#[test]
fn what_is_stuck_in_several_segments_comes_to_rest() {
    let bench = Bench::new(210, 3, 48);
    bench.create();
    let volume = bench.create_volume(8, Layout::Mirror(3));
    let spread: Vec<u64> = (0..2048).step_by(32).collect();
    for block in &spread {
        bench.write(&volume, *block, pattern(*block, 1, 1)).unwrap();
    }
    bench.pass(Duration::from_secs(3));
    // Whether the one that is away has what the others lost isn't known, and each segment is thin.
    let bench = bench.crash_engine();
    spoil_first_checksums(&bench, &[0, 1], 2);
    bench.disks[2].set_mode(Mode::Lost);
    let volume = bench.reopened();
    let (good, stuck): (Vec<u64>, Vec<u64>) =
        spread.into_iter().partition(|block| bench.read(&volume, *block, 1).is_ok());
    assert!(good.len() > 40 && stuck.len() >= 2, "{stuck:?}");
    bench.write(&volume, stuck[0], pattern(stuck[0], 1, 2)).unwrap();
    // More than a segment holds, before the first one is set aside.
    for round in 0..100 {
        let block = good[round as usize % good.len()];
        bench.write(&volume, block, pattern(block, 1, 2 + round)).unwrap();
    }
    let last = stuck[stuck.len() - 1];
    bench.write(&volume, last, pattern(last, 1, 2)).unwrap();
    // By then what happened, and where disks are, is in the pool.
    bench.pass(Duration::from_secs(70));
    let writes = |bench: &Bench| bench.disks.iter().map(|disk| disk.writes.get()).sum::<u64>();
    let before = writes(&bench);
    bench.pass(Duration::from_secs(20));
    assert_eq!(writes(&bench), before, "what is appended again stays where it is");
    bench.set_mode(2, Mode::Well);
    bench.until(|report| report.volumes[0].log_bytes == 0);
    for block in [stuck[0], last] {
        assert_eq!(bench.read(&volume, block, 1).unwrap(), pattern(block, 1, 2));
    }
}

/// What leaves in one batch shares its padding, and the log holds so much more of it.
#[test]
fn records_of_a_batch_are_charged_what_they_take_together() {
    let (bench, volume) = Bench::mirrored(230);
    let serving = bench.serving();
    let (log, credit) = (&serving.log, &serving.credit);
    let charged = || log.state.borrow().charges.values().sum::<u64>();
    let at_once = |round: u64| {
        let write = |block: u64| {
            volume.write(Lba(block * 8), pattern(block, 1, round), Durability::Durable)
        };
        let done = bench.run(join_all((0..64).map(write).collect::<Vec<_>>()));
        assert!(done.iter().all(Result::is_ok));
    };
    at_once(1);
    let written = {
        let state = log.state.borrow();
        state.current.as_ref().unwrap().at - SEGMENT_HEADER_BYTES as u64
    };
    assert_eq!((charged(), credit.used_bytes()), (written, written));
    assert!(written < 64 * 5120, "{written}");
    // Many times what the log holds, zeros among it.
    for round in 2..60 {
        at_once(round);
        let zeroed =
            volume.write_zeroes(SectorRange::new(Lba(80 * 8), 8 * 20), Durability::Durable);
        bench.run(async move { zeroed.await.map(drop) }).unwrap();
    }
    assert_eq!(credit.used_bytes(), charged());
    for block in 0..64 {
        assert_eq!(bench.read(&volume, block, 1).unwrap(), pattern(block, 1, 59));
    }
}

/// It woke nobody, since batches were under way, and those who look at the queue had not begun them.
#[test]
fn who_comes_while_something_is_appended_again_is_answered() {
    let (bench, volume) = Bench::mirrored(240);
    bench.write(&volume, 0, pattern(0, 1, 1)).unwrap();
    // Its MARK is written, and nothing is due.
    bench.pass(Duration::from_secs(3));
    let serving = bench.serving();
    let appending = async move {
        let _writing = serving.log.writing.acquire(1).await;
        let own = [Append::own(0, RecordBody::Mark)].into();
        serving.append_own(own, |_, _, _| {}).await.unwrap();
    };
    let runtime = bench.executor.handle();
    let writing = async move {
        runtime.sleep(Duration::from_micros(50)).await;
        volume.write(Lba(8), pattern(1, 1, 1), Durability::Durable).await
    };
    let both = bench.run_for(Duration::from_secs(5), futures::future::join(appending, writing));
    assert!(both.expect("nobody looks at what is queued").1.is_ok());
}

/// So many writes of eight blocks at once, over all of a volume of 8 MiB.
fn at_once(
    volume: &Rc<dyn BlockDevice>,
    count: u64,
) -> impl Future<Output = Vec<Result<(), IoError>>> + 'static {
    let write = |number: u64| {
        let block = number * 8 % 2048;
        let done = volume.write(Lba(block * 8), pattern(block, 8, 1), Durability::Durable);
        async move { done.await.map(drop) }
    };
    join_all((0..count).map(write).collect::<Vec<_>>())
}

/// Writes as much at once as the log holds several times, and waits for it so long.
fn overfill(bench: &Bench, volume: &Rc<dyn BlockDevice>, limit: Duration) {
    let done = bench.run_for(limit, at_once(volume, 512)).expect("still waiting");
    assert!(done.iter().all(Result::is_ok));
}

/// They waited for room that nobody gives any more.
#[test]
fn who_writes_to_a_volume_that_is_removed_is_answered() {
    let (bench, volume) = striped(243);
    bench.write(&volume, 0, pattern(0, 1, 1)).unwrap();
    bench.set_mode(1, Mode::Lost);
    bench.pass(Duration::from_secs(5));
    let writes = at_once(&volume, 1024);
    let (engine, runtime) = (Rc::clone(&bench.engine), bench.executor.handle());
    let removal = async move {
        runtime.sleep(Duration::from_secs(10)).await;
        engine.remove_volume("pool", "v").await
    };
    let both = bench.run_for(Duration::from_secs(100), futures::future::join(writes, removal));
    let (written, removed) = both.expect("still waiting");
    removed.unwrap();
    assert!(written.iter().any(Result::is_ok) && written.iter().any(Result::is_err));
}

fn went_out(bench: &Bench) -> Vec<String> {
    let out = bench.events().into_iter().filter_map(|event| match event {
        PoolEvent::DiskOut { disk, .. } => Some(disk),
        _ => None,
    });
    out.collect()
}

#[test]
fn writers_who_wait_for_room_do_not_wait_long_for_one_disk() {
    let (bench, volume) = Bench::mirrored(241);
    bench.disks[1].flush_latency.set(Duration::from_secs(5));
    overfill(&bench, &volume, Duration::from_secs(20));
    assert_eq!(went_out(&bench), ["e1.0"]);
}

#[test]
fn disks_that_are_all_slow_stay_in() {
    let (bench, volume) = Bench::mirrored(242);
    for disk in &bench.disks {
        disk.flush_latency.set(Duration::from_secs(4));
    }
    overfill(&bench, &volume, Duration::from_secs(600));
    assert_eq!(went_out(&bench), [""; 0]);
}

/// It is looked at first, and takes nothing before; whoever wants something of it waits so long.
#[test]
fn a_disk_that_begins_anew_at_once_stays_in() {
    let (bench, volume) = Bench::mirrored(248);
    for turn in 0..60 {
        let disk = &bench.disks[turn % 3];
        disk.crash(&bench.executor.handle());
        let block = turn as u64;
        bench.write(&volume, block, pattern(block, 1, 1)).unwrap();
        // Among what it meets are destages, and marks.
        bench.pass(Duration::from_millis(70 * turn as u64 % 2300));
    }
    assert_eq!(went_out(&bench), [""; 0]);
}

/// The one that failed has done nothing that the other one could be done without for.
#[test]
fn who_is_slow_stays_in_when_another_one_dies() {
    for away in 0..5 {
        // So many that there is a majority without both.
        let bench = Bench::new(244 + away as u64, 5, 48);
        bench.create();
        let volume = bench.create_volume(8, Layout::Mirror(2));
        for disk in &bench.disks {
            disk.flush_latency.set(Duration::from_secs(4));
        }
        bench.disks[away].flush_latency.set(Duration::from_millis(2500));
        let engine = Rc::clone(&bench.engine);
        let (dies, runtime) = (Rc::clone(&bench.disks[away]), bench.executor.handle());
        bench.executor.handle().spawn(async move {
            let full = || engine.open_pool("pool").unwrap().pool.is_room_awaited();
            while !full() {
                runtime.sleep(Duration::from_millis(1)).await;
            }
            runtime.sleep(Duration::from_secs(1)).await;
            dies.set_mode(Mode::Lost);
        });
        overfill(&bench, &volume, Duration::from_secs(600));
        assert_eq!(went_out(&bench), [format!("e{away}.0")]);
    }
}

/// Another volume has all extents that are free, also those that are kept for logs.
fn fill(bench: &Bench) -> (Rc<crate::engine::pool::Pool>, crate::format::VolumeId) {
    use crate::metadata::{GroupRun, Member, MetaRecord, Roots, RunKey};
    let pool = Rc::clone(&bench.serving().pool);
    let (id, records) = {
        let meta = pool.meta.borrow();
        let (id, mut generation) = (meta.counters().volume, meta.counters().generation);
        let (name, layout) = ("filler".to_owned(), Layout::Raid0);
        let mut records = vec![MetaRecord::VolumeCreated { id, name, layout, width: 1 }];
        let mut first_set = 0;
        for disk in meta.disks().values() {
            for extents in disk.free.ranges() {
                let run = GroupRun {
                    key: RunKey { lane: 0, first_set },
                    count: extents.count,
                    generation,
                    members: vec![Member { disk: disk.number, first: extents.first }],
                    incoming: None,
                    roots: Roots::default(),
                };
                records.push(MetaRecord::RunAdded { volume: id, run });
                first_set += u64::from(extents.count);
                generation = generation.plus(extents.count.into());
            }
        }
        (id, records)
    };
    bench.commit(records);
    (pool, id)
}

/// Where there is no room for a log its writers wait, are told why, and go on by themselves.
#[test]
fn writers_of_a_full_pool_wait_and_go_on_once_there_is_room() {
    let (bench, volume) = Bench::mirrored(240);
    let (pool, filler) = fill(&bench);
    let answered = Rc::new(std::cell::Cell::new(false));
    let (told, write) =
        (Rc::clone(&answered), volume.write(Lba(0), pattern(0, 16, 1), Durability::Durable));
    bench.executor.handle().spawn(async move { told.set(write.await.is_ok()) });
    bench.pass(Duration::from_secs(5));
    assert!(!answered.get(), "nothing holds it");
    let why = suspended(&bench);
    assert!(why.contains("for its log") && why.contains("pool extend pool"), "{why}");
    bench.commit(vec![crate::metadata::MetaRecord::VolumeRemoved { id: filler }]);
    let freeing = Rc::clone(&pool);
    bench.run(async move { freeing.free_pending().await }).unwrap();
    bench.until(|report| report.volumes[0].suspended().is_none());
    bench.pass(Duration::from_secs(1));
    assert!(answered.get(), "it waits although there is room");
    assert_eq!(bench.read(&volume, 0, 16).unwrap(), pattern(0, 16, 1));
}

/// The room of one segment is enough to go on: what is in place gives way.
#[test]
fn a_log_goes_on_in_the_only_segment_that_there_is_room_for() {
    let (bench, volume) = Bench::mirrored(241);
    bench.write(&volume, 0, pattern(0, 1, 1)).unwrap();
    fill(&bench);
    // Several times what a segment holds, and pauses in which a MARK is written.
    for round in 1..8 {
        for block in (0..160).step_by(8) {
            bench.write(&volume, block, pattern(block, 8, round)).unwrap();
        }
        bench.pass(Duration::from_millis(300));
    }
    for block in 0..160 {
        assert_eq!(bench.read(&volume, block, 1).unwrap(), pattern(block, 1, 7));
    }
    let bench = bench.power_cut();
    bench.until(|report| report.state == PoolState::Online);
    let volume = bench.engine.open_volume("pool", "v").unwrap();
    for block in 0..160 {
        assert_eq!(bench.read(&volume, block, 1).unwrap(), pattern(block, 1, 7));
    }
}

/// The segments of the only volume's log, the oldest first.
fn segments(bench: &Bench) -> Vec<crate::metadata::Segment> {
    let pool = Rc::clone(&bench.serving().pool);
    let meta = pool.meta.borrow();
    let volume = meta.volumes().values().next().unwrap();
    volume.log.segments.values().cloned().collect()
}

/// What the metadata allows to be written of a segment, in parts of 256: a sixteenth, a quarter, all of it.
fn marks(bench: &Bench) -> Vec<u64> {
    let shape = bench.serving().pool.shape();
    let part = |segment: &crate::metadata::Segment| {
        segment.high_water_bytes(shape) * 256 / segment.bytes(shape)
    };
    segments(bench).iter().map(part).collect()
}

#[test]
fn an_opening_reads_a_segment_up_to_its_high_water_mark() {
    let (bench, volume) = Bench::with_long_segments(260);
    five(&bench, &volume);
    assert_eq!(marks(&bench), [16]);
    let pool = Rc::clone(&bench.serving().pool);
    let segment = segments(&bench).remove(0);
    assert_eq!(segment.copies.len(), 2);
    // Who reads further waits.
    for copy in &segment.copies {
        let start = pool.member(copy.disk).unwrap().geometry.extent_start(copy.extents.first);
        // A block more is read, to notice a mark that was lost.
        let mark = segment.high_water_bytes(pool.shape()) + BLOCK_BYTES as u64;
        let whole = segment.bytes(pool.shape());
        let beyond = Lba(start.unwrap().0 + mark / SECTOR_BYTES as u64);
        let range = SectorRange::new(beyond, (whole - mark) / SECTOR_BYTES as u64);
        bench.disks[copy.disk.0 as usize].slow_reads.set(Some((range, Duration::from_secs(60))));
    }
    let bench = bench.crash_engine();
    let before = bench.engine.runtime.now();
    let volume = bench.reopened();
    assert!(bench.engine.runtime.now().since(before) < Duration::from_secs(60));
    assert_eq!(bench.read(&volume, 0, 5), Ok(pattern(0, 5, 1)));
}

#[test]
fn what_goes_beyond_a_high_water_mark_is_committed_first() {
    for (count, mark) in [(3, 16), (20, 64), (70, 256)] {
        let (bench, volume) = Bench::with_long_segments(261);
        // Records of a row each and of many.
        for first in [0, count] {
            let writes = (0..count).map(|block| {
                let data = pattern(first + block, 1, 1);
                volume.write(Lba((first + block) * 8), data, Durability::Durable)
            });
            let done = bench.run(join_all(writes.collect::<Vec<_>>()));
            assert!(done.iter().all(Result::is_ok));
        }
        assert_eq!(marks(&bench).pop(), Some(mark), "{count}");
        let bench = bench.crash_engine();
        let volume = bench.reopened();
        assert_eq!(bench.read(&volume, 0, 2 * count), Ok(pattern(0, 2 * count, 1)), "{count}");
    }
}

#[test]
fn a_log_that_fills_fast_has_no_marks() {
    let (bench, volume) = Bench::with_long_segments(262);
    let mut seen = BTreeSet::new();
    for round in 0..40 {
        let writes = (0..64).map(|block| {
            volume.write(Lba(block * 8), pattern(block, 1, round), Durability::Durable)
        });
        assert!(bench.run(join_all(writes.collect::<Vec<_>>())).iter().all(Result::is_ok));
        let newest = segments(&bench).pop().unwrap();
        seen.insert((newest.number, newest.high_water_blocks.is_some()));
    }
    let marked = seen.iter().filter(|(_, is_marked)| *is_marked).map(|(number, _)| *number);
    assert_eq!(marked.collect::<BTreeSet<_>>().len(), 1, "{seen:?}");
    assert!(seen.len() > 3, "{seen:?}");
    // After a while without writes it is taken for one that is seldom written to.
    bench.pass(Duration::from_secs(3));
    assert_eq!(segments(&bench).len(), 1);
    bench.pass(Duration::from_secs(30));
    assert_eq!(segments(&bench), []);
    five(&bench, &volume);
    assert_eq!(marks(&bench), [16]);
}
