#![allow(clippy::unwrap_used)]
use super::*;
use crate::format::FailureDomain;
use crate::metadata::testing::empty_pool;

fn at(secs: u64) -> Instant {
    Instant::from_nanos(secs * 1_000_000_000)
}

fn lost(volume: &str) -> PoolEvent {
    PoolEvent::Unrepairable {
        pool: "p".into(),
        volume: volume.into(),
        offset_bytes: 4096,
        length_bytes: 4096,
        disks: vec!["e1.0".into()],
    }
}

fn command(what: &str) -> PoolEvent {
    PoolEvent::Command {
        pool: "p".into(),
        who: "root".into(),
        what: what.into(),
        result: "done".into(),
    }
}

fn recorder() -> Recorder {
    let mut recorder = Recorder::default();
    recorder.begin("p");
    recorder
}

#[test]
fn an_entry_is_what_was_kept_of_it() {
    let secs = Duration::from_secs(77);
    let kept = [command("volume remove p/v\n\tnow").entry(secs), lost("v").entry(secs)];
    let meta = empty_pool(FailureDomain::Node);
    let meta = meta.with(&records(&meta, &kept)).unwrap();
    let read = entries(&meta);
    assert_eq!(read[0].text, "volume remove p/v  now");
    assert_eq!((read[0].who.as_deref(), read[0].result.as_deref()), (Some("root"), Some("done")));
    assert_eq!(read[1], kept[1]);
    assert_eq!((read[1].severity, read[1].event.as_str()), (Severity::Error, "unrepairable"));
}

#[test]
fn it_is_bounded_and_the_newest_stay() {
    let mut meta = empty_pool(FailureDomain::Node);
    let mut number = 0;
    for _ in 0..200 {
        let more: Vec<HistoryEntry> = (0..37)
            .map(|_| {
                number += 1;
                command(&format!("{number} {}", "ä".repeat(number % 900))).entry(Duration::ZERO)
            })
            .collect();
        meta = meta.with(&records(&meta, &more)).unwrap();
    }
    let bytes: usize = meta.properties().iter().map(|(_, value)| value.len()).sum();
    assert!(bytes <= CHUNKS as usize * CHUNK_BYTES_MAX, "{bytes}");
    assert_eq!(meta.properties().size(), CHUNKS as usize);
    let read = entries(&meta);
    let numbers: Vec<usize> =
        read.iter().map(|e| e.text.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.len() > 200, "{}", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "none is missing between");
    assert_eq!(numbers.last(), Some(&number));
}

#[test]
fn what_somebody_else_wrote_there_is_left_out() {
    let meta = empty_pool(FailureDomain::Node);
    let set = |index: u64, value: &str| MetaRecord::PoolPropertySet {
        key: format!("{KEY}{index}"),
        value: Some(value.into()),
    };
    let meta = meta
        .with(&[
            set(0, "nonsense"),
            set(1, ""),
            set(
                2,
                &format!("{}\n1\t2\tinfo\tx\t\t\tlast\n1\t2\n\nx\t1\tinfo\tx\t\t\tno\n", u64::MAX),
            ),
            set(3, "0\n1\t1\twarning\tx\troot\t\tfirst\textra\n"),
        ])
        .unwrap();
    let texts: Vec<String> = entries(&meta).into_iter().map(|entry| entry.text).collect();
    assert_eq!(texts, ["first", "last"]);
    let meta = meta.with(&records(&meta, &[lost("v").entry(Duration::ZERO)])).unwrap();
    assert_eq!(entries(&meta).len(), 3);
}

#[test]
fn a_flood_costs_an_entry_now_and_then() {
    let mut recorder = recorder();
    let (mut kept, mut count) = (0, 0);
    let hours = 48;
    for second in 0..hours * 3600 {
        for _ in 0..3 {
            recorder.note(&lost("v"), at(second), Duration::from_secs(second));
        }
        if second % 10 == 0 {
            for entry in recorder.take("p", at(second), false) {
                kept += 1;
                count += entry.count;
            }
        }
    }
    assert!(kept < hours + 12, "{kept}");
    count +=
        recorder.take("p", at(hours * 3600), true).iter().map(|entry| entry.count).sum::<u64>();
    assert_eq!(count, 3 * 3600 * hours, "and all are counted");
}

#[test]
fn the_first_is_told_at_once_and_others_are_not_held_up() {
    let mut recorder = recorder();
    for n in 0..100 {
        recorder.note(&lost("v"), at(1), Duration::from_secs(n));
    }
    recorder.note(&lost("w"), at(1), Duration::from_secs(200));
    let taken = recorder.take("p", at(1), false);
    let told: Vec<(u64, u64)> = taken.iter().map(|entry| (entry.at_secs, entry.count)).collect();
    assert_eq!(told, [(0, 1), (200, 1)]);
    let taken = recorder.take("p", at(12), false);
    assert_eq!((taken[0].at_secs, taken[0].count), (99, 99), "the time is that of the last one");
    // After an hour of quiet it is news again.
    recorder.take("p", at(8000), false);
    recorder.note(&lost("v"), at(8001), Duration::ZERO);
    assert_eq!(recorder.take("p", at(8001), false).len(), 1);
}

#[test]
fn memory_is_bounded_however_many_things_there_are() {
    let mut recorder = recorder();
    for n in 0..10_000 {
        recorder.note(&lost(&n.to_string()), at(1), Duration::ZERO);
        recorder.note(&lost(&n.to_string()), at(1), Duration::ZERO);
    }
    let waiting = &recorder.pools["p"];
    assert!(waiting.kinds.len() <= KINDS_MAX && waiting.entries.len() <= WAITING_MAX);
    let taken = recorder.take("p", at(1), true);
    assert_eq!(taken.iter().find(|entry| entry.event == "lost").map(|entry| entry.count), Some(1));
    recorder.note(&PoolEvent::ScrubBegun { pool: "other".into() }, at(1), Duration::ZERO);
    assert_eq!(recorder.pools.len(), 1, "of pools that aren't open nothing is noted");
    assert_eq!(recorder.waiting("p"), taken, "until they are kept");
    recorder.kept("p");
    assert_eq!(recorder.waiting("p"), []);
    recorder.end("p");
    assert!(recorder.pools.is_empty());
}
