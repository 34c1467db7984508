#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::Duration;

use arrayvec::ArrayVec;
use block::Buffer;
use runtime::timeout;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::outgoing::WAITING_MAX;
use super::super::receive_ring::tests::FRAME_BYTES_MAX;
use super::*;
use crate::Reactor;

/// Two namespaces with a veth between them; gone with its drop.
struct Wire {
    names: [String; 2],
}

fn ip(arguments: &str) -> bool {
    run_tool("ip", arguments)
}

fn run_tool(tool: &str, arguments: &str) -> bool {
    Command::new(tool)
        .args(arguments.split(' '))
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl Wire {
    fn new(test: &str) -> Option<Wire> {
        let names = ["a", "b"].map(|end| format!("os-{test}-{end}-{}", std::process::id()));
        let wire = Wire { names };
        if !wire.names.iter().all(|name| ip(&format!("netns add {name}"))) {
            eprintln!("SKIPPED: can't make network namespaces (needs root and iproute2)");
            return None;
        }
        wire.plug(9000);
        Some(wire)
    }

    fn plug(&self, mtu: u32) {
        let [a, b] = &self.names;
        assert!(ip(&format!("-n {a} link add v0 type veth peer name v0 netns {b}")));
        for name in [a, b] {
            assert!(ip(&format!("-n {name} link set v0 mtu {mtu} up")));
        }
    }

    /// Lets the end `a` send no faster than `rate`, and wait with no more than `limit_bytes`.
    fn throttle(&self, rate: &str, burst_bytes: u32, limit_bytes: u32) {
        let qdisc = format!("tbf rate {rate} burst {burst_bytes} limit {limit_bytes}");
        let arguments = format!("-n {} qdisc replace dev v0 root {qdisc}", self.names[0]);
        assert!(run_tool("tc", &arguments), "tc {arguments}");
    }

    fn port(&self, handle: &ReactorHandle, end: usize, role: Role) -> PacketPort {
        let interface =
            InterfaceSpec { name: "v0".to_owned(), netns: Some(self.names[end].clone()) };
        PacketPort::open(handle, interface, role).unwrap()
    }

    /// A port at either end, of which each has heard the other.
    async fn joined(&self, handle: &ReactorHandle) -> (PacketPort, PacketPort) {
        let a = self.port(handle, 0, Role::Requests);
        let b = self.port(handle, 1, Role::Requests);
        exchange(handle, &a, &b, 0, 0).await;
        (a, b)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns del {name}"));
        }
    }
}

fn frame(from: &PacketPort, to: MacAddr, flags: u8, payload_bytes: usize) -> Frame {
    let mut head = ArrayVec::new();
    head.extend(to.0);
    head.extend(from.mac().0);
    head.extend([0x88, 0xa2, 0x10 | flags, 0]);
    head.extend([0; 20]);
    Frame::alone(head, Buffer::copy_of(&vec![0x5a; payload_bytes]))
}

/// Sends until it arrives: the link takes a moment to come up.
async fn exchange(
    handle: &ReactorHandle,
    from: &PacketPort,
    to: &PacketPort,
    flags: u8,
    payload_bytes: usize,
) -> Vec<u8> {
    let mut seen = Vec::new();
    loop {
        from.transmit(&mut vec![frame(from, to.mac(), flags, payload_bytes)]);
        let waited = timeout(handle.runtime(), Duration::from_millis(50), to.readable()).await;
        while to.receive(&mut |frame| seen = frame.to_vec()) > 0 {}
        if waited.is_ok() && !seen.is_empty() {
            return seen;
        }
    }
}

fn run(test: &str, scenario: impl AsyncFnOnce(ReactorHandle, Rc<Wire>) + 'static) {
    let Some(wire) = Wire::new(test).map(Rc::new) else { return };
    // A veth queues frames on the processor that sends them: a thread that was moved to another one in the
    // middle can overtake itself, which no cable does.
    let mut here = rustix::thread::CpuSet::new();
    here.set(rustix::thread::sched_getcpu());
    rustix::thread::sched_setaffinity(None, &here).unwrap();
    let (mut reactor, handle) = Reactor::new().unwrap();
    let limited = async move {
        let runtime = handle.runtime().clone();
        timeout(&runtime, Duration::from_secs(30), scenario(handle, wire)).await
    };
    reactor.run_until(limited).unwrap().unwrap();
}

