//! Connections in a bounded number of each who has some: of a network that hasn't shown who it is, of a client. Otherwise
//! whoever can connect keeps everybody else out by doing nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Of one network at a time, as long as it hasn't shown who it is.
pub const STRANGERS_MAX: usize = 8;

/// Those that there are.
pub struct Places<K> {
    each_max: usize,
    taken: Mutex<BTreeMap<K, usize>>,
}

/// One of them, until it is dropped.
pub struct Place<K: Ord> {
    all: Arc<Places<K>>,
    of: K,
}

impl<K: Ord + Clone> Places<K> {
    /// So many for each.
    pub fn new(each_max: usize) -> Arc<Places<K>> {
        Arc::new(Places { each_max, taken: Mutex::default() })
    }

    /// One more, if there aren't too many of the same.
    pub fn admit(self: &Arc<Self>, of: K) -> Option<Place<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(of.clone()).or_default();
        if *count >= self.each_max {
            return None;
        }
        *count += 1;
        Some(Place { all: Arc::clone(self), of })
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.all.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.of);
            }
        }
    }
}

/// What one machine has: an address, or of version 6 the network of which it may take any.
pub fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_network_has_so_many_and_keeps_nobody_else_out() {
        let all = Places::new(STRANGERS_MAX);
        let admit = |peer: &str| all.admit(network_of(peer.parse().unwrap()));
        let ours: Vec<_> =
            (0..STRANGERS_MAX).map(|of| admit(&format!("2001:db8:1:2::{of:x}")).unwrap()).collect();
        assert!(admit("2001:db8:1:2:ffff::1").is_none());
        assert!(admit("2001:db8:1:3::1").is_some());
        assert!(admit("192.0.2.1").is_some());
        drop(ours);
        assert!(admit("2001:db8:1:2::1").is_some());
        assert!(all.taken.lock().unwrap().is_empty(), "those that are gone are forgotten");
        assert_eq!(
            network_of("::ffff:192.0.2.1".parse().unwrap()),
            network_of("192.0.2.1".parse().unwrap())
        );
    }
}
