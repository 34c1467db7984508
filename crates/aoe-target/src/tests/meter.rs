//! What people see of their exports: counters by client, latencies, the log of requests.

use block::{Answer, Lba};

use super::*;

fn ata(source: MacAddr, command: AtaCommand, lba: u64, count: u8) -> Frame {
    let header = Header::request(SERVER, source, ADDRESS, Command::Ata, 0x99);
    let is_write = matches!(command, AtaCommand::WRITE | AtaCommand::WRITE_EXT);
    let data = if is_write { usize::from(count) * 512 } else { 0 };
    AtaRequest::new(header, command, Lba(lba), count).emit(Buffer::zeroed(data))
}

fn status(bench: &Bench) -> ExportStatus {
    bench.target.export_status(bench.export).unwrap()
}

#[test]
fn commands_count_for_who_sent_them() {
    let mut bench = Bench::new(OPEN, |options| options.read_only = false);
    bench.send(&ata(CLIENT, AtaCommand::READ_EXT, 0, 2));
    bench.send(&ata(OTHER, AtaCommand::WRITE_EXT, 8, 3));
    bench.send(&ata(OTHER, AtaCommand::READ_EXT, SECTORS, 1));
    bench.send(&ata(CLIENT, AtaCommand::FLUSH_CACHE, 0, 0));
    bench.send(&ata(CLIENT, AtaCommand::IDENTIFY, 0, 1));
    bench.now = bench.now + Duration::from_micros(300);
    bench.serve();
    let clients = bench.target.clients(bench.export);
    let [client, other] = clients.as_slice() else { panic!("{clients:?}") };
    assert_eq!((client.mac, other.mac), (Some(CLIENT), Some(OTHER)));
    let counted = |c: &ClientStatus| {
        (c.stats[Counter::Reads], c.stats[Counter::Writes], c.stats[Counter::Flushes])
    };
    assert_eq!((counted(client), counted(other)), ((1, 0, 1), (0, 1, 0)));
    assert_eq!(
        (client.stats[Counter::ReadBytes], other.stats[Counter::WrittenBytes]),
        (1024, 1536)
    );
    assert_eq!((client.stats[Counter::OutOfRange], other.stats[Counter::OutOfRange]), (0, 1));
    assert_eq!((client.stats.answered(), other.stats.answered()), (3, 3));
    assert_eq!((client.latency.count(), other.latency.count()), (2, 1));
    let status = status(&bench);
    assert_eq!((status.queued, status.queued_max), (0, 3));
    let latencies = status.latencies;
    for one in [latencies.read, latencies.write, latencies.flush] {
        assert_eq!((one.count(), one.sum()), (1, Duration::from_micros(300)));
    }
    assert_eq!(bench.target.clients(ExportId(99)).len(), 0);
}

#[test]
fn requests_are_traced_where_it_is_wanted() {
    for (traced, subscribed) in [(false, false), (true, false), (false, true)] {
        let mut bench = Bench::new(OPEN, |options| {
            options.trace = traced;
            options.remembered.mask = vec![CLIENT];
        });
        bench.target.set_tracing(subscribed);
        bench.send(&ata(CLIENT, AtaCommand::READ_EXT, 5, 2));
        bench.now = bench.now + Duration::from_micros(70);
        bench.serve();
        bench.send(&ata(CLIENT, AtaCommand::READ_EXT, SECTORS, 2));
        bench.send(&ata(OTHER, AtaCommand::READ_EXT, 5, 2));
        bench.send(&ConfigMessage::request(header(Command::Config), ConfigCommand::Read).emit(b""));
        let mut records = Vec::new();
        while let Some((record, lost)) = bench.target.poll_trace() {
            assert_eq!((lost, record.wanted), (0, traced));
            records.push(record);
        }
        if !traced && !subscribed {
            assert!(records.is_empty());
            continue;
        }
        let shown: Vec<String> = records.iter().map(|record| record.to_string()).collect();
        assert_eq!(
            shown,
            [
                "e194.3 02:00:00:00:00:02 tag 0x00000099 READ EXT 5+2 done 70 us",
                "e194.3 02:00:00:00:00:02 tag 0x00000099 READ EXT 1000+2 status 0x41 error 0x10 0 us",
                "e194.3 02:00:00:00:00:03 tag 0x00000099 READ EXT 5+2 dropped: Denied 0 us",
                "e194.3 02:00:00:00:00:02 tag 0x00001234 Config done 0 us",
            ]
        );
    }
}

#[test]
fn records_that_nobody_fetches_are_counted_and_gone() {
    let mut bench = Bench::new(OPEN, |options| options.trace = true);
    for _ in 0..5000 {
        bench.send(&ata(CLIENT, AtaCommand::IDENTIFY, 0, 1));
    }
    let (_, lost) = bench.target.poll_trace().unwrap();
    assert_eq!(lost, 5000 - 4096);
    let mut rest = 0;
    while let Some((_, lost)) = bench.target.poll_trace() {
        assert_eq!(lost, 0);
        rest += 1;
    }
    assert_eq!(rest, 4095);
}

/// Whoever sends more than a disk can do would have the queue for himself.
#[test]
fn a_flood_leaves_room_for_others() {
    let mut bench = Bench::new(OPEN, |_| ());
    let read = |source, n: u64| ata(source, AtaCommand::READ_EXT, n % SECTORS, 1);
    for n in 0..5000 {
        bench.send(&read(CLIENT, n));
    }
    assert_eq!(status(&bench).queued, 2048, "alone it may have all");
    bench.send(&read(OTHER, 0));
    assert_eq!(bench.stats()[Counter::QueueFull], 5000 - 2048 + 1);
    // What is done now is for the other, who is there.
    for _ in 0..3 {
        // Neighbours go to the disk together: each answer is one for many.
        let waiting = status(&bench).queued;
        while status(&bench).queued > waiting - 100 {
            let asked = bench.io.pop_front().unwrap();
            let IoOperation::Device(block::Operation::Read(range)) = asked.operation else {
                panic!("{asked:?}")
            };
            let data = Buffer::zeroed(range.len_bytes() as usize);
            bench.complete(asked.id, Ok(Answer::Data(data)));
        }
        let before = bench.target.clients(bench.export)[1].stats[Counter::QueueFull];
        for n in 0..1000 {
            bench.send(&read(CLIENT, n));
        }
        bench.send(&read(OTHER, 1));
        let after = bench.target.clients(bench.export)[1].stats[Counter::QueueFull];
        assert_eq!(before, after);
    }
    assert!(status(&bench).queued <= 2048 / 4 * 3 + 3);
    bench.serve();
    assert_eq!(status(&bench).queued, 0);
    // The other is gone: it may have all again.
    bench.now = bench.now + Duration::from_secs(2);
    for n in 0..5000 {
        bench.send(&read(CLIENT, n));
    }
    assert_eq!(status(&bench).queued, 2048);
}
