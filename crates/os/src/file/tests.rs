#![allow(clippy::unwrap_used)]

use std::fs::OpenOptions;
use std::future::Future;
use std::os::unix::fs::FileExt;

use block::{Buffer, Durability, Outcome};
use futures::channel::oneshot;
use futures::future::join_all;

use super::*;
use crate::Reactor;

const MEBIBYTE: u64 = 1 << 20;

struct Fixture {
    reactor: Reactor,
    handle: ReactorHandle,
    dir: tempfile::TempDir,
    /// A file on another medium: writes through the page cache go to their thread.
    beside: Option<Here>,
}

impl Fixture {
    fn new() -> Fixture {
        let (reactor, handle) = Reactor::new().unwrap();
        // Not /tmp, which may be a tmpfs without direct I/O.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let beside = Some(Here::new(here::Place::Other(u64::MAX)));
        Fixture { reactor, handle, dir, beside }
    }

    /// With no other medium: the reactor itself writes to the page cache.
    fn alone() -> Fixture {
        let mut fixture = Fixture::new();
        fixture.beside = None;
        fixture
    }

    fn file(&self, len_bytes: u64) -> PathBuf {
        let path = self.dir.path().join("disk");
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap()
            .set_len(len_bytes)
            .unwrap();
        path
    }

    fn device(&self, len_bytes: u64, options: FileOptions) -> Rc<FileDevice> {
        Rc::new(FileDevice::open(&self.handle, &self.file(len_bytes), options).unwrap())
    }

    fn run<F: Future + 'static>(&mut self, future: F) -> F::Output
    where
        F::Output: 'static,
    {
        self.reactor.run_until(future).unwrap()
    }
}

fn all_options() -> Vec<FileOptions> {
    [true, false].map(|direct| FileOptions { direct, ..FileOptions::default() }).into()
}

fn pattern(seed: u8, len: usize) -> Buffer {
    Buffer::copy_of(&(0..len).map(|i| seed.wrapping_add((i / 512 + i) as u8)).collect::<Vec<_>>())
}

/// The end of an operation that is one request to the kernel.
fn told(device: &FileDevice, operation: Operation) -> impl Future<Output = Outcome> + use<> {
    assert!(device.shared.is_one_call(&operation), "{operation:?}");
    let (sender, receiver) = oneshot::channel();
    device.submit(operation, Box::new(move |outcome| drop(sender.send(outcome))));
    async move { receiver.await.unwrap() }
}

fn data_of(outcome: Outcome) -> Buffer {
    match outcome.unwrap().value {
        Answer::Data(data) => data,
        other => panic!("{other:?}"),
    }
}

fn read_at_once(device: &FileDevice, range: SectorRange) -> Option<Buffer> {
    device.try_submit(Operation::Read(range)).map(|done| data_of(Ok(done)))
}

#[test]
fn what_is_one_request_is_in_order_with_all_others() {
    for options in all_options() {
        let mut fixture = Fixture::new();
        let device = fixture.device(MEBIBYTE, options);
        fixture.run(async move {
            let range = SectorRange::new(Lba(16), 16);
            let write = |seed, durability| {
                let data = pattern(seed, 8192);
                Operation::Write { start: range.start, data, durability }
            };
            let first = told(&device, write(1, Durability::Volatile));
            assert!(
                !device.shared.is_one_call(&Operation::Read(range)),
                "behind a write of the same sectors"
            );
            assert!(!device.shared.is_one_call(&write(2, Durability::Volatile)));
            let second = device.write(range.start, pattern(2, 8192), Durability::Durable);
            let read = device.read(range);
            assert_eq!(first.await.unwrap(), Completion::new(device.instance(), Answer::Done));
            second.await.unwrap();
            assert!(read.await.unwrap().value == pattern(2, 8192));
            assert!(data_of(told(&device, Operation::Read(range)).await) == pattern(2, 8192));
            // Shared syncs, and what the medium wouldn't take as it is, go the ordinary way.
            assert_eq!(device.shared.is_one_call(&write(3, Durability::Durable)), options.direct);
            let beyond = SectorRange::new(Lba(2040), 16);
            assert!(!device.shared.is_one_call(&Operation::Read(beyond)));
        });
    }
}

