//! Frames that come twice, and late: the disk ends as if each had come once.

use block::Lba;
use proptest::prelude::*;

use super::*;

/// Tags in a row until a client's are trusted, and one more.
const PROOF: u32 = 258;

fn write(source: MacAddr, tag: u32, lba: u64, fill: u8) -> Frame {
    let header = Header::request(SERVER, source, ADDRESS, Command::Ata, tag);
    let request = AtaRequest::new(header, AtaCommand::WRITE_EXT, Lba(lba), 1);
    request.emit(Buffer::copy_of(&[fill; 512]))
}

/// A bench whose clients have shown that their tags are unique; sector 999 is spent on it.
fn proven() -> Bench {
    let mut bench = Bench::new(OPEN, |_| ());
    for source in [CLIENT, OTHER] {
        for n in 0..PROOF {
            bench.send(&write(source, 0x1000_0000 + n, 999, n as u8));
        }
    }
    bench.serve();
    bench.sent.clear();
    bench.disk.fill(0);
    bench
}

fn read(source: MacAddr, tag: u32) -> Frame {
    let header = Header::request(SERVER, source, ADDRESS, Command::Ata, tag);
    AtaRequest::new(header, AtaCommand::READ_EXT, Lba(0), 1).emit(Buffer::empty())
}

#[test]
fn a_late_duplicate_undoes_nothing() {
    let mut bench = proven();
    bench.send(&write(CLIENT, 1, 5, 0xa));
    bench.send(&write(CLIENT, 1, 5, 0xa));
    bench.serve();
    assert_eq!(bench.sent.drain(..).len(), 1, "the repetition waits with the first");
    bench.send(&write(CLIENT, 2, 5, 0xb));
    bench.serve();
    bench.sent.clear();
    bench.send(&write(CLIENT, 1, 5, 0xa));
    assert!(bench.io.is_empty());
    let bytes = bench.reply();
    let (reply, _) = AtaReply::parse(&bytes).unwrap();
    assert!(!reply.is_failure() && reply.header.tag == 1);
    assert_eq!(bench.disk[5 * 512], 0xb);
    assert_eq!((bench.stats()[Counter::Repeated], bench.stats()[Counter::Replayed]), (1, 1));
}

#[test]
fn of_another_client_it_is_another_write() {
    let mut bench = proven();
    for source in [CLIENT, OTHER] {
        bench.send(&write(source, 1, 5, 0xa));
        assert_eq!(bench.io.len(), 1);
        bench.serve();
    }
}

#[test]
fn a_failed_write_is_tried_again() {
    let mut bench = proven();
    bench.send(&write(CLIENT, 1, 5, 0xa));
    let asked = bench.io.pop_front().unwrap();
    bench.complete(asked.id, Err(IoError::NoSpace(block::SectorRange::new(Lba(5), 1))));
    bench.reply();
    bench.send(&write(CLIENT, 1, 5, 0xa));
    bench.serve();
    assert_eq!((bench.disk[5 * 512], bench.reply()[27]), (0xa, 0x40));
}

/// Another instance may have lost it; one that identifies the disk begins anew; a tag that a read
/// has too is none to know a write by.
#[test]
fn what_puts_repetitions_in_doubt() {
    let identify = AtaRequest::new(header(Command::Ata), AtaCommand::IDENTIFY, Lba(0), 1);
    let doubts: [&dyn Fn(&mut Bench); 3] = [
        &|bench| {
            let instance = Instance(78);
            bench.target.set_device(bench.export, DeviceState { instance, ..device(OPEN) });
            bench.instance = instance;
        },
        &|bench| bench.send(&identify.emit(Buffer::empty())),
        &|bench| bench.send(&read(CLIENT, 1)),
    ];
    for doubt in doubts {
        let mut bench = proven();
        for (tag, fill) in [(1, 0xa), (2, 0xb)] {
            bench.send(&write(CLIENT, tag, 5, fill));
            bench.serve();
        }
        doubt(&mut bench);
        bench.serve();
        bench.send(&write(CLIENT, 1, 5, 0xa));
        bench.serve();
        assert_eq!(bench.disk[5 * 512], 0xa);
    }
}

#[test]
fn a_port_that_is_gone_takes_nothing_with_it() {
    let mut bench = Bench::new(OPEN, |options| options.write_cache = true);
    bench.send(&write(CLIENT, 1, 5, 0xa));
    bench.target.remove_port(PORT);
    bench.serve();
    bench.target.set_port(PORT, "eth0".into(), SERVER, 9000);
    bench.collect();
    bench.sent.clear();
    assert_eq!(bench.stats()[Counter::Writes], 1);
    // It was answered from the cache as far as anybody knows: its loss is told.
    bench.target.set_device(bench.export, DeviceState { instance: Instance(78), ..device(OPEN) });
    let flush = AtaRequest::new(header(Command::Ata), AtaCommand::FLUSH_CACHE, Lba(0), 0);
    bench.send(&flush.emit(Buffer::empty()));
    assert_eq!(bench.reply()[27], 0x41);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Of clients with unique tags, whatever copies of their frames come when: the disk is what the
    /// first copies made of it, and every client hears of every write.
    #[test]
    fn copies_change_nothing(
        writes in prop::collection::vec((any::<bool>(), 0u64..6, any::<u8>()), 1..60),
        copies in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40), 0..60),
        serve in prop::collection::vec(any::<bool>(), 1..20),
    ) {
        let mut bench = proven();
        let mut expected = bench.disk.clone();
        // What arrives after which first copy.
        let mut late: Vec<Vec<usize>> = vec![Vec::new(); writes.len()];
        for (which, delay) in copies {
            let which = which.index(writes.len());
            late[(which + delay).min(writes.len() - 1)].push(which);
        }
        let frames: Vec<Frame> = writes
            .iter()
            .enumerate()
            .map(|(n, (other, lba, fill))| {
                write(if *other { OTHER } else { CLIENT }, n as u32, *lba, *fill)
            })
            .collect();
        for (n, (_, lba, fill)) in writes.iter().enumerate() {
            expected[*lba as usize * 512..(*lba as usize + 1) * 512].fill(*fill);
            bench.send(&frames[n]);
            for copy in &late[n] {
                bench.send(&frames[*copy]);
            }
            if serve[n % serve.len()] {
                bench.serve();
            }
        }
        bench.serve();
        prop_assert!(bench.disk == expected);
        let answered: std::collections::BTreeSet<u32> =
            bench.sent.iter().map(|frame| Header::parse(frame).unwrap().tag).collect();
        prop_assert_eq!(answered.len(), writes.len());
    }

    /// A client that gives all its commands the same tag, or the numbers of a few places on the way,
    /// means each of its writes.
    #[test]
    fn no_write_of_a_client_with_few_tags_is_lost(
        tags in 1u32..64,
        writes in prop::collection::vec((0u64..3, 0u8..2), 1..300),
    ) {
        let mut bench = Bench::new(OPEN, |_| ());
        let mut expected = bench.disk.clone();
        for (n, (lba, fill)) in writes.iter().enumerate() {
            expected[*lba as usize * 512..(*lba as usize + 1) * 512].fill(*fill);
            bench.send(&write(CLIENT, n as u32 % tags, *lba, *fill));
            bench.serve();
            prop_assert!(bench.disk == expected);
            prop_assert_eq!(bench.sent.drain(..).len(), 1);
        }
    }
}
