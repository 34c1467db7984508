//! A block device over a file, whose disk can be pulled out and put back.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A loop device; detached when it is dropped.
pub struct LoopDisk {
    device: PathBuf,
    file: PathBuf,
    kept: Vec<u8>,
}

/// What a device has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Reads that it was asked for, before neighbours were joined.
    pub reads: u64,
    /// The same of writes.
    pub writes: u64,
}

impl LoopDisk {
    /// A device over `file`, past the page cache; `None`, loudly, where there are no loop devices.
    pub fn attach(file: &Path) -> Option<LoopDisk> {
        let mut command = Command::new("losetup");
        let output = command
            .args(["--find", "--show", "--direct-io=on"])
            .arg(file)
            .stderr(Stdio::null())
            .output();
        let Some(output) = output.ok().filter(|output| output.status.success()) else {
            println!("SKIPPED: no loop devices here");
            return None;
        };
        let device = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        Some(LoopDisk { device, file: file.to_owned(), kept: Vec::new() })
    }

    /// Its path.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// What it has done so far.
    pub fn counts(&self) -> DiskCounts {
        let name = self.device.file_name().expect("a device's name");
        let stat = Path::new("/sys/block").join(name).join("stat");
        let text = std::fs::read_to_string(stat).expect("the device's counters");
        let fields: Vec<u64> =
            text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        DiskCounts { reads: fields[0] + fields[1], writes: fields[4] + fields[5] }
    }

    /// Leaves nothing of it.
    pub fn shrink_to_nothing(&mut self) {
        self.kept = std::fs::read(&self.file).expect("the file");
        let file = File::options().write(true).open(&self.file).expect("the file");
        file.set_len(0).expect("the file gets shorter");
        self.look_again();
    }

    /// Puts back what was there.
    pub fn restore(&self) {
        let file = File::options().write(true).open(&self.file).expect("the file");
        file.write_all_at(&self.kept, 0).expect("the file is written");
        self.look_again();
    }

    /// Lets the kernel see the file's size.
    fn look_again(&self) {
        let status = Command::new("losetup").arg("--set-capacity").arg(&self.device).status();
        assert!(status.expect("losetup").success(), "losetup --set-capacity");
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}
