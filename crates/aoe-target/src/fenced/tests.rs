//! Whose a medium is, across claims, damage and reopening.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::slow_device::{Effect, SlowDevice, block_on, run};
use block::{Instant, OwnerId};
use runtime::{Executor, Order};

const SECTORS: u64 = 8192;

struct Bench {
    executor: Executor,
    disk: SlowDevice,
    medium: Rc<FencedDevice>,
}

fn owner(n: u8) -> OwnerId {
    OwnerId(uuid::Uuid::from_bytes([n; 16]))
}

fn claim(epoch: u64, by: u8) -> Claim {
    Claim { epoch: Epoch(epoch), owner: owner(by), force: false, trust: block::Trust::Unchanged }
}

fn forced(epoch: u64, by: u8) -> Claim {
    Claim { force: true, ..claim(epoch, by) }
}

impl Bench {
    fn new(prepare: impl FnOnce(&mut Vec<u8>)) -> Bench {
        Bench::seeded(1, prepare)
    }

    fn seeded(seed: u64, prepare: impl FnOnce(&mut Vec<u8>)) -> Bench {
        let executor = Executor::new(Instant::default(), seed, Order::Seeded, || {});
        let disk = SlowDevice::new(executor.handle(), SECTORS, 10);
        prepare(&mut disk.bytes.borrow_mut());
        let opened =
            block_on(&executor, FencedDevice::open(Rc::new(disk.clone()), executor.handle()))
                .unwrap();
        Bench { executor, disk, medium: Rc::new(opened.unwrap()) }
    }

    fn claim(&self, claim: Claim) -> Result<Holder, IoError> {
        block_on(&self.executor, self.medium.claim(claim)).unwrap().map(|done| done.value)
    }

    fn write(&self, lba: u64, sectors: usize) -> Result<(), IoError> {
        let data = Buffer::copy_of(&vec![7; sectors * 512]);
        let write = self.medium.write(Lba(lba), data, Durability::Volatile);
        block_on(&self.executor, write).unwrap().map(|_| ())
    }

    /// Opens the same bytes anew, as the next process does.
    fn restart(&mut self) {
        let opening = FencedDevice::open(Rc::new(self.disk.clone()), self.executor.handle());
        self.medium = Rc::new(block_on(&self.executor, opening).unwrap().unwrap());
    }

    fn damage(&self, slot: u32) {
        let at = slot_range(slot, SECTORS).start.byte_offset() as usize;
        self.disk.bytes.borrow_mut()[at + 100] ^= 1;
    }
}

#[test]
fn a_claim_is_remembered_and_only_raised() {
    let mut bench = Bench::new(|_| ());
    assert_eq!(bench.medium.ownership(), Ownership::Unclaimed { labelled: false });
    let first = Holder::new(Epoch(5), owner(1));
    assert_eq!(bench.claim(claim(5, 1)), Ok(first));
    for _ in 0..2 {
        assert_eq!(bench.medium.holder(), first);
        assert_eq!(bench.claim(claim(5, 1)), Ok(first), "the same again is a question");
        assert_eq!(bench.claim(claim(5, 2)), Err(IoError::Fenced { highest: Epoch(5) }));
        assert_eq!(bench.claim(forced(4, 2)), Err(IoError::Fenced { highest: Epoch(5) }));
        bench.restart();
    }
    let second = Holder::new(Epoch(6), owner(2));
    assert_eq!(bench.claim(claim(6, 2)), Ok(second));
    bench.restart();
    assert_eq!(bench.medium.ownership(), Ownership::Held(second));
    assert_eq!(bench.claim(claim(0, 1)), Err(IoError::Refused(RefusalReason::ObserverOnly)));
}

#[test]
fn the_newest_valid_copy_counts_and_none_is_closed() {
    let mut bench = Bench::new(|_| ());
    bench.claim(claim(5, 1)).unwrap();
    bench.claim(claim(6, 1)).unwrap();
    // Sequence 2 is in slots 0 and 2, sequence 1 in 1 and 3.
    for (slot, epoch) in [(0, Some(6)), (2, Some(5)), (1, Some(5)), (3, None)] {
        bench.damage(slot);
        bench.restart();
        match epoch {
            Some(epoch) => assert_eq!(bench.medium.holder().epoch, Epoch(epoch)),
            None => assert_eq!(bench.medium.ownership(), Ownership::Unreadable),
        }
    }
    let unreadable = IoError::Refused(RefusalReason::ReservationUnreadable);
    assert_eq!(bench.write(3000, 1), Err(unreadable));
    assert_eq!(bench.claim(claim(9, 1)), Err(unreadable));
    assert_eq!(bench.claim(forced(1, 3)).unwrap().epoch, Epoch(1));
    assert_eq!(bench.write(3000, 1), Ok(()));
    bench.restart();
    assert_eq!(bench.medium.holder(), Holder::new(Epoch(1), owner(3)));
}

