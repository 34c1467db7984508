//! Which machine has which address, where no other server gives any: a range, and machines that always have the same one.
//!
//! A machine is known by its Ethernet address alone, not by option 61: firmware, iPXE and the system of one machine say
//! three different things there, and would use up three addresses.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use aoe_wire::MacAddr;
use block::Instant;

/// How long an address is kept for somebody who was offered it: firmware asks for it within seconds.
const OFFERED_FOR: Duration = Duration::from_secs(60);
/// How long an address isn't given out that somebody found in use.
const DECLINED_FOR: Duration = Duration::from_secs(600);
/// The same where a machine is always to have it: each time that it tries costs it the one that it has instead.
const PROMISED_DECLINED_FOR: Duration = Duration::from_secs(4 * 3600);
/// The shortest lease that is told.
const LEFT_MIN: Duration = Duration::from_secs(60);
/// Most addresses of a range: what a table of leases can hold.
const ADDRESSES_MAX: u32 = 1 << 16;

/// The addresses that are given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    first: Ipv4Addr,
    last: Ipv4Addr,
    prefix: u8,
}

/// Why a range is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The last address comes before the first.
    #[error("the range ends before it begins")]
    Reversed,
    /// More than a table can hold.
    #[error("the range has more than {ADDRESSES_MAX} addresses")]
    TooLong,
    /// Its ends aren't in one network of that size, or are the network's own address or broadcast address.
    #[error("the range isn't within one network")]
    OtherNetwork,
}

impl Range {
    /// From the first address to the last, of a network whose addresses have so many bits in common.
    pub fn new(first: Ipv4Addr, last: Ipv4Addr, prefix: u8) -> Result<Range, RangeError> {
        let range = Range { first, last, prefix };
        let (from, to) = (first.to_bits(), last.to_bits());
        if from > to {
            return Err(RangeError::Reversed);
        }
        if to - from >= ADDRESSES_MAX {
            return Err(RangeError::TooLong);
        }
        let is_host = |bits: u32| {
            let host = bits & !range.mask();
            host != 0 && host != !range.mask()
        };
        let is_one = prefix <= 30 && range.has(last) && is_host(from) && is_host(to);
        if is_one { Ok(range) } else { Err(RangeError::OtherNetwork) }
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0)
    }

    /// The mask of the network.
    pub fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.mask())
    }

    /// Whether an address is of the network.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.first.to_bits()) & self.mask() == 0
    }

    fn gives(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// All of its addresses, each once, from somewhere on and then from its beginning.
    fn all_from(&self, begin: u32) -> impl Iterator<Item = Ipv4Addr> {
        let (first, count) = (self.first.to_bits(), self.last.to_bits() - self.first.to_bits() + 1);
        (0..count).map(move |index| Ipv4Addr::from_bits(first + (begin % count + index) % count))
    }
}

/// What became of an address that was given out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    /// Who has it, or had it last; nobody where somebody uses it who was never given it.
    by: Option<MacAddr>,
    /// Whether he has taken what was offered.
    is_bound: bool,
    /// Until when nobody else is given it.
    until: Instant,
}

/// What is given to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose.
    pub mac: MacAddr,
    /// Of what.
    pub address: Ipv4Addr,
    /// For how long from now on.
    pub left: Duration,
}

/// A lease, as it is remembered over restarts; also when it is over, until somebody else has the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Whose.
    pub mac: MacAddr,
    /// Of what.
    pub address: Ipv4Addr,
    /// When it is over, or was.
    pub until: Instant,
}

/// The table.
#[derive(Debug)]
pub struct Leases {
    range: Range,
    fixed: BTreeMap<MacAddr, Ipv4Addr>,
    /// Never more than the range has, and those of `fixed`.
    held: BTreeMap<Ipv4Addr, Held>,
    /// Which address is a machine's own. It may be named at one more, which it had before, and uses perhaps.
    of: BTreeMap<MacAddr, Ipv4Addr>,
    /// Addresses that nobody may be given: our own, the router's.
    kept: Vec<Ipv4Addr>,
}

