//! ATA commands to real disks, by SCSI's pass-through (`SG_IO`): SMART for whoever asks through an
//! export, and the settings of drives.
//!
//! A command is sent once: a disk that fails is not asked again, because on many disks each failing
//! command means a reset and seconds without any answer for everybody. One at a time for each disk,
//! each on a thread, each with a time limit, so that a disk that hangs holds up nothing else.
//!
//! Commands go to whole disks. On a partition only those go through that just look.
//!
//! How blocks are built ([`command`]) and sense data is read ([`sense`]) are pure functions, tested
//! with the standard's forms and with captures from logs of others; all of it together is tried on
//! the disk that QEMU emulates (`tests/tests/real_disk.rs`). The machines that this is developed on
//! have no ATA disk, and QEMU's has neither SCT nor a standby timer: those have not yet been tried.

mod command;
mod identify;
mod pass_through;
mod sense;
pub mod settings;
mod sg;
mod turn;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use command::{AtaCommand, SECTOR_BYTES, Transfer};
pub use identify::Identify;
pub use sense::{Registers, Sense};
pub use sg::ScsiAnswer;

use crate::ReactorHandle;
use crate::disks::{self, WholeDisk};
use turn::{Turn, TurnError};

/// Enough for system calls; the process locks its memory.
const STACK_BYTES: usize = 128 * 1024;

/// How long a command may take, the wait for those before it included.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// Why a command has no answer from the disk.
#[derive(Debug, thiserror::Error)]
pub enum AtaError {
    /// No ATA disk, or something between that doesn't pass commands on.
    #[error("it is no ATA disk, or what it is connected by passes no ATA commands on")]
    NotAta,
    /// A partition, and the command changes something.
    #[error("a partition's disk is not changed on behalf of the partition")]
    Partition,
    /// Earlier commands haven't ended.
    #[error("too many commands wait for the disk already")]
    Busy,
    /// No answer in time.
    #[error("no answer in {} s", COMMAND_LIMIT.as_secs())]
    TimedOut,
    /// The disk isn't there any more.
    #[error("the disk is gone")]
    Gone,
    /// The way to the disk failed.
    #[error("the way to the disk failed (SCSI status {status:#x}, host {host:#x})")]
    Transport {
        /// SCSI status.
        status: u8,
        /// The host adapter's.
        host: u16,
    },
    /// The system refuses.
    #[error("the system refuses: {0}")]
    System(io::Error),
}

/// An answer; look into its registers whether it is a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtaAnswer {
    /// The registers afterwards.
    pub registers: Registers,
    /// Data from the disk; empty after a failure.
    pub data: Vec<u8>,
}

/// All ATA disks of a process, so that two who use one disk take turns.
pub struct AtaDisks {
    handle: ReactorHandle,
    turns: RefCell<BTreeMap<u64, Turn>>,
}

/// A disk that may understand ATA. Cheap to clone.
#[derive(Clone)]
pub struct AtaDisk {
    way: Arc<dyn Way>,
    turn: Turn,
    whole: WholeDisk,
}

/// How commands reach a disk: the system's way, or a test's.
trait Way: Send + Sync {
    fn send(&self, command: &AtaCommand, limit: Duration) -> io::Result<ScsiAnswer>;
}

/// A disk's descriptor.
struct OpenDisk(Option<File>);

impl Way for OpenDisk {
    fn send(&self, command: &AtaCommand, limit: Duration) -> io::Result<ScsiAnswer> {
        match &self.0 {
            Some(file) => sg::pass_through(file.as_fd(), command, limit),
            None => Err(io::Error::from_raw_os_error(libc::ENODEV)),
        }
    }
}

impl Drop for OpenDisk {
    /// On a thread: closing waits for a driver that tries to revive its disk.
    fn drop(&mut self) {
        let file = self.0.take();
        let closing = std::thread::Builder::new().name("disk-close".to_owned());
        if let Err(error) = closing.stack_size(STACK_BYTES).spawn(move || drop(file)) {
            tracing::debug!(%error, "a disk was closed without a thread");
        }
    }
}

impl AtaDisks {
    /// None opened yet.
    pub fn new(handle: &ReactorHandle) -> AtaDisks {
        AtaDisks { handle: handle.clone(), turns: RefCell::default() }
    }