/// Of the record as of all that is on a disk: no damaged byte of one copy makes it another owner's, or nobody's; none
/// of both newest ones makes it more than what was before.
#[test]
fn a_damaged_byte_of_any_slot_changes_no_owner() {
    let mut bench = Bench::new(|_| ());
    bench.claim(claim(5, 1)).unwrap();
    bench.claim(claim(6, 2)).unwrap();
    let (former, newest) = (Holder::new(Epoch(5), owner(1)), Holder::new(Epoch(6), owner(2)));
    let start = |slot: u32| slot_range(slot, SECTORS).start.byte_offset() as usize;
    let bytes = slot_range(0, SECTORS).len_bytes() as usize;
    for at in 0..bytes {
        for change in [1_u8 << (at % 8), 0xff] {
            for slots in [vec![0], vec![1], vec![2], vec![3], vec![0, 2]] {
                let flip = |bench: &Bench| {
                    let mut image = bench.disk.bytes.borrow_mut();
                    slots.iter().for_each(|slot| image[start(*slot) + at] ^= change);
                };
                flip(&bench);
                bench.restart();
                let expected = if slots.len() > 1 { former } else { newest };
                assert_eq!(
                    bench.medium.ownership(),
                    Ownership::Held(expected),
                    "{at} of {slots:?}"
                );
                flip(&bench);
            }
        }
    }
}

/// A write of the record that is cut off behind any of its sectors leaves what was, or what is.
#[test]
fn a_claim_that_is_torn_anywhere_leaves_an_owner() {
    let mut bench = Bench::new(|_| ());
    bench.claim(claim(5, 1)).unwrap();
    bench.claim(claim(6, 1)).unwrap();
    let before = bench.disk.bytes.borrow().clone();
    bench.claim(claim(7, 2)).unwrap();
    let after = bench.disk.bytes.borrow().clone();
    let holders = [Holder::new(Epoch(6), owner(1)), Holder::new(Epoch(7), owner(2))];
    // Sequence 3 is in slots 1 and 3.
    let [first, second] = [1, 3].map(|slot| slot_range(slot, SECTORS));
    let sectors = first.count;
    for (head, tail) in (0..=sectors).flat_map(|head| (0..=sectors).map(move |tail| (head, tail))) {
        let mut image = before.clone();
        for (range, sectors) in [(first, head), (second, tail)] {
            let from = range.start.byte_offset() as usize;
            let window = from..from + sectors as usize * 512;
            image[window.clone()].copy_from_slice(&after[window]);
        }
        // Behind what a record says there are zeros, before and after.
        let is_whole = [first, second].iter().any(|range| {
            let from = range.start.byte_offset() as usize;
            let slot = from..from + range.len_bytes() as usize;
            image[slot.clone()] == after[slot]
        });
        bench.disk.bytes.borrow_mut().copy_from_slice(&image);
        bench.restart();
        let found = bench.medium.holder();
        assert_eq!(found, holders[usize::from(is_whole)], "{head} and {tail} sectors");
    }
}

/// Whoever can write to a disk can put any number there; it must not panic a node, nor begin again
/// below the numbers that count.
#[test]
fn a_forged_last_sequence_number_is_refused() {
    let forged = ReservationRecord {
        sequence: u64::MAX,
        labelled_sectors: SECTORS,
        holder: Holder::new(Epoch(5), owner(1)),
        reserved: Vec::new(),
        grant: None,
    };
    let bench = Bench::new(|bytes| bytes[12288..16384].copy_from_slice(&forged.emit(1)));
    assert_eq!(bench.medium.ownership(), Ownership::Unreadable);
    let refused = Err(IoError::Refused(RefusalReason::ReservationUnreadable));
    assert_eq!(bench.claim(claim(6, 1)), refused);
    // By the word of somebody who knows whose it is it is given up, as anything that is damaged there.
    bench.claim(Claim { force: true, ..claim(6, 1) }).unwrap();
    assert_eq!(bench.medium.holder().epoch, Epoch(6));
}

