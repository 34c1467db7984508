use block::Buffer;

use super::*;

fn frame(to: MacAddr, from: MacAddr, number: u8, payload_bytes: usize) -> Frame {
    let mut head = arrayvec::ArrayVec::new();
    head.try_extend_from_slice(&to.0).unwrap();
    head.try_extend_from_slice(&from.0).unwrap();
    head.try_extend_from_slice(&[0x88, 0xa2, number]).unwrap();
    Frame::alone(head, Buffer::zeroed(payload_bytes))
}

/// Sends `count` frames over a pair of cables of `quality`; returns the numbers that arrived.
fn sent(quality: Quality, count: u8, payload_bytes: usize, seed: u64) -> Vec<u8> {
    let world = World::new(seed, false);
    let network = Network::new(&world);
    let (a, b) = (network.plug("a", 1500), network.plug("b", 1500));
    b.set_quality(quality);
    let (from, to) = (network.open(&a), network.open(&b));
    let director = world.director();
    world
        .run(Duration::from_secs(3600), async move {
            for number in 0..count {
                from.transmit(&mut vec![frame(b.mac(), a.mac(), number, payload_bytes)]);
                director.sleep(Duration::from_millis(1)).await;
            }
            director.sleep(Duration::from_secs(600)).await;
            let mut seen = Vec::new();
            while to.receive(&mut |bytes| seen.push(bytes[14])) > 0 {}
            seen
        })
        .unwrap()
}

#[test]
fn a_good_cable_delivers_all_in_order_and_mtu_counts() {
    let all: Vec<u8> = (0..50).collect();
    assert_eq!(sent(Quality::GOOD, 50, 1485, 1), all);
    assert!(sent(Quality::GOOD, 50, 1500, 1).is_empty());
}

#[test]
fn a_bad_cable_loses_doubles_and_reorders() {
    let quality = Quality { loss: 0.1, duplication: 0.1, stragglers: 0.1, ..Quality::GOOD };
    let seen = sent(quality, 200, 0, 1);
    assert!(seen.len() > 150);
    assert!(!seen.is_sorted());
    assert!((0..200).any(|number| !seen.contains(&number)));
    let mut unique = seen.clone();
    unique.sort_unstable();
    unique.dedup();
    assert!(unique.len() < seen.len());
    assert_eq!(seen, sent(quality, 200, 0, 1));
}

#[test]
fn a_queue_is_bounded() {
    let world = World::new(3, false);
    let network = Network::new(&world);
    let (a, b) = (network.plug("a", 9000), network.plug("b", 9000));
    let (from, director) = (network.open(&a), world.director());
    let counters = Rc::clone(&network);
    world
        .run(Duration::from_secs(10), async move {
            let mut frames = (0..20_000).map(|_| frame(b.mac(), a.mac(), 0, 0)).collect();
            from.transmit(&mut frames);
            director.sleep(Duration::from_secs(1)).await;
            assert_eq!(b.queue.borrow().len(), RECEIVE_QUEUE_MAX);
        })
        .unwrap();
    assert!(counters.counters().overflowed > 0);
}

/// Frames that two machines send to a third at the same time, and how many of them arrive within
/// `time`.
fn many_to_one(frames_each: usize, time: Duration) -> (usize, u64) {
    let world = World::new(3, false);
    let network = Network::new(&world);
    let [a, b, to] = ["a", "b", "to"].map(|name| network.plug(name, 9000));
    [&a, &b, &to].into_iter().for_each(|station| station.set_line(Some(Line::GIGABIT)));
    let (ports, director) = ([network.open(&a), network.open(&b)], world.director());
    let receiver = network.open(&to);
    let arrived = world
        .run(Duration::from_secs(10), async move {
            for port in ports {
                let one = || frame(to.mac(), port.mac(), 0, 8000);
                port.transmit(&mut (0..frames_each).map(|_| one()).collect());
            }
            director.sleep(time).await;
            let mut arrived = 0;
            while receiver.receive(&mut |_| arrived += 1) > 0 {}
            arrived
        })
        .unwrap();
    (arrived, network.counters().overflowed)
}

#[test]
fn the_port_to_one_receiver_is_the_limit_of_many_senders() {
    // 8,039 bytes on the wire with all that Ethernet adds: 64.3 us each. Two senders fill a queue of
    // 512 KiB half as fast as one cable carries.
    let (arrived, lost) = many_to_one(1000, Duration::from_millis(10));
    assert!((150..=155).contains(&arrived), "{arrived}");
    assert!(lost > 0);
    let (arrived, lost) = many_to_one(1000, Duration::from_secs(1));
    assert_eq!(arrived as u64 + lost, 2000);
    assert!((1000..1100).contains(&arrived), "{arrived}");
    assert_eq!(many_to_one(60, Duration::from_secs(1)), (120, 0));
}