    /// The disk at `path`, or the one that the partition at `path` is of. Nothing is sent to it.
    pub fn open(&self, path: &Path) -> Result<AtaDisk, AtaError> {
        self.take(open_whole(path)?)
    }

    /// The same on another thread: opening a disk waits while its driver tries to revive it.
    pub async fn open_apart(&self, path: &Path) -> Result<AtaDisk, AtaError> {
        let path = path.to_owned();
        let opened = self.handle.blocking(move || open_whole(&path)).await;
        self.take(opened.map_err(AtaError::System)??)
    }

    fn take(&self, (file, whole): (File, WholeDisk)) -> Result<AtaDisk, AtaError> {
        let number = file.metadata().map_err(of_system)?.rdev();
        let way = Arc::new(OpenDisk(Some(file)));
        Ok(AtaDisk { way, turn: self.turn_of(number), whole })
    }

    /// The turn at a disk, the same for all who ask while the process lives: a disk that hangs keeps
    /// its turn also when all who knew it are gone. There are not more turns than device numbers.
    fn turn_of(&self, number: u64) -> Turn {
        let mut turns = self.turns.borrow_mut();
        turns.entry(number).or_insert_with(|| Turn::new(&self.handle)).clone()
    }
}

fn open_whole(path: &Path) -> Result<(File, WholeDisk), AtaError> {
    let whole = match disks::whole_disk_of(path) {
        Ok(Some(whole)) if whole.may_be_ata => whole,
        Ok(_) => return Err(AtaError::NotAta),
        Err(error) => return Err(AtaError::System(error)),
    };
    // Without waiting for a medium, and without the right to write: what is sent is decided
    // here, and closing a disk that was opened for writing makes udev look at it again.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(&whole.path)
        .map_err(of_system)?;
    Ok((file, whole))
}

impl AtaDisk {
    /// The whole disk's path.
    pub fn path(&self) -> &PathBuf {
        &self.whole.path
    }

    /// Sends a command, once.
    pub fn execute(
        &self,
        command: AtaCommand,
    ) -> impl Future<Output = Result<AtaAnswer, AtaError>> + 'static {
        let allowed = !self.whole.is_partition || command.is_harmless();
        let (way, turn) = (Arc::clone(&self.way), self.turn.clone());
        async move {
            if !allowed {
                return Err(AtaError::Partition);
            }
            let wanted = match &command.transfer {
                Transfer::In { sectors } => usize::from(*sectors) * SECTOR_BYTES,
                Transfer::None | Transfer::Out(_) => 0,
            };
            let call = move || way.send(&command, COMMAND_LIMIT);
            let answer = turn.run(COMMAND_LIMIT, call).await?.map_err(of_system)?;
            interpret(answer, wanted)
        }
    }

    /// What the disk says about itself.
    pub async fn identify(&self) -> Result<Identify, AtaError> {
        let answer = self.execute(AtaCommand::identify()).await?;
        if answer.registers.is_failure() {
            return Err(AtaError::NotAta);
        }
        Identify::parse(&answer.data).ok_or(AtaError::NotAta)
    }
}

impl From<TurnError> for AtaError {
    fn from(error: TurnError) -> AtaError {
        match error {
            TurnError::Busy => AtaError::Busy,
            TurnError::TimedOut => AtaError::TimedOut,
            TurnError::System(error) => AtaError::System(error),
        }
    }
}

fn of_system(error: io::Error) -> AtaError {
    match error.raw_os_error() {
        // No driver of SCSI's behind the device.
        Some(libc::ENOTTY | libc::EINVAL | libc::EOPNOTSUPP) => AtaError::NotAta,
        Some(libc::ENODEV | libc::ENXIO) => AtaError::Gone,
        _ => AtaError::System(error),
    }
}

/// `HOST_STATUS` and `DRIVER_STATUS` of the kernel.
const HOST_NO_CONNECT: u16 = 0x01;
const HOST_TIME_OUT: u16 = 0x03;
const HOST_BAD_TARGET: u16 = 0x04;
const DRIVER_TIME_OUT: u16 = 0x06;
const SCSI_GOOD: u8 = 0x00;
const SCSI_CHECK_CONDITION: u8 = 0x02;

