//! Asks drives how they are, by smartctl, which knows them all: ATA, NVMe, SAS, and what hides behind bridges. A drive may
//! take its time for that, or hang: who asks is a thread of its own, and no export waits for it. One that sleeps isn't
//! woken.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use block::DriveHealth;
use control::node::drive_health;
use os::ReactorHandle;
use runtime::Semaphore;

/// How often a drive is asked.
pub const ASK_EVERY: Duration = Duration::from_secs(30 * 60);
/// How long smartctl may take before it is ended, in seconds ...
const LIMIT_SECS: &str = "60";
/// ... and how long is waited for that: a drive that hangs holds its asker beyond any signal.
const PATIENCE: Duration = Duration::from_secs(70);
/// Drives asked at the same time.
const ASKED_AT_ONCE: u64 = 4;
/// More than smartctl prints of any drive.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// Where administrators' programs are, also where a service's `PATH` lacks them.
const PLACES: [&str; 6] =
    ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];

type Hanging = Mutex<BTreeSet<PathBuf>>;

/// Who asks the drives of a process.
pub struct DriveAsker {
    handle: ReactorHandle,
    /// The program; nobody is asked without.
    program: RefCell<Option<PathBuf>>,
    turns: Rc<Semaphore>,
    /// Drives whose asker didn't come back.
    hanging: Arc<Hanging>,
    complained: Cell<bool>,
    /// How often it was told to ask all of them again.
    rounds: Cell<u64>,
}

impl DriveAsker {
    /// By this program, as the configuration names it.
    pub fn new(handle: &ReactorHandle, program: Option<&Path>) -> DriveAsker {
        let asker = DriveAsker {
            handle: handle.clone(),
            program: RefCell::default(),
            turns: Semaphore::new(ASKED_AT_ONCE),
            hanging: Arc::default(),
            complained: Cell::new(false),
            rounds: Cell::new(0),
        };
        asker.reload(program);
        asker
    }

    /// Takes another program, by which all are asked again.
    pub fn reload(&self, program: Option<&Path>) {
        let program = program.unwrap_or(Path::new("smartctl"));
        let is_any = !program.as_os_str().is_empty();
        self.program.replace(is_any.then(|| program.to_owned()));
        self.rounds.set(self.rounds.get() + 1);
    }

    /// Another one whenever all are to be asked.
    pub fn round(&self) -> u64 {
        self.rounds.get()
    }

    /// Whether anybody is asked at all.
    pub fn is_on(&self) -> bool {
        self.program.borrow().is_some()
    }

    /// How a drive is; none where it doesn't tell now. Its path is resolved by the child alone.
    pub async fn ask(&self, drive: &Path) -> Option<DriveHealth> {
        let program = self.program.borrow().clone()?;
        if lock(&self.hanging).contains(drive) {
            return None;
        }
        let _turn = self.turns.acquire(1).await;
        let asked = Asked::begin(&self.hanging, drive);
        let answer = self.handle.blocking(move || ask(&program, &asked.drive));
        match runtime::timeout(self.handle.runtime(), PATIENCE, answer).await {
            Ok(Ok(Ok(health))) => health,
            Ok(Ok(Err(error)) | Err(error)) => {
                if !self.complained.replace(true) {
                    tracing::info!(%error, "smartctl can't be run: nobody is told how drives are");
                }
                None
            }
            Err(_) => {
                tracing::warn!(drive = %drive.display(), "asked how it is, the drive hangs");
                None
            }
        }
    }
}

/// A drive that is being asked; over when this is dropped, however that comes.
struct Asked {
    drive: PathBuf,
    hanging: Arc<Hanging>,
}

impl Asked {
    fn begin(hanging: &Arc<Hanging>, drive: &Path) -> Asked {
        lock(hanging).insert(drive.to_owned());
        Asked { drive: drive.to_owned(), hanging: Arc::clone(hanging) }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        lock(&self.hanging).remove(&self.drive);
    }
}

fn lock(hanging: &Hanging) -> MutexGuard<'_, BTreeSet<PathBuf>> {
    // A set is whole whenever nobody holds it.
    hanging.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the program.
fn ask(program: &Path, drive: &Path) -> io::Result<Option<DriveHealth>> {
    // By their paths: a child that has to be looked for is made by copying this process, whose memory is locked.
    let (Some(timeout), Some(program)) = (found(Path::new("timeout")), found(program)) else {
        return Err(io::Error::other(format!("no {} here", program.display())));
    };
    let mut child = Command::new(timeout)
        .args(["--kill-after=5", LIMIT_SECS])
        .arg(program)
        .args(["--json", "--all", "--nocheck=standby"])
        .arg(drive)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut output = Vec::new();
    let read = match child.stdout.take() {
        Some(stdout) => stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut output).map(drop),
        None => Ok(()),
    };
    // Its status says in bits what the output says in words.
    child.wait()?;
    read?;
    Ok(drive_health(&output))
}

/// Where a program is: as it was named, or in one of the places where programs are.
fn found(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.exists().then(|| program.to_owned());
    }
    PLACES.iter().map(|place| Path::new(place).join(program)).find(|path| path.exists())
}