impl Leases {
    /// Machines of `fixed` have those addresses, in the range or not; nobody is given one of `kept`.
    pub fn new(range: Range, fixed: BTreeMap<MacAddr, Ipv4Addr>, kept: Vec<Ipv4Addr>) -> Leases {
        Leases { range, fixed, kept, held: BTreeMap::new(), of: BTreeMap::new() }
    }

    /// The range.
    pub fn range(&self) -> &Range {
        &self.range
    }

    /// The address to offer to a machine: its own, the one that it had last, the one that it wants and nobody else has had, or
    /// any that is free; of these one that nobody has had, as long as there is one. None where all are taken.
    pub fn offer(
        &mut self,
        now: Instant,
        mac: MacAddr,
        wants: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        let bound = || self.held.keys().copied().find(|address| self.is_bound(now, mac, *address));
        let known = self.of.get(&mac).copied().or_else(bound);
        let is_anothers = |address: &Ipv4Addr| {
            let by = self.held.get(address).and_then(|held| held.by);
            by.is_some_and(|by| by != mac)
        };
        let wants = wants.filter(|address| !is_anothers(address));
        let address = [self.fixed.get(&mac).copied(), known, wants]
            .into_iter()
            .flatten()
            .find(|address| self.may_have(now, mac, *address))
            .or_else(|| self.free(now, mac))?;
        if !self.is_bound(now, mac, address) {
            let left = known.and_then(|known| Some((known, *self.held.get(&known)?)));
            self.hold(address, Held { by: Some(mac), is_bound: false, until: now + OFFERED_FOR });
            // Who hasn't taken the offer yet may use what he has.
            self.held.extend(left.filter(|(known, held)| *known != address && held.is_bound));
        }
        Some(address)
    }

    /// Takes up a lease that was remembered. One that is over, too: by a clock that was wrong it may only look so, and whoever
    /// had the address still uses it. Also one that nobody would be given now: who has it was given it by other settings.
    pub fn recall(&mut self, lease: Remembered) {
        let Remembered { mac, address, until } = lease;
        let is_ours = self.range.gives(address) || self.is_promised(address);
        if is_ours && !self.held.contains_key(&address) && !self.kept.contains(&address) {
            let own = self.of.get(&mac).and_then(|own| self.held.get(own));
            if own.is_none_or(|own| own.until < until) {
                self.of.insert(mac, address);
            }
            self.held.insert(address, Held { by: Some(mac), is_bound: true, until });
        }
    }

    /// The address that a machine always has, where it can't be given that at the moment.
    pub fn misses(&self, now: Instant, mac: MacAddr) -> Option<Ipv4Addr> {
        self.fixed.get(&mac).copied().filter(|_| self.own(now, mac).is_none())
    }

    /// Gives a machine the address that it asks for, if it may have it; for how long. What it has and is promised to another
    /// one by now it keeps until its lease is over: not longer.
    pub fn bind(&mut self, now: Instant, lease: Lease) -> Option<Duration> {
        let Lease { mac, address, left } = lease;
        if self.may_have(now, mac, address) {
            self.hold(address, Held { by: Some(mac), is_bound: true, until: now + left });
            return Some(left);
        }
        // Whose own is free has that.
        let waits = self.own(now, mac).is_none();
        let held = self.held.get(&address).filter(|_| waits && self.is_bound(now, mac, address));
        let left = held.map(|held| held.until.since(now));
        // Nobody takes less for a lease: he would use it for longer than he was told.
        left.filter(|left| *left >= LEFT_MIN)
    }

    /// A machine doesn't need this address of its own any more. It gets the same one again, if it is free then. Whether it
    /// had it.
    pub fn release(&mut self, now: Instant, mac: MacAddr, address: Ipv4Addr) -> bool {
        let is_its = self.is_bound(now, mac, address);
        if is_its && let Some(held) = self.held.get_mut(&address) {
            (held.is_bound, held.until) = (false, now);
        }
        is_its
    }