#[test]
fn sectors_that_cannot_be_read_are_not_blank() {
    let mut bench = Bench::new(|_| ());
    bench.claim(claim(5, 1)).unwrap();
    for slot in 2..4 {
        let at = slot_range(slot, SECTORS).start.byte_offset() as usize;
        bench.disk.bytes.borrow_mut()[at..at + 4096].fill(0);
    }
    bench.disk.unreadable.set(Some(SectorRange::new(Lba(0), 64)));
    bench.restart();
    assert_eq!(bench.medium.ownership(), Ownership::Unreadable);
    bench.disk.unreadable.set(None);
    bench.restart();
    assert_eq!(bench.medium.holder().epoch, Epoch(5));
}

#[test]
fn foreign_content_is_claimed_only_by_force() {
    let mut bench = Bench::new(|bytes| bytes[0x438..0x43a].copy_from_slice(&[0x53, 0xef]));
    assert!(bench.medium.ownership().is_open_to_plain_clients());
    assert_eq!(bench.claim(claim(1, 1)), Err(IoError::Refused(RefusalReason::ForeignContent)));
    assert!(bench.disk.bytes.borrow()[8192..16384].iter().all(|byte| *byte == 0));
    bench.claim(forced(1, 1)).unwrap();
    bench.restart();
    assert_eq!(bench.medium.holder().epoch, Epoch(1));
}

#[test]
fn unknown_bytes_in_the_slots_are_foreign_too() {
    let mut bench = Bench::new(|bytes| bytes[8192..16384].fill(0x5a));
    assert!(bench.medium.ownership().is_open_to_plain_clients());
    assert_eq!(bench.claim(claim(1, 1)), Err(IoError::Refused(RefusalReason::ForeignContent)));
    bench.restart();
}

#[test]
fn a_label_without_a_claim_keeps_plain_clients_out() {
    let bench = Bench::new(|bytes| bytes[..8].copy_from_slice(&block::probe::LABEL_MAGIC));
    assert_eq!(bench.medium.ownership(), Ownership::Unclaimed { labelled: true });
    assert!(!bench.medium.ownership().is_open_to_plain_clients());
    assert!(bench.claim(claim(1, 1)).is_ok());
}

#[test]
fn clients_cannot_touch_the_field() {
    let bench = Bench::new(|_| ());
    assert_eq!(bench.write(0, 64), Ok(()), "nobody's yet");
    bench.disk.bytes.borrow_mut().fill(0);
    bench.claim(claim(1, 1)).unwrap();
    let protected = Err(IoError::Refused(RefusalReason::ProtectedRange));
    for slot in 0..SLOTS {
        let range = slot_range(slot, SECTORS);
        assert_eq!(bench.write(range.start.0 - 1, 2), protected);
        assert_eq!(bench.write(range.end().0 - 1, 1), protected);
        let discard = bench.medium.discard(range);
        assert!(block_on(&bench.executor, discard).unwrap().is_err());
        let zero = bench.medium.write_zeroes(range, Durability::Durable);
        assert!(block_on(&bench.executor, zero).unwrap().is_err());
        let read = block_on(&bench.executor, bench.medium.read(range)).unwrap();
        assert!(read.is_ok());
    }
    assert_eq!(bench.write(15, 1), Ok(()));
    assert_eq!(bench.write(32, 1), Ok(()));
}

#[test]
fn a_grown_disk_keeps_its_labelled_size() {
    let mut bench = Bench::new(|_| ());
    bench.claim(claim(1, 1)).unwrap();
    bench.disk.bytes.borrow_mut().resize(2 * SECTORS as usize * 512, 0);
    bench.restart();
    bench.claim(claim(2, 1)).unwrap();
    let protected = Err(IoError::Refused(RefusalReason::ProtectedRange));
    assert_eq!(bench.write(slot_range(2, SECTORS).start.0, 1), protected);
    assert_eq!(bench.write(slot_range(2, 2 * SECTORS).start.0, 1), Ok(()));
}

