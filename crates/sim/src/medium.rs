//! What a disk holds: what reads see, and, for each sector that isn't on stable storage yet, all
//! that a power cut may leave of it.
//!
//! Every write is visible at once and *volatile*: the medium remembers the sector's stable contents
//! and each version since. A version becomes stable with its write's completion (FUA), or with a
//! flush that began after the write was answered. A power cut picks one of the versions for each
//! sector: so multi-sector writes tear, and writes that nobody flushed survive in any combination.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use block::{BLOCK_BYTES, BLOCK_SECTORS, SECTOR_BYTES};
use rand::Rng;
use rand::rngs::SmallRng;

/// Contents of a sector.
pub type Sector = [u8; SECTOR_BYTES];
type Page = [u8; BLOCK_BYTES];
/// A bit for each sector of a page.
type Mask = u8;

const _: () = assert!(BLOCK_SECTORS == Mask::BITS as u64);

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

/// A page of which some sectors aren't on stable storage.
struct Volatile {
    stable: Rc<Page>,
    /// Oldest first.
    versions: Vec<Version>,
}

/// What a write made of a page.
#[derive(Clone)]
struct Version {
    number: WriteNumber,
    page: Rc<Page>,
    /// Its sectors that nothing newer made stable.
    sectors: Mask,
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

fn bytes_of(sector: usize) -> Range<usize> {
    sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES
}

fn has(mask: Mask, sector: usize) -> bool {
    mask >> sector & 1 == 1
}

/// `from`'s sectors of `mask`, in `to`.
fn copy_sectors(to: &mut Rc<Page>, from: &Rc<Page>, mask: Mask) {
    if mask == Mask::MAX {
        *to = Rc::clone(from);
    } else if mask != 0 {
        let to = Rc::make_mut(to);
        for sector in (0..BLOCK_SECTORS as usize).filter(|sector| has(mask, *sector)) {
            to[bytes_of(sector)].copy_from_slice(&from[bytes_of(sector)]);
        }
    }
}

impl Volatile {
    /// What a power cut leaves of the page; `None` is what reads see.
    fn left(&self, survival: Survival, random: &mut SmallRng) -> Option<Rc<Page>> {
        match survival {
            Survival::All => None,
            Survival::None => Some(Rc::clone(&self.stable)),
            Survival::Arbitrary => Some(self.any_version(Mask::MAX, random)),
        }
    }

    /// The page with any version of each sector of `mask`.
    fn any_version(&self, mask: Mask, random: &mut SmallRng) -> Rc<Page> {
        let mut page = Rc::clone(&self.stable);
        for sector in (0..BLOCK_SECTORS as usize).filter(|sector| has(mask, *sector)) {
            let written = self.versions.iter().filter(|version| has(version.sectors, sector));
            let count = written.clone().count();
            let chosen = if count == 0 { 0 } else { random.random_range(0..=count) };
            if let Some(version) = chosen.checked_sub(1).and_then(|at| written.clone().nth(at)) {
                copy_sectors(&mut page, &version.page, 1 << sector);
            }
        }
        page
    }

    /// Of each sector of `mask` the newest version that `is_stable` becomes the stable one, and the
    /// older ones are history.
    fn settle(&mut self, mask: Mask, is_stable: impl Fn(WriteNumber) -> bool) {
        let mut settled: Mask = 0;
        for version in self.versions.iter_mut().rev() {
            if is_stable(version.number) {
                let newest = version.sectors & mask & !settled;
                copy_sectors(&mut self.stable, &version.page, newest);
                settled |= newest;
            }
            version.sectors &= !settled;
        }
        self.versions.retain(|version| version.sectors != 0);
    }

    fn forget(&mut self, mask: Mask) {
        self.versions.iter_mut().for_each(|version| version.sectors &= !mask);
        self.versions.retain(|version| version.sectors != 0);
    }
}

/// The pages that `sectors` touch, each with the sectors of it.
fn pages_of(sectors: Range<u64>) -> impl Iterator<Item = (u64, Mask)> {
    let mut at = sectors.start;
    std::iter::from_fn(move || {
        (at < sectors.end).then(|| {
            let page = at / BLOCK_SECTORS;
            let end = sectors.end.min((page + 1) * BLOCK_SECTORS);
            let count = (end - at) as u32;
            let mask = (Mask::MAX >> (Mask::BITS - count)) << (at % BLOCK_SECTORS);
            at = end;
            (page, mask)
        })
    })
}

impl Image {
    /// A sector's contents; zeros where nothing was ever written.
    pub fn sector(&self, sector: u64) -> Sector {
        let mut contents = [0; SECTOR_BYTES];
        if let Some(page) = self.pages.get(&(sector / BLOCK_SECTORS)) {
            contents.copy_from_slice(&page[bytes_of((sector % BLOCK_SECTORS) as usize)]);
        }
        contents
    }

