//! What clients leave with an export by the protocol (configuration string, mask list, reservation)
//! in a file, so that it survives a restart. Whoever reserved an export must be able to rely on it:
//! a change is on stable storage before it is answered, and a file that can't be read closes its
//! export instead of opening it to all.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use aoe_target::Memory;
use aoe_target::Remembered;
use aoe_wire::{MacAddr, ShelfSlot};
use block::{IoError, Lba, SectorRange};
use control::node::{DamagedState, ExportPlan};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use os::ReactorHandle;
use os::dir::{Directory, WriteError};
use serde::{Deserialize, Serialize};

/// The form of the file.
const VERSION: u32 = 1;
/// Where the files are, in the state directory.
const EXPORTS: &str = "exports";
/// Larger than any valid file.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// How long until a file is written once more of which nobody knows what it holds.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// The memory of one export.
pub struct ExportMemory {
    handle: ReactorHandle,
    file: Place,
    /// The configuration string as configured: another one later goes before the remembered.
    configured: String,
    /// The last change could not be kept, and people know.
    failing: Rc<Cell<bool>>,
}

/// Where the file is.
#[derive(Clone, Debug)]
struct Place {
    state_dir: Directory,
    address: ShelfSlot,
}

/// What was found at the start of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is known what clients left with it.
    Known(Remembered),
    /// It isn't, and why.
    Damaged(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Stored {
    version: u32,
    /// The configured string from which `config_string` came to be.
    configured: String,
    /// Bytes in hexadecimal digits.
    config_string: String,
    mask: Vec<String>,
    reserved: Vec<String>,
}

impl ExportMemory {
    /// The memory of a plan's export, below the state directory.
    pub fn new(handle: &ReactorHandle, state_dir: &Directory, plan: &ExportPlan) -> ExportMemory {
        ExportMemory {
            handle: handle.clone(),
            file: Place { state_dir: state_dir.clone(), address: plan.address },
            configured: plan.config_string.clone(),
            failing: Rc::default(),
        }
    }

    /// What clients left with the export.
    pub async fn load(&self, plan: &ExportPlan) -> Found {
        let (file, plan) = (self.file.clone(), plan.clone());
        match self.handle.blocking(move || load(&file, &plan)).await {
            Ok(found) => found,
            Err(error) => Found::Damaged(error.to_string()),
        }
    }

    /// Where it is kept.
    pub fn file(&self) -> PathBuf {
        self.file.path()
    }
}

impl Memory for ExportMemory {
    fn store(
        &self,
        address: ShelfSlot,
        state: Remembered,
    ) -> LocalBoxFuture<'static, Result<(), IoError>> {
        let (handle, file, configured) =
            (self.handle.clone(), self.file.clone(), self.configured.clone());
        let failing = Rc::clone(&self.failing);
        async move {
            let shown = file.path();
            let attempt = || {
                let (file, configured, state) = (file.clone(), configured.clone(), state.clone());
                handle.blocking(move || store(&file, configured, &state))
            };
            match until_certain(&handle, RETRY_EVERY, attempt).await {
                Ok(()) => {
                    failing.set(false);
                    Ok(())
                }
                Err(error) => {
                    // Once: clients may ask as often as they like.
                    if !failing.replace(true) {
                        tracing::error!(
                            export = %address,
                            "what clients set is refused, because {} can't be written: {error}",
                            shown.display()
                        );
                    }
                    Err(IoError::Medium(SectorRange::new(Lba(0), 0)))
                }
            }
        }
        .boxed_local()
    }
}

/// Stores until it is known which state a restart would read. As long as it isn't, the client is told
/// neither: whatever it heard could turn out wrong.
async fn until_certain<F>(
    handle: &ReactorHandle,
    every: Duration,
    mut attempt: impl FnMut() -> F,
) -> io::Result<()>
where
    F: Future<Output = io::Result<Result<(), WriteError>>>,
{
    let mut said = false;
    loop {
        match attempt().await? {
            Ok(()) => return Ok(()),
            Err(WriteError::Unchanged(error)) => return Err(error),
            Err(error @ WriteError::Uncertain(_)) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::error!("what clients set is neither stored nor not: {error}");
                }
            }
        }
        handle.runtime().sleep(every).await;
    }
}

/// What an export without a memory begins with.
pub fn configured(plan: &ExportPlan) -> Remembered {
    Remembered {
        config_string: plan.config_string.clone().into_bytes(),
        mask: plan.mask.clone(),
        reserved: Vec::new(),
    }
}

impl Place {
    fn name(&self, kind: &str) -> String {
        format!("{}.{kind}", self.address)
    }

    fn path(&self) -> PathBuf {
        self.state_dir.path_of(EXPORTS).join(self.name("json"))
    }

    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        match self.state_dir.present(EXPORTS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            directory => directory?.read(&self.name("json"), FILE_BYTES_MAX),
        }
    }

    /// Puts a damaged file aside.
    fn put_aside(&self, kept: &str) -> io::Result<()> {
        let directory = self.state_dir.present(EXPORTS)?;
        directory.rename(OsStr::new(&self.name("json")), OsStr::new(kept))
    }
}

fn load(file: &Place, plan: &ExportPlan) -> Found {
    let why = match read(file) {
        Ok(None) => return Found::Known(configured(plan)),
        Ok(Some((stored_for, mut remembered))) => {
            if stored_for != plan.config_string {
                remembered.config_string = plan.config_string.clone().into_bytes();
            }
            return Found::Known(remembered);
        }
        Err(why) => why,
    };
    if plan.damaged_state == DamagedState::Closed {
        return Found::Damaged(why);
    }
    let kept = file.name("damaged");
    tracing::warn!(
        export = %plan.address,
        "{} is damaged ({why}); kept as {kept}, and the export begins with empty lists",
        file.path().display(),
    );
    match file.put_aside(&kept) {
        Ok(()) => Found::Known(configured(plan)),
        Err(error) => Found::Damaged(format!("{why}; it can't be renamed: {error}")),
    }
}