/// What an answer of SCSI means for the ATA command in it, which asked for `wanted` bytes.
fn interpret(answer: ScsiAnswer, wanted: usize) -> Result<AtaAnswer, AtaError> {
    match (answer.host_status, answer.driver_status & 0x0f) {
        (HOST_TIME_OUT, _) | (_, DRIVER_TIME_OUT) => return Err(AtaError::TimedOut),
        (HOST_NO_CONNECT | HOST_BAD_TARGET, _) => return Err(AtaError::Gone),
        (0, _) => {}
        (host, _) => return Err(AtaError::Transport { status: answer.status, host }),
    }
    let registers = match answer.status {
        SCSI_GOOD => Registers::SUCCESS,
        SCSI_CHECK_CONDITION => match sense::parse(&answer.sense) {
            Sense::NotAta => return Err(AtaError::NotAta),
            Sense::Registers(registers) | Sense::Derived(registers) => registers,
        },
        status => return Err(AtaError::Transport { status, host: 0 }),
    };
    if registers.is_failure() {
        return Ok(AtaAnswer { registers, data: Vec::new() });
    }
    if answer.data.len() < wanted {
        // Taken for an answer, the rest would be zeros: a SMART page full of good news.
        return Err(AtaError::Transport { status: answer.status, host: 0 });
    }
    Ok(AtaAnswer { registers, data: answer.data })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GOOD: ScsiAnswer = ScsiAnswer {
        status: 0,
        host_status: 0,
        driver_status: 0,
        sense: Vec::new(),
        data: Vec::new(),
    };
    /// SMART RETURN STATUS of a healthy disk.
    const HEALTHY: [u8; 22] =
        [0x72, 1, 0, 0x1d, 0, 0, 0, 0x0e, 9, 0x0c, 0, 0, 0, 0, 0, 0, 0, 0x4f, 0, 0xc2, 0xe0, 0x50];

    #[test]
    fn answers_mean_what_they_say() {
        assert_eq!(interpret(GOOD, 0).unwrap().registers, Registers::SUCCESS);
        let full = ScsiAnswer { data: vec![7; 512], ..GOOD };
        assert_eq!(interpret(full.clone(), 512).unwrap().data, vec![7; 512]);
        let short = ScsiAnswer { data: vec![7; 511], ..GOOD };
        assert!(matches!(interpret(short, 512), Err(AtaError::Transport { .. })));

        let healthy = ScsiAnswer { status: 2, driver_status: 8, sense: HEALTHY.into(), ..GOOD };
        assert_eq!(interpret(healthy, 0).unwrap().registers.lba, 0x00c2_4f00);
        let aborted = "720b00000000000e090c00040000000000000000e051";
        let sense = (0..aborted.len() / 2)
            .map(|at| u8::from_str_radix(&aborted[at * 2..at * 2 + 2], 16).unwrap())
            .collect();
        let refused = interpret(ScsiAnswer { status: 2, sense, ..full }, 512).unwrap();
        assert_eq!((refused.registers.status, refused.registers.error), (0x51, 4));
        assert!(refused.registers.is_failure() && refused.data.is_empty());
    }

    #[test]
    fn failures_of_the_way_are_not_the_disks() {
        let sense = vec![0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0];
        let not_ata = ScsiAnswer { status: 2, sense, ..GOOD };
        assert!(matches!(interpret(not_ata, 0), Err(AtaError::NotAta)));
        for (status, host_status, driver_status) in [(0, 3, 0), (0, 0, 6)] {
            let answer = ScsiAnswer { status, host_status, driver_status, ..GOOD };
            assert!(matches!(interpret(answer, 0), Err(AtaError::TimedOut)));
        }
        let gone = ScsiAnswer { host_status: 1, ..GOOD };
        assert!(matches!(interpret(gone, 0), Err(AtaError::Gone)));
        for (status, host_status) in [(0, 7), (8, 0), (0x18, 0)] {
            let answer = ScsiAnswer { status, host_status, ..GOOD };
            assert!(matches!(interpret(answer, 0), Err(AtaError::Transport { .. })));
        }
    }

    #[test]
    fn what_is_no_disk_is_no_ata_disk() {
        let (_reactor, handle) = crate::Reactor::new().unwrap();
        let disks = AtaDisks::new(&handle);
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(disks.open(file.path()), Err(AtaError::NotAta)));
        assert!(matches!(disks.open(Path::new("/dev/null")), Err(AtaError::NotAta)));
        assert!(matches!(disks.open(Path::new("/nonexistent")), Err(AtaError::System(_))));
    }
}