    /// The contents from `sector` on, into `out`, which is zeros.
    pub fn read(&self, sector: u64, out: &mut [u8]) {
        let count = (out.len() / SECTOR_BYTES) as u64;
        for (number, page) in
            self.pages.range(sector / BLOCK_SECTORS..(sector + count).div_ceil(BLOCK_SECTORS))
        {
            let first = (number * BLOCK_SECTORS).max(sector);
            let end = ((number + 1) * BLOCK_SECTORS).min(sector + count);
            let bytes = |at: u64| (at as usize) * SECTOR_BYTES;
            let of_page =
                bytes(first - number * BLOCK_SECTORS)..bytes(end - number * BLOCK_SECTORS);
            out[bytes(first - sector)..bytes(end - sector)].copy_from_slice(&page[of_page]);
        }
    }

    /// Whether the store has room for a sector without taking more.
    pub fn has(&self, sector: u64) -> bool {
        self.pages.contains_key(&(sector / BLOCK_SECTORS))
    }

    /// The sectors of pages that were ever written.
    pub fn written(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().flat_map(|page| page * BLOCK_SECTORS..(page + 1) * BLOCK_SECTORS)
    }

    fn page(&self, number: u64) -> Rc<Page> {
        self.pages.get(&number).map_or_else(|| Rc::new([0; BLOCK_BYTES]), Rc::clone)
    }

    fn set_sectors(&mut self, number: u64, from: &Rc<Page>, mask: Mask) {
        let page = self.pages.entry(number).or_insert_with(|| Rc::new([0; BLOCK_BYTES]));
        copy_sectors(page, from, mask);
    }
}

impl Medium {
    /// What reads see.
    pub fn live(&self) -> &Image {
        &self.live
    }

    /// Takes sectors of write `number`; stable no earlier than [`Medium::answer`].
    pub fn write(&mut self, number: WriteNumber, start: u64, data: &[u8]) {
        let sectors = start..start + (data.len() / SECTOR_BYTES) as u64;
        let mut rest = data;
        // What is filled with the same takes no room for it.
        let mut former: Option<Rc<Page>> = None;
        for (at, mask) in pages_of(sectors) {
            let before = self.live.page(at);
            let (bytes, behind) = rest.split_at(mask.count_ones() as usize * SECTOR_BYTES);
            rest = behind;
            let mut page = if mask == Mask::MAX { [0; BLOCK_BYTES] } else { *before };
            let from = mask.trailing_zeros() as usize * SECTOR_BYTES;
            page[from..from + bytes.len()].copy_from_slice(bytes);
            let page =
                former.take().filter(|former| **former == page).unwrap_or_else(|| Rc::new(page));
            former = Some(Rc::clone(&page));
            let volatile = self
                .volatile
                .entry(at)
                .or_insert_with(|| Volatile { stable: before, versions: Vec::new() });
            let version = Version { number, page: Rc::clone(&page), sectors: mask };
            volatile.versions.push(version);
            self.live.pages.insert(at, page);
        }
    }

    /// Write `number` was answered: the next flush covers it.
    pub fn answer(&mut self, number: WriteNumber) {
        self.answers += 1;
        self.answered.insert(number, self.answers);
    }

    /// Write `number` to these sectors is stable by itself (FUA).
    pub fn make_stable(&mut self, number: WriteNumber, sectors: Range<u64>) {
        for (page, mask) in pages_of(sectors) {
            self.settle(page, mask, |version| version == number);
        }
        self.answered.remove(&number);
    }

    /// The present, for [`Medium::flush`].
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// All writes answered up to `answers` become stable.
    pub fn flush(&mut self, answers: u64) {
        let mut answered = std::mem::take(&mut self.answered);
        let is_stable = |version| answered.get(&version).is_some_and(|answer| *answer <= answers);
        self.volatile.retain(|_, volatile| {
            volatile.settle(Mask::MAX, is_stable);
            !volatile.versions.is_empty()
        });
        answered.retain(|_, answer| *answer > answers);
        self.answered = answered;
    }

    /// As [`Medium::flush`], but cut short: some of the sectors get there.
    pub fn flush_partly(&mut self, answers: u64, random: &mut SmallRng) {
        let answered = &self.answered;
        let is_stable = |version| answered.get(&version).is_some_and(|answer| *answer <= answers);
        self.volatile.retain(|_, volatile| {
            volatile.settle(random.random(), is_stable);
            !volatile.versions.is_empty()
        });
    }

    /// The power goes: what is volatile is lost or kept, by sector.
    pub fn cut_power(&mut self, survival: Survival, random: &mut SmallRng) {
        for (page, volatile) in std::mem::take(&mut self.volatile) {
            if let Some(left) = volatile.left(survival, random) {
                self.live.pages.insert(page, left);
            }
        }
        self.answered.clear();
    }

    /// What a power cut at this moment would leave. Nothing changes.
    pub fn image_after(&self, survival: Survival, random: &mut SmallRng) -> Image {
        let mut image = self.live.clone();
        for (page, volatile) in &self.volatile {
            if let Some(left) = volatile.left(survival, random) {
                image.pages.insert(*page, left);
            }
        }
        image
    }

