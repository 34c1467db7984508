//! Large writes that go to their place at once.

use super::super::testing::TestDisk;
use super::*;

/// Blocks of a large write: a group of these pools has 62 rows.
const LARGE: u64 = 48;

/// A mirrored volume whose groups are ready, with nearly nothing in it, and an open log.
fn ready(seed: u64) -> (Bench, Rc<dyn BlockDevice>) {
    let (bench, volume) = Bench::mirrored(seed);
    bench.write(&volume, 0, pattern(0, 1, 1)).unwrap();
    bench.pass(Duration::from_secs(3));
    (bench, volume)
}

fn written(bench: &Bench) -> u64 {
    bench.disks.iter().map(|disk| disk.bytes_written.get()).sum()
}

/// Where these contents are in place: disk and offset. In a log they lie behind a header of some sectors.
fn places(bench: &Bench, contents: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (index, disk) in bench.disks.iter().enumerate() {
        let image = disk.image();
        let blocks = image.chunks_exact(BLOCK_BYTES).enumerate();
        let here = blocks.filter(|(_, block)| *block == contents);
        found.extend(here.map(|(block, _)| (index, block * BLOCK_BYTES)));
    }
    found
}

/// The disks that hold the newest record.
fn newest_record(bench: &Bench) -> Vec<usize> {
    let newest = |disk: &Rc<TestDisk>| {
        let image = disk.image();
        let sectors = image.chunks_exact(512).filter(|at| at.starts_with(b"epLR"));
        sectors.filter_map(|at| Some(u64::from_le_bytes(at[32..40].try_into().ok()?))).max()
    };
    let numbers: Vec<Option<u64>> = bench.disks.iter().map(newest).collect();
    let all = numbers.iter().max().copied().flatten();
    (0..numbers.len()).filter(|index| numbers[*index] == all).collect()
}

fn settle(bench: &Bench) {
    bench.until(|report| report.volumes[0].log_bytes == 0);
}

#[test]
fn what_is_large_is_written_once_where_nothing_was() {
    let (bench, volume) = ready(400);
    let before = written(&bench);
    bench.write(&volume, 70, pattern(70, LARGE, 1)).unwrap();
    assert_eq!(places(&bench, &pattern(71, 1, 1)).len(), 2, "in place, and not in the log");
    assert_eq!(bench.read(&volume, 70, LARGE).unwrap(), pattern(70, LARGE, 1));
    settle(&bench);
    let cost = (written(&bench) - before) as f64 / (LARGE * BLOCK_BYTES as u64) as f64;
    assert!((2.0..2.6).contains(&cost), "{cost} bytes for each");
    assert_eq!(bench.read(&volume, 70, LARGE).unwrap(), pattern(70, LARGE, 1));
    assert_eq!(bench.verify(None).bad, []);
    // Small writes over it go through the log, and larger ones over what the log still holds.
    bench.write(&volume, 80, pattern(80, 1, 2)).unwrap();
    bench.write(&volume, 90, pattern(90, 1, 3)).unwrap();
    bench.write(&volume, 90, pattern(90, 20, 2)).unwrap();
    assert_eq!(places(&bench, &pattern(91, 1, 2)), [], "in the log, and not in place");
    settle(&bench);
    assert_eq!(places(&bench, &pattern(91, 1, 2)).len(), 2);
    let bench = bench.power_cut();
    let volume = bench.reopened();
    assert_eq!(bench.read(&volume, 70, 10).unwrap(), pattern(70, 10, 1));
    assert_eq!(bench.read(&volume, 80, 1).unwrap(), pattern(80, 1, 2));
    assert_eq!(bench.read(&volume, 90, 20).unwrap(), pattern(90, 20, 2));
    assert_eq!(bench.verify(None).bad, []);
}

#[test]
fn what_is_large_is_written_once_where_something_was() {
    let (bench, volume) = ready(460);
    bench.write(&volume, 70, pattern(70, LARGE, 1)).unwrap();
    settle(&bench);
    // Something in the log, so that it has an open segment.
    bench.write(&volume, 0, pattern(0, 1, 2)).unwrap();
    let before = written(&bench);
    bench.write(&volume, 70, pattern(70, LARGE, 2)).unwrap();
    assert_eq!(places(&bench, &pattern(71, 1, 2)).len(), 2, "in place, and not in the log");
    assert_eq!(places(&bench, &pattern(71, 1, 1)), [], "nowhere");
    assert_eq!(bench.read(&volume, 70, LARGE).unwrap(), pattern(70, LARGE, 2));
    // By its entry every row of it is wrong, and none is.
    assert_eq!(bench.verify(None).bad, []);
    settle(&bench);
    let cost = (written(&bench) - before) as f64 / (LARGE * BLOCK_BYTES as u64) as f64;
    assert!((2.0..2.7).contains(&cost), "{cost} bytes for each");
    bench.write(&volume, 0, pattern(0, 1, 3)).unwrap();
    bench.write(&volume, 75, pattern(75, 30, 3)).unwrap();
    let bench = bench.power_cut();
    let volume = bench.reopened();
    assert_eq!(bench.read(&volume, 70, 5).unwrap(), pattern(70, 5, 2));
    assert_eq!(bench.read(&volume, 75, 30).unwrap(), pattern(75, 30, 3));
    assert_eq!(bench.read(&volume, 105, LARGE - 35).unwrap(), pattern(105, LARGE - 35, 2));
    assert_eq!(bench.verify(None).bad, []);
}

