//! Settings of a drive: write cache, read-ahead, spin-down, error recovery. They last until the
//! drive loses power, so they are applied whenever a drive appears.
//!
//! The write cache is switched so that the kernel knows of it: it sends no FLUSH to a drive that it
//! takes for one without a cache, and then an acknowledged write isn't on the medium. Where the
//! kernel can't be told, the cache isn't switched on; and a cache that can't be switched off isn't
//! merely called so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{AtaAnswer, AtaCommand, AtaDisk, AtaDisks, AtaError, Identify};
use crate::disks::WholeDisk;

/// What a drive should be set to; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriveSettings {
    /// Its volatile write cache.
    pub write_cache: Option<bool>,
    /// Its reading ahead.
    pub read_ahead: Option<bool>,
    /// How much the kernel reads ahead for buffered reading, in KiB.
    pub kernel_read_ahead_kib: Option<u32>,
    /// After how long without work it stops spinning.
    pub spin_down: Option<StandbyTimer>,
    /// How long it tries to read or write a bad sector.
    pub error_recovery: Option<RecoveryLimit>,
}

/// A setting that the drive doesn't have now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// As it is called in the configuration.
    pub setting: &'static str,
    /// What speaks against it.
    pub why: String,
}

/// The standby timer as ATA counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyTimer(u8);

impl StandbyTimer {
    /// Never.
    pub const OFF: StandbyTimer = StandbyTimer(0);

    /// The shortest that is at least as long; zero is never. ATA has steps of 5 s up to 20 min, 21
    /// min, and steps of 30 min up to 5.5 h; `None` beyond that.
    pub fn at_least(duration: Duration) -> Option<StandbyTimer> {
        let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
        let timer = match seconds {
            0..=1200 => seconds.div_ceil(5),
            1201..=1260 => 252,
            1261..=19_800 => 240 + seconds.div_ceil(1800),
            _ => return None,
        };
        u8::try_from(timer).ok().map(StandbyTimer)
    }

    /// The value for the disk.
    pub fn raw(self) -> u8 {
        self.0
    }
}

/// A limit of error recovery, in tenths of a second as SCT counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryLimit(u16);

impl RecoveryLimit {
    /// Without limit.
    pub const OFF: RecoveryLimit = RecoveryLimit(0);

    /// Rounded up; zero is no limit. `None` beyond 6553.5 s.
    pub fn at_least(duration: Duration) -> Option<RecoveryLimit> {
        u16::try_from(duration.as_millis().div_ceil(100)).ok().map(RecoveryLimit)
    }

    /// The value for the disk.
    pub fn raw(self) -> u16 {
        self.0
    }
}

/// Applies settings to a whole disk, each once. What the drive or the system refuses comes back with
/// the reason; the others are applied all the same.
pub async fn apply(disks: &AtaDisks, path: &Path, settings: &DriveSettings) -> Vec<Refusal> {
    let mut drive = match Drive::open(disks, path).await {
        Ok(drive) => drive,
        Err(error) => return vec![Refusal { setting: "match", why: error.to_string() }],
    };
    let mut refusals = Vec::new();
    let mut note = |setting, result: Result<(), Trouble>| {
        if let Err(trouble) = result {
            refusals.push(Refusal { setting, why: trouble.0 });
        }
    };
    if let Some(on) = settings.write_cache {
        note("write-cache", drive.set_write_cache(on).await);
    }
    if let Some(on) = settings.read_ahead {
        note("read-ahead", drive.set_read_ahead(on).await);
    }
    if let Some(kib) = settings.kernel_read_ahead_kib {
        note("kernel-read-ahead", drive.set_kernel_read_ahead(kib).await);
    }
    if let Some(timer) = settings.spin_down {
        note("spin-down", drive.set_spin_down(timer).await);
    }
    if let Some(limit) = settings.error_recovery {
        note("error-recovery", drive.set_error_recovery(limit).await);
    }
    refusals
}

/// Why a setting isn't applied, as a sentence.
struct Trouble(String);

impl From<AtaError> for Trouble {
    fn from(error: AtaError) -> Trouble {
        Trouble(error.to_string())
    }
}

impl From<&str> for Trouble {
    fn from(text: &str) -> Trouble {
        Trouble(text.to_owned())
    }
}

const NO_ATA: &str = "only ATA disks have this setting, and this is none";

