//! The driver on the seeded executor, with a slow disk that keeps no order of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BlockDevice, Claim, Durability, Epoch, Lba, SectorRange};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use proptest::prelude::*;
use runtime::{Executor, Notify, Order};

use super::*;
use aoe_wire::Port;

use crate::driver::{ExportDevice, ExportSetup, TargetDriver};
use crate::fenced::FencedDevice;
use crate::slow_device::{Effect, SlowDevice, block_on, run};

/// A port whose other end is the test.
#[derive(Default)]
pub(super) struct TestPort {
    arrived: RefCell<VecDeque<Vec<u8>>>,
    arrival: Rc<Notify>,
    sent: RefCell<Vec<Vec<u8>>>,
}

impl TestPort {
    pub(super) fn deliver(&self, frame: &Frame) {
        let bytes = [frame.head.as_slice(), &frame.payload].concat();
        self.arrived.borrow_mut().push_back(bytes);
        self.arrival.notify_all();
    }

    pub(super) fn take(&self) -> Vec<Vec<u8>> {
        self.sent.take()
    }
}

impl Port for TestPort {
    fn name(&self) -> String {
        "test".into()
    }

    fn mac(&self) -> MacAddr {
        SERVER
    }

    fn mtu_bytes(&self) -> usize {
        9000
    }

    fn transmit(&self, frames: &mut Vec<Frame>) {
        let flat = |frame: Frame| [frame.head.as_slice(), &frame.payload].concat();
        self.sent.borrow_mut().extend(frames.drain(..).map(flat));
    }

    fn readable(&self) -> LocalBoxFuture<'static, ()> {
        if !self.arrived.borrow().is_empty() {
            return futures::future::ready(()).boxed_local();
        }
        let arrival = Rc::clone(&self.arrival);
        async move { arrival.notified().await }.boxed_local()
    }

    fn receive(&self, sink: &mut dyn FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < 4 {
            let Some(frame) = self.arrived.borrow_mut().pop_front() else { break };
            sink(&frame);
            count += 1;
        }
        count
    }
}

pub(super) struct World {
    pub(super) executor: Executor,
    pub(super) port: Rc<TestPort>,
    pub(super) disk: SlowDevice,
    pub(super) driver: TargetDriver,
    export: ExportId,
}

fn world(seed: u64, sectors: u64, as_medium: bool) -> World {
    world_with(seed, sectors, as_medium, None)
}

/// `each` is how long the disk takes for everything, one after the other; a random while by default.
pub(super) fn world_with(
    seed: u64,
    sectors: u64,
    as_medium: bool,
    each: Option<Duration>,
) -> World {
    let executor = Executor::new(Instant::default(), seed, Order::Seeded, || {});
    let handle = executor.handle();
    let disk = SlowDevice { each, ..SlowDevice::new(handle.clone(), sectors, 20) };
    let node = NodeIdentity { id: uuid::Uuid::from_bytes([9; 16]), name: "node".into() };
    let driver = TargetDriver::new(handle.clone(), node);
    let port = Rc::new(TestPort::default());
    driver.add_port(port.clone());
    let (adder, raw) = (driver.clone(), disk.clone());
    let export = block_on(&executor, async move {
        let device = if as_medium {
            ExportDevice::Fenced(Rc::new(FencedDevice::open(Rc::new(raw), handle).await.unwrap()))
        } else {
            ExportDevice::Device(Rc::new(raw))
        };
        let options = ExportOptions::new(ADDRESS, "disk");
        adder.add_export(ExportSetup::new(device, options)).await.unwrap()
    });
    port.take();
    disk.effects.borrow_mut().clear();
    World { executor, port, disk, driver, export: export.unwrap() }
}