/// While one position has it and the other hasn't, and one of them is gone: the row is what the other one has.
#[test]
fn a_row_that_is_half_written_is_what_the_only_one_left_has() {
    let (bench, volume) = ready(470);
    bench.write(&volume, 70, pattern(70, LARGE, 1)).unwrap();
    settle(&bench);
    bench.write(&volume, 0, pattern(0, 1, 2)).unwrap();
    let places = places(&bench, &pattern(72, 1, 1));
    bench.write(&volume, 70, pattern(70, LARGE, 2)).unwrap();
    // No record says yet that it was answered.
    let bench = bench.crash_engine();
    let old = pattern(72, 1, 1);
    // As if the power had gone: half of one row is what it was.
    let (disk, at) = places[0];
    for byte in 0..1024 {
        bench.disks[disk].damage(at + byte, |live| *live = old[byte]);
    }
    bench.set_mode(places[1].0, Mode::Lost);
    let volume = bench.reopened();
    let row = bench.read(&volume, 72, 1).unwrap();
    assert_eq!((&row[..1024], &row[1024..]), (&old[..1024], &pattern(72, 1, 2)[1024..]));
    assert_eq!(bench.read(&volume, 73, LARGE - 3).unwrap(), pattern(73, LARGE - 3, 2));
    bench.set_mode(places[1].0, Mode::Well);
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.read(&volume, 72, 1).unwrap(), row);
    assert_eq!(bench.verify(None).bad, []);
}

#[test]
fn what_went_in_place_survives_crashes_before_it_is_destaged() {
    for seed in 0..6 {
        let (bench, volume) = ready(410 + seed);
        bench.write(&volume, 70, pattern(70, LARGE, 1)).unwrap();
        bench.write(&volume, 75, pattern(75, 1, 2)).unwrap();
        let mut bench = bench.power_cut();
        for _ in 0..3 {
            bench.pass(Duration::from_millis(seed * 37));
            bench = bench.power_cut();
        }
        let volume = bench.reopened();
        assert_eq!(bench.read(&volume, 70, 5).unwrap(), pattern(70, 5, 1));
        assert_eq!(bench.read(&volume, 75, 1).unwrap(), pattern(75, 1, 2));
        assert_eq!(bench.read(&volume, 76, LARGE - 6).unwrap(), pattern(76, LARGE - 6, 1));
        assert_eq!(bench.verify(None).bad, []);
    }
}

/// The one that is left has lost a row: what the log said to be acknowledged is an error, and nothing else.
#[test]
fn acknowledged_rows_that_nobody_has_are_errors_and_come_back_with_who_has_them() {
    let (bench, volume) = ready(420);
    bench.write(&volume, 70, pattern(70, LARGE, 1)).unwrap();
    // Long enough for a MARK, and too short for a destage.
    bench.pass(Duration::from_millis(300));
    let row = places(&bench, &pattern(72, 1, 1));
    let bench = bench.crash_engine();
    bench.disks[row[0].0].damage(row[0].1 + 77, |byte| *byte ^= 4);
    bench.set_mode(row[1].0, Mode::Lost);
    let volume = bench.reopened();
    let lost = IoError::Medium(SectorRange::new(Lba(72 * 8), 8));
    assert_eq!(bench.read(&volume, 72, 1).err(), Some(lost));
    assert_eq!(bench.read(&volume, 73, LARGE - 3).unwrap(), pattern(73, LARGE - 3, 1));
    bench.set_mode(row[1].0, Mode::Well);
    bench.until(|report| report.state == PoolState::Online);
    assert_eq!(bench.read(&volume, 70, LARGE).unwrap(), pattern(70, LARGE, 1));
}

