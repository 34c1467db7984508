//! The initiator against the real target, over a segment in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;

use block::{
    BlockDevice, Buffer, Claim, Durability, Epoch, Instant, IoError, Lba, MemoryDevice, OwnerId,
    SectorRange,
};
use futures::FutureExt;
use runtime::{Executor, Order};

use super::*;
use aoe_target::{
    ExportDevice, ExportOptions, ExportSetup, FencedDevice, NodeIdentity, TargetDriver,
};
use aoe_wire::{Frame, MacAddr};

#[path = "granted_tests.rs"]
mod granted;
#[path = "joining_tests.rs"]
mod joining;
#[path = "keyed_tests.rs"]
mod keyed;
#[path = "owner_tests.rs"]
mod owner;

const SECOND: Duration = Duration::from_secs(1);
const LATENCY: Duration = Duration::from_micros(50);

/// An Ethernet segment.
#[derive(Default)]
struct Segment {
    ports: RefCell<Vec<Rc<SegmentPort>>>,
    loss_per_mille: Cell<u64>,
    /// All that was sent, for who hears the segment.
    tape: RefCell<Vec<Vec<u8>>>,
}

struct SegmentPort {
    segment: Weak<Segment>,
    handle: Handle,
    mac: Cell<MacAddr>,
    mtu_bytes: usize,
    is_down: Cell<bool>,
    /// It leads to programs of this machine only.
    is_trusted: Cell<bool>,
    inbox: RefCell<VecDeque<Vec<u8>>>,
    arrived: Rc<Notify>,
}

impl Segment {
    fn plug(self: &Rc<Self>, handle: &Handle, number: u8, mtu_bytes: usize) -> Rc<SegmentPort> {
        let port = Rc::new(SegmentPort {
            segment: Rc::downgrade(self),
            handle: handle.clone(),
            mac: Cell::new(MacAddr([2, 0, 0, 0, 0, number])),
            mtu_bytes,
            is_down: Cell::new(false),
            is_trusted: Cell::new(false),
            inbox: RefCell::default(),
            arrived: Rc::default(),
        });
        self.ports.borrow_mut().push(Rc::clone(&port));
        port
    }

    /// Brings a frame, wherever it comes from, to whom it is for.
    fn carry(&self, handle: &Handle, from: MacAddr, bytes: &[u8]) {
        let destination = MacAddr(*bytes.first_chunk().unwrap());
        for port in self.ports.borrow().iter() {
            if port.mac.get() == from
                || destination != MacAddr::BROADCAST && destination != port.mac.get()
            {
                continue;
            }
            let (port, bytes, clock) = (Rc::clone(port), bytes.to_vec(), handle.clone());
            handle.spawn(async move {
                clock.sleep(LATENCY).await;
                if !port.is_down.get() {
                    port.inbox.borrow_mut().push_back(bytes);
                    port.arrived.notify_all();
                }
            });
        }
    }
}

impl Port for SegmentPort {
    fn name(&self) -> String {
        self.mac.get().to_string()
    }

    fn mac(&self) -> MacAddr {
        self.mac.get()
    }

    fn mtu_bytes(&self) -> usize {
        self.mtu_bytes
    }

    fn is_trusted(&self) -> bool {
        self.is_trusted.get()
    }

    fn transmit(&self, frames: &mut Vec<Frame>) {
        let Some(segment) = self.segment.upgrade() else { return };
        for frame in frames.drain(..) {
            let mut bytes = [frame.head.as_slice(), &frame.payload].concat();
            assert!(bytes.len() <= self.mtu_bytes + 14, "a frame larger than the MTU");
            bytes.resize(bytes.len().max(60), 0);
            segment.tape.borrow_mut().push(bytes.clone());
            let lost = self.handle.random_below(1000) < segment.loss_per_mille.get();
            if lost || self.is_down.get() {
                continue;
            }
            segment.carry(&self.handle, self.mac.get(), &bytes);
        }
    }

    fn readable(&self) -> LocalBoxFuture<'static, ()> {
        if !self.inbox.borrow().is_empty() {
            return futures::future::ready(()).boxed_local();
        }
        let arrived = Rc::clone(&self.arrived);
        async move { arrived.notified().await }.boxed_local()
    }

    fn receive(&self, sink: &mut dyn FnMut(&[u8])) -> usize {
        let batch: Vec<_> = self.inbox.borrow_mut().drain(..).collect();
        batch.iter().for_each(|bytes| sink(bytes));
        batch.len()
    }
}

/// A port behind which only plain AoE is understood, as on other people's targets.
struct PlainOnly(Rc<SegmentPort>);

impl Port for PlainOnly {
    fn name(&self) -> String {
        self.0.name()
    }

    fn mac(&self) -> MacAddr {
        self.0.mac()
    }

