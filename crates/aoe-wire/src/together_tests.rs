#![allow(clippy::unwrap_used)]

use block::{Buffer, SECTOR_BYTES};
use proptest::prelude::*;

use super::*;
use crate::{Header, MacAddr, Operation, SessionRequest, ShelfSlot};

fn request(version: SessionVersion, way: u8, sequence: u64, takes: u16, sectors: u32) -> Frame {
    let (to, from) = (MacAddr([2, way, 0, 0, 0, 1]), MacAddr([2; 6]));
    let header = Header::request(to, from, ShelfSlot::new(1, 1), crate::Command::Session, 7);
    let request = SessionRequest {
        version,
        sequence,
        sectors,
        takes,
        together: version == SessionVersion::Three && takes > 0,
        ..SessionRequest::new(header, Operation::Write)
    };
    request.emit(Buffer::copy_of(&vec![sequence as u8; sectors as usize * SECTOR_BYTES]))
}

fn three(sequence: u64, sectors: u32) -> Frame {
    request(SessionVersion::Three, 0, sequence, 17, sectors)
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    [frame.head.as_slice(), &frame.payload].concat()
}

fn sequences(frame: &[u8]) -> Vec<u64> {
    let parsed = messages(frame).map(|message| SessionRequest::parse(message).unwrap());
    parsed
        .map(|(request, payload)| {
            assert!(payload.iter().all(|byte| *byte == request.sequence as u8));
            request.sequence
        })
        .collect()
}

/// What goes out of `frames`, by the numbers of what is in each.
fn joined(mut frames: Vec<Frame>) -> Vec<Vec<u64>> {
    join(&mut frames);
    frames.iter().map(|frame| sequences(&bytes_of(frame))).collect()
}

#[test]
fn two_blocks_go_in_a_frame_of_nine_thousand_bytes() {
    let frames = (1..=5).map(|number| three(number, 8)).collect();
    assert_eq!(joined(frames), [vec![1, 2], vec![3, 4], vec![5]]);
}

#[test]
fn short_ones_go_together_up_to_the_limit() {
    let frames: Vec<Frame> = (1..=100).map(|number| three(number, 0)).collect();
    let limit = frames[0].together_bytes;
    let mut sent = frames.clone();
    join(&mut sent);
    assert!(sent.iter().all(|frame| frame.len_bytes() <= limit));
    assert_eq!(joined(frames).iter().map(Vec::len).collect::<Vec<_>>(), [69, 31]);
}

#[test]
fn only_what_goes_the_same_way_and_may() {
    let other_way = request(SessionVersion::Three, 1, 2, 17, 1);
    assert_eq!(joined(vec![three(1, 1), other_way]), [[1], [2]]);
    let older = request(SessionVersion::Two, 0, 2, 17, 1);
    assert_eq!(joined(vec![three(1, 1), older, three(3, 1)]), [[1], [2], [3]]);
    // No frame is longer than what the most modest of its messages says.
    let again = |number| request(SessionVersion::Three, 0, number, 1, 1);
    assert_eq!(joined(vec![again(1), three(2, 1), again(3)]), [[1], [2], [3]]);
    let short = |number| request(SessionVersion::Three, 0, number, 1, 0);
    assert_eq!(joined(vec![short(1), three(2, 0), short(3)]), [[1, 2, 3]]);
    assert_eq!(joined(vec![]), Vec::<Vec<u64>>::new());
}

#[test]
fn what_is_behind_a_message_is_one_or_nothing() {
    let (first, second) = (bytes_of(&three(1, 1)), bytes_of(&three(2, 1)));
    let whole = [&first[..], &second].concat();
    assert_eq!(sequences(&whole), [1, 2]);
    // Cut, of another way or of another kind: it is padding.
    for end in first.len()..whole.len() {
        assert_eq!(sequences(&whole[..end]), [1], "{end}");
    }
    let mut elsewhere = whole.clone();
    elsewhere[first.len() + 5] ^= 1;
    assert_eq!(sequences(&elsewhere), [1]);
    let older = bytes_of(&request(SessionVersion::Two, 0, 1, 17, 1));
    assert_eq!(sequences(&[&older[..], &second].concat()), [1]);
    assert_eq!(sequences(&[&first[..], &older].concat()), [1]);
    let mut plain = whole.clone();
    plain[first.len() + 19] = 0;
    assert_eq!(sequences(&plain), [1]);
}

proptest! {
    #[test]
    fn all_arrive_in_their_order(
        what in prop::collection::vec((1u8..4, 0u8..2, prop::sample::select(vec![0u16, 1, 8, 17, 40]), 0u32..18), 0..60),
    ) {
        let frames: Vec<Frame> = (0u64..)
            .zip(&what)
            .map(|(number, (version, way, takes, sectors))| {
                let version = match version {
                    1 if *sectors > 0 => SessionVersion::One,
                    2 => SessionVersion::Two,
                    _ => SessionVersion::Three,
                };
                let takes = if version.has_fragments() { *takes } else { 0 };
                request(version, *way, number, takes, *sectors)
            })
            .collect();
        let mut sent = frames.clone();
        join(&mut sent);
        let mut left = frames.iter();
        for frame in &sent {
            let bytes = bytes_of(frame);
            for message in messages(&bytes) {
                let alone = left.next().unwrap();
                prop_assert_eq!(message, &bytes_of(alone)[..]);
                prop_assert!(message.len() == bytes.len() || bytes.len() <= alone.together_bytes);
            }
        }
        prop_assert!(left.next().is_none());
    }

    #[test]
    fn anything_is_cut_into_what_it_is(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let cut: Vec<&[u8]> = messages(&bytes).collect();
        prop_assert_eq!(cut.concat(), bytes);
    }
}