/// A write that was never answered, of which nobody who is there can tell what became of it.
#[test]
fn an_undecided_write_waits_for_who_may_have_it() {
    for accepts in [false, true] {
        let bench = Bench::new(430, 5, 24);
        bench.create();
        let volume = bench.create_volume(8, Layout::Mirror(2));
        bench.write(&volume, 0, pattern(0, 1, 1)).unwrap();
        bench.pass(Duration::from_secs(3));
        // One whose log is elsewhere, so that the log can be read without it.
        let first = (62..1000).step_by(62).find(|first| {
            // Its group is ready, and the log has an open segment.
            bench.write(&volume, *first + LARGE, pattern(*first + LARGE, 1, 1)).unwrap();
            settle(&bench);
            bench.write(&volume, 0, pattern(0, 1, 1)).unwrap();
            bench.write(&volume, *first, pattern(*first, LARGE, 1)).unwrap();
            let held = places(&bench, &pattern(*first, 1, 1));
            let newest = newest_record(&bench);
            held.len() == 2 && held.iter().all(|(disk, _)| !newest.contains(disk))
        });
        let first = first.expect("some group lies where the log doesn't");
        // No record says yet that it was answered.
        let away: Vec<usize> = places(&bench, &pattern(first, 1, 1)).iter().map(|p| p.0).collect();
        let bench = bench.crash_engine();
        away.iter().for_each(|disk| bench.set_mode(*disk, Mode::Lost));
        bench.until(|report| {
            let why =
                report.volumes.first().and_then(|volume| volume.suspended().map(str::to_owned));
            why.is_some_and(|why| why.contains("blocks were being written"))
        });
        if accepts {
            assert!(bench.engine.accept_log_loss("pool", "v", false).is_ok());
            bench.until(|report| {
                report.volumes[0].suspended().is_none_or(|why| !why.contains("written"))
            });
        }
        away.iter().for_each(|disk| bench.set_mode(*disk, Mode::Well));
        let volume = bench.reopened();
        bench.until(|report| report.state == PoolState::Online);
        assert_eq!(bench.read(&volume, first, LARGE).unwrap(), pattern(first, LARGE, 1));
        assert_eq!(bench.verify(None).bad, []);
    }
}

#[test]
fn a_position_that_fails_sends_the_contents_into_the_log() {
    let (bench, volume) = ready(440);
    for (round, mode) in [(0, Mode::Lost), (1, Mode::Hanging)] {
        let first = 70 + 62 * round;
        let victim = bench.seed as usize % 3;
        let write = volume.write(Lba(first * 8), pattern(first, 40, 1), Durability::Durable);
        bench.disks[victim].set_mode(mode);
        bench.run(async move { write.await.map(drop) }).unwrap();
        bench.set_mode(victim, Mode::Well);
        bench.until(|report| report.state == PoolState::Online);
        settle(&bench);
        assert_eq!(bench.read(&volume, first, 40).unwrap(), pattern(first, 40, 1));
    }
    let bench = bench.power_cut();
    let volume = bench.reopened();
    for first in [70, 132] {
        assert_eq!(bench.read(&volume, first, 40).unwrap(), pattern(first, 40, 1));
    }
    assert_eq!(bench.verify(None).bad, []);
}

/// What went in place takes room as if it were in the log, and gives it back.
#[test]
fn room_comes_back_when_the_contents_are_released() {
    let (bench, volume) = ready(450);
    let used = |bench: &Bench| {
        let open = bench.engine.open_pool("pool").unwrap();
        let volumes: Vec<_> = open.volumes.borrow().values().cloned().collect();
        volumes[0].credit.used_bytes()
    };
    let before = used(&bench);
    bench.write(&volume, 70, pattern(70, LARGE, 1)).unwrap();
    let taken = used(&bench) - before;
    assert!(taken >= (LARGE + 1) * BLOCK_BYTES as u64, "{taken}");
    settle(&bench);
    assert!(
        used(&bench) - before <= 2 * BLOCK_BYTES as u64,
        "the INTENT's own until its segment goes"
    );
    // Far more than the log ever has.
    for round in 0..6 {
        for first in (0..2048 - LARGE).step_by(LARGE as usize) {
            bench.write(&volume, first, pattern(first, LARGE, round)).unwrap();
        }
        let discard = volume.discard(SectorRange::new(Lba(0), 2048 * 8));
        bench.run(async move { discard.await.map(drop) }).unwrap();
        settle(&bench);
    }
}

/// Into a new volume all but the first write goes in place, before anything was destaged.
#[test]
fn groups_are_ready_before_who_writes_in_sequence_comes_to_them() {
    let (bench, volume) = Bench::mirrored(460);
    bench.write(&volume, 0, pattern(0, LARGE, 1)).unwrap();
    bench.pass(Duration::from_millis(50));
    for first in (62..20 * 62).step_by(62) {
        bench.write(&volume, first, pattern(first, LARGE, 1)).unwrap();
        assert_eq!(
            places(&bench, &pattern(first + 1, 1, 1)).len(),
            2,
            "block {first} went in place"
        );
        bench.pass(Duration::from_millis(20));
    }
    settle(&bench);
    for first in (0..20 * 62).step_by(62) {
        assert_eq!(bench.read(&volume, first, LARGE).unwrap(), pattern(first, LARGE, 1));
    }
    assert_eq!(bench.verify(None).bad, []);
}