#[test]
fn a_device_too_small_for_two_ends_cannot_be_claimed() {
    let executor = Executor::new(Instant::default(), 1, Order::Seeded, || {});
    let disk = Rc::new(SlowDevice::new(executor.handle(), 4095, 0));
    let medium = block_on(&executor, FencedDevice::open(disk, executor.handle())).unwrap().unwrap();
    let claimed = block_on(&executor, medium.claim(claim(1, 1))).unwrap();
    assert_eq!(claimed, Err(IoError::Unsupported));
}

/// A write that its caller gave up still reaches the disk. A claim that overtook it would let the
/// old owner's data appear after the new owner has read the place.
#[test]
fn a_claim_waits_for_everything_before_it() {
    for seed in 0..50 {
        let bench = Bench::seeded(seed, |_| ());
        // Claimed before, so that no probing gives the writes time to end by themselves.
        bench.claim(claim(1, 1)).unwrap();
        bench.disk.effects.borrow_mut().clear();
        for i in 0..5 {
            let data = Buffer::zeroed(512);
            drop(bench.medium.write(Lba(3000 + i), data, Durability::Volatile));
        }
        let claimed = bench.medium.claim(claim(2, 1));
        let after = bench.medium.write(Lba(4000), Buffer::zeroed(512), Durability::Volatile);
        bench.executor.handle().spawn(async move { drop(after.await) });
        assert!(block_on(&bench.executor, claimed).unwrap().is_ok());
        run(&bench.executor);

        let effects = bench.disk.effects.borrow();
        let changes: Vec<_> =
            effects.iter().filter(|effect| !matches!(effect, Effect::Read(_))).collect();
        assert!(changes[..5].iter().all(|effect| matches!(effect, Effect::Write(range, _)
            if (3000..3005).contains(&range.start.0))));
        assert_eq!(changes[5], &Effect::Flush);
        let record = |effect: &Effect| {
            matches!(effect, Effect::Write(range, Durability::Durable)
            if range.count == 8)
        };
        assert!(record(changes[6]) && record(changes[7]));
        assert_eq!(changes[8], &Effect::Flush);
        assert!(matches!(changes[9], Effect::Write(range, _) if range.start == Lba(4000)));
    }
}

/// The end of the first of two claims used to throw away what waited behind the second: it was
/// answered as lost, on a disk that was fine.
#[test]
fn what_waits_behind_two_claims_is_done() {
    let bench = Bench::new(|_| ());
    let claims = [1, 2].map(|epoch| bench.medium.claim(claim(epoch, 1)));
    let data = Buffer::copy_of(&[7; 512]);
    let write = bench.medium.write(Lba(3000), data, Durability::Volatile);
    let third = bench.medium.claim(claim(3, 1));
    let read = bench.medium.read(SectorRange::new(Lba(3000), 1));
    let all = async move {
        for (epoch, claimed) in [1, 2].into_iter().zip(claims) {
            assert_eq!(claimed.await.unwrap().value.epoch, Epoch(epoch));
        }
        write.await.unwrap();
        assert_eq!(third.await.unwrap().value.epoch, Epoch(3));
        read.await.unwrap().value
    };
    assert_eq!(block_on(&bench.executor, all).unwrap(), Buffer::copy_of(&[7; 512]));
}

#[test]
fn a_failed_flush_stays_failed_until_reopened() {
    let bench = Bench::new(|_| ());
    let instance = bench.medium.instance();
    let flush =
        |instance| block_on(&bench.executor, bench.medium.flush(instance)).unwrap().map(|_| ());
    assert_eq!(flush(instance), Ok(()));
    bench.disk.fail_flush.set(true);
    assert_eq!(flush(instance), Err(IoError::FlushFailed));
    bench.disk.fail_flush.set(false);
    assert_eq!(flush(instance), Err(IoError::FlushFailed));
    assert_eq!(bench.claim(claim(1, 1)), Err(IoError::FlushFailed));

    let (medium, disk) = (Rc::clone(&bench.medium), Rc::new(bench.disk.clone()));
    let reopened = block_on(&bench.executor, async move { medium.reopen(disk).await });
    assert_eq!(reopened, Some(Ok(())));
    let now = bench.medium.instance();
    assert_ne!(now, instance);
    assert_eq!(flush(instance), Err(IoError::Restarted { now }));
    assert_eq!(flush(now), Ok(()));
}