#[test]
fn the_failure_of_one_request_is_its_own() {
    for direct in [true, false] {
        let mut fixture = Fixture::new();
        let device = fixture.device(MEBIBYTE, FileOptions { direct, ..FileOptions::default() });
        let path = device.path().to_owned();
        fixture.run(async move {
            let range = SectorRange::new(Lba(1024), 8);
            let file = OpenOptions::new().write(true).open(path).unwrap();
            // The file shrinks unseen: the read comes back short.
            file.set_len(1024 * 512).unwrap();
            let short = told(&device, Operation::Read(range)).await;
            assert_eq!(short, Err(IoError::OutOfRange(range)));
            let before = SectorRange::new(Lba(1016), 8);
            assert!(told(&device, Operation::Read(before)).await.is_ok());
        });
    }
}

#[test]
fn what_is_cached_is_read_at_once_and_never_out_of_order() {
    let mut fixture = Fixture::new();
    let device = fixture.device(MEBIBYTE, FileOptions { direct: false, ..FileOptions::default() });
    fixture.run(async move {
        let range = SectorRange::new(Lba(0), 16);
        device.write(range.start, pattern(1, 8192), Durability::Volatile).await.unwrap();
        assert!(read_at_once(&device, range).unwrap() == pattern(1, 8192));
        let writing = device.write(Lba(15), pattern(2, 512), Durability::Volatile);
        assert!(read_at_once(&device, range).is_none(), "a write is under way");
        writing.await.unwrap();
        assert_eq!(read_at_once(&device, range).unwrap()[15 * 512..], pattern(2, 512)[..]);
        assert!(read_at_once(&device, SectorRange::new(Lba(2040), 16)).is_none());
    });
    let direct = Fixture::new();
    let direct = direct.device(MEBIBYTE, FileOptions::default());
    assert!(!direct.is_direct() || read_at_once(&direct, SectorRange::new(Lba(0), 1)).is_none());
}

#[test]
fn a_file_system_in_memory_is_read_and_written_at_once() {
    let (mut reactor, handle) = Reactor::new().unwrap();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = dir.path().join("disk");
    OpenOptions::new().write(true).create_new(true).open(&path).unwrap().set_len(MEBIBYTE).unwrap();
    let options = FileOptions { direct: false, ..FileOptions::default() };
    let device = FileDevice::open(&handle, &path, options).unwrap();
    let data = pattern(5, 8192);
    let write =
        Operation::Write { start: Lba(8), data: data.clone(), durability: Durability::Volatile };
    let written = told(&device, write).now_or_never();
    assert!(written.unwrap().is_ok(), "nobody had to turn a crank");
    assert!(read_at_once(&device, SectorRange::new(Lba(8), 16)).unwrap() == data);
    assert!(read_at_once(&device, SectorRange::new(Lba(2040), 16)).is_none());
    let device = Rc::new(device);
    let read = Rc::clone(&device);
    let again = reactor.run_until(async move {
        read.write(Lba(9), pattern(6, 512), Durability::Durable).await.unwrap();
        read.read(SectorRange::new(Lba(9), 1)).await.unwrap().value
    });
    assert!(again.unwrap() == pattern(6, 512));
}

#[test]
fn a_medium_that_is_alone_is_written_at_once_and_in_order() {
    let mut fixture = Fixture::alone();
    let options = FileOptions { direct: false, ..FileOptions::default() };
    let device = fixture.device(MEBIBYTE, options);
    if !device.shared.may_write_here() {
        eprintln!("skipped: /var/tmp is on no block device that this process can see");
        return;
    }
    let write = |start, seed| Operation::Write {
        start: Lba(start),
        data: pattern(seed, 8192),
        durability: Durability::Volatile,
    };
    let written = told(&device, write(8, 5)).now_or_never();
    assert!(written.unwrap().is_ok(), "nobody had to turn a crank");
    assert!(device.shared.writer.get().is_none());
    fixture.beside = Some(Here::new(here::Place::Other(u64::MAX)));
    let by_thread = told(&device, write(16, 6));
    assert!(device.shared.writer.get().is_some());
    fixture.beside = None;
    // The same sectors are with the thread: this one has to wait for it.
    assert!(!device.shared.is_one_call(&write(24, 7)));
    let last = device.write(Lba(24), pattern(7, 8192), Durability::Volatile);
    let reader = Rc::clone(&device);
    let read = fixture.run(async move {
        by_thread.await.unwrap();
        last.await.unwrap();
        reader.read(SectorRange::new(Lba(8), 32)).await.unwrap().value
    });
    assert!(read[..4096] == pattern(5, 8192)[..4096]);
    assert!(read[4096..8192] == pattern(6, 8192)[..4096]);
    assert!(read[8192..] == pattern(7, 8192)[..]);
}

