//! Tests of notes.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::format::FailureDomain;
use crate::metadata::testing::pool_of;

const ONE: KeeperId = KeeperId(1);
const OTHER: KeeperId = KeeperId(u64::MAX);

fn empty() -> Metadata {
    pool_of(FailureDomain::Node, &[(0, 64 << 20), (1, 64 << 20)])
}

fn want(keeper: KeeperId, at_secs: u64, notes: &[(&str, &str)]) -> KeepNotes {
    let notes = notes.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let (mark, known) = (at_secs, (0..=at_secs).collect());
    let host = "h".into();
    KeepNotes { keeper, host, at_secs, mark, known, are_all: true, notes: notes.collect() }
}

fn keep(meta: &Metadata, want: &KeepNotes) -> (Metadata, NotesKept) {
    let (records, kept) = meta.records_to_keep(want);
    assert_eq!(records.is_empty(), !kept.changed);
    (meta.with(&records).unwrap(), kept)
}

fn bytes(meta: &Metadata) -> usize {
    let notes = meta.notes();
    let of = |kept: &KeptNotes| {
        kept.notes.iter().map(|(name, text)| bytes_of(kept.keeper, name, text)).sum::<usize>()
    };
    notes.iter().map(of).sum()
}

#[test]
fn what_is_there_already_costs_nothing_and_what_is_gone_goes() {
    let first = want(ONE, 7, &[("a", "1"), ("b", "2")]);
    let (meta, kept) = keep(&empty(), &first);
    assert_eq!(kept, NotesKept { changed: true, ..NotesKept::default() });
    // At another time, and by another name of the machine.
    let (same, kept) =
        keep(&meta, &KeepNotes { at_secs: 9, host: "other".into(), ..first.clone() });
    assert!(!kept.changed && same == meta);
    let (meta, _) = keep(&meta, &want(ONE, 9, &[("b", "3")]));
    let notes = BTreeMap::from([("b".to_owned(), "3".to_owned())]);
    let all = KeptNotes { keeper: ONE, host: "h".into(), at_secs: 9, left_out: 0, mark: 9, notes };
    assert_eq!(meta.notes(), [all]);
    // Whoever doesn't know all takes nothing away.
    let some = KeepNotes { are_all: false, ..want(ONE, 10, &[("c", "4")]) };
    let (meta, _) = keep(&meta, &some);
    assert_eq!(meta.notes()[0].notes.len(), 2);
    let (meta, _) = keep(&meta, &want(ONE, 11, &[]));
    assert_eq!(meta, empty());
}

#[test]
fn what_a_keeper_does_not_know_of_is_not_overwritten() {
    let (meta, _) = keep(&empty(), &want(ONE, 7, &[("a", "1")]));
    // It begins again where it was before that.
    let former = want(ONE, 5, &[("a", "2")]);
    let (same, kept) = keep(&meta, &former);
    assert!(kept.is_unknown && same == meta);
    for wanted in [&[][..], &[("a", "1"), ("b", "2")]] {
        assert!(keep(&meta, &want(ONE, 6, wanted)).1.is_unknown);
    }
    // What is the same is no change.
    assert_eq!(keep(&meta, &want(ONE, 5, &[("a", "1")])).1, NotesKept::default());
    let known = BTreeSet::from([7]);
    assert!(keep(&meta, &KeepNotes { known, ..former.clone() }).1.changed);
    let gone = meta.with(&meta.records_without_notes_of(ONE)).unwrap();
    assert!(keep(&gone, &former).1.changed);
}

#[test]
fn keepers_leave_each_other_alone() {
    let (meta, _) = keep(&empty(), &want(ONE, 7, &[("a", "1")]));
    let (meta, _) = keep(&meta, &want(OTHER, 8, &[("a", "2")]));
    let (meta, _) = keep(&meta, &want(OTHER, 9, &[]));
    assert_eq!(meta.notes().iter().map(|kept| kept.keeper).collect::<Vec<_>>(), [ONE]);
    assert!(meta.records_without_notes_of(OTHER).is_empty());
    let meta = meta.with(&meta.records_without_notes_of(ONE)).unwrap();
    assert_eq!(meta, empty());
}

