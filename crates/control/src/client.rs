//! Who may be in an access list: the address of one client.
//!
//! A frame comes from one station, never from a group of them: a group address in an accept list looks
//! like "everybody" and lets in nobody, in a deny list it shuts out nobody. And where an export
//! announces itself to those on its list, it would tell the whole segment. So both are refused wherever
//! an administrator, or a pool that was imported, names clients.

use aoe_wire::{InvalidMacAddr, MacAddr};

/// Why an address can't be a client's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidClient {
    /// Not an address at all.
    #[error(transparent)]
    Form(#[from] InvalidMacAddr),
    /// Multicast or broadcast.
    #[error(
        "{0} is a group address: no frame comes from it, so a list that names it lets nobody in; name each client's own address"
    )]
    Group(MacAddr),
    /// All zeros.
    #[error("{0} is no machine's address; name each client's own address")]
    Zero(MacAddr),
}

/// The address, if one station can have it.
pub fn check_client(mac: MacAddr) -> Result<MacAddr, InvalidClient> {
    match mac {
        _ if mac.is_group() => Err(InvalidClient::Group(mac)),
        _ if mac == MacAddr::default() => Err(InvalidClient::Zero(mac)),
        _ => Ok(mac),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_of_one_station_is_a_client() {
        let check = |text: &str| check_client(text.parse().unwrap());
        for good in ["02:00:00:00:00:01", "52:54:00:12:34:56", "fe:ff:ff:ff:ff:ff"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for group in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "33:33:00:00:00:01"] {
            assert!(matches!(check(group), Err(InvalidClient::Group(_))), "{group}");
        }
        assert!(matches!(check("00:00:00:00:00:00"), Err(InvalidClient::Zero(_))));
    }
}
