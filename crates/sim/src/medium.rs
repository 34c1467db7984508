//! What a disk holds: what reads see, and, for each sector that isn't on stable storage yet, all
//! that a power cut may leave of it.
//!
//! Every write is visible at once and *volatile*: the medium remembers the sector's stable contents
//! and each version since. A version becomes stable with its write's completion (FUA), or with a
//! flush that began after the write was answered. A power cut picks one of the versions for each
//! sector: so multi-sector writes tear, and writes that nobody flushed survive in any combination.

use std::collections::BTreeMap;
use std::rc::Rc;

use block::{BLOCK_BYTES, BLOCK_SECTORS, SECTOR_BYTES};
use rand::Rng;
use rand::rngs::SmallRng;

/// Contents of a sector.
pub type Sector = [u8; SECTOR_BYTES];
type Page = [u8; BLOCK_BYTES];

/// The number of a write, ascending.
pub type WriteNumber = u64;

/// Sparse contents. Clones share what they don't change.
#[derive(Clone, Default)]
pub struct Image {
    pages: BTreeMap<u64, Rc<Page>>,
}

/// An [`Image`] with its volatile sectors.
#[derive(Default)]
pub struct Medium {
    live: Image,
    volatile: BTreeMap<u64, Volatile>,
    /// When each write with volatile sectors was answered, counted in answers.
    answered: BTreeMap<WriteNumber, u64>,
    answers: u64,
}

struct Volatile {
    stable: Sector,
    versions: Vec<(WriteNumber, Sector)>,
}

impl Volatile {
    /// What a power cut leaves of the sector; `None` is what reads see.
    fn left(&self, survival: Survival, random: &mut SmallRng) -> Option<Sector> {
        match survival {
            Survival::All => None,
            Survival::None => Some(self.stable),
            Survival::Arbitrary => match random.random_range(0..=self.versions.len()) {
                0 => Some(self.stable),
                version => Some(self.versions[version - 1].1),
            },
        }
    }
}

/// What a power cut leaves of volatile sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing: the cache is gone.
    None,
    /// All of it: it had been written back just in time.
    All,
    /// Any version of any sector.
    Arbitrary,
}

impl Image {
    /// A sector's contents; zeros where nothing was ever written.
    pub fn sector(&self, sector: u64) -> Sector {
        let mut contents = [0; SECTOR_BYTES];
        if let Some(page) = self.pages.get(&(sector / BLOCK_SECTORS)) {
            let offset = (sector % BLOCK_SECTORS) as usize * SECTOR_BYTES;
            contents.copy_from_slice(&page[offset..offset + SECTOR_BYTES]);
        }
        contents
    }

    /// Changes a sector.
    pub fn set_sector(&mut self, sector: u64, contents: &Sector) {
        let page =
            self.pages.entry(sector / BLOCK_SECTORS).or_insert_with(|| Rc::new([0; BLOCK_BYTES]));
        let offset = (sector % BLOCK_SECTORS) as usize * SECTOR_BYTES;
        Rc::make_mut(page)[offset..offset + SECTOR_BYTES].copy_from_slice(contents);
    }
}

impl Medium {
    /// What reads see.
    pub fn live(&self) -> &Image {
        &self.live
    }

    /// Takes a sector of write `number`; stable no earlier than [`Medium::answer`].
    pub fn write_sector(&mut self, number: WriteNumber, sector: u64, contents: &Sector) {
        let volatile = self
            .volatile
            .entry(sector)
            .or_insert_with(|| Volatile { stable: self.live.sector(sector), versions: Vec::new() });
        volatile.versions.push((number, *contents));
        self.live.set_sector(sector, contents);
    }

    /// Write `number` was answered: the next flush covers it.
    pub fn answer(&mut self, number: WriteNumber) {
        self.answers += 1;
        self.answered.insert(number, self.answers);
    }

    /// Write `number` to these sectors is stable by itself (FUA).
    pub fn make_stable(&mut self, number: WriteNumber, sectors: std::ops::Range<u64>) {
        for sector in sectors {
            self.settle_sector(sector, |version| version == number);
        }
        self.answered.remove(&number);
    }

    /// The present, for [`Medium::flush`].
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// All writes answered up to `answers` become stable.
    pub fn flush(&mut self, answers: u64) {
        let sectors: Vec<u64> = self.volatile.keys().copied().collect();
        let answered = std::mem::take(&mut self.answered);
        for sector in sectors {
            self.settle_sector(sector, |version| {
                answered.get(&version).is_some_and(|answer| *answer <= answers)
            });
        }
        self.answered = answered;
        self.answered.retain(|_, answer| *answer > answers);
    }