    fn mtu_bytes(&self) -> usize {
        self.0.mtu_bytes()
    }

    fn transmit(&self, frames: &mut Vec<Frame>) {
        self.0.transmit(frames);
    }

    fn readable(&self) -> LocalBoxFuture<'static, ()> {
        self.0.readable()
    }

    fn receive(&self, sink: &mut dyn FnMut(&[u8])) -> usize {
        self.0.receive(&mut |bytes| {
            if Header::parse(bytes).unwrap().command != Command::Session {
                sink(bytes);
            }
        })
    }
}

/// A world with a segment and an initiator on its port 1.
struct World {
    executor: Executor,
    handle: Handle,
    segment: Rc<Segment>,
    client_port: Rc<SegmentPort>,
    initiator: Initiator,
}

fn world(seed: u64, mtu_bytes: usize) -> World {
    world_as(seed, mtu_bytes, None)
}

fn world_as(seed: u64, mtu_bytes: usize, identity: Option<Rc<Identity>>) -> World {
    let executor = Executor::new(Instant::from_nanos(1), seed, Order::Seeded, || {});
    let handle = executor.handle();
    let segment = Rc::new(Segment::default());
    let client_port = segment.plug(&handle, 1, mtu_bytes);
    let options = InitiatorOptions { identity, ..InitiatorOptions::new(Incarnation([7; 16])) };
    let initiator = Initiator::new(handle.clone(), options);
    initiator.add_port(Rc::clone(&client_port) as Rc<dyn Port>);
    World { executor, handle, segment, client_port, initiator }
}

impl World {
    /// Runs until the future is done, at most for `limit` of virtual time.
    fn run<T: 'static>(&self, limit: Duration, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        self.handle.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        let end = self.handle.now() + limit;
        loop {
            self.executor.run_ready(usize::MAX);
            if let Some(value) = result.borrow_mut().take() {
                return value;
            }
            let next = self.executor.next_deadline().filter(|at| *at <= end);
            self.executor.set_now(next.expect("nothing happens any more in time"));
        }
    }

    fn wait(&self, time: Duration) {
        let sleep = self.handle.sleep(time);
        self.run(time * 2, sleep);
    }

    /// A node with one export on its own port; if not `ours`, it speaks plain AoE only.
    fn node(&self, id: u128, number: u8, device: Rc<dyn BlockDevice>, ours: bool) -> Node {
        self.node_as(id, number, device, ours, None)
    }

    fn node_as(
        &self,
        id: u128,
        number: u8,
        device: Rc<dyn BlockDevice>,
        ours: bool,
        key: Option<Rc<Identity>>,
    ) -> Node {
        let port = self.segment.plug(&self.handle, number, self.client_port.mtu_bytes);
        let identity = NodeIdentity { id: uuid::Uuid::from_u128(id), name: format!("node{id}") };
        let driver = TargetDriver::new(self.handle.clone(), identity);
        if let Some(key) = key {
            driver.set_identity(key);
        }
        driver.add_port(match ours {
            true => Rc::clone(&port) as Rc<dyn Port>,
            false => Rc::new(PlainOnly(Rc::clone(&port))),
        });
        let (adding, handle) = (driver.clone(), self.handle.clone());
        self.run(SECOND, async move {
            let device = match ours {
                true => {
                    ExportDevice::Fenced(Rc::new(FencedDevice::open(device, handle).await.unwrap()))
                }
                false => ExportDevice::Device(device),
            };
            adding
                .add_export(ExportSetup::new(device, ExportOptions::new(ADDRESS, "disk")))
                .await
                .unwrap();
        });
        Node { port, driver }
    }

    fn session_disk(&self) -> Rc<RemoteDisk> {
        session_disk_of(&self.initiator)
    }
}

fn session_disk_of(initiator: &Initiator) -> Rc<RemoteDisk> {
    initiator.disk(ADDRESS).filter(|disk| disk.has_sessions()).unwrap()
}

struct Node {
    port: Rc<SegmentPort>,
    driver: TargetDriver,
}

const ADDRESS: ShelfSlot = ShelfSlot { shelf: 9, slot: 2 };
const CLAIM: Claim = Claim {
    epoch: Epoch(3),
    owner: OwnerId(uuid::Uuid::from_u128(1)),
    force: false,
    trust: block::Trust::Unchanged,
};
/// Where data may be, behind what belongs to the target.
const START: u64 = 4096;

fn disk() -> Rc<MemoryDevice> {
    Rc::new(MemoryDevice::new(16384))
}

fn bytes(sectors: u64, value: u8) -> Buffer {
    Buffer::copy_of(&vec![value; sectors as usize * 512])
}

