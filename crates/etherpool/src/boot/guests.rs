//! Who is connected by HTTP. There are places for so many, and for so many of one machine; and who comes where all are
//! taken gets that of who takes next to nothing, or has more than his share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use boot::crowd::{Holder, Pace, displaced};
use tokio::sync::Notify;

/// Connections at a time, whoever has them.
const GUESTS_MAX: usize = 256;
/// Those of one machine: more than any firmware has, or a program that fetches for it.
const OF_A_MACHINE_MAX: usize = 16;

/// Those that there are.
#[derive(Default)]
pub struct Guests {
    there: Mutex<There>,
}

#[derive(Default)]
struct There {
    places: BTreeMap<u64, Place>,
    next: u64,
}

struct Place {
    machine: IpAddr,
    pace: Pace,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    taken_bytes: AtomicU64,
    displaced: Notify,
}

/// A place, until it is dropped.
pub struct Guest {
    all: Arc<Guests>,
    id: u64,
    state: Arc<State>,
}

/// That a guest has taken something, for who sends it.
#[derive(Clone)]
pub struct Taken(Arc<State>);

impl Guests {
    /// One more, if there is a place.
    pub fn admit(self: &Arc<Self>, machine: IpAddr) -> Option<Guest> {
        self.admit_at(os::boot_time(), machine)
    }

    fn admit_at(self: &Arc<Self>, now: block::Instant, machine: IpAddr) -> Option<Guest> {
        let mut there = self.lock();
        // Also where there is room, so that it is known how quick they are when there is none.
        let holders: Vec<_> =
            there.places.iter_mut().map(|(id, place)| place.holder(*id, now)).collect();
        if holders.iter().filter(|holder| holder.machine == machine).count() >= OF_A_MACHINE_MAX {
            return None;
        }
        if holders.len() >= GUESTS_MAX {
            let gone = there.places.remove(&displaced(&machine, &holders)?)?;
            gone.state.displaced.notify_one();
        }
        let (id, state) = (there.next, Arc::<State>::default());
        there.next += 1;
        there
            .places
            .insert(id, Place { machine, pace: Pace::begin(now), state: Arc::clone(&state) });
        Some(Guest { all: Arc::clone(self), id, state })
    }

    fn lock(&self) -> MutexGuard<'_, There> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn holder(&mut self, id: u64, now: block::Instant) -> Holder<u64, IpAddr> {
        let taken_bytes = self.state.taken_bytes.load(Ordering::Relaxed);
        let bytes_per_second = self.pace.bytes_per_second(now, taken_bytes);
        Holder { id, machine: self.machine, bytes_per_second }
    }
}

impl Guest {
    /// Comes back when another one has got the place.
    pub async fn displaced(&self) {
        self.state.displaced.notified().await;
    }

    /// By which is counted what it takes.
    pub fn taken(&self) -> Taken {
        Taken(Arc::clone(&self.state))
    }
}

impl Taken {
    /// So much more.
    pub fn add(&self, bytes: usize) {
        self.0.taken_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.all.lock().places.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;

    fn machine(number: usize) -> IpAddr {
        IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()])
    }

    #[tokio::test]
    async fn a_machine_has_its_share_and_who_takes_nothing_makes_room() {
        let all = Arc::<Guests>::default();
        let at = |seconds| block::Instant::default() + Duration::from_secs(seconds);
        // Of many machines two each: nobody has more than his share.
        let mut guests: Vec<_> =
            (0..GUESTS_MAX).filter_map(|number| all.admit_at(at(0), machine(number / 2))).collect();
        assert_eq!(guests.len(), GUESTS_MAX);
        assert!(all.admit_at(at(1), machine(200)).is_none(), "all have just begun");
        let slow = guests.remove(7);
        guests.iter().for_each(|guest| guest.taken().add(1 << 30));
        let new = all.admit_at(at(60), machine(200)).unwrap();
        assert!(slow.displaced().now_or_never().is_some(), "it is told");
        assert!(guests.iter().all(|guest| guest.displaced().now_or_never().is_none()));
        assert!(all.admit_at(at(60), machine(201)).is_none());
        drop(slow);
        assert_eq!(all.lock().places.len(), GUESTS_MAX);
        drop((new, guests));
        assert!(all.lock().places.is_empty());
        let own: Vec<_> = (0..=OF_A_MACHINE_MAX).map(|_| all.admit(machine(1))).collect();
        assert_eq!(own.iter().flatten().count(), OF_A_MACHINE_MAX);
    }
}