#[test]
fn what_is_written_is_read_in_every_mode() {
    for (options, alone) in all_options().into_iter().zip([false, true].into_iter().cycle()) {
        let mut fixture = if alone { Fixture::alone() } else { Fixture::new() };
        let device = fixture.device(4 * MEBIBYTE, options);
        fixture.run(async move {
            let data = pattern(3, 1 << 20);
            device.write(Lba(8), data.clone(), Durability::Durable).await.unwrap();
            let done = device.read(SectorRange::new(Lba(8), 2048)).await.unwrap();
            assert_eq!(done.instance, device.instance());
            assert!(done.value == data);
            // A slice that isn't aligned in memory, over a single sector.
            let odd = Buffer::copy_of(&[7; 1024]).slice(100, 612);
            device.write(Lba(9), odd, Durability::Volatile).await.unwrap();
            device.flush(device.instance()).await.unwrap();
            let around = device.read(SectorRange::new(Lba(8), 3)).await.unwrap().value;
            assert!(around[..512] == data[..512] && around[1024..] == data[1024..1536]);
            assert!(around[512..1024].iter().all(|byte| *byte == 7));
        });
    }
}

#[test]
fn zeroes_and_discards() {
    for direct in [true, false] {
        let mut fixture = Fixture::new();
        let options = FileOptions { direct, ..FileOptions::default() };
        let device = fixture.device(4 * MEBIBYTE, options);
        fixture.run(async move {
            device.write(Lba(0), pattern(1, 1 << 20), Durability::Volatile).await.unwrap();
            let range = SectorRange::new(Lba(3), 1000);
            device.write_zeroes(range, Durability::Durable).await.unwrap();
            let all = device.read(SectorRange::new(Lba(0), 2048)).await.unwrap().value;
            assert!(all[3 * 512..1003 * 512].iter().all(|byte| *byte == 0));
            assert_eq!(all[..3 * 512], pattern(1, 1 << 20)[..3 * 512]);
            assert_eq!(all[1003 * 512..], pattern(1, 1 << 20)[1003 * 512..]);
            device.discard(SectorRange::new(Lba(0), 2048)).await.unwrap();
            // The fallback of file systems that can't zero.
            device.shared.can_zero.set(false);
            device.write(Lba(0), pattern(1, 1 << 20), Durability::Volatile).await.unwrap();
            device
                .write_zeroes(SectorRange::new(Lba(1), 6000), Durability::Volatile)
                .await
                .unwrap();
            let all = device.read(SectorRange::new(Lba(0), 2048)).await.unwrap().value;
            assert!(all[512..].iter().all(|byte| *byte == 0) && all[..512] == pattern(1, 512)[..]);
        });
    }
}

#[test]
fn overlapping_operations_follow_their_calls_even_when_dropped() {
    for (direct, alone) in [(true, false), (false, false), (false, true)] {
        let mut fixture = if alone { Fixture::alone() } else { Fixture::new() };
        let options = FileOptions { direct, ..FileOptions::default() };
        let device = fixture.device(MEBIBYTE, options);
        overlapping_operations(&mut fixture, device);
    }
}

fn overlapping_operations(fixture: &mut Fixture, device: Rc<FileDevice>) {
    fixture.run(async move {
        for round in 0..20u8 {
            let mut reads = Vec::new();
            for step in 0..40u8 {
                let seed = round.wrapping_mul(41).wrapping_add(step);
                // Dropped at once: it happens all the same, and in its place.
                drop(device.write(Lba(8), Buffer::copy_of(&[seed; 8192]), Durability::Volatile));
                reads.push((seed, device.read(SectorRange::new(Lba(16), 4))));
            }
            let (seeds, reads): (Vec<u8>, Vec<_>) = reads.into_iter().unzip();
            for (seed, read) in seeds.into_iter().zip(join_all(reads).await) {
                assert!(read.unwrap().value.iter().all(|byte| *byte == seed));
            }
        }
    });
}

#[test]
fn durable_writes_through_the_page_cache_share_their_syncs() {
    let mut fixture = Fixture::new();
    let options = FileOptions { direct: false, ..FileOptions::default() };
    let device = fixture.device(MEBIBYTE, options);
    fixture.run(async move {
        let data = pattern(9, 4096);
        let writes = (0..64).map(|i| device.write(Lba(i * 8), data.clone(), Durability::Durable));
        for result in join_all(writes.collect::<Vec<_>>()).await {
            result.unwrap();
        }
        let syncs = device.shared.syncs.started();
        assert!((1..64).contains(&syncs), "{syncs} syncs for 64 writes");
    });
}