#[test]
fn frames_cross_a_wire_and_each_role_hears_its_own() {
    run("roles", async |handle, wire| {
        let initiator = wire.port(&handle, 0, Role::Replies);
        let target = wire.port(&handle, 1, Role::Requests);
        let deaf = wire.port(&handle, 1, Role::Replies);
        assert_eq!(initiator.mtu_bytes(), 9000);
        assert!(initiator.mac() != target.mac() && target.mac() != MacAddr::default());
        let small = exchange(&handle, &initiator, &target, 0, 0).await;
        assert_eq!(small.len(), 60, "padded");
        let large = exchange(&handle, &initiator, &target, 0, 8192).await;
        assert_eq!((large.len(), large[36], large[8227]), (8228, 0x5a, 0x5a));
        let reply = exchange(&handle, &target, &initiator, 0x08, 512).await;
        assert_eq!(reply[14], 0x18);
        // A request to the initiator, and all that target heard, were not for these two.
        target.transmit(&mut vec![frame(&target, initiator.mac(), 0, 0)]);
        target.transmit(&mut vec![frame(&target, MacAddr([2, 9, 9, 9, 9, 9]), 0x08, 0)]);
        let marker = exchange(&handle, &target, &initiator, 0x08, 100).await;
        assert_eq!(marker.len(), 136, "only the marker was heard");
        assert_eq!(deaf.receive(&mut |_| {}), 0);
        assert_eq!(initiator.counters().receive_dropped, 0);
    });
}

#[test]
fn nothing_is_lost_or_mixed_up_when_the_ring_wraps() {
    run("wraps", async |handle, wire| {
        let (a, b) = wire.joined(&handle).await;
        // More than any ring has slots.
        for round in 0..400u32 {
            let mut frames: Vec<Frame> = (0..BATCH as u32)
                .map(|index| {
                    let mut frame = frame(&a, b.mac(), 0, 30 + index as usize);
                    frame.head[20..24].copy_from_slice(&(round * 1000 + index).to_be_bytes());
                    frame
                })
                .collect();
            a.transmit(&mut frames);
            let mut expected = 0..BATCH as u32;
            while !expected.is_empty() {
                b.readable().await;
                b.receive(&mut |frame| {
                    let index = expected.next().unwrap();
                    assert_eq!(frame.len(), 66 + index as usize);
                    assert_eq!(frame[20..24], (round * 1000 + index).to_be_bytes());
                });
            }
        }
        assert_eq!(b.counters().receive_dropped, 0);
    });
}

#[test]
fn too_long_frames_are_dropped_alone() {
    run("long", async |handle, wire| {
        let (a, b) = wire.joined(&handle).await;
        let before = a.counters();
        let mut frames: Vec<Frame> =
            [100, 20_000, 200].iter().map(|len| frame(&a, b.mac(), 0, *len)).collect();
        a.transmit(&mut frames);
        let mut seen = Vec::new();
        while seen.len() < 2 {
            b.readable().await;
            while b.receive(&mut |frame| seen.push(frame.len())) > 0 {}
        }
        assert_eq!(seen, [136, 236]);
        assert_eq!(a.counters().send_dropped - before.send_dropped, 1);
    });
}

fn numbered(from: &PacketPort, to: MacAddr, payload_bytes: usize, number: u32) -> Frame {
    let mut frame = frame(from, to, 0, payload_bytes);
    frame.head[20..24].copy_from_slice(&number.to_be_bytes());
    frame
}

fn take_numbers(port: &PacketPort, seen: &mut Vec<u32>) {
    let number = |frame: &[u8]| frame[20..24].first_chunk().map(|n| u32::from_be_bytes(*n));
    while port.receive(&mut |frame| seen.extend(number(frame))) > 0 {}
}

/// Sends numbered frames in three lists, all of which must arrive in order.
async fn all_arrive(a: &PacketPort, b: &PacketPort) {
    let before = a.counters();
    for part in [0..300u32, 300..301, 301..600] {
        let mut frames = part.map(|number| numbered(a, b.mac(), 1000, number)).collect();
        a.transmit(&mut frames);
        assert!(frames.is_empty());
    }
    let early = a.counters().sent - before.sent;
    assert!(early < 600, "the queue was to be too short for that");
    let mut seen = Vec::new();
    while seen.len() < 600 {
        b.readable().await;
        take_numbers(b, &mut seen);
    }
    assert!(seen.iter().copied().eq(0..600), "{seen:?}");
    let after = a.counters();
    assert_eq!(after.sent - before.sent, 600);
    assert_eq!(after.send_dropped, before.send_dropped);
}

