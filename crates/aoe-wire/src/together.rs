//! Several messages in one frame (docs/session.md, version 3). What a frame costs on its way is mostly the same
//! whatever it carries, so what goes from one end to the other at the same time goes together. Each message is
//! as it would be alone, with headers and checksum; only the frame is shared, and with it its fate.

use block::BufferMut;

use super::header::COMMAND;
use super::session::{ETHERNET_BYTES, PAYLOAD_LEN, VERSION};
use super::{Command, Frame, SessionVersion, u8_at, u32_at};

/// Puts neighbours of `frames` together that go the same way, as long as all of them may be in a frame of that
/// length. Their order stays.
pub fn join(frames: &mut Vec<Frame>) {
    if frames.len() < 2 || frames.iter().all(|frame| frame.together_bytes == 0) {
        return;
    }
    let mut joined: usize = 0;
    let mut next = 0;
    while next < frames.len() {
        let end = next + together(&frames[next..]);
        frames.swap(joined, next);
        if end > next + 1 {
            let (first, rest) = frames.split_at_mut(next + 1);
            append(&mut first[joined], &rest[..end - next - 1]);
        }
        joined += 1;
        next = end;
    }
    frames.truncate(joined);
}

/// How many of the first frames make one.
fn together(frames: &[Frame]) -> usize {
    let Some(first) = frames.first() else { return 0 };
    let (mut limit_bytes, mut len_bytes) = (first.together_bytes, first.len_bytes());
    let others = frames[1..].iter().take_while(|other| {
        limit_bytes = limit_bytes.min(other.together_bytes);
        len_bytes += other.len_bytes();
        len_bytes <= limit_bytes && way(&other.head) == way(&first.head)
    });
    1 + others.count()
}

fn way(frame: &[u8]) -> Option<&[u8]> {
    frame.get(..ETHERNET_BYTES)
}

fn append(frame: &mut Frame, others: &[Frame]) {
    let more: usize = others.iter().map(Frame::len_bytes).sum();
    let mut payload = BufferMut::for_overwriting(frame.payload.len() + more);
    let mut at = 0;
    let parts = others.iter().flat_map(|other| [other.head.as_slice(), &other.payload]);
    for part in std::iter::once(&*frame.payload).chain(parts) {
        payload[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    frame.payload = payload.freeze();
}

/// The messages of a frame that has arrived, each as if it had come alone; for most frames that is the frame.
/// What is behind a message and isn't another one that goes the same way belongs to it, as padding does.
pub fn messages(frame: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(frame);
    std::iter::from_fn(move || {
        let bytes = rest.take()?;
        let others = end_of(bytes).map(|end| bytes.split_at(end));
        match others.filter(|(_, behind)| end_of(behind).is_some() && way(behind) == way(frame)) {
            None => Some(bytes),
            Some((message, behind)) => {
                rest = Some(behind);
                Some(message)
            }
        }
    })
}

/// Where a message ends behind which others may follow, if all of it is here.
fn end_of(bytes: &[u8]) -> Option<usize> {
    let is_ours = u8_at(bytes, COMMAND).ok()? == u8::from(Command::Session)
        && u8_at(bytes, VERSION).ok()? == SessionVersion::Three.number();
    let payload_bytes = usize::try_from(u32_at(bytes, PAYLOAD_LEN).ok()?).ok()?;
    let end = SessionVersion::Three.header_bytes().checked_add(payload_bytes)?;
    (is_ours && end <= bytes.len()).then_some(end)
}

#[cfg(test)]
#[path = "together_tests.rs"]
mod tests;