    /// The power goes: what is volatile is lost or kept, by sector.
    pub fn cut_power(&mut self, survival: Survival, random: &mut SmallRng) {
        for (sector, volatile) in std::mem::take(&mut self.volatile) {
            if let Some(left) = volatile.left(survival, random) {
                self.live.set_sector(sector, &left);
            }
        }
        self.answered.clear();
    }

    /// What a power cut at this moment would leave. Nothing changes.
    pub fn image_after(&self, survival: Survival, random: &mut SmallRng) -> Image {
        let mut image = self.live.clone();
        for (sector, volatile) in &self.volatile {
            if let Some(left) = volatile.left(survival, random) {
                image.set_sector(*sector, &left);
            }
        }
        image
    }

    /// A write-back of all answered writes failed: each of their sectors is stable in one of its
    /// versions, and the others are gone. Writes without an answer aren't concerned.
    pub fn fail_write_back(&mut self, random: &mut SmallRng) {
        for (sector, mut volatile) in std::mem::take(&mut self.volatile) {
            if volatile.versions.iter().any(|(number, _)| !self.answered.contains_key(number)) {
                self.volatile.insert(sector, volatile);
                continue;
            }
            let kept = random.random_range(0..=volatile.versions.len());
            let left = match kept {
                0 => volatile.stable,
                version => volatile.versions.swap_remove(version - 1).1,
            };
            self.live.set_sector(sector, &left);
        }
    }

    /// Changes a sector behind everybody's back, in the cache and below.
    pub fn damage(&mut self, sector: u64, contents: &Sector) {
        self.volatile.remove(&sector);
        self.live.set_sector(sector, contents);
    }

    /// What would be left if the power went now and the cache with it.
    pub fn stable_image(&self) -> Image {
        let mut image = self.live.clone();
        for (sector, volatile) in &self.volatile {
            image.set_sector(*sector, &volatile.stable);
        }
        image
    }

    /// Replaces everything by `image`.
    pub fn restore(&mut self, image: Image) {
        *self = Medium { live: image, ..Medium::default() };
    }

    /// Whether a power cut could change anything.
    pub fn is_stable(&self) -> bool {
        self.volatile.is_empty()
    }

    /// The newest version that `is_stable` becomes the stable one, the older ones are history.
    fn settle_sector(&mut self, sector: u64, is_stable: impl Fn(WriteNumber) -> bool) {
        let Some(volatile) = self.volatile.get_mut(&sector) else { return };
        let Some(last) = volatile.versions.iter().rposition(|(number, _)| is_stable(*number))
        else {
            return;
        };
        volatile.stable = volatile.versions[last].1;
        volatile.versions.drain(..=last);
        if volatile.versions.is_empty() {
            self.volatile.remove(&sector);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::fork;

    fn left_after_cut(medium: &Medium, survival: Survival, seed: u64) -> u8 {
        let mut copy = Medium {
            live: medium.live.clone(),
            volatile: medium
                .volatile
                .iter()
                .map(|(sector, volatile)| {
                    let versions = volatile.versions.clone();
                    (*sector, Volatile { stable: volatile.stable, versions })
                })
                .collect(),
            ..Medium::default()
        };
        copy.cut_power(survival, &mut fork(seed, "cut"));
        copy.live().sector(5)[0]
    }

    #[test]
    fn only_what_was_answered_before_the_flush_is_stable() {
        let mut medium = Medium::default();
        medium.write_sector(1, 5, &[1; SECTOR_BYTES]);
        medium.answer(1);
        let flush = medium.answers();
        medium.write_sector(2, 5, &[2; SECTOR_BYTES]);
        medium.answer(2);
        medium.flush(flush);
        assert_eq!(medium.live().sector(5)[0], 2);
        assert_eq!(left_after_cut(&medium, Survival::None, 0), 1);
        assert_eq!(left_after_cut(&medium, Survival::All, 0), 2);
        medium.flush(medium.answers());
        assert!(medium.is_stable());
        assert_eq!(left_after_cut(&medium, Survival::None, 0), 2);
    }

    #[test]
    fn a_cut_may_leave_any_version() {
        let mut medium = Medium::default();
        medium.write_sector(1, 5, &[1; SECTOR_BYTES]);
        medium.write_sector(2, 5, &[2; SECTOR_BYTES]);
        let seen: std::collections::BTreeSet<u8> =
            (0..50).map(|seed| left_after_cut(&medium, Survival::Arbitrary, seed)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_durable_write_buries_older_versions_and_no_newer_ones() {
        let mut medium = Medium::default();
        medium.write_sector(1, 5, &[1; SECTOR_BYTES]);
        medium.write_sector(2, 5, &[2; SECTOR_BYTES]);
        medium.write_sector(3, 5, &[3; SECTOR_BYTES]);
        medium.make_stable(2, 5..6);
        assert_eq!(left_after_cut(&medium, Survival::None, 0), 2);
        assert_eq!(left_after_cut(&medium, Survival::All, 0), 3);
    }
}