#[test]
fn what_the_interfaces_queue_refuses_is_sent_later() {
    run("queue", async |handle, wire| {
        let (a, b) = wire.joined(&handle).await;
        wire.throttle("50mbit", 10_000, 20_000);
        all_arrive(&a, &b).await;
        all_arrive(&a, &b).await;
    });
}

#[test]
fn what_the_sockets_memory_has_no_room_for_is_sent_later() {
    run("memory", async |handle, wire| {
        let (a, b) = wire.joined(&handle).await;
        wire.throttle("50mbit", 10_000, 10_000_000);
        let fd = a.inner.watch.fd();
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, 20_000).unwrap();
        all_arrive(&a, &b).await;
        all_arrive(&a, &b).await;
    });
}

#[test]
fn the_next_turn_sends_what_waits() {
    run("turn", async |handle, wire| {
        let (a, b) = wire.joined(&handle).await;
        wire.throttle("8kbit", 10_000, 10_000);
        let frames = || (0..40).map(|number| numbered(&a, b.mac(), 1000, number)).collect();
        let before = a.counters();
        a.transmit(&mut frames());
        assert!(a.counters().sent - before.sent < 40);
        assert!(run_tool("tc", &format!("-n {} qdisc del dev v0 root", wire.names[0])));
        // Without a look by the task, which doesn't run before this does nothing.
        assert_eq!(a.receive(&mut |_| {}), 0);
        assert_eq!(a.counters().sent - before.sent, 40);
    });
}

#[test]
fn what_waits_is_bounded_and_lost_with_the_interface() {
    run("bounded", async |handle, wire| {
        let (a, b) = wire.joined(&handle).await;
        wire.throttle("8kbit", 10_000, 10_000);
        let before = a.counters();
        let count = WAITING_MAX as u64 + 500;
        a.transmit(&mut (0..count as u32).map(|n| numbered(&a, b.mac(), 1000, n)).collect());
        let after = a.counters();
        let sent = after.sent - before.sent;
        assert!(sent < 100, "{sent} sent");
        assert_eq!(after.send_dropped - before.send_dropped, 500 - sent);
        assert!(ip(&format!("-n {} link set v0 down", wire.names[0])));
        while a.counters().sent + a.counters().send_dropped
            < before.sent + before.send_dropped + count
        {
            handle.runtime().yield_now().await;
        }
        assert!(a.counters().sent - before.sent < 200, "the rest is not sent, but dropped");
        assert!(run_tool("tc", &format!("-n {} qdisc del dev v0 root", wire.names[0])));
        assert!(ip(&format!("-n {} link set v0 up", wire.names[0])));
        exchange(&handle, &a, &b, 0, 1).await;
    });
}

#[test]
fn a_frame_that_no_queue_takes_holds_up_the_others_for_a_while_only() {
    run("giant", async |handle, wire| {
        let (a, b) = wire.joined(&handle).await;
        // Frames longer than the bucket is deep are refused whatever happens.
        wire.throttle("50mbit", 3000, 100_000);
        let before = a.counters();
        let lens = [100, 8000, 100, 8000, 100];
        let frames = lens.iter().zip(0..).map(|(len, n)| numbered(&a, b.mac(), *len, n));
        a.transmit(&mut frames.collect());
        let mut seen = Vec::new();
        while seen.len() < 3 {
            b.readable().await;
            take_numbers(&b, &mut seen);
        }
        assert_eq!(seen, [0, 2, 4]);
        assert_eq!(a.counters().send_dropped - before.send_dropped, 2);
    });
}

