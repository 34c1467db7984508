#![allow(clippy::unwrap_used)]

use super::*;
use crate::metadata::{SectionKey, SectionKind};

fn section(first: u32, bytes: u64) -> Section {
    let count = bytes.div_ceil(BLOCK_BYTES as u64) as u32;
    Section {
        kind: SectionKind::Runs,
        first: SectionKey::default(),
        bytes,
        crc: 0,
        place: vec![BlockRun { first, count }],
        digest: None,
    }
}

/// What one look after the other reads.
fn look(sections: &[Section], state: &mut CopyState) -> Vec<u32> {
    let due: Vec<u32> = sections_due(sections, state).iter().map(|(at, _)| *at).collect();
    for at in &due {
        state.unread.remove(at);
        if state.kept_unread.remove(at) {
            state.reads_from = at + 1;
        }
    }
    due
}

#[test]
fn a_look_reads_a_bounded_part_and_comes_to_all_in_turn() {
    let sections: Vec<Section> = (0..10).map(|index| section(1 + index * 300, 1 << 20)).collect();
    let mut state = CopyState::default();
    assert!(sections_due(&sections, &state).is_empty());
    state.read_anew(&sections, &[]);
    assert_eq!(look(&sections, &mut state), [1, 301, 601, 901]);
    // A checkpoint comes between, which wrote none of them anew.
    state.read_anew(&sections, &[]);
    state.unread.insert(1801);
    assert_eq!(look(&sections, &mut state), [1801, 1201, 1501, 2101]);
    assert_eq!(look(&sections, &mut state), [2401, 2701, 1, 301]);
    assert_eq!(look(&sections, &mut state), [601, 901]);
    assert_eq!(look(&sections, &mut state), [0_u32; 0]);
    // One that is longer than a look is read alone.
    let long = [section(1, 9 << 20), section(3000, 4096)];
    state.read_anew(&long, &[]);
    state.reads_from = 0;
    assert_eq!(look(&long, &mut state), [1]);
    assert_eq!(look(&long, &mut state), [3000]);
}