    /// A machine has chosen another server's offer (RFC 2131, 4.3.2): what it was only offered is free. What it has taken
    /// before stays its own until the lease is over, since anybody may have said so in its name.
    pub fn withdraw(&mut self, now: Instant, mac: MacAddr) {
        let held = self.of.get(&mac).and_then(|address| self.held.get_mut(address));
        if let Some(held) = held.filter(|held| !held.is_bound) {
            held.until = now;
        }
    }

    /// A machine found that somebody uses the address that it was given: only of its own, so that nobody can use up those
    /// of others.
    pub fn decline(&mut self, now: Instant, mac: MacAddr, address: Ipv4Addr) -> bool {
        let is_its = self.of.get(&mac) == Some(&address);
        if is_its {
            let is_promised = self.fixed.get(&mac) == Some(&address);
            let long = if is_promised { PROMISED_DECLINED_FOR } else { DECLINED_FOR };
            self.hold(address, Held { by: None, is_bound: false, until: now + long });
        }
        is_its
    }

    /// All leases, to be remembered.
    pub fn all(&self) -> Vec<Remembered> {
        let bound = self.held.iter().filter(|(_, held)| held.is_bound);
        let lease = |(address, held): (&Ipv4Addr, &Held)| {
            Some(Remembered { mac: held.by?, address: *address, until: held.until })
        };
        bound.filter_map(lease).collect()
    }

    /// How many addresses are known.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Makes it a machine's own, and nobody else's; what it had before is free.
    fn hold(&mut self, address: Ipv4Addr, held: Held) {
        let former = self.held.insert(address, held).and_then(|former| former.by);
        if let Some(mac) = former.filter(|mac| self.of.get(mac) == Some(&address)) {
            self.of.remove(&mac);
        }
        let elsewhere = held.by.and_then(|mac| self.of.insert(mac, address));
        if let Some(elsewhere) = elsewhere.filter(|elsewhere| *elsewhere != address) {
            self.held.remove(&elsewhere);
        }
    }

    pub(super) fn is_bound(&self, now: Instant, mac: MacAddr, address: Ipv4Addr) -> bool {
        let held = self.held.get(&address);
        held.is_some_and(|held| held.by == Some(mac) && held.is_bound && held.until > now)
    }

    /// Whether nobody else has an address, or may have it.
    fn may_have(&self, now: Instant, mac: MacAddr, address: Ipv4Addr) -> bool {
        match self.own(now, mac) {
            Some(own) => own == address,
            None => {
                self.range.gives(address)
                    && self.is_free(now, mac, address)
                    && !self.kept.contains(&address)
                    && !self.is_promised(address)
            }
        }
    }

    /// The address that is promised to a machine. Whoever has it from before, or uses it unasked, keeps it for as long as he was
    /// told; so long this one gets another.
    fn own(&self, now: Instant, mac: MacAddr) -> Option<Ipv4Addr> {
        self.fixed.get(&mac).copied().filter(|own| self.is_free(now, mac, *own))
    }

    fn is_free(&self, now: Instant, mac: MacAddr, address: Ipv4Addr) -> bool {
        let held = self.held.get(&address).filter(|held| held.until > now);
        held.is_none_or(|held| held.by == Some(mac))
    }

    fn is_promised(&self, address: Ipv4Addr) -> bool {
        self.fixed.values().any(|fixed| *fixed == address)
    }

    /// Begins where the machine's address says, so that each gets the same one again also where all was forgotten. One whose
    /// lease is over is taken only where there is no other: whoever had it comes back perhaps.
    fn free(&self, now: Instant, mac: MacAddr) -> Option<Ipv4Addr> {
        let all = || self.range.all_from(block::crc32c(&mac.0));
        let may = |address: &Ipv4Addr| self.may_have(now, mac, *address);
        let is_new = |address: &Ipv4Addr| !self.held.contains_key(address);
        let oldest = || {
            let ended = all().filter(may);
            ended.min_by_key(|address| self.held.get(address).map(|held| held.until))
        };
        all().filter(is_new).find(may).or_else(oldest)
    }
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