#[test]
fn a_port_follows_its_interface_through_everything() {
    run("links", async |handle, wire| {
        let (a, b) = wire.joined(&handle).await;
        let [name, _] = &wire.names;
        assert!(ip(&format!("-n {name} link set v0 mtu 1400")));
        assert!(ip(&format!("-n {name} link set v0 address 02:00:00:00:00:77")));
        let watch = LinkWatch::open(&handle, Some(name)).unwrap();
        while a.mtu_bytes() != 1400 || a.mac() != MacAddr([2, 0, 0, 0, 0, 0x77]) {
            handle.runtime().yield_now().await;
        }
        assert!(ip(&format!("-n {name} link set v0 down")));
        watch.changed().await;
        while a.is_up() {
            handle.runtime().yield_now().await;
        }
        a.transmit(&mut vec![frame(&a, b.mac(), 0, 0)]);
        assert_eq!(a.receive(&mut |_| {}), 0);
        assert!(a.counters().send_dropped > 0);
        assert!(ip(&format!("-n {name} link set v0 up")));
        exchange(&handle, &a, &b, 0, 100).await;
        // Unplugged altogether, then another card under the same name.
        assert!(ip(&format!("-n {name} link del v0")));
        while a.is_up() || b.is_up() {
            a.receive(&mut |_| {});
            handle.runtime().yield_now().await;
        }
        a.transmit(&mut vec![frame(&a, b.mac(), 0, 0)]);
        wire.plug(4000);
        while !a.is_up() || !b.is_up() || a.mtu_bytes() != 4000 {
            handle.runtime().yield_now().await;
        }
        assert_eq!(exchange(&handle, &a, &b, 0, 3000).await.len(), 3036);
        assert_eq!(exchange(&handle, &b, &a, 0, 3000).await.len(), 3036);
    });
}

#[test]
fn an_interface_of_another_name_is_not_heard() {
    run("rename", async |handle, wire| {
        let (a, b) = wire.joined(&handle).await;
        let name = &wire.names[1];
        let interface = InterfaceSpec { name: "v9".to_owned(), netns: Some(name.clone()) };
        let other = PacketPort::open(&handle, interface, Role::Requests).unwrap();
        assert!(ip(&format!("-n {name} link set v0 down")));
        assert!(ip(&format!("-n {name} link set v0 name v9")));
        assert!(ip(&format!("-n {name} link set v9 up")));
        while b.is_up() || !other.is_up() {
            handle.runtime().yield_now().await;
        }
        let from = other.mac();
        while exchange(&handle, &a, &other, 0, 10).await.len() != 60 {}
        assert_eq!(b.receive(&mut |_| {}), 0, "the former port hears nothing");
        b.transmit(&mut vec![frame(&b, from, 0, 0)]);
        assert!(b.counters().send_dropped > 0, "and says nothing");
        assert!(ip(&format!("-n {name} link set v9 down")));
        assert!(ip(&format!("-n {name} link set v9 name v0")));
        assert!(ip(&format!("-n {name} link set v0 up")));
        while !b.is_up() || other.is_up() {
            handle.runtime().yield_now().await;
        }
        exchange(&handle, &a, &b, 0, 100).await;
        assert_eq!(other.receive(&mut |_| {}), 0);
    });
}

#[test]
fn an_absent_interface_is_waited_for_and_an_absent_namespace_is_an_error() {
    run("absent", async |handle, wire| {
        let interface =
            InterfaceSpec { name: "later0".to_owned(), netns: Some(wire.names[0].clone()) };
        let port = PacketPort::open(&handle, interface, Role::Requests).unwrap();
        assert!(!port.is_up());
        assert!(ip(&format!("-n {} link add later0 type veth peer name later1", wire.names[0])));
        while port.mac() == MacAddr::default() {
            // Whoever listens must hear of it, though no frame comes.
            port.readable().await;
        }
        let nowhere = InterfaceSpec { name: "v0".to_owned(), netns: Some("os-no-such".to_owned()) };
        let error = PacketPort::open(&handle, nowhere, Role::Requests).err().unwrap();
        assert!(error.to_string().contains("os-no-such"), "{error}");
        let links = crate::net::netlink::links(Some(&wire.names[0])).unwrap();
        let v0 = links.iter().find(|link| link.name == "v0").unwrap();
        assert!(v0.up && v0.mtu_bytes == 9000 && v0.mac.is_some(), "{v0:?}");
    });
}

/// Whether the kernel has anything to say about the port's socket.
fn is_silent(port: &PacketPort) -> bool {
    let fd = port.inner.watch.fd();
    let mut watched = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 0
}