struct Drive {
    whole: WholeDisk,
    /// `None` for disks of another kind: virtual ones, NVMe, SAS.
    ata: Option<(AtaDisk, Identify)>,
    /// For what hangs in `/sys`; the disk's turn where it is an ATA disk.
    turn: super::turn::Turn,
}

impl Drive {
    async fn open(disks: &AtaDisks, path: &Path) -> Result<Drive, AtaError> {
        let whole = crate::disks::whole_disk_of(path).map_err(super::of_system)?;
        let whole = whole.ok_or(AtaError::NotAta)?;
        if whole.is_partition {
            return Err(AtaError::Partition);
        }
        let number = fs::metadata(&whole.path).map_err(super::of_system)?;
        let turn = disks.turn_of(std::os::unix::fs::MetadataExt::rdev(&number));
        let ata = match disks.open_apart(path).await {
            Ok(disk) => match disk.identify().await {
                Ok(identify) => Some((disk, identify)),
                Err(AtaError::NotAta) => None,
                Err(error) => return Err(error),
            },
            Err(AtaError::NotAta) => None,
            Err(error) => return Err(error),
        };
        Ok(Drive { whole, ata, turn })
    }

    /// Sends a command whose answer is only whether it was taken.
    async fn order(&self, command: AtaCommand) -> Result<(), Trouble> {
        let (disk, _) = self.ata.as_ref().ok_or(NO_ATA)?;
        taken(&disk.execute(command).await?)
    }

    /// The kernel's own switch first: it changes drive and kernel together, for SAS disks as well.
    async fn set_write_cache(&mut self, on: bool) -> Result<(), Trouble> {
        let files = CacheFiles::of(&self.whole.directory);
        let ata = self.ata.as_ref().map(|(_, identify)| *identify);
        if files.cache_type.is_some() {
            let (by_kernel, asked) = (files.clone(), on);
            let set = self.turn_call(move || by_kernel.set_cache_type(asked)).await?;
            match set {
                Ok(()) => return Ok(()),
                Err(error) if ata.is_none() => return Err(Trouble(error.to_string())),
                Err(error) => tracing::debug!(disk = self.whole.name, %error, "cache_type"),
            }
        }
        let Some(identify) = ata else {
            return self.turn_call(move || files.set_queue_view(on)).await?;
        };
        if !identify.has_write_cache {
            let same = !on;
            return if same { Ok(()) } else { Err("the disk has no write cache".into()) };
        }
        self.order(AtaCommand::set_write_cache(on)).await?;
        self.refresh_identity().await?;
        if self.ata.as_ref().is_some_and(|(_, now)| now.write_cache != on) {
            return Err("the disk took the command and did nothing".into());
        }
        let known = self.turn_call(move || files.kernel_learns(on)).await?;
        if let (Err(error), true) = (&known, on) {
            // Without the kernel's FLUSH a cache loses acknowledged writes.
            self.order(AtaCommand::set_write_cache(false)).await?;
            return Err(Trouble(format!("the kernel did not take note of it: {error}; off again")));
        }
        Ok(())
    }

    async fn set_read_ahead(&mut self, on: bool) -> Result<(), Trouble> {
        let Some((_, identify)) = &self.ata else {
            // The nearest thing that such disks have.
            return self.set_kernel_read_ahead(if on { READ_AHEAD_KIB } else { 0 }).await;
        };
        if !identify.has_read_ahead {
            return if on { Err("the disk has no read-ahead".into()) } else { Ok(()) };
        }
        self.order(AtaCommand::set_read_ahead(on)).await?;
        self.refresh_identity().await?;
        match &self.ata {
            Some((_, now)) if now.read_ahead != on => {
                Err("the disk took the command and did nothing".into())
            }
            _ => Ok(()),
        }
    }

    async fn set_kernel_read_ahead(&self, kib: u32) -> Result<(), Trouble> {
        let file = self.whole.directory.join("queue/read_ahead_kb");
        self.turn_call(move || fs::write(&file, kib.to_string()).map_err(|e| of_file(&file, &e)))
            .await?
            .map_err(|error| Trouble(error.to_string()))
    }

    async fn set_spin_down(&self, timer: StandbyTimer) -> Result<(), Trouble> {
        match &self.ata {
            Some((_, identify)) if !identify.has_standby_timer => {
                Err("the disk has no standby timer of the standard's kind".into())
            }
            _ => self.order(AtaCommand::set_standby_timer(timer.raw())).await,
        }
    }