/// The configured string for which the state was stored, and the state; `None` without a file.
fn read(file: &Place) -> Result<Option<(String, Remembered)>, String> {
    let Some(text) = file.read().map_err(|error| error.to_string())? else { return Ok(None) };
    let text = String::from_utf8(text).map_err(|error| error.to_string())?;
    let stored: Stored = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if stored.version != VERSION {
        return Err(format!("version {} is not known here", stored.version));
    }
    let macs = |list: &[String]| -> Result<Vec<MacAddr>, String> {
        list.iter()
            .map(|mac| mac.parse().map_err(|_| format!("{mac:?} is not a MAC address")))
            .collect()
    };
    let remembered = Remembered {
        config_string: from_hex(&stored.config_string)
            .ok_or("the configuration string is not in hexadecimal digits")?,
        mask: macs(&stored.mask)?,
        reserved: macs(&stored.reserved)?,
    };
    Ok(Some((stored.configured, remembered)))
}

fn store(file: &Place, configured: String, state: &Remembered) -> Result<(), WriteError> {
    let text = text_of(configured, state).map_err(WriteError::Unchanged)?;
    let directory = file.state_dir.subdirectory(EXPORTS).map_err(WriteError::Unchanged)?;
    directory.replace(OsStr::new(&file.name("json")), &text)
}

fn text_of(configured: String, state: &Remembered) -> io::Result<Vec<u8>> {
    let macs = |list: &[MacAddr]| list.iter().map(ToString::to_string).collect();
    let stored = Stored {
        version: VERSION,
        configured,
        config_string: to_hex(&state.config_string),
        mask: macs(&state.mask),
        reserved: macs(&state.reserved),
    };
    let mut text = serde_json::to_vec_pretty(&stored)?;
    text.push(b'\n');
    Ok(text)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use control::node::NodeConfig;
    use std::path::Path;

    fn place(dir: &Path) -> Place {
        Place { state_dir: Directory::open(dir).unwrap(), address: ShelfSlot::new(1, 1) }
    }

    fn plan(settings: &str) -> ExportPlan {
        let text = format!("[[export]]\naddress='e1.1'\npath='/d'\n{settings}\n");
        NodeConfig::parse(&text, Path::new("t")).unwrap().plans().unwrap().remove(0)
    }

    fn left() -> Remembered {
        Remembered {
            config_string: vec![0, 0xff, b'x'],
            mask: vec![MacAddr([2, 0, 0, 0, 0, 1])],
            reserved: vec![MacAddr([2, 0, 0, 0, 0, 2]), MacAddr([2, 0, 0, 0, 0, 3])],
        }
    }

    #[test]
    fn what_clients_left_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = place(dir.path());
        let plan = plan("config-string='first'");
        assert_eq!(load(&file, &plan), Found::Known(configured(&plan)));
        store(&file, plan.config_string.clone(), &left()).unwrap();
        assert_eq!(load(&file, &plan), Found::Known(left()));
        // Nothing of the writing stays behind.
        assert_eq!(std::fs::read_dir(dir.path().join("exports")).unwrap().count(), 1);
        // The administrator has changed the string since; the lists stay.
        let other = self::plan("config-string='second'");
        let expected = Remembered { config_string: b"second".to_vec(), ..left() };
        assert_eq!(load(&file, &other), Found::Known(expected));
    }

    /// What nobody can tell isn't told, neither one way nor the other.
    #[test]
    fn an_uncertain_state_is_stored_again_until_it_is_certain() {
        let error = || io::Error::from(io::ErrorKind::StorageFull);
        for certain in [true, false] {
            let (mut reactor, handle) = os::Reactor::new().unwrap();
            let attempts = Rc::new(Cell::new(0));
            let counter = Rc::clone(&attempts);
            let attempt = move || {
                counter.set(counter.get() + 1);
                let outcome = match (counter.get(), certain) {
                    (1 | 2, _) => Err(WriteError::Uncertain(error())),
                    (_, true) => Ok(()),
                    (_, false) => Err(WriteError::Unchanged(error())),
                };
                futures::future::ready(Ok(outcome))
            };
            let stored = async move { until_certain(&handle, Duration::ZERO, attempt).await };
            assert_eq!(reactor.run_until(stored).unwrap().is_ok(), certain);
            assert_eq!(attempts.get(), 3);
        }
    }

    #[test]
    fn a_damaged_file_closes_its_export() {
        let dir = tempfile::tempdir().unwrap();
        let memory = place(dir.path());
        store(&memory, String::new(), &left()).unwrap();
        let file = memory.path();
        let good = std::fs::read_to_string(&file).unwrap();
        for bad in [
            String::new(),
            good[..good.len() / 2].to_owned(),
            good.replace("02:00:00:00:00:01", "02:00:00:00:00"),
            good.replace("\"version\": 1", "\"version\": 2"),
            good.replace("00ff78", "00ff7"),
            good.replace("mask", "musk"),
        ] {
            std::fs::write(&file, &bad).unwrap();
            assert!(matches!(load(&memory, &plan("")), Found::Damaged(_)), "{bad}");
            assert!(file.exists());
        }
        let discarding = plan("damaged-state='discard'");
        assert_eq!(load(&memory, &discarding), Found::Known(configured(&discarding)));
        assert!(!file.exists() && dir.path().join("exports/e1.1.damaged").exists());
    }
}