pub(super) fn ata(client: u8, command: AtaCommand, range: SectorRange, tag: u32) -> AtaRequest {
    let source = MacAddr([2, 0, 0, 0, 1, client]);
    let header = Header::request(SERVER, source, ADDRESS, Command::Ata, tag);
    AtaRequest::new(header, command, range.start, range.count as u8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Every read returns what a disk that does one thing after the other would, and that is what
    /// is on the disk in the end.
    #[test]
    fn overlapping_commands_of_all_clients_run_in_order_of_arrival(
        seed in any::<u64>(),
        commands in prop::collection::vec((any::<bool>(), 0u64..30, 1u64..8, 0u8..4), 1..120),
    ) {
        let world = world(seed, 40, false);
        let mut options = ExportOptions::new(ADDRESS, "disk");
        if seed % 2 == 1 {
            // Clients that have to wait for their turns keep it too.
            options.limits.client.requests_per_second = Some(300);
            options.limits.export.bytes_per_second = Some(200_000);
        }
        // What may be done at once has its place too.
        options.write_cache = seed % 5 != 0;
        world.disk.at_once.set(seed % 3);
        world.driver.set_options(world.export, options).unwrap();
        let mut model = vec![0u8; 40 * 512];
        let mut expected: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for (tag, (is_write, start, count, client)) in (1u32..).zip(commands) {
            let range = SectorRange::new(Lba(start), count);
            let window = start as usize * 512..(start + count) as usize * 512;
            let frame = if is_write {
                let data = vec![tag as u8; window.len()];
                model[window].copy_from_slice(&data);
                expected.insert(tag, Vec::new());
                ata(client, AtaCommand::WRITE_EXT, range, tag).emit(Buffer::copy_of(&data))
            } else {
                expected.insert(tag, model[window].to_vec());
                ata(client, AtaCommand::READ_EXT, range, tag).emit(Buffer::empty())
            };
            world.port.deliver(&frame);
            if seed % 3 == 0 {
                world.executor.run_ready(5);
            }
        }
        run(&world.executor);
        let mut answered = BTreeMap::new();
        for bytes in world.port.take() {
            let (reply, data) = AtaReply::parse(&bytes).unwrap();
            prop_assert!(!reply.is_failure());
            prop_assert!(answered.insert(reply.header.tag, data.to_vec()).is_none());
        }
        prop_assert!(answered == expected);
        prop_assert!(*world.disk.bytes.borrow() == model);
    }
}

#[test]
fn only_what_may_be_volatile_is_written_at_once() {
    for write_cache in [true, false] {
        let world = world(3, 1000, true);
        let mut options = ExportOptions::new(ADDRESS, "disk");
        options.write_cache = write_cache;
        world.driver.set_options(world.export, options).unwrap();
        run(&world.executor);
        world.disk.at_once.set(2);
        world.disk.effects.borrow_mut().clear();
        let range = SectorRange::new(Lba(64), 8);
        let write = ata(1, AtaCommand::WRITE_EXT, range, 1);
        world.port.deliver(&write.emit(Buffer::copy_of(&[7; 4096])));
        let flush = ata(1, AtaCommand::FLUSH_CACHE_EXT, SectorRange::new(Lba(0), 0), 2);
        world.port.deliver(&flush.emit(Buffer::empty()));
        while world.executor.run_ready(1000) > 0 {}
        let answered = world.port.take();
        let tag = |bytes: &Vec<u8>| AtaReply::parse(bytes).unwrap().0.header.tag;
        assert!(!write_cache || answered.iter().any(|bytes| tag(bytes) == 1), "at once");
        run(&world.executor);
        let expected = if write_cache {
            vec![Effect::Write(range, Durability::Volatile), Effect::Flush]
        } else {
            vec![Effect::Flush, Effect::Write(range, Durability::Durable)]
        };
        let mut effects = world.disk.effects.take();
        if !write_cache {
            // They run side by side.
            effects.sort_by_key(|effect| *effect != Effect::Flush);
        }
        assert_eq!(effects, expected);
        assert!(world.disk.bytes.borrow()[64 * 512..72 * 512].iter().all(|byte| *byte == 7));
    }
}

#[test]
fn commands_that_do_not_overlap_run_together() {
    let world = world(3, 1000, false);
    let started = world.executor.handle().now();
    for i in 0..50 {
        let range = SectorRange::new(Lba(i * 16), 8);
        let frame = ata(1, AtaCommand::WRITE_EXT, range, 1 + i as u32);
        world.port.deliver(&frame.emit(Buffer::zeroed(4096)));
    }
    run(&world.executor);
    assert_eq!(world.port.take().len(), 50);
    assert!(world.executor.handle().now().since(started) <= Duration::from_millis(20));
}

/// A session all the way through: opened, claimed on the medium, written, and the disk remembers.
#[test]
fn a_session_on_a_medium() {
    let world = world(5, 8192, true);
    let mut sequence = 0;
    let ask = |request: SessionRequest, payload: Buffer| {
        world.port.deliver(&request.emit(payload));
        // Long enough for the disk, not for the timers.
        let until = world.executor.handle().now() + Duration::from_millis(500);
        loop {
            while world.executor.run_ready(1000) > 0 {}
            match world.executor.next_deadline() {
                Some(at) if at <= until => world.executor.set_now(at),
                _ => break,
            }
        }
        let mut sent = world.port.take();
        assert_eq!(sent.len(), 1);
        let bytes = sent.remove(0);
        let (reply, payload) = SessionReply::parse(&bytes).unwrap();
        (reply, payload.to_vec())
    };
    let opening = OpenPayload {
        client: Nonce([1; 16]),
        target: Nonce::default(),
        incarnation: Incarnation([2; 16]),
    };
    let hello = SessionRequest::new(header(Command::Session), Operation::Hello);
    let (hello, payload) = ask(hello, OpenPayload::emit_hello(opening.client, opening.incarnation));
    let (target, _) = OpenPayload::parse_hello_reply(&payload).unwrap();
    let opening = OpenPayload { target, ..opening };
    let base = SessionRequest {
        session: hello.session,
        instance: hello.instance,
        ..SessionRequest::new(header(Command::Session), Operation::Open)
    };
    let (reply, payload) = ask(base, opening.emit());
    assert_eq!(reply.status, Status::Ok);
    assert_eq!(ExportInfo::parse(&payload).unwrap().sectors, 8192);
    let mut next = |operation, lba, sectors| {
        sequence += 1;
        let lba = Lba(lba);
        SessionRequest { operation, sequence, epoch: Epoch(7), lba, sectors, ..base }
    };
    let owner = owner(3);
    let (reply, _) = ask(
        next(Operation::Claim, 0, 0),
        HolderPayload::emit_claim(owner, &block::Trust::Unchanged),
    );
    assert_eq!((reply.status, reply.epoch), (Status::Ok, Epoch(7)));
    let data = Buffer::copy_of(&[0xab; 1024]);
    assert_eq!(ask(next(Operation::Write, 100, 2), data).0.status, Status::Ok);
    let field = next(Operation::Write, 16, 1);
    let (reply, _) = ask(field, Buffer::zeroed(512));
    assert_eq!((reply.status, reply.detail), (Status::Refused, 3));
    assert_eq!(ask(next(Operation::Flush, 0, 0), Buffer::empty()).0.status, Status::Ok);
    assert_eq!(ask(next(Operation::Read, 100, 2), Buffer::empty()).1, vec![0xab; 1024]);
    assert_eq!(ask(next(Operation::Discard, 100, 5000), Buffer::empty()).0.status, Status::Ok);
    let discards = world
        .disk
        .effects
        .borrow()
        .iter()
        .filter_map(|e| if let Effect::Discard(range) = e { Some(range.count) } else { None })
        .collect::<Vec<_>>();
    assert_eq!(discards, [2048, 2048, 904], "in parts that the device takes");

    let handle = world.executor.handle();
    let disk = Rc::new(world.disk.clone());
    let reopened = block_on(&world.executor, FencedDevice::open(disk, handle)).unwrap().unwrap();
    assert_eq!(reopened.holder(), Holder::new(Epoch(7), owner));
    let higher = Claim { epoch: Epoch(8), owner, force: false, trust: block::Trust::Unchanged };
    assert!(
        block_on(&world.executor, async move { reopened.claim(higher).await.is_ok() }).unwrap()
    );
}

#[test]
fn a_volume_is_nobodys_to_claim() {
    let executor = Executor::new(Instant::default(), 1, Order::Seeded, || {});
    let node = NodeIdentity { id: uuid::Uuid::nil(), name: String::new() };
    let driver = TargetDriver::new(executor.handle(), node);
    let port = Rc::new(TestPort::default());
    driver.add_port(port.clone());
    // This one would accept.
    let device = ExportDevice::Device(Rc::new(block::MemoryDevice::new(100)));
    let (adder, options) = (driver.clone(), ExportOptions::new(ADDRESS, "volume"));
    block_on(&executor, async move {
        adder.add_export(ExportSetup::new(device, options)).await.unwrap()
    })
    .unwrap();
    port.take();
    let ask = |request: SessionRequest, payload: Buffer| {
        port.deliver(&request.emit(payload));
        while executor.run_ready(1000) > 0 {}
        let bytes = port.take().remove(0);
        let (reply, payload) = SessionReply::parse(&bytes).unwrap();
        (reply, payload.to_vec())
    };
    let (client, incarnation) = (Nonce([1; 16]), Incarnation([2; 16]));
    let hello = SessionRequest::new(header(Command::Session), Operation::Hello);
    let (hello, payload) = ask(hello, OpenPayload::emit_hello(client, incarnation));
    let (target, _) = OpenPayload::parse_hello_reply(&payload).unwrap();
    let request = SessionRequest {
        session: hello.session,
        instance: hello.instance,
        ..SessionRequest::new(header(Command::Session), Operation::Open)
    };
    let (opened, _) = ask(request, OpenPayload { client, target, incarnation }.emit());
    assert_eq!(opened.status, Status::Ok);
    let claim =
        SessionRequest { operation: Operation::Claim, sequence: 1, epoch: Epoch(1), ..request };
    let (claimed, _) = ask(claim, HolderPayload::emit_claim(owner(1), &block::Trust::Unchanged));
    assert_eq!((claimed.status, claimed.epoch), (Status::Unsupported, Epoch(0)));
}

#[test]
fn a_removed_export_is_let_go_when_its_disk_is_idle() {
    let world = world(9, 1000, false);
    let range = SectorRange::new(Lba(0), 8);
    world.port.deliver(&ata(1, AtaCommand::WRITE_EXT, range, 1).emit(Buffer::copy_of(&[7; 4096])));
    while world.driver.exports()[0].queued == 0 {
        world.executor.run_ready(1);
    }
    let (driver, export) = (world.driver.clone(), world.export);
    let disk = Rc::clone(&world.disk.bytes);
    let written = block_on(&world.executor, async move {
        driver.remove_export(export).await;
        disk.borrow()[0]
    });
    assert_eq!(written, Some(7), "not before the write that it had taken");
    assert!(world.driver.exports().is_empty());
    assert!(world.port.take().is_empty(), "nobody is told by what isn't there");
}

#[test]
fn a_removed_port_is_silent() {
    let world = world(9, 1000, false);
    let ports = world.driver.ports();
    assert_eq!(ports[0].1, "test");
    world.driver.remove_port(ports[0].0);
    run(&world.executor);
    let range = SectorRange::new(Lba(0), 1);
    world.port.deliver(&ata(1, AtaCommand::READ_EXT, range, 1).emit(Buffer::empty()));
    run(&world.executor);
    assert!(world.port.take().is_empty());
}

#[test]
fn who_listens_hears_of_requests() {
    let world = world(9, 1000, false);
    let stream = world.driver.subscribe_trace(Some(world.export));
    let elsewhere = world.driver.subscribe_trace(Some(ExportId(77)));
    let range = SectorRange::new(Lba(3), 2);
    for tag in 0..3 {
        world.port.deliver(&ata(1, AtaCommand::READ_EXT, range, tag).emit(Buffer::empty()));
    }
    let record = block_on(&world.executor, async move { stream.next().await }).unwrap();
    assert_eq!((record.lba, record.count, record.export), (Lba(3), 2, world.export));
    assert!(elsewhere.next().now_or_never().is_none());
    assert_eq!(elsewhere.take_lost(), 0);
    drop(elsewhere);
    world.port.deliver(&ata(1, AtaCommand::READ_EXT, range, 9).emit(Buffer::empty()));
    run(&world.executor);
    // Nobody listens any more: the records of a whole queue would be in the way.
    let late = world.driver.subscribe_trace(None);
    assert!(late.next().now_or_never().is_none());
}

#[test]
fn a_foreign_target_is_told_of() {
    let world = world(9, 1000, false);
    let source = MacAddr([2, 0, 0, 0, 9, 9]);
    let header = Header { response: true, source, ..header(Command::Config) };
    world.port.deliver(&ConfigMessage::request(header, ConfigCommand::Read).emit(b""));
    let driver = world.driver.clone();
    let event = block_on(&world.executor, async move { driver.next_event().await });
    let port = world.driver.ports()[0].0;
    let expected = TargetEvent::AddressConflict { export: world.export, port, mac: source };
    assert_eq!(event, Some(expected));
}

#[test]
fn what_was_begun_is_answered_before_the_end() {
    let world = world(11, 1000, false);
    let write = |tag: u32| {
        // All in one place, so that each waits for the one before.
        let range = SectorRange::new(Lba(0), 8);
        ata(1, AtaCommand::WRITE_EXT, range, tag).emit(Buffer::copy_of(&[tag as u8; 4096]))
    };
    (1..=3).for_each(|tag| world.port.deliver(&write(tag)));
    while world.driver.exports()[0].queued < 3 {
        world.executor.run_ready(1);
    }
    let (driver, disk) = (world.driver.clone(), Rc::clone(&world.disk.bytes));
    let written = block_on(&world.executor, async move {
        driver.finish().await;
        disk.borrow()[0]
    });
    assert_eq!(written, Some(3));
    assert_eq!(world.port.take().len(), 3, "every client has its answer");
    world.port.deliver(&write(4));
    run(&world.executor);
    assert!(world.port.take().is_empty(), "and what comes later is the successor's");
    assert_eq!(world.disk.bytes.borrow()[0], 3);
}

#[test]
fn an_export_that_is_retired_answers_what_it_has_begun() {
    let world = world(13, 1000, false);
    let write = |tag: u32| {
        let range = SectorRange::new(Lba(0), 8);
        ata(1, AtaCommand::WRITE_EXT, range, tag).emit(Buffer::copy_of(&[tag as u8; 4096]))
    };
    (1..=3).for_each(|tag| world.port.deliver(&write(tag)));
    while world.driver.exports()[0].queued < 3 {
        world.executor.run_ready(1);
    }
    let (driver, export) = (world.driver.clone(), world.export);
    let mut retiring = async move { driver.retire_export(export).await }.boxed_local();
    assert!((&mut retiring).now_or_never().is_none());
    (4..=6).for_each(|tag| world.port.deliver(&write(tag)));
    block_on(&world.executor, retiring).unwrap();
    run(&world.executor);
    assert!(world.driver.exports().is_empty());
    assert_eq!(world.port.take().len(), 3, "those that were begun, and no later ones");
    assert_eq!(world.disk.bytes.borrow()[0], 3);
}

#[test]
fn a_queue_takes_as_much_as_it_was_told() {
    let world = world(12, 1000, false);
    let options =
        |queue_length: usize| ExportOptions { queue_length, ..ExportOptions::new(ADDRESS, "disk") };
    let flood = |count: u32| {
        for tag in 0..count {
            let range = SectorRange::new(Lba(0), 1);
            world.port.deliver(&ata(1, AtaCommand::READ_EXT, range, tag).emit(Buffer::empty()));
        }
        run(&world.executor);
        world.port.take().len()
    };
    assert_eq!(flood(8), 8);
    world.driver.set_options(world.export, options(1)).unwrap();
    let answered = flood(8);
    assert!((1..8).contains(&answered), "{answered}");
    world.driver.set_options(world.export, options(8)).unwrap();
    assert_eq!(flood(8), 8);
}

/// What clients set goes to the memory, SMART to the disk, and each to its own.
#[test]
fn what_an_export_leans_on_is_asked() {
    #[derive(Default)]
    struct Beside {
        stored: RefCell<Vec<(ShelfSlot, Remembered)>>,
        full: std::cell::Cell<bool>,
    }
    impl crate::driver::Memory for Rc<Beside> {
        fn store(
            &self,
            address: ShelfSlot,
            state: Remembered,
        ) -> LocalBoxFuture<'static, Result<(), IoError>> {
            let full = self.full.get();
            if !full {
                self.stored.borrow_mut().push((address, state));
            }
            futures::future::ready(if full { Err(IoError::Lost) } else { Ok(()) }).boxed_local()
        }
    }
    impl crate::driver::AtaPassThrough for Rc<Beside> {
        fn smart(
            &self,
            command: SmartCommand,
        ) -> LocalBoxFuture<'static, Result<SmartReply, IoError>> {
            let data = Buffer::zeroed(command.reply_bytes());
            let said = SmartReply { status: 0x50, error: 0, count: 0, lba: [0, 0x4f, 0xc2], data };
            futures::future::ready(Ok(said)).boxed_local()
        }
    }

    let world = world(9, 1000, false);
    let beside = Rc::new(Beside::default());
    let address = ShelfSlot::new(5, 5);
    let device = Rc::new(block::MemoryDevice::new(100));
    let setup = ExportSetup {
        memory: Some(Rc::new(Rc::clone(&beside))),
        ata: Some(Rc::new(Rc::clone(&beside))),
        ..ExportSetup::new(ExportDevice::Device(device), ExportOptions::new(address, "x"))
    };
    let adder = world.driver.clone();
    let id = block_on(&world.executor, async move { adder.add_export(setup).await.unwrap() });
    let ask = |frame: &Frame| {
        world.port.take();
        world.port.deliver(frame);
        run(&world.executor);
        world.port.take().remove(0)
    };
    let set = |string: &[u8]| {
        let header = Header { address, ..header(Command::Config) };
        ConfigMessage::request(header, ConfigCommand::ForceSet).emit(string)
    };
    assert_eq!(Header::parse(&ask(&set(b"one"))).unwrap().error, None);
    beside.full.set(true);
    let refused = Header::parse(&ask(&set(b"two"))).unwrap().error;
    assert_eq!(refused, Some(AoeError::DeviceUnavailable));
    let one = Remembered { config_string: b"one".to_vec(), ..Remembered::default() };
    assert_eq!(*beside.stored.borrow(), [(address, one.clone())]);
    assert!(world.driver.exports().iter().any(|export| export.remembered == one));

    let header = Header { address, ..header(Command::Ata) };
    let smart = AtaRequest {
        feature: 0xd0,
        lba_raw: 0xc2_4f00,
        ..AtaRequest::new(header, AtaCommand::SMART, Lba(0), 1)
    };
    let answer = ask(&smart.emit(Buffer::empty()));
    let (reply, data) = AtaReply::parse(&answer).unwrap();
    assert_eq!((reply.status, data.len()), (0x50, 512));

    let options = ExportOptions { read_only: true, ..ExportOptions::new(address, "x") };
    assert_eq!(world.driver.set_options(id.unwrap(), options), Ok(()));
    let write = AtaRequest::new(header, AtaCommand::WRITE_EXT, Lba(0), 1);
    let answer = ask(&write.emit(Buffer::zeroed(512)));
    assert!(AtaReply::parse(&answer).unwrap().0.is_failure());
    assert_eq!(world.driver.clients(id.unwrap()).len(), 1);
}