#[test]
fn a_restart_below_is_a_restart() {
    let bench = Bench::new(|_| ());
    let before = bench.medium.instance();
    bench.disk.instance.set(2);
    let flushed = block_on(&bench.executor, bench.medium.flush(before)).unwrap();
    let now = bench.medium.instance();
    assert_ne!(now, before);
    assert_eq!(flushed, Err(IoError::Restarted { now }));
}

#[test]
fn a_dying_process_lets_go_of_its_device() {
    let bench = Bench::new(|_| ());
    drop(bench.medium.write(Lba(3000), Buffer::zeroed(512), Durability::Volatile));
    drop(bench.medium.claim(claim(1, 1)));
    drop(bench.medium.write(Lba(3000), Buffer::zeroed(512), Durability::Volatile));
    let bytes = Rc::clone(&bench.disk.bytes);
    let Bench { executor, disk, medium } = bench;
    executor.run_ready(3);
    drop((medium, disk));
    executor.clear();
    assert_eq!(Rc::strong_count(&bytes), 1);
}

fn label(slot: u8, bytes: u64) -> Vec<u8> {
    let mut label = vec![0; LABEL_BYTES];
    label[..8].copy_from_slice(b"EPLABEL\0");
    label[12] = slot;
    label[88..96].copy_from_slice(&bytes.to_le_bytes());
    let crc = block::crc32c(&label);
    label[8..12].copy_from_slice(&crc.to_le_bytes());
    label
}

#[test]
fn the_labels_sizes_are_known_from_the_start() {
    let mut bench = Bench::new(|bytes| {
        bytes[..4096].copy_from_slice(&label(0, 2 << 20));
        bytes[4096..8192].copy_from_slice(&label(1, 3 << 20));
    });
    assert_eq!(bench.medium.labelled(), [Some(2 << 20), Some(3 << 20)]);
    bench.disk.unreadable.set(Some(SectorRange::new(Lba(3), 1)));
    bench.restart();
    assert_eq!(bench.medium.labelled(), [None, Some(3 << 20)], "one can't be read");
    bench.disk.bytes.borrow_mut()[5000] ^= 1;
    bench.disk.unreadable.set(None);
    bench.restart();
    assert_eq!(bench.medium.labelled(), [Some(2 << 20), None], "one is damaged");
}

#[test]
fn a_label_that_is_written_is_known_before_the_answer() {
    let bench = Bench::new(|_| ());
    assert_eq!(bench.medium.labelled(), [None, None]);
    bench.claim(claim(5, 1)).unwrap();
    // The owner's record has it before any label says so, or where none can be read.
    let recorded = Some(bench.disk.bytes.borrow().len() as u64);
    assert_eq!(bench.medium.labelled(), [recorded, recorded]);
    let write = |slot: u8, bytes: u64| {
        let data = Buffer::copy_of(&label(slot, bytes));
        let place = Lba(u64::from(slot) * 8);
        bench.medium.write(place, data, Durability::Durable)
    };
    let one = block_on(&bench.executor, write(1, 2 << 20)).unwrap();
    assert!(one.is_ok());
    assert_eq!(bench.medium.labelled(), [recorded, Some(2 << 20)]);
    // Both at once, in any order.
    let both = futures::future::join(write(0, 3 << 20), write(1, 4 << 20));
    let (zero, one) = block_on(&bench.executor, both).unwrap();
    assert!(zero.is_ok() && one.is_ok());
    assert_eq!(bench.medium.labelled(), [Some(3 << 20), Some(4 << 20)]);
    assert_eq!(bench.write(20, 4), Err(IoError::Refused(RefusalReason::ProtectedRange)));
    assert_eq!(bench.write(200, 4), Ok(()));
    assert_eq!(bench.medium.labelled(), [Some(3 << 20), Some(4 << 20)]);
    assert_eq!(bench.write(7, 2), Ok(()), "the end of one and the beginning of the other");
    assert_eq!(bench.medium.labelled(), [recorded, recorded]);
    let one = block_on(&bench.executor, write(1, 2 << 20)).unwrap();
    assert!(one.is_ok());
    let zeroed = bench.medium.write_zeroes(SectorRange::new(Lba(0), 16), Durability::Volatile);
    assert!(block_on(&bench.executor, zeroed).unwrap().is_ok());
    assert_eq!(bench.medium.labelled(), [recorded, recorded]);
}