#[test]
fn what_there_is_no_room_for_is_said_and_what_was_there_stays() {
    let long = "x".repeat(NOTE_BYTES_MAX + 1);
    let (meta, _) = keep(&empty(), &want(ONE, 7, &[("a", "1"), ("b", "2")]));
    let longest = "n".repeat(NOTE_NAME_BYTES_MAX);
    let longer = format!("{longest}n");
    assert!(longest.len() > "00112233-4455-6677-8899-aabbccddeeff.toml".len());
    let most = "z".repeat(NOTE_BYTES_MAX);
    let more = [("a", &*long), ("b", "3"), ("c", &long), ("d/e", "4"), (&longest, &most)];
    let more = want(ONE, 8, &[&more[..], &[(&longer, "5")]].concat());
    let (meta, kept) = keep(&meta, &more);
    assert_eq!(kept.left_out, ["a", "c", "d/e", &longer]);
    let told = meta.notes().remove(0);
    assert_eq!((told.left_out, told.notes["a"].as_str()), (4, "1"));
    assert!(!keep(&meta, &KeepNotes { at_secs: 9, ..more }).1.changed);
    // All together are bounded, too, whoever keeps them.
    let many: BTreeMap<String, String> =
        (0..100).map(|number| (format!("{number:03}"), "y".repeat(10_000))).collect();
    let (meta, kept) = keep(&meta, &KeepNotes { notes: many, ..want(OTHER, 9, &[]) });
    assert_eq!(kept.left_out.len(), LEFT_OUT_MAX);
    assert!(bytes(&meta) <= NOTES_BYTES_MAX);
    assert_eq!(meta.notes()[0], told);
    assert_eq!(meta.notes()[1].left_out, 100 - meta.notes()[1].notes.len() as u64);
}

proptest! {
    #[test]
    fn nothing_in_properties_is_more_than_strange(
        properties in prop::collection::vec(
            (
                prop_oneof![
                    "note-[-.a-f0-9]{0,50}",
                    Just(key_of(ONE, None)),
                    "[a-z.]{1,9}".prop_map(|name| key_of(ONE, Some(&name))),
                ],
                ".{0,40}",
            ),
            0..20,
        ),
        wanted in prop::collection::btree_map("[a-c/]{0,2}", ".{0,40}", 0..5),
        are_all: bool,
    ) {
        let set = properties.into_iter().map(|(key, value)| MetaRecord::PoolPropertySet {
            key,
            value: Some(value),
        });
        let meta = empty().with(&set.collect::<Vec<_>>()).unwrap();
        let others = |meta: &Metadata| -> Vec<KeptNotes> {
            meta.notes().into_iter().filter(|kept| kept.keeper != ONE).collect()
        };
        let want = KeepNotes { are_all, notes: wanted, ..want(ONE, 7, &[]) };
        let (after, kept) = keep(&meta, &want);
        prop_assert!(!kept.is_unknown || after == meta);
        // Whoever gave up what was there goes on.
        let cleared = meta.with(&meta.records_without_notes_of(ONE)).unwrap();
        let (after, kept) = if kept.is_unknown { keep(&cleared, &want) } else { (after, kept) };
        prop_assert_eq!(others(&after), others(&meta));
        let own = after.notes().into_iter().find(|kept| kept.keeper == ONE).unwrap_or_default();
        for (name, text) in &want.notes {
            prop_assert_eq!(own.notes.get(name) == Some(text), !kept.left_out.contains(name));
        }
        prop_assert!(!keep(&after, &want).1.changed);
        let gone = after.with(&after.records_without_notes_of(ONE)).unwrap();
        prop_assert!(gone.notes().iter().all(|kept| kept.keeper != ONE));
    }
}