/// Each short timer that ends leaves another task for the long one.
#[test]
fn timers_dont_pile_up() {
    let world = world_with(1, 100_000, true, Some(Duration::from_micros(10)));
    let settle = || while world.executor.run_ready(1000) > 0 {};
    settle();
    let begun = world.executor.handle().now();
    let hello = Header::request(SERVER, CLIENT, ADDRESS, Command::Session, 1);
    let hello = SessionRequest::new(hello, Operation::Hello);
    world.port.deliver(&hello.emit(OpenPayload::emit_hello(Nonce([1; 16]), Incarnation([1; 16]))));
    settle();
    for cycle in 0..4000u32 {
        let range = SectorRange::new(Lba(u64::from(cycle)), 1);
        let frame = ata(1, AtaCommand::WRITE_EXT, range, cycle).emit(Buffer::zeroed(512));
        world.port.deliver(&frame);
        settle();
        for _ in 0..3 {
            let Some(next) = world.executor.next_deadline() else { break };
            if next.since(world.executor.handle().now()) > Duration::from_millis(1) {
                break;
            }
            world.executor.set_now(next);
            settle();
        }
    }
    world.port.take();
    let took = world.executor.handle().now().since(begun);
    world.executor.set_now(begun + Duration::from_secs(11));
    let mut steps = 0;
    while world.executor.run_one() {
        steps += 1;
    }
    assert!(steps < 50, "{steps} steps for one timer, after {took:?}");
}
