//! A tree of files of known contents.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Relative paths and checksums of files.
#[derive(Debug, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, (u64, u32)>);

impl Tree {
    /// Makes `count` files from 1 KiB to 50 MiB, or to a quarter of all, with about `total_bytes` together.
    pub fn make(root: &Path, count: usize, total_bytes: u64, seed: u64) -> Tree {
        let mut random = SmallRng::seed_from_u64(seed);
        // A few of the largest, many small ones, the rest shared evenly.
        let largest = (total_bytes / 4).min(50 << 20);
        let mut sizes = vec![largest, largest, 1 << 10];
        let rest = (total_bytes - sizes.iter().sum::<u64>()) / (count - sizes.len()) as u64;
        while sizes.len() < count {
            sizes.push(random.random_range(1024..=2 * rest.max(1024) - 1024));
        }
        for (number, size) in sizes.iter().enumerate() {
            let dir = root.join(format!("d{:02}/e{}", number % 40, number % 3));
            fs::create_dir_all(&dir).expect("directory");
            let mut bytes = vec![0; *size as usize];
            random.fill(&mut bytes[..]);
            fs::write(dir.join(format!("file {number}.bin")), bytes).expect("file");
        }
        Tree::read(root)
    }

    /// What is there.
    pub fn read(root: &Path) -> Tree {
        let mut files = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("folder").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    if entry.file_name() != "lost+found" {
                        folders.push(path);
                    }
                    continue;
                }
                let bytes = fs::read(&path).expect("file");
                let name = path.strip_prefix(root).expect("below root").display().to_string();
                files.insert(name, (bytes.len() as u64, block::crc32c(&bytes)));
            }
        }
        Tree(files)
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|(size, _)| size).sum()
    }
}
