//! What is on a disk, all of it at once: to compare, keep, bring back or exchange.

use std::hash::{DefaultHasher, Hasher};

use block::SectorRange;

use super::Disk;
use crate::medium::Image;

impl Disk {
    /// A checksum of all that reads see.
    pub fn digest(&self) -> u64 {
        let medium = self.medium.borrow();
        let mut digest = DefaultHasher::new();
        for sector in medium.live().written() {
            digest.write_u64(sector);
            digest.write(&medium.live().sector(sector));
        }
        digest.finish()
    }

    /// A copy of what is stable, to roll back to.
    pub fn snapshot(&self) -> Image {
        self.medium.borrow().stable_image()
    }

    /// The disk is as it was when `image` was taken.
    pub fn roll_back(&self, image: Image) {
        self.story.tell(&self.name, "rolled back to an older image");
        self.medium.borrow_mut().restore(image);
    }

    /// This disk and `other` change places: contents and sizes.
    pub fn swap(&self, other: &Disk) {
        if std::ptr::eq(self, other) {
            return;
        }
        self.story.tell(&self.name, &format!("swapped with {}", other.name));
        self.medium.swap(&other.medium);
        self.sectors.swap(&other.sectors);
        self.bad_sectors.swap(&other.bad_sectors);
    }

    /// This disk is what `other` is at this moment, in contents and size.
    pub fn become_clone_of(&self, other: &Disk) {
        self.story.tell(&self.name, &format!("is a clone of {}", other.name));
        self.medium.borrow_mut().restore(other.snapshot());
        self.sectors.set(other.sectors.get());
        self.bad_sectors.borrow_mut().clear();
    }

    /// The contents as reads see them, past all faults.
    pub fn peek(&self, range: SectorRange) -> Vec<u8> {
        let mut bytes = vec![0; range.len_bytes() as usize];
        self.medium.borrow().live().read(range.start.0, &mut bytes);
        bytes
    }

    /// The sectors that may be something else than zeros.
    pub fn written_sectors(&self) -> Vec<u64> {
        self.medium.borrow().live().written().collect()
    }
}
