//! Connections without a login: so many of one network, and none for long. Otherwise whoever can connect keeps everybody
//! else out by doing nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Of one network at a time.
const OF_A_NETWORK_MAX: usize = 8;

/// Those that there are.
#[derive(Default)]
pub(super) struct Strangers(Mutex<BTreeMap<IpAddr, usize>>);

/// One of them, until it is dropped: it has logged in, or is gone.
pub(super) struct Stranger {
    all: Arc<Strangers>,
    network: IpAddr,
}

impl Strangers {
    /// One more, if there aren't too many of its network.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Stranger> {
        let network = network_of(peer);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(network).or_default();
        if *count >= OF_A_NETWORK_MAX {
            return None;
        }
        *count += 1;
        Some(Stranger { all: Arc::clone(self), network })
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.network);
            }
        }
    }
}

/// What one machine has: an address, or of version 6 the network of which it may take any.
pub(super) fn network_of(peer: IpAddr) -> IpAddr {
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
        let all = Arc::new(Strangers::default());
        let ours: Vec<_> = (0..OF_A_NETWORK_MAX)
            .map(|of| all.admit(format!("2001:db8:1:2::{of:x}").parse().unwrap()).unwrap())
            .collect();
        assert!(all.admit("2001:db8:1:2:ffff::1".parse().unwrap()).is_none());
        assert!(all.admit("2001:db8:1:3::1".parse().unwrap()).is_some());
        assert!(all.admit("192.0.2.1".parse().unwrap()).is_some());
        drop(ours);
        assert!(all.admit("2001:db8:1:2::1".parse().unwrap()).is_some());
        assert!(all.0.lock().unwrap().is_empty(), "those that are gone are forgotten");
        assert_eq!(
            network_of("::ffff:192.0.2.1".parse().unwrap()),
            network_of("192.0.2.1".parse().unwrap())
        );
    }
}