    async fn set_error_recovery(&self, limit: RecoveryLimit) -> Result<(), Trouble> {
        match &self.ata {
            Some((_, identify)) if !identify.has_error_recovery => {
                Err("the disk has no SCT error recovery control".into())
            }
            _ => {
                self.order(AtaCommand::set_error_recovery(false, limit.raw())).await?;
                self.order(AtaCommand::set_error_recovery(true, limit.raw())).await
            }
        }
    }

    async fn refresh_identity(&mut self) -> Result<(), Trouble> {
        if let Some((disk, identify)) = &mut self.ata {
            *identify = disk.identify().await?;
        }
        Ok(())
    }

    async fn turn_call<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Trouble> {
        let limit = super::COMMAND_LIMIT;
        self.turn.run(limit, call).await.map_err(|error| AtaError::from(error).into())
    }
}

/// What Linux reads ahead by default.
const READ_AHEAD_KIB: u32 = 128;

fn taken(answer: &AtaAnswer) -> Result<(), Trouble> {
    let registers = answer.registers;
    if registers.is_failure() {
        let (status, error) = (registers.status, registers.error);
        return Err(Trouble(format!(
            "the disk refuses it (status {status:#04x}, error {error:#04x})"
        )));
    }
    Ok(())
}

fn of_file(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}

/// Where the kernel shows and takes what it thinks of a disk's cache.
#[derive(Clone, Debug)]
struct CacheFiles {
    /// Of SCSI's disk driver: writing to it switches the drive, too.
    cache_type: Option<PathBuf>,
    /// Makes SCSI's disk driver look at the drive again.
    rescan: PathBuf,
    /// What the block layer goes by. Writing to it changes nothing in the drive.
    queue: PathBuf,
}

const WRITE_BACK: &str = "write back";
const WRITE_THROUGH: &str = "write through";

fn view(on: bool) -> &'static str {
    if on { WRITE_BACK } else { WRITE_THROUGH }
}

impl CacheFiles {
    fn of(directory: &Path) -> CacheFiles {
        let scsi = fs::read_dir(directory.join("device/scsi_disk")).ok();
        let first = scsi.and_then(|mut entries| entries.next()).and_then(Result::ok);
        CacheFiles {
            cache_type: first
                .map(|entry| entry.path().join("cache_type"))
                .filter(|file| file.exists()),
            rescan: directory.join("device/rescan"),
            queue: directory.join("queue/write_cache"),
        }
    }

    fn set_cache_type(&self, on: bool) -> io::Result<()> {
        let Some(file) = &self.cache_type else { return Err(io::ErrorKind::NotFound.into()) };
        let is = |wanted: &str| -> io::Result<bool> {
            let text = fs::read_to_string(file).map_err(|error| of_file(file, &error))?;
            Ok(text.trim() == wanted)
        };
        if is(view(on))? {
            return Ok(());
        }
        fs::write(file, view(on)).map_err(|error| of_file(file, &error))?;
        if is(view(on))? { Ok(()) } else { Err(io::Error::other("the drive stays as it was")) }
    }

    /// After the drive was switched past the kernel.
    fn kernel_learns(&self, on: bool) -> io::Result<()> {
        // It may be missing; what counts is what the block layer thinks afterwards.
        let rescanned = fs::write(&self.rescan, "1");
        let text = fs::read_to_string(&self.queue).map_err(|error| of_file(&self.queue, &error))?;
        if text.trim() == view(on) {
            return Ok(());
        }
        rescanned.map_err(|error| of_file(&self.rescan, &error))?;
        Err(io::Error::other(format!("{} says {}", self.queue.display(), text.trim())))
    }

    /// For disks whose cache nobody can switch.
    fn set_queue_view(&self, on: bool) -> Result<(), Trouble> {
        let trouble = |error: io::Error| Trouble(of_file(&self.queue, &error).to_string());
        let text = fs::read_to_string(&self.queue).map_err(trouble)?;
        if text.trim() == view(on) {
            return Ok(());
        }
        if !on {
            return Err("a cache of such a disk can't be switched off, and telling the kernel that there is none would lose acknowledged writes".into());
        }
        fs::write(&self.queue, view(on)).map_err(trouble)
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
