//! Sets up this machine's drives as `[[drive]]` says, when the node starts and whenever a drive
//! appears: what a drive was told is gone when it loses power.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use control::node::{DriveConfig, DriveNames, DriveStatus};
use os::ReactorHandle;
use os::ata::AtaDisks;
use os::ata::settings::{DriveSettings, RecoveryLimit, Refusal, StandbyTimer, apply};
use os::disks::DriveSeen;

/// How often is looked for drives.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// All drives with settings.
pub struct Drives {
    handle: ReactorHandle,
    disks: Rc<AtaDisks>,
    config: RefCell<Vec<DriveConfig>>,
    set_up: RefCell<BTreeMap<PathBuf, Drive>>,
    stopping: Cell<bool>,
}

struct Drive {
    appearance: (u64, u64),
    settings: DriveSettings,
    refused: Vec<String>,
}

impl Drives {
    /// Begins to set drives up.
    pub fn start(handle: &ReactorHandle, disks: &Rc<AtaDisks>, config: &[DriveConfig]) -> Rc<Self> {
        let drives = Rc::new(Drives {
            handle: handle.clone(),
            disks: Rc::clone(disks),
            config: RefCell::new(config.to_vec()),
            set_up: RefCell::default(),
            stopping: Cell::new(false),
        });
        let looking = Rc::clone(&drives);
        handle.runtime().spawn(async move {
            while !looking.stopping.get() {
                looking.look().await;
                looking.handle.runtime().sleep(LOOK_EVERY).await;
            }
        });
        drives
    }

    /// Takes other settings; drives that have theirs already are left alone.
    pub fn reload(&self, config: &[DriveConfig]) {
        *self.config.borrow_mut() = config.to_vec();
    }

    /// Looks for drives no more. They stay as they are.
    pub fn stop(&self) {
        self.stopping.set(true);
    }

    /// The drives that were set up, and what didn't work.
    pub fn status(&self) -> Vec<DriveStatus> {
        let set_up = self.set_up.borrow();
        let status = |(path, drive): (&PathBuf, &Drive)| DriveStatus {
            path: path.display().to_string(),
            refused: drive.refused.clone(),
        };
        set_up.iter().map(status).collect()
    }

    async fn look(self: &Rc<Self>) {
        if self.config.borrow().is_empty() {
            self.set_up.borrow_mut().clear();
            return;
        }
        let seen = match self.handle.blocking(os::disks::drives).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) | Err(error) => {
                tracing::warn!(%error, "cannot look for this machine's drives");
                return;
            }
        };
        self.set_up.borrow_mut().retain(|path, _| seen.iter().any(|drive| drive.path == *path));
        for drive in seen {
            let Some(settings) = settings_for(&self.config.borrow(), &names_of(&drive)) else {
                self.set_up.borrow_mut().remove(&drive.path);
                continue;
            };
            let appearance = drive.appearance;
            let done =
                self.set_up.borrow().get(&drive.path).is_some_and(|known| {
                    known.appearance == appearance && known.settings == settings
                });
            if done {
                continue;
            }
            let entry = Drive { appearance, settings, refused: Vec::new() };
            self.set_up.borrow_mut().insert(drive.path.clone(), entry);
            // Each on its own: a drive that hangs doesn't keep the others waiting.
            let drives = Rc::clone(self);
            self.handle.runtime().spawn(async move {
                let refusals = apply(&drives.disks, &drive.path, &settings).await;
                drives.note(&drive.path, appearance, &refusals);
            });
        }
    }

    fn note(&self, path: &Path, appearance: (u64, u64), refusals: &[Refusal]) {
        for refusal in refusals {
            let Refusal { setting, why } = refusal;
            tracing::warn!(drive = %path.display(), setting, "not set: {why}");
        }
        if refusals.is_empty() {
            tracing::info!(drive = %path.display(), "drive set up");
        }
        let mut set_up = self.set_up.borrow_mut();
        if let Some(drive) = set_up.get_mut(path).filter(|drive| drive.appearance == appearance) {
            let text = |refusal: &Refusal| format!("{}: {}", refusal.setting, refusal.why);
            drive.refused = refusals.iter().map(text).collect();
        }
    }
}

fn names_of(drive: &DriveSeen) -> DriveNames {
    let paths = std::iter::once(&drive.path).chain(&drive.links);
    DriveNames {
        paths: paths.map(|path| path.display().to_string()).collect(),
        serial: drive.serial.clone(),
        wwn: drive.wwn.clone(),
    }
}

/// What all entries that mean a drive say together; the later one counts.
fn settings_for(config: &[DriveConfig], drive: &DriveNames) -> Option<DriveSettings> {
    let mut found = None;
    for entry in config.iter().filter(|entry| entry.is_for(drive)) {
        let settings: &mut DriveSettings = found.get_or_insert_default();
        settings.write_cache = entry.write_cache.or(settings.write_cache);
        settings.read_ahead = entry.read_ahead.or(settings.read_ahead);
        settings.kernel_read_ahead_kib =
            entry.kernel_read_ahead_kib.or(settings.kernel_read_ahead_kib);
        // Spans beyond what a drive counts were refused with the configuration.
        settings.spin_down =
            entry.spin_down.and_then(|span| StandbyTimer::at_least(span.0)).or(settings.spin_down);
        settings.error_recovery = entry
            .error_recovery
            .and_then(|span| RecoveryLimit::at_least(span.0))
            .or(settings.error_recovery);
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use control::duration::Span;

    fn entry(pattern: &str) -> DriveConfig {
        DriveConfig {
            r#match: pattern.to_owned(),
            write_cache: None,
            read_ahead: None,
            kernel_read_ahead_kib: None,
            spin_down: None,
            error_recovery: None,
        }
    }

    #[test]
    fn the_later_entry_counts() {
        let drive = DriveNames { serial: Some("WD-1".into()), ..DriveNames::default() };
        let config = [
            DriveConfig { write_cache: Some(true), read_ahead: Some(true), ..entry("*") },
            DriveConfig { write_cache: Some(false), ..entry("WD-*") },
            DriveConfig {
                spin_down: Some(Span(Duration::from_secs(60))),
                error_recovery: Some(Span(Duration::ZERO)),
                ..entry("WD-1")
            },
            DriveConfig { kernel_read_ahead_kib: Some(5), ..entry("WD-2") },
        ];
        let settings = settings_for(&config, &drive).unwrap();
        assert_eq!((settings.write_cache, settings.read_ahead), (Some(false), Some(true)));
        assert_eq!(settings.spin_down.map(StandbyTimer::raw), Some(12));
        assert_eq!(settings.error_recovery, Some(RecoveryLimit::OFF));
        assert_eq!(settings.kernel_read_ahead_kib, None);
        assert_eq!(settings_for(&config[1..], &DriveNames::default()), None);
    }
}
