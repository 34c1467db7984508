//! Whole transfers: the file arrives as it is, over whichever network, and over a good one without a packet too much.

use proptest::prelude::*;

use super::client::{Asked, Manner};
use super::network::{Network, Weather};
use super::*;

const NOTHING: Asked = Asked { blksize: None, windowsize: None, timeout: None, tsize: false };

/// Over a network without faults.
fn good(asked: Asked, size: u64) -> Network {
    Network::new(asked, Manner::Eager, size, Weather::default())
}

/// To its end, which is a good one.
fn run(mut network: Network, size: u64) -> Network {
    network.run();
    let client = &network.client;
    assert!(client.is_done && client.received == size, "{:?} {}", client.failed, client.received);
    assert!(network.server.is_empty() && network.server.deadline().is_none());
    network.server.check();
    network
}

fn each_sent(network: &Network, times: u32) -> bool {
    network.blocks.values().all(|count| *count == times)
}

#[test]
fn over_a_good_network_each_block_is_sent_once() {
    for windowsize in [None, Some(1), Some(2), Some(7), Some(64), Some(9999)] {
        for size in [0, 1, 511, 512, 513, 1024, 512 * 64, 512 * 128, 99_999] {
            let network = run(good(Asked { windowsize, ..NOTHING }, size), size);
            assert!(each_sent(&network, 1) && network.ends == [End::Complete]);
            assert_eq!(network.data_packets(), size / 512 + 1, "{size} {windowsize:?}");
            assert!(network.now < at(1000), "nobody waited for a timeout");
        }
    }
}

#[test]
fn the_size_is_told_if_asked_for() {
    for size in [0, 77, 70_000] {
        assert_eq!(run(good(NOTHING, size), size).client.told_size, None);
        let asked = Asked { tsize: true, ..NOTHING };
        assert_eq!(run(good(asked, size), size).client.told_size, Some(size));
    }
}

/// RFC 1123, 4.2.3.1: if duplicates of acknowledgements made data be sent again, all would be sent twice.
#[test]
fn the_apprentice_is_no_sorcerer() {
    let size = 512 * 1000 + 1;
    let mut network = good(NOTHING, size);
    network.doubles_acks = true;
    let network = run(network, size);
    assert!(each_sent(&network, 1), "{} packets", network.data_packets());
    // With options, too.
    let asked = Asked { blksize: Some(1024), tsize: true, ..NOTHING };
    let mut network = good(asked, size);
    network.doubles_acks = true;
    assert!(each_sent(&run(network, size), 1));
    // With windows a duplicate is believed at most every other time.
    for windowsize in [2, 16, 64] {
        let asked = Asked { windowsize: Some(windowsize), ..NOTHING };
        let mut network = good(asked, size);
        network.doubles_acks = true;
        let network = run(network, size);
        let packets = network.data_packets();
        assert!(packets <= 1501 + 2 * u64::from(windowsize), "{packets} packets with {windowsize}");
    }
}

/// What comes twice by chance must not echo up to the end. It does in windows if each acknowledgement within one is
/// taken for a loss: 14 times the packets here.
#[test]
fn duplicates_have_no_echo() {
    let size = 512 * 10_000 + 1;
    for windowsize in [None, Some(4), Some(16), Some(64)] {
        for manner in [Manner::Eager, Manner::Quiet] {
            for (doubled, late) in [(1, 0), (0, 1)] {
                let asked = Asked { windowsize, ..NOTHING };
                let weather = Weather { doubled, late, seed: 5, lost: 0 };
                let network = run(Network::new(asked, manner, size, weather), size);
                let packets = network.data_packets();
                assert!(windowsize.is_some() || packets == 10_001, "{packets} packets");
                assert!(packets < 20_000, "{packets} packets with {windowsize:?}");
            }
        }
    }
}

#[test]
fn a_lost_block_of_a_window_costs_no_timeout() {
    let size = 512 * 1000;
    let asked = Asked { windowsize: Some(16), ..NOTHING };
    for lost in [0, 1, 14, 15, 16, 17, 31, 32, 33, 47, 500, 998, 1000] {
        for manner in [Manner::Eager, Manner::Quiet] {
            let mut network = Network::new(asked, manner, size, Weather::default());
            network.loses = vec![512 * lost];
            let network = run(network, size);
            // Behind the last block of a window comes nothing by which the client could know.
            let is_last = lost % 16 == 15 || lost == 1000;
            assert_eq!(network.now >= at(1000), is_last, "{lost} {manner:?}");
            assert!(network.data_packets() <= 1001 + 16, "{lost}: {}", network.data_packets());
        }
    }
}

#[test]
fn a_client_that_asks_for_more_than_it_has_room_for_is_served() {
    let size = 512 * 10_000;
    let asked = Asked { windowsize: Some(64), ..NOTHING };
    for manner in [Manner::Eager, Manner::Quiet] {
        for room in [2, 8, 16, 31, 32, 33, 48] {
            let mut network = Network::new(asked, manner, size, Weather::default());
            network.room = Some(room);
            let network = run(network, size);
            // With a doubt each time it would be a minute.
            assert!(network.now < at(7000), "{room} {manner:?}: {:?}", network.now);
        }
    }
}

#[test]
fn numbers_of_blocks_begin_anew_without_options_too() {
    let size = 512 * 65_536 + 100;
    let network = run(good(NOTHING, size), size);
    assert!(each_sent(&network, 1) && network.blocks.len() == 65_537);
}

fn asked() -> impl Strategy<Value = Asked> {
    let blksize = proptest::option::of(prop_oneof![8..40_u16, 8..2000_u16, Just(65464)]);
    let windowsize = proptest::option::of(prop_oneof![1..6_u16, 1..200_u16, Just(65535)]);
    let timeout = proptest::option::of(1..=255_u8);
    (blksize, windowsize, timeout, any::<bool>()).prop_map(
        |(blksize, windowsize, timeout, tsize)| Asked { blksize, windowsize, timeout, tsize },
    )
}

fn weather() -> impl Strategy<Value = Weather> {
    let chances = prop_oneof![
        Just((0, 0, 0)),
        (0..20_u64, Just(0), Just(0)),
        (Just(0), 0..30_u64, 0..30_u64),
        (0..15_u64, 0..20_u64, 0..20_u64)
    ];
    (chances, any::<u64>()).prop_map(|((lost, doubled, late), seed)| Weather {
        lost,
        doubled,
        late,
        seed,
    })
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![Just(Manner::Eager), Just(Manner::Quiet)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_file_arrives_as_it_is(
        asked in asked(),
        manner in manner(),
        size in prop_oneof![0..3000_u64, 0..40_000_u64, (0..80_u64).prop_map(|n| n * 512)],
        exact in any::<bool>(),
        weather in weather(),
    ) {
        let blksize = u64::from(asked.blksize.unwrap_or(512).min(1468));
        let size = if exact { size - size % blksize } else { size };
        let network = run(Network::new(asked, manner, size, weather), size);
        prop_assert_eq!(network.client.told_size, asked.tsize.then_some(size));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn a_file_of_many_blocks_arrives_as_it_is(
        blksize in 8..12_u16,
        windowsize in 2..100_u16,
        manner in manner(),
        more in 0..50_000_u64,
        seed in any::<u64>(),
    ) {
        let asked = Asked { blksize: Some(blksize), windowsize: Some(windowsize), ..NOTHING };
        let size = 65_530 * u64::from(blksize) + more;
        let weather = Weather { lost: 1, doubled: 1, late: 1, seed };
        run(Network::new(asked, manner, size, weather), size);
    }
}