/// A card that is unplugged and comes back as another one used to be noticed with the next query,
/// up to ten seconds later: long after its disks were lost.
#[test]
fn another_card_under_a_port_is_noticed_at_once() {
    let world = world(3, 9000);
    let node = world.node(1, 10, disk(), true);
    world.run(5 * SECOND, world.initiator.next_disk_event());
    let remote = world.session_disk();
    world.run(SECOND, remote.claim(CLAIM)).unwrap();
    world.wait(21 * SECOND);
    for (port, number) in [(&world.client_port, 20), (&node.port, 21)] {
        port.mac.set(MacAddr([2, 0, 0, 0, 0, number]));
        port.arrived.notify_all();
        let read = remote.read(SectorRange::new(Lba(START), 8));
        world.run(SECOND, read).unwrap();
    }
    assert_eq!(remote.statistics().losses, 0);
}

#[test]
fn a_disk_is_found_claimed_written_and_let_go() {
    for mtu_bytes in [1500, 9000] {
        let world = world(1, mtu_bytes);
        let node = world.node(1, 10, disk(), true);
        let event = world.run(5 * SECOND, world.initiator.next_disk_event());
        assert_eq!(event, DiskEvent::Appeared(ADDRESS));
        let targets = world.initiator.targets();
        let Some(TargetKind::Session { export, .. }) = &targets[0].kind else {
            panic!("{targets:?}")
        };
        assert_eq!((export.sectors, export.node_name.as_str()), (16384, "node1"));
        let remote = world.session_disk();
        world.run(SECOND, remote.claim(CLAIM)).unwrap();
        let data = bytes(777, 5);
        let write = remote.write(Lba(START + 3), data.clone(), Durability::Volatile);
        let instance = world.run(SECOND, write).unwrap().instance;
        world.run(SECOND, remote.flush(instance)).unwrap();
        let range = SectorRange::new(Lba(START + 3), 777);
        assert_eq!(world.run(SECOND, remote.read(range)).unwrap().value, data);
        assert_eq!(world.run(SECOND, remote.renew()).unwrap().value.epoch, Epoch(3));
        assert!(remote.statistics().requests >= 5);
        world.initiator.forget(ADDRESS);
        assert_eq!(node.driver.exports()[0].sessions, 1);
        let pending = remote.read(range);
        drop(remote);
        assert_eq!(world.run(SECOND, pending), Err(IoError::Lost));
        world.wait(SECOND / 1000);
        assert_eq!(node.driver.exports()[0].sessions, 0, "the target was told");
    }
}

#[test]
fn dropping_everything_leaves_nothing() {
    let world = world(2, 9000);
    let node = world.node(1, 10, disk(), true);
    world.run(5 * SECOND, world.initiator.next_disk_event());
    let inner = Rc::downgrade(&world.initiator.inner);
    let World { executor, client_port, segment, initiator, .. } = world;
    drop(initiator);
    drop(node);
    segment.ports.borrow_mut().clear();
    while executor.run_one() {}
    assert!(inner.upgrade().is_none());
    executor.set_now(executor.handle().now() + 100 * SECOND);
    while executor.run_one() {}
    assert_eq!(Rc::strong_count(&client_port), 1, "a task still holds the port");
}

#[test]
fn a_node_that_goes_and_comes_is_lost_and_back() {
    let world = world(3, 9000);
    let node = world.node(1, 10, disk(), true);
    world.run(5 * SECOND, world.initiator.next_disk_event());
    let remote = world.session_disk();
    world.run(SECOND, remote.claim(CLAIM)).unwrap();
    node.port.is_down.set(true);
    let write = remote.write(Lba(START), bytes(8, 1), Durability::Durable);
    assert_eq!(world.run(2 * SECOND, write), Err(IoError::Lost));
    assert_eq!(world.run(SECOND, world.initiator.next_disk_event()), DiskEvent::Lost(ADDRESS));
    world.wait(30 * SECOND);
    node.port.is_down.set(false);
    let event = world.run(3 * SECOND, world.initiator.next_disk_event());
    assert!(matches!(event, DiskEvent::Back(ADDRESS, _)));
    let write = remote.write(Lba(START), bytes(8, 2), Durability::Durable);
    world.run(SECOND, write).unwrap();
}