async fn set_mtu(handle: &ReactorHandle, wire: &Wire, port: &PacketPort, mtu_bytes: usize) {
    for name in &wire.names {
        assert!(ip(&format!("-n {name} link set v0 mtu {mtu_bytes}")));
    }
    while port.inner.link.get().unwrap().mtu_bytes != mtu_bytes {
        handle.runtime().yield_now().await;
    }
}

#[test]
fn without_memory_for_a_larger_ring_what_fits_the_former_is_heard() {
    run("cramped", async |handle, wire| {
        let a = wire.port(&handle, 0, Role::Requests);
        let b = wire.port(&handle, 1, Role::Requests);
        set_mtu(&handle, &wire, &b, 2000).await;
        exchange(&handle, &a, &b, 0, 0).await;
        drop(b);
        // Opened with less, so that it needs more.
        let b = wire.port(&handle, 1, Role::Requests);
        FRAME_BYTES_MAX.set(3000);
        set_mtu(&handle, &wire, &b, 9000).await;
        assert!(b.mtu_bytes() >= 2000 && b.mtu_bytes() < 3000, "{}", b.mtu_bytes());
        assert!(Port::is_up(&b));
        assert_eq!(exchange(&handle, &a, &b, 0, 1900).await.len(), 1936);
        while b.receive(&mut |_| {}) > 0 {}
        assert!(is_silent(&b));
        // News of the link are a reason to try, and so is time.
        FRAME_BYTES_MAX.set(5000);
        set_mtu(&handle, &wire, &b, 4000).await;
        assert_eq!(b.mtu_bytes(), 4000);
        set_mtu(&handle, &wire, &b, 8000).await;
        assert!(b.mtu_bytes() < 5000);
        FRAME_BYTES_MAX.set(usize::MAX);
        while b.mtu_bytes() != 8000 {
            b.readable().await;
        }
        assert_eq!(exchange(&handle, &a, &b, 0, 7000).await.len(), 7036);
    });
}

#[test]
fn without_memory_for_any_ring_the_port_is_down_and_at_rest() {
    run("deaf", async |handle, wire| {
        let a = wire.port(&handle, 0, Role::Requests);
        set_mtu(&handle, &wire, &a, 2000).await;
        let b = wire.port(&handle, 1, Role::Requests);
        exchange(&handle, &a, &b, 0, 0).await;
        FRAME_BYTES_MAX.set(0);
        set_mtu(&handle, &wire, &b, 9000).await;
        assert!(!Port::is_up(&b));
        a.transmit(&mut vec![frame(&a, b.mac(), 0, 100)]);
        assert_eq!(b.receive(&mut |_| {}), 0);
        assert!(is_silent(&b), "what nobody takes must not wake anybody");
        let sent = b.counters().sent;
        b.transmit(&mut vec![frame(&b, a.mac(), 0, 100)]);
        assert_eq!(b.counters().sent, sent + 1, "it can speak still");
        FRAME_BYTES_MAX.set(usize::MAX);
        while !Port::is_up(&b) {
            b.readable().await;
        }
        assert_eq!(exchange(&handle, &a, &b, 0, 7000).await.len(), 7036);
    });
}

#[test]
fn an_interface_that_was_replaced_by_its_like_is_bound_to_again() {
    run("twin", async |handle, wire| {
        let [a, b] = &wire.names;
        let replace = || {
            let v0 =
                |number: u32| format!("v0 index {number} address 02:00:00:00:10:{number} mtu 4000");
            assert!(ip(&format!("-n {a} link del v0")));
            let peer = format!("{} netns {b}", v0(72));
            assert!(ip(&format!("-n {a} link add {} type veth peer name {peer}", v0(71))));
            assert!(ip(&format!("-n {a} link set v0 up")) && ip(&format!("-n {b} link set v0 up")));
        };
        replace();
        let a = wire.port(&handle, 0, Role::Requests);
        let b = wire.port(&handle, 1, Role::Requests);
        for _ in 0..3 {
            exchange(&handle, &a, &b, 0, 100).await;
            exchange(&handle, &b, &a, 0, 100).await;
            // The ports look at their interfaces when this test waits: here they can't.
            let before = a.inner.link.get().unwrap();
            replace();
            let after = link::query(a.inner.watch.fd(), "v0").unwrap();
            assert_eq!((before.index, before.mac), (after.index, after.mac));
        }
        exchange(&handle, &b, &a, 0, 3000).await;
    });
}