/// The short ways past the gate don't look at labels. Nobody asks for those of a medium without an owner:
/// its first sectors are written like all others, and read when it gets one.
#[test]
fn labels_of_an_owned_medium_are_never_written_at_once() {
    let bench = Bench::new(|_| ());
    let data = Buffer::copy_of(&label(0, 2 << 20));
    // The disk is ready at times.
    bench.disk.at_once.set(2);
    let write = |start| Operation::Write {
        start: Lba(start),
        data: &data[..],
        durability: Durability::Volatile,
    };
    let at_once = |start| (0..64).any(|_| bench.medium.try_submit(write(start)).is_some());
    assert!(at_once(0));
    assert_eq!(bench.medium.labelled(), [None, None]);
    bench.claim(claim(5, 1)).unwrap();
    assert!(!at_once(0) && !at_once(15) && at_once(200));
    // The ordinary way they are read before the answer, however soon the disk has done it.
    for size in [3_u64 << 20, 4 << 20, 5 << 20, 6 << 20, 7 << 20, 8 << 20] {
        let label = Buffer::copy_of(&label(0, size));
        let written = bench.medium.write(Lba(0), label, Durability::Volatile);
        assert!(block_on(&bench.executor, written).unwrap().is_ok());
        assert_eq!(bench.medium.labelled()[0], Some(size));
    }
}

fn pool_key(number: u8) -> seal::PoolKeyPair {
    seal::PoolKeyPair::of(seal::SecretKey::new([number; 32])).unwrap()
}

fn trusting(epoch: u64, trust: Trust) -> Claim {
    Claim { trust, ..claim(epoch, 1) }
}

#[test]
fn whom_it_obeys_lasts_and_changes_under_one_epoch() {
    let mut bench = Bench::new(|_| ());
    let supervisor = |number| seal::PublicKey([number; 32]);
    let first = pool_key(1).found(&[supervisor(1)]).unwrap();
    let second = pool_key(1).hand_over(&first, &pool_key(2), &[supervisor(2)]).unwrap();
    let foreign = {
        let founded = pool_key(3).found(&[supervisor(3)]).unwrap();
        let next = pool_key(3).follow(&founded, &[supervisor(3)]).unwrap();
        pool_key(3).follow(&next, &[supervisor(3)]).unwrap()
    };
    let bytes = |grant: &Grant| Buffer::copy_of(grant.bytes());
    let refused = IoError::Refused(RefusalReason::NotAdmitted);
    bench.claim(trusting(5, Trust::Follow(bytes(&first)))).unwrap();
    let obeys = |bench: &mut Bench, grant: Option<&Grant>| {
        for _ in 0..2 {
            assert_eq!(bench.medium.grant().as_deref(), grant);
            bench.restart();
        }
    };
    obeys(&mut bench, Some(&first));
    assert_eq!(bench.claim(trusting(5, Trust::Follow(bytes(&foreign)))), Err(refused));
    assert_eq!(bench.claim(trusting(6, Trust::Follow(Buffer::copy_of(b"?")))), Err(refused));
    assert_eq!(bench.medium.holder().epoch, Epoch(5));
    bench.claim(trusting(5, Trust::Follow(bytes(&second)))).unwrap();
    bench.claim(trusting(5, Trust::Follow(bytes(&first)))).unwrap();
    let other_pools = pool_key(4).found(&[supervisor(1)]).unwrap();
    assert_eq!(bench.claim(trusting(5, Trust::Follow(bytes(&other_pools)))), Err(refused));
    bench.claim(trusting(6, Trust::Unchanged)).unwrap();
    obeys(&mut bench, Some(&second));
    bench.claim(trusting(6, Trust::Replace(bytes(&foreign)))).unwrap();
    obeys(&mut bench, Some(&foreign));
    bench.claim(trusting(6, Trust::Forget)).unwrap();
    obeys(&mut bench, None);
    assert_eq!(bench.medium.holder().epoch, Epoch(6));
    bench.claim(trusting(6, Trust::Follow(bytes(&second)))).unwrap();
    // The node's administrator gives it up: the epoch stays, by which a former owner is known.
    block_on(&bench.executor, {
        let medium = Rc::clone(&bench.medium);
        async move { medium.forget_grant(|_| true).await }
    })
    .unwrap()
    .unwrap();
    obeys(&mut bench, None);
    assert_eq!(bench.medium.holder().epoch, Epoch(6));
    assert_eq!(bench.claim(claim(5, 2)), Err(IoError::Fenced { highest: Epoch(6) }));
}