/// A disk that is pulled and put back gets another name from the kernel, under the address that it has. Whoever goes by the
/// name didn't see it again until somebody had everything discovered anew, or its node was away for a minute.
#[test]
fn a_disk_that_comes_back_under_another_name_is_another_disk() {
    let world = world(6, 9000);
    let node = world.node(1, 10, disk(), true);
    world.run(5 * SECOND, world.initiator.next_disk_event());
    let before = world.session_disk();
    world.run(SECOND, before.claim(CLAIM)).unwrap();
    let (driver, handle) = (node.driver.clone(), world.handle.clone());
    let other = disk();
    let medium = Rc::clone(&other) as Rc<dyn BlockDevice>;
    world.run(SECOND, async move {
        driver.remove_export(driver.exports()[0].id).await;
        let device = FencedDevice::open(medium, handle).await.unwrap();
        let options = ExportOptions::new(ADDRESS, "renamed");
        driver
            .add_export(ExportSetup::new(ExportDevice::Fenced(Rc::new(device)), options))
            .await
            .unwrap();
    });
    let write = before.write(Lba(START), bytes(8, 1), Durability::Durable);
    assert_eq!(world.run(20 * SECOND, write), Err(IoError::Lost), "it is not that disk");
    // Within three queries.
    world.wait(30 * SECOND);
    let after = world.session_disk();
    assert!(!Rc::ptr_eq(&before, &after));
    let renewed = world.run(SECOND, after.renew()).unwrap().value;
    assert_eq!(renewed.epoch, Epoch::OBSERVER, "nobody's claim came along");
    let range = SectorRange::new(Lba(START), 8);
    assert_eq!(world.run(SECOND, after.read(range)).unwrap().value, bytes(8, 0));
}

#[test]
fn a_second_way_is_the_same_disk() {
    let world = world(4, 9000);
    let node = world.node(1, 10, disk(), true);
    let second = world.segment.plug(&world.handle, 11, 9000);
    node.driver.add_port(Rc::clone(&second) as Rc<dyn Port>);
    world.wait(3 * SECOND);
    let remote = world.session_disk();
    assert_eq!(remote.paths().len(), 2);
    node.port.is_down.set(true);
    let read = remote.read(SectorRange::new(Lba(0), 64));
    world.run(SECOND, read).unwrap();
    assert_eq!(remote.statistics().losses, 0);
}

#[test]
fn an_intruder_with_the_same_address_is_reported_and_not_used() {
    let world = world(5, 9000);
    let _node = world.node(1, 10, disk(), true);
    world.run(5 * SECOND, world.initiator.next_disk_event());
    let intruder_disk = disk();
    let _intruder = world.node(2, 20, Rc::clone(&intruder_disk) as Rc<dyn BlockDevice>, true);
    world.initiator.ask();
    let event = world.run(10 * SECOND, world.initiator.next_disk_event());
    assert!(matches!(event, DiskEvent::Conflict(_)), "{event:?}");
    assert_eq!(world.session_disk().paths().len(), 1);
    assert_eq!(world.initiator.disks().len(), 1);
}

#[test]
fn a_plain_target_is_a_plain_disk() {
    for mtu_bytes in [1500, 9000] {
        let world = world(6, mtu_bytes);
        let _node = world.node(1, 10, disk(), false);
        let event = world.run(5 * SECOND, world.initiator.next_disk_event());
        assert_eq!(event, DiskEvent::Appeared(ADDRESS));
        let remote = world.initiator.disk(ADDRESS).unwrap();
        assert!(!remote.has_sessions());
        assert_eq!(remote.geometry().sectors, 16384);
        world.segment.loss_per_mille.set(20);
        let data = bytes(300, 9);
        let write = remote.write(Lba(START + 1), data.clone(), Durability::Volatile);
        let instance = world.run(30 * SECOND, write).unwrap().instance;
        world.run(10 * SECOND, remote.flush(instance)).unwrap();
        let read = remote.read(SectorRange::new(Lba(START + 1), 300));
        assert_eq!(world.run(30 * SECOND, read).unwrap().value, data);
        assert_eq!(world.run(SECOND, remote.claim(CLAIM)), Err(IoError::Unsupported));
    }
}

/// Overlapping writes, all issued at once, over a lossy segment: the last call wins everywhere.
#[test]
fn order_holds_against_the_real_target() {
    for seed in 0..10 {
        let world = world(seed, if seed % 2 == 0 { 9000 } else { 1500 });
        let memory = disk();
        let _node = world.node(1, 10, Rc::clone(&memory) as Rc<dyn BlockDevice>, true);
        world.run(5 * SECOND, world.initiator.next_disk_event());
        let remote = world.session_disk();
        world.run(SECOND, remote.claim(CLAIM)).unwrap();
        world.segment.loss_per_mille.set(30);
        let mut model = vec![0; 256 * 512];
        let mut all = Vec::new();
        for value in 1..80u8 {
            let start = world.handle.random_below(200);
            let count = 1 + world.handle.random_below(56);
            model[start as usize * 512..(start + count) as usize * 512].fill(value);
            let durability =
                if value % 3 == 0 { Durability::Durable } else { Durability::Volatile };
            all.push(remote.write(Lba(START + start), bytes(count, value), durability));
        }
        for outcome in world.run(20 * SECOND, futures::future::join_all(all)) {
            outcome.unwrap();
        }
        let contents = memory.contents();
        let contents = contents.borrow();
        assert!(contents[START as usize * 512..][..model.len()] == model[..], "seed {seed}");
    }
}
