#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

fn host(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn lease(number: u8, address: u8) -> Lease {
    Lease { mac: mac(number), address: host(address), left: HOUR }
}

fn remembered(number: u8, address: u8, until: u64) -> Remembered {
    Remembered { mac: mac(number), address: host(address), until: at(until) }
}

/// Addresses 10 to 13, of which 11 is ours; the machine 200 always has 50.
fn table() -> Leases {
    let range = Range::new(host(10), host(13), 24).unwrap();
    Leases::new(range, [(mac(200), host(50))].into(), vec![host(11)])
}

/// What is remembered of a table, in another one.
fn restarted(table: &Leases) -> Leases {
    let mut again = self::table();
    table.all().into_iter().for_each(|lease| again.recall(lease));
    again
}

#[test]
fn a_range_is_of_one_network() {
    let range = |first: [u8; 4], last: [u8; 4], prefix| {
        Range::new(first.into(), last.into(), prefix).map(|range| range.netmask())
    };
    assert_eq!(range([10, 0, 0, 1], [10, 0, 0, 254], 24), Ok([255, 255, 255, 0].into()));
    assert_eq!(range([10, 0, 0, 9], [10, 0, 0, 8], 24), Err(RangeError::Reversed));
    assert_eq!(range([10, 0, 0, 0], [10, 0, 0, 8], 24), Err(RangeError::OtherNetwork));
    assert_eq!(range([10, 0, 0, 1], [10, 0, 0, 255], 24), Err(RangeError::OtherNetwork));
    assert_eq!(range([10, 0, 0, 1], [10, 0, 1, 8], 24), Err(RangeError::OtherNetwork));
    assert_eq!(range([10, 0, 0, 1], [10, 9, 0, 0], 8), Err(RangeError::TooLong));
    assert_eq!(range([10, 0, 0, 1], [10, 0, 0, 1], 32), Err(RangeError::OtherNetwork));
    assert_eq!(range([10, 0, 0, 1], [10, 0, 0, 2], 200), Err(RangeError::OtherNetwork));
}

#[test]
fn every_address_of_a_range_is_looked_at_wherever_that_begins() {
    let range = Range::new(host(10), host(14), 24).unwrap();
    for begin in [0, 3, 5, u32::MAX - 2, u32::MAX] {
        let mut all: Vec<_> = range.all_from(begin).collect();
        all.sort();
        assert_eq!(all, (10..=14).map(host).collect::<Vec<_>>(), "{begin}");
    }
}

#[test]
fn a_machine_gets_the_same_address_again() {
    let mut table = table();
    let first = table.offer(at(0), mac(1), None).unwrap();
    assert!(table.bind(at(1), Lease { mac: mac(1), address: first, left: HOUR }).is_some());
    // Also when its lease is over, where nobody needed it meanwhile; and when all was forgotten.
    assert_eq!(table.offer(at(9000), mac(1), None), Some(first));
    assert_eq!(self::table().offer(at(0), mac(1), None), Some(first));
    assert!(table.bind(at(9001), Lease { mac: mac(1), address: first, left: HOUR }).is_some());
    let other = host(if first == host(10) { 12 } else { 10 });
    assert!(!table.release(at(9002), mac(1), other) && !table.release(at(9002), mac(2), first));
    assert!(table.release(at(9002), mac(1), first) && !table.release(at(9003), mac(1), first));
    assert_eq!(table.offer(at(9003), mac(1), None), Some(first));
}

#[test]
fn an_address_that_somebody_has_is_nobody_elses() {
    let mut table = table();
    assert!(table.bind(at(0), lease(1, 10)).is_some());
    assert!(table.bind(at(3599), lease(2, 10)).is_none());
    assert_ne!(table.offer(at(3599), mac(2), Some(host(10))), Some(host(10)));
    assert!(table.bind(at(3600), lease(2, 10)).is_some());
    assert_eq!(table.all(), [remembered(2, 10, 7200)]);
}

#[test]
fn some_addresses_are_never_given() {
    let mut table = table();
    for (number, address) in [(1, 11), (1, 9), (1, 14), (1, 50), (200, 10)] {
        assert!(table.bind(at(0), lease(number, address)).is_none(), "{address}");
    }
    assert_eq!(table.offer(at(0), mac(200), Some(host(10))), Some(host(50)));
    assert!(table.bind(at(0), lease(200, 50)).is_some());
}

#[test]
fn a_full_range_takes_what_was_free_the_longest() {
    let mut table = table();
    for (second, (number, address)) in [(1, 12), (2, 10), (3, 13)].into_iter().enumerate() {
        assert!(table.bind(at(second as u64), lease(number, address)).is_some());
    }
    assert_eq!(table.offer(at(100), mac(4), None), None);
    assert_eq!(table.offer(at(4000), mac(4), None), Some(host(12)));
    // That is his now, so its former owner gets another one.
    assert_eq!(table.offer(at(4000), mac(1), None), Some(host(10)));
}

/// A clock that was behind when leases were written made them look over after a restart. They were forgotten, and the
/// addresses of machines that ran were offered to others. One that looks over is given last, and remembered on.
#[test]
fn what_looks_over_after_a_restart_is_given_to_others_last() {
    let mut table = table();
    let former = [remembered(1, 12, 5000), remembered(2, 10, 4000)];
    former.iter().for_each(|lease| table.recall(*lease));
    assert_eq!(table.all(), [former[1], former[0]], "they outlast another restart");
    // Not even to who wants it, as long as there is one that nobody has had.
    assert_eq!(table.offer(at(9000), mac(3), Some(host(12))), Some(host(13)));
    assert_eq!(table.offer(at(9000), mac(1), None), Some(host(12)));
    assert_eq!(table.offer(at(9000), mac(4), None), Some(host(10)), "the one that was over first");
    assert_eq!(table.offer(at(9000), mac(5), None), None);
}

#[test]
fn what_is_remembered_takes_nothing_from_who_has_it() {
    let mut table = table();
    assert!(table.bind(at(0), lease(1, 10)).is_some());
    for (number, address) in [(2, 10), (2, 11), (2, 50), (200, 12)] {
        table.recall(remembered(number, address, 9000));
    }
    let all = [remembered(1, 10, 3600), remembered(200, 12, 9000), remembered(2, 50, 9000)];
    assert_eq!(table.all(), all);
}

/// The address was promised to a machine while another one had it: it was forgotten at the restart that takes, and both
/// had it.
#[test]
fn an_address_that_is_promised_is_its_owners_until_his_lease_is_over() {
    let mut table = table();
    table.recall(remembered(2, 50, 100));
    let so_long = table.offer(at(0), mac(200), None).unwrap();
    assert!(so_long != host(50) && table.misses(at(0), mac(200)) == Some(host(50)));
    assert!(table.bind(at(1), Lease { mac: mac(200), address: so_long, left: HOUR }).is_some());
    // It isn't longer, and as long as it was said to be.
    assert_eq!(table.bind(at(2), lease(2, 50)), Some(Duration::from_secs(98)));
    assert_eq!(table.bind(at(41), lease(2, 50)), None, "too short for a lease");
    assert_eq!(table.offer(at(3), mac(2), None).map(|other| other == host(50)), Some(false));
    table = restarted(&table);
    assert!(table.offer(at(4), mac(200), None).is_some_and(|other| other != host(50)));
    // It is told so when it renews, and asks anew.
    assert!(table.bind(at(101), Lease { mac: mac(200), address: so_long, left: HOUR }).is_none());
    assert_eq!(table.offer(at(101), mac(200), Some(so_long)), Some(host(50)));
    assert!(table.misses(at(101), mac(200)).is_none());
    assert!(table.bind(at(101), Lease { mac: mac(3), address: so_long, left: HOUR }).is_none());
    // Somebody uses it whom nobody gave it.
    assert!(
        table.bind(at(102), lease(200, 50)).is_some() && table.decline(at(103), mac(200), host(50))
    );
    let other = table.offer(at(104), mac(200), None).unwrap();
    assert_ne!(other, host(50));
    let binds = |table: &mut Leases, second| {
        table.bind(at(second), Lease { mac: mac(200), address: other, left: HOUR })
    };
    assert!(binds(&mut table, 105).is_some() && binds(&mut table, 2000).is_some());
    // Now and then it tries, and has what it had instead where that fails.
    assert_eq!(binds(&mut table, 103 + 4 * 3600), None);
    assert!(binds(&mut table, 102 + 4 * 3600).is_some());
    assert_eq!(table.offer(at(103 + 4 * 3600), mac(200), Some(other)), Some(host(50)));
    assert!(table.decline(at(104 + 4 * 3600), mac(200), host(50)));
    assert_eq!(table.offer(at(105 + 4 * 3600), mac(200), None), Some(other));
}

/// The addresses of two machines are exchanged, and both run: neither loses its own before it is over, nor gets it again.
#[test]
fn two_that_are_promised_each_others_address_wait_for_each_other() {
    let range = Range::new(host(10), host(13), 24).unwrap();
    let fixed = [(mac(1), host(50)), (mac(2), host(51))];
    let mut table = Leases::new(range, fixed.into(), vec![host(11)]);
    table.recall(remembered(1, 51, 1000));
    table.recall(remembered(2, 50, 1000));
    for (of, has) in [(1, 51), (2, 50)] {
        assert_eq!(table.bind(at(0), lease(of, has)), Some(Duration::from_secs(1000)));
    }
    for (of, has) in [(1, 51), (2, 50)] {
        assert_eq!(table.bind(at(1000), lease(of, has)), None);
    }
    assert_eq!(table.offer(at(1000), mac(1), None), Some(host(50)));
    assert_eq!(table.offer(at(1000), mac(2), None), Some(host(51)));
}

#[test]
fn an_offer_that_nobody_takes_is_over_in_a_minute() {
    let mut table = table();
    let offers: Vec<_> = (1..=3).map(|of| table.offer(at(0), mac(of), None).unwrap()).collect();
    assert_eq!(table.offer(at(59), mac(4), None), None);
    assert!(table.offer(at(60), mac(4), None).is_some_and(|offered| offers.contains(&offered)));
    assert!(table.all().is_empty());
}

#[test]
fn who_declines_gets_another_address_and_can_decline_only_his_own() {
    let mut table = table();
    let first = table.offer(at(0), mac(1), None).unwrap();
    assert!(!table.decline(at(0), mac(2), first));
    assert!(table.decline(at(0), mac(1), first));
    let second = table.offer(at(1), mac(1), Some(first)).unwrap();
    assert_ne!(second, first);
    assert!(table.bind(at(599), Lease { mac: mac(3), address: first, left: HOUR }).is_none());
    assert!(table.bind(at(600), Lease { mac: mac(3), address: first, left: HOUR }).is_some());
}

#[test]
fn who_chooses_another_server_keeps_what_he_has_taken() {
    let mut table = table();
    assert!(table.bind(at(0), lease(1, 10)).is_some());
    table.withdraw(at(1), mac(1));
    assert!(table.bind(at(2), lease(2, 10)).is_none());
    let offered = table.offer(at(2), mac(3), None).unwrap();
    table.withdraw(at(3), mac(3));
    assert!(table.bind(at(3), Lease { mac: mac(4), address: offered, left: HOUR }).is_some());
}

#[derive(Clone, Debug)]
enum Step {
    Offer(u8, Option<u8>),
    Bind(u8, u8),
    Release(u8, u8),
    Withdraw(u8),
    Decline(u8, u8),
    Pass(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let machine = || prop_oneof![0_u8..8, Just(200)];
    let address = || prop_oneof![4 => 8_u8..16, 1 => Just(50)];
    prop_oneof![
        (machine(), prop::option::of(address())).prop_map(|(of, wants)| Step::Offer(of, wants)),
        (machine(), address()).prop_map(|(of, address)| Step::Bind(of, address)),
        (machine(), address()).prop_map(|(of, address)| Step::Release(of, address)),
        machine().prop_map(Step::Withdraw),
        (machine(), address()).prop_map(|(of, address)| Step::Decline(of, address)),
        (0_u64..3000).prop_map(Step::Pass),
        Just(Step::Restart),
    ]
}

proptest! {
    /// Whatever is asked: no two have one address at a time, nobody has two, and the table doesn't grow.
    #[test]
    fn each_address_has_one_owner(steps in prop::collection::vec(step(), 0..200)) {
        let (mut table, mut now) = (table(), 0);
        // Who was told that he has what, and until when.
        let mut told: Vec<(MacAddr, Ipv4Addr, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Offer(of, wants) => {
                    let offered = table.offer(at(now), mac(of), wants.map(host));
                    if let Some(address) = offered {
                        let is_anothers = told.iter().any(|(by, has, until)| {
                            *has == address && *by != mac(of) && *until > now
                        });
                        prop_assert!(!is_anothers, "{address} is offered to {of}");
                    }
                }
                Step::Bind(of, address) => {
                    let lease = lease(of, address);
                    if let Some(left) = table.bind(at(now), lease) {
                        told.retain(|(by, ..)| *by != mac(of));
                        let is_anothers = told.iter().any(|(_, has, until)| {
                            *has == lease.address && *until > now
                        });
                        prop_assert!(!is_anothers, "{address} is given to {of}");
                        told.push((mac(of), lease.address, now + left.as_secs()));
                    }
                }
                Step::Release(of, address) => {
                    if table.release(at(now), mac(of), host(address)) {
                        told.retain(|(by, ..)| *by != mac(of));
                    }
                }
                Step::Withdraw(of) => table.withdraw(at(now), mac(of)),
                Step::Decline(of, address) => {
                    if table.decline(at(now), mac(of), host(address)) {
                        told.retain(|(by, ..)| *by != mac(of));
                    }
                }
                Step::Pass(seconds) => now += seconds,
                Step::Restart => table = restarted(&table),
            }
            prop_assert!(table.held.len() <= 5, "{table:?}");
            for (mac, address) in &table.of {
                prop_assert_eq!(table.held.get(address).and_then(|held| held.by), Some(*mac));
            }
            // Whoever is named without having it has had it before.
            for (address, held) in table.held.iter().filter(|(_, held)| !held.is_bound) {
                let owner = held.by.and_then(|by| table.of.get(&by));
                prop_assert!(held.by.is_none() || owner == Some(address) || held.until <= at(now));
            }
        }
    }
}