/// Through the page cache a durable write must not be the one that hears of (and so hides) a failed
/// write-back of earlier writes: it is written, then covered by a sync of which failures stick.
#[test]
fn durable_writes_through_the_page_cache_are_synced_apart() {
    for direct in [true, false] {
        let mut fixture = Fixture::new();
        let options = FileOptions { direct, ..FileOptions::default() };
        let device = fixture.device(MEBIBYTE, options);
        fixture.run(async move {
            device.write(Lba(0), pattern(1, 4096), Durability::Durable).await.unwrap();
            let syncs = u64::from(!device.is_direct());
            assert_eq!(device.shared.syncs.started(), syncs);
        });
    }
}

#[test]
fn a_failed_flush_is_never_forgotten() {
    let mut fixture = Fixture::new();
    let device = fixture.device(MEBIBYTE, FileOptions::default());
    fixture.run(async move {
        let instance = device.instance();
        let other = Instance(instance.0 ^ 1);
        assert_eq!(device.flush(other).await, Err(IoError::Restarted { now: instance }));
        device.flush(instance).await.unwrap();
        device.shared.syncs.fail(&io::Error::from_raw_os_error(libc::EIO));
        for _ in 0..3 {
            assert_eq!(device.flush(instance).await, Err(IoError::FlushFailed));
        }
        let durable = device.write(Lba(0), pattern(0, 512), Durability::Durable);
        assert_eq!(durable.await, Err(IoError::FlushFailed));
        device.read(SectorRange::new(Lba(0), 1)).await.unwrap();
    });
}

#[test]
fn wrong_ranges_are_refused_and_sizes_noticed() {
    let mut fixture = Fixture::new();
    let device = fixture.device(MEBIBYTE, FileOptions::default());
    let file = OpenOptions::new().write(true).open(device.path()).unwrap();
    fixture.run(async move {
        for range in [
            SectorRange::new(Lba(2048), 1),
            SectorRange::new(Lba(2047), 2),
            SectorRange::new(Lba(u64::MAX), 2),
        ] {
            assert_eq!(device.read(range).await, Err(IoError::OutOfRange(range)));
            assert_eq!(device.discard(range).await, Err(IoError::OutOfRange(range)));
        }
        let odd = Buffer::copy_of(&[0; 700]);
        assert_eq!(
            device.write(Lba(0), odd, Durability::Volatile).await,
            Err(IoError::Unsupported)
        );
        assert!(!device.refresh().unwrap());
        file.set_len(2 * MEBIBYTE).unwrap();
        file.write_all_at(&[5; 512], 2048 * 512).unwrap();
        let grown = device.read(SectorRange::new(Lba(2048), 1)).await.unwrap().value;
        assert_eq!(grown[..], [5; 512]);
        assert_eq!(device.next_event().await, DeviceEvent::Resized);
        assert_eq!(device.geometry().sectors, 4096);
        file.set_len(MEBIBYTE).unwrap();
        let range = SectorRange::new(Lba(2048), 8);
        assert_eq!(device.read(range).await, Err(IoError::OutOfRange(range)));
        assert_eq!(device.geometry().sectors, 2048);
    });
}

#[test]
fn a_second_opening_is_refused_with_the_holder_named() {
    let fixture = Fixture::new();
    let device = fixture.device(MEBIBYTE, FileOptions::default());
    let error = FileDevice::open(&fixture.handle, device.path(), FileOptions::default());
    let Err(error) = error else { panic!("opened twice") };
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(&std::process::id().to_string()), "{message}");
    let path = device.path().to_owned();
    drop(device);
    FileDevice::open(&fixture.handle, &path, FileOptions::default()).unwrap();
}

#[test]
fn read_only_devices_and_directories_are_refused_what_they_cannot() {
    let mut fixture = Fixture::new();
    let options = FileOptions { read_only: true, ..FileOptions::default() };
    let device = fixture.device(MEBIBYTE, options);
    assert!(device.geometry().read_only);
    let directory = FileDevice::open(&fixture.handle, fixture.dir.path(), options);
    assert!(matches!(directory, Err(OpenError::NotADisk(_))));
    fixture.run(async move {
        let data = pattern(0, 512);
        assert_eq!(device.write(Lba(0), data, Durability::Durable).await, Err(IoError::ReadOnly));
        device.read(SectorRange::new(Lba(0), 1)).await.unwrap();
    });
}