    /// A write-back of all answered writes failed: each of their sectors is stable in one of its
    /// versions, and the others are gone. Sectors of writes without an answer aren't concerned.
    pub fn fail_write_back(&mut self, random: &mut SmallRng) {
        let answered = &self.answered;
        let live = &mut self.live;
        self.volatile.retain(|page, volatile| {
            let mut spared: Mask = 0;
            let mut concerned: Mask = 0;
            for version in &volatile.versions {
                concerned |= version.sectors;
                if !answered.contains_key(&version.number) {
                    spared |= version.sectors;
                }
            }
            concerned &= !spared;
            let left = volatile.any_version(concerned, random);
            copy_sectors(&mut volatile.stable, &left, concerned);
            live.set_sectors(*page, &left, concerned);
            volatile.forget(concerned);
            !volatile.versions.is_empty()
        });
    }

    /// Changes a sector behind everybody's back, in the cache and below.
    pub fn damage(&mut self, sector: u64, contents: &Sector) {
        let (page, mask) = (sector / BLOCK_SECTORS, 1 << (sector % BLOCK_SECTORS));
        let mut damaged = *self.live.page(page);
        damaged[bytes_of((sector % BLOCK_SECTORS) as usize)].copy_from_slice(contents);
        let damaged = Rc::new(damaged);
        self.live.set_sectors(page, &damaged, mask);
        if let Some(volatile) = self.volatile.get_mut(&page) {
            copy_sectors(&mut volatile.stable, &damaged, mask);
            volatile.forget(mask);
            if volatile.versions.is_empty() {
                self.volatile.remove(&page);
            }
        }
    }

    /// What would be left if the power went now and the cache with it.
    pub fn stable_image(&self) -> Image {
        let mut image = self.live.clone();
        for (page, volatile) in &self.volatile {
            image.pages.insert(*page, Rc::clone(&volatile.stable));
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

    fn settle(&mut self, page: u64, mask: Mask, is_stable: impl Fn(WriteNumber) -> bool) {
        let Some(volatile) = self.volatile.get_mut(&page) else { return };
        volatile.settle(mask, is_stable);
        if volatile.versions.is_empty() {
            self.volatile.remove(&page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::fork;

    fn left_after_cut(medium: &Medium, survival: Survival, seed: u64) -> u8 {
        medium.image_after(survival, &mut fork(seed, "cut")).sector(5)[0]
    }

    #[test]
    fn only_what_was_answered_before_the_flush_is_stable() {
        let mut medium = Medium::default();
        medium.write(1, 5, &[1; SECTOR_BYTES]);
        medium.answer(1);
        let flush = medium.answers();
        medium.write(2, 5, &[2; SECTOR_BYTES]);
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
        medium.write(1, 5, &[1; SECTOR_BYTES]);
        medium.write(2, 5, &[2; SECTOR_BYTES]);
        let seen: std::collections::BTreeSet<u8> =
            (0..50).map(|seed| left_after_cut(&medium, Survival::Arbitrary, seed)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn a_durable_write_buries_older_versions_and_no_newer_ones() {
        let mut medium = Medium::default();
        medium.write(1, 5, &[1; SECTOR_BYTES]);
        medium.write(2, 5, &[2; SECTOR_BYTES]);
        medium.write(3, 5, &[3; SECTOR_BYTES]);
        medium.make_stable(2, 5..6);
        assert_eq!(left_after_cut(&medium, Survival::None, 0), 2);
        assert_eq!(left_after_cut(&medium, Survival::All, 0), 3);
    }

    /// Sectors of a page have histories of their own, whatever writes they share.
    #[test]
    fn a_write_over_pages_is_stable_where_it_was_made_so() {
        let mut medium = Medium::default();
        medium.write(1, 4, &[1; 12 * SECTOR_BYTES]);
        medium.write(2, 6, &[2; 4 * SECTOR_BYTES]);
        medium.make_stable(2, 6..10);
        let left = medium.stable_image();
        let seen: Vec<u8> = (3..17).map(|sector| left.sector(sector)[0]).collect();
        assert_eq!(seen, [0, 0, 0, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0]);
        let mut read = vec![0; 14 * SECTOR_BYTES];
        medium.live().read(3, &mut read);
        let seen: Vec<u8> = read.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect();
        assert_eq!(seen, [0, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 0]);
        medium.answer(1);
        medium.flush(medium.answers());
        assert!(medium.is_stable());
        assert_eq!(medium.live().sector(4)[0], 1);
    }

    #[test]
    fn damage_goes_through_the_cache_and_a_failed_write_back_takes_one_version() {
        let mut medium = Medium::default();
        medium.write(1, 4, &[1; 3 * SECTOR_BYTES]);
        medium.damage(5, &[9; SECTOR_BYTES]);
        assert_eq!(left_after_cut(&medium, Survival::None, 0), 9);
        medium.write(2, 5, &[2; SECTOR_BYTES]);
        medium.answer(2);
        medium.fail_write_back(&mut fork(1, "write-back"));
        let left = medium.live().sector(5)[0];
        assert!([2, 9].contains(&left));
        assert_eq!(left_after_cut(&medium, Survival::Arbitrary, 3), left);
        assert!(!medium.is_stable(), "the first write has no answer yet");
    }
}
