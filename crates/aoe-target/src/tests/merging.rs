//! Small frames become large operations of the disk, and a failure stays its request's own.

use std::rc::Rc;

use block::{Lba, SectorRange};

use super::order::{World, ata, world_with};
use super::*;
use crate::slow_device::{Effect, run};

/// One frame at 1 Gbit/s and an MTU of 1500.
const FRAME_TIME: Duration = Duration::from_micros(9);
/// What the disk takes for an operation.
const DISK_TIME: Duration = Duration::from_micros(200);
const FRAME_SECTORS: u64 = 2;

/// A client as the Linux driver: a window that begins with half of 64 frames and grows by one per
/// window. Returns how many frames it sent.
fn transfer(world: &World, command: AtaCommand, start: u64, sectors: u64) -> u64 {
    let frames = sectors / FRAME_SECTORS;
    let (mut sent, mut answered, mut window, mut grown) = (0, 0, 32, 0);
    let mut next_send = world.executor.handle().now();
    while answered < frames {
        while world.executor.run_ready(1000) > 0 {}
        for reply in world.port.take() {
            assert!(!AtaReply::parse(&reply).unwrap().0.is_failure());
            answered += 1;
            grown += 1;
            if grown == window && window < 64 {
                (window, grown) = (window + 1, 0);
            }
        }
        let now = world.executor.handle().now();
        if sent < frames && sent - answered < window && now >= next_send {
            let range = SectorRange::new(Lba(start + sent * FRAME_SECTORS), FRAME_SECTORS);
            let data = match command {
                AtaCommand::WRITE_EXT => Buffer::copy_of(&[sent as u8; 1024]),
                _ => Buffer::empty(),
            };
            world.port.deliver(&ata(1, command, range, 1 + sent as u32).emit(data));
            sent += 1;
            next_send = now + FRAME_TIME;
            continue;
        }
        let disk = world.executor.next_deadline();
        let wire = (sent < frames && sent - answered < window).then_some(next_send);
        match disk.into_iter().chain(wire).min() {
            Some(next) => world.executor.set_now(next),
            None => assert_eq!(answered, frames, "nothing is to happen any more"),
        }
    }
    frames
}

#[test]
fn a_sequential_megabyte_in_small_frames_is_few_operations_of_whole_blocks() {
    for seed in 0..8 {
        let world = world_with(seed, 10_000, false, Some(DISK_TIME));
        let frames = transfer(&world, AtaCommand::WRITE_EXT, 800, 2048);
        let effects = Rc::clone(&world.disk.effects);
        let writes: Vec<SectorRange> = effects
            .borrow()
            .iter()
            .filter_map(|e| if let Effect::Write(range, _) = e { Some(*range) } else { None })
            .collect();
        assert!(writes.len() as u64 <= frames / 8, "{} for {frames} frames", writes.len());
        for range in &writes {
            assert!(range.start.0 % 8 == 0 && range.count % 8 == 0, "part of a block: {range:?}");
        }
        let disk = world.disk.bytes.borrow();
        for frame in 0..frames {
            let at = (800 + frame * FRAME_SECTORS) as usize * 512;
            assert!(disk[at..at + 1024].iter().all(|byte| *byte == frame as u8));
        }
        drop(disk);
        effects.borrow_mut().clear();
        let frames = transfer(&world, AtaCommand::READ_EXT, 800, 2048);
        assert!(effects.borrow().len() as u64 <= frames / 8, "{}", effects.borrow().len());
    }
}

#[test]
fn a_bad_sector_fails_the_request_that_asks_for_it_and_no_neighbour() {
    for seed in 0..20 {
        let world = world_with(seed, 1000, false, None);
        world.disk.unreadable.set(Some(SectorRange::new(Lba(33), 1)));
        for frame in 0..40u64 {
            let range = SectorRange::new(Lba(frame * 2), 2);
            let read = ata(1, AtaCommand::READ_EXT, range, 1 + frame as u32);
            world.port.deliver(&read.emit(Buffer::empty()));
        }
        run(&world.executor);
        let replies = world.port.take();
        assert_eq!(replies.len(), 40);
        for bytes in replies {
            let (reply, data) = AtaReply::parse(&bytes).unwrap();
            let bad = reply.header.tag == 17;
            assert_eq!(reply.is_failure(), bad, "{reply:?}");
            assert_eq!((reply.status, reply.error), if bad { (0x41, 0x40) } else { (0x40, 0) });
            assert!(bad || data.len() == 1024);
        }
        let joined = world.disk.effects.borrow().len();
        assert!(joined < 45, "{joined}: the others were asked for once more, together or alone");
    }
}
