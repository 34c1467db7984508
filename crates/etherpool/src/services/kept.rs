//! One volume's reconciler: does what [`control::reconcile::next_step`] decides, and looks for itself
//! whether what it made is still alive.
//!
//! The engine's word isn't enough: a mount may be gone, shut down or unmounted by hand without the
//! engine's knowing. A look may hang as long as the volume does, so it runs on a thread of its own, one
//! at a time for each device, and is waited for in short pieces.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use block::VolumeName;
use control::api::{ApiError, ErrorCode, ServiceState, VolumeServices};
use control::reconcile::{
    Actual, Attachment, Attachments, EngineInstance, Fault, Service, Step, Wanted, after,
    next_step, standing,
};
use control::settings::FtpSetting;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::platform::{Finding, Holding, Platform, Trouble};

/// Pause after a step that failed, and after a second fault in a row.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause between two attempts to make a volume anew that is found dead each time.
const REPAIR_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Between two looks at what is there. A look costs no disk anything.
const LOOK_PAUSE: Duration = Duration::from_secs(2);
/// How long the volume stands still for a look. One that takes longer goes on beside everything else.
const LOOK_WAIT: Duration = Duration::from_secs(1);
/// A look, or a step, that takes longer than this is told of: a loaded volume has its pauses, of
/// which nobody need know.
const SLOW: Duration = Duration::from_secs(10);
/// How long an operation waits for the step or the operation that is under way: as long as people are
/// told that a mount or unmount may take.
const PAUSE_LIMIT: Duration = Duration::from_secs(60);

/// One volume's.
pub struct Kept<P: Platform> {
    name: VolumeName,
    wanted: watch::Sender<Wanted>,
    shown: watch::Sender<Shown>,
    state: Arc<AsyncMutex<State<P>>>,
    places: Arc<Places>,
    /// Has it looked at now.
    look: Arc<Notify>,
}

/// Where volumes were mounted last, also those of which nothing is there now: while an engine is away,
/// nobody keeps anything.
#[derive(Debug, Default)]
pub struct Places(Mutex<BTreeMap<VolumeName, PathBuf>>);

impl Places {
    fn was_at(&self, name: &VolumeName, path: &Path) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.insert(name.clone(), path.to_owned());
    }

    fn comes_back(&self, name: &VolumeName, path: &Path) -> bool {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(name).is_some_and(|place| place == path)
    }
}

/// What is, with the things themselves. Held locked during each step.
pub struct State<P: Platform> {
    actual: Actual,
    device: Option<PathBuf>,
    ftp: Option<P::Ftp>,
    /// Errors that requests through this device had met by the last thorough look; unknown for what an
    /// earlier process left.
    errors: Option<u64>,
    looking: Option<Looking>,
}

/// A look under way.
struct Looking {
    at: Attachment,
    errors: u64,
    since: Instant,
    finding: JoinHandle<Finding>,
}

/// The right to do something with a volume while its reconciler stands still.
pub type Paused<P> = OwnedMutexGuard<State<P>>;

/// What others see of a volume at any time, without waiting for a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// What is.
    pub actual: Actual,
    /// The block device.
    pub device: Option<PathBuf>,
    /// The last failure, until its step works or isn't wanted any more.
    pub trouble: Option<Trouble>,
    /// The step that failed.
    failed: Option<Step>,
    /// What the last look found wrong, until one finds all well.
    finding: Option<Trouble>,
    /// Since when a look isn't answered.
    unanswered: Option<Instant>,
    /// The step that is under way, and since when.
    doing: Option<(Step, Instant)>,
    /// Who held files of a file system that was shut down, when it was.
    pub lingering: Vec<Holding>,
    /// How many steps failed, so that a new failure is told from an old one.
    pub failures: u64,
    /// How many looks there were.
    looks: u64,
}

/// How a round of steps and a look ended.
enum Round {
    /// A step failed.
    Failed,
    /// What should be has changed meanwhile.
    Changed,
    /// There is nothing to look at.
    Idle,
    /// All is well, as far as one can see.
    Well,
    /// The look isn't answered yet.
    Unanswered,
    /// Something is dead, and to be made anew.
    Fault,
}

impl<P: Platform> Kept<P> {
    /// Begins to keep a volume, of which this is there.
    pub fn begin(
        (platform, places): (&Arc<P>, &Arc<Places>),
        name: VolumeName,
        wish: Wanted,
        was: (Actual, Option<PathBuf>),
    ) -> Arc<Kept<P>> {
        let (actual, device) = was;
        let shown = Shown { actual: actual.clone(), device: device.clone(), ..Shown::default() };
        let state = State { actual, device, ftp: None, errors: None, looking: None };
        let kept = Arc::new(Kept {
            name,
            wanted: watch::Sender::new(wish),
            shown: watch::Sender::new(shown),
            state: Arc::new(AsyncMutex::new(state)),
            places: Arc::clone(places),
            look: Arc::default(),
        });
        // The task holds its volume weakly between steps, so that forgetting the volume ends it.
        tokio::spawn(keep(Arc::clone(platform), Arc::downgrade(&kept)));
        kept
    }

    /// The volume.
    pub fn name(&self) -> &VolumeName {
        &self.name
    }

    /// The attachment of its device.
    pub fn attached(&self) -> Option<Attachment> {
        self.shown.borrow().actual.attached
    }

    /// What is, as it changes.
    pub fn watch(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    /// What should be.
    pub fn wanted(&self) -> watch::Ref<'_, Wanted> {
        self.wanted.borrow()
    }

    /// Says what should be.
    pub fn want(&self, wish: Wanted) {
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != wish;
            *wanted = wish;
            changed
        });
    }

    /// Takes an engine's word on what it serves, if it isn't older than the last.
    pub fn hear(&self, attachments: &Attachments) {
        self.wanted.send_if_modified(|wanted| {
            let Some(service) = &mut wanted.served_by else { return false };
            if service.engine != attachments.engine || service.next > attachments.next {
                return false;
            }
            let now: Service = attachments.service_of(&self.name);
            std::mem::replace(service, now) != now
        });
    }

    /// Nothing is wanted any more.
    pub fn want_nothing(&self) {
        self.wanted.send_modify(|wanted| {
            (wanted.device, wanted.mount, wanted.ftp) = (false, None, None);
        });
    }

    /// Has it looked at now, and waits for the outcome; not where something is known to be wrong.
    pub async fn look_now(&self) {
        let mut shown = self.watch();
        let looks = {
            let now = shown.borrow_and_update();
            if now.actual.attached.is_none() || now.trouble.is_some() || now.finding.is_some() {
                return;
            }
            now.looks
        };
        self.look.notify_one();
        // It fails when the volume is forgotten: then there is nothing to look at.
        let _ = shown.wait_for(|shown| shown.looks != looks).await;
    }

    /// Keeps the reconciler from doing anything, for an operation on the bare device. Waits for what
    /// is under way.
    pub async fn pause(&self) -> Result<Paused<P>, ApiError> {
        let locked = Arc::clone(&self.state).lock_owned();
        tokio::time::timeout(PAUSE_LIMIT, locked).await.map_err(|_| {
            let why = self.waits_for().unwrap_or_else(|| {
                format!("another operation on {} is under way (mkfs, check, growing)", self.name)
            });
            ApiError::new(ErrorCode::Busy, why).remedy("see `etherpool status`, then try again")
        })
    }

    /// For people: what is being done and how long already.
    pub fn waits_for(&self) -> Option<String> {
        let shown = self.shown.borrow();
        let (what, since) = match (shown.doing, shown.unanswered) {
            (Some((step, since)), _) => (step.doing(), since),
            (None, Some(since)) => ("a look at it", since),
            (None, None) => return None,
        };
        Some(format!("{}: {what} has taken {} s", self.name, since.elapsed().as_secs()))
    }

    /// One step, if one is to be done; true when there may be more.
    async fn step(&self, platform: &P) -> Result<bool, Trouble> {
        let mut state = self.state.lock().await;
        let wanted = self.wanted.borrow().clone();
        let Some(step) = next_step(&wanted, &state.actual) else {
            self.show(&state, None);
            return Ok(false);
        };
        self.shown.send_modify(|shown| shown.doing = Some((step, Instant::now())));
        let done = self.perform(platform, step, &wanted, &mut state).await;
        match &done {
            Ok(made) => {
                tracing::info!(volume = %self.name, ?step, "done");
                state.actual = after(step, &wanted, &state.actual, *made);
            }
            Err(trouble) => {
                tracing::warn!(volume = %self.name, ?step, error = %trouble.error, "failed; tried again");
            }
        }
        self.shown.send_modify(|shown| {
            shown.doing = None;
            if let Err(trouble) = &done {
                (shown.trouble, shown.failed) = (Some(trouble.clone()), Some(step));
                shown.failures += 1;
            }
        });
        self.show(&state, next_step(&wanted, &state.actual));
        done.map(|_| true)
    }

    /// Shows what is. A failure is shown as long as its step is the next one: after that it works, or
    /// nobody wants it any more.
    fn show(&self, state: &State<P>, next: Option<Step>) {
        self.shown.send_if_modified(|shown| {
            let before = shown.clone();
            shown.actual = state.actual.clone();
            shown.device = state.device.clone();
            if shown.failed != next {
                (shown.trouble, shown.failed) = (None, None);
            }
            *shown != before
        });
    }

    async fn perform(
        &self,
        platform: &P,
        step: Step,
        wanted: &Wanted,
        state: &mut State<P>,
    ) -> Result<Option<Attachment>, Trouble> {
        match step {
            Step::StopFtp => {
                if let Some(server) = state.ftp.take() {
                    platform.stop_ftp(server).await;
                }
            }
            Step::ShutDownFs => {
                if let (Some(device), Some(mount)) = (&state.device, &state.actual.mount) {
                    let holders = platform.shut_down(device, &mount.path).await?;
                    self.places.was_at(&self.name, &mount.path);
                    if !holders.is_empty() {
                        tracing::warn!(volume = %self.name, ?holders, "files of the lost file system are still held");
                    }
                    self.shown.send_modify(|shown| {
                        shown.lingering.retain(|holding| platform.is_running(holding.pid));
                        shown.lingering.extend(holders);
                    });
                }
            }
            Step::Unmount => {
                // A look has the mount open.
                if let Some(looking) = &mut state.looking {
                    let _ = tokio::time::timeout(SLOW, &mut looking.finding).await;
                    state.looking = None;
                }
                if let (Some(device), Some(mount)) = (&state.device, &state.actual.mount) {
                    platform.unmount(device, &mount.path).await?;
                    self.places.was_at(&self.name, &mount.path);
                }
            }
            Step::Detach | Step::Abort => {
                platform.detach(&self.name, step == Step::Abort).await?;
                state.device = None;
            }
            Step::Attach => {
                let made = platform.attach(&self.name).await?;
                state.device = Some(made.device);
                state.errors = Some(0);
                return Ok(Some(made.attachment));
            }
            Step::Mount => {
                if let (Some(device), Some(mount)) = (&state.device, &wanted.mount) {
                    let comes_back = self.places.comes_back(&self.name, &mount.path);
                    platform.mount(device, mount, comes_back).await?;
                }
            }
            Step::StartFtp => {
                if let (Some(device), Some(attachment), Some(mount), Some(ftp)) =
                    (&state.device, state.actual.attached, &wanted.mount, &wanted.ftp)
                {
                    let served = (&self.name, attachment);
                    state.ftp = Some(platform.start_ftp(served, device, mount, ftp).await?);
                }
            }
        }
        Ok(None)
    }

    async fn round(&self, platform: &Arc<P>) -> Round {
        loop {
            match self.step(platform).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return Round::Failed,
            }
        }
        let round = self.look(platform).await;
        self.shown.send_modify(|shown| shown.looks += 1);
        round
    }

    /// Looks whether what should be there is alive.
    async fn look(&self, platform: &Arc<P>) -> Round {
        let mut guard = self.state.lock().await;
        let state = &mut *guard;
        let wanted = self.wanted.borrow().clone();
        if next_step(&wanted, &state.actual).is_some() {
            return Round::Changed;
        }
        let (Some(at), Some(device)) = (state.actual.attached, state.device.clone()) else {
            self.found(None);
            return Round::Idle;
        };
        if state.ftp.as_ref().is_some_and(|server| !platform.ftp_runs(server)) {
            let error = ApiError::new(ErrorCode::Internal, "its FTP server ended by itself")
                .remedy("it is started again by itself; the log says why it ended");
            return self.fault(state, Fault::Ftp, error.into());
        }
        // One that hangs on an earlier device ends when that is gone.
        state.looking.take_if(|looking| looking.at != at);
        let looking = state.looking.get_or_insert_with(|| {
            let errors = wanted
                .served_by
                .filter(|service| service.attachment == Some(at.number))
                .map_or(0, |service| service.errors);
            let (platform, name) = (Arc::clone(platform), self.name.clone());
            let (mount, thorough) = (state.actual.mount.clone(), state.errors != Some(errors));
            let finding = tokio::spawn(async move {
                platform.check(&name, &device, mount.as_ref(), thorough).await
            });
            Looking { at, errors, since: Instant::now(), finding }
        });
        let (since, errors) = (looking.since, looking.errors);
        let Ok(finding) = tokio::time::timeout(LOOK_WAIT, &mut looking.finding).await else {
            self.shown.send_modify(|shown| shown.unanswered = Some(since));
            return Round::Unanswered;
        };
        state.looking = None;
        match finding {
            Ok(Finding::Well) => {
                state.errors = Some(errors);
                self.found(None);
                Round::Well
            }
            Ok(Finding::Remark(trouble)) => {
                self.found(Some(trouble));
                Round::Well
            }
            Ok(Finding::Fault(fault, trouble)) => self.fault(state, fault, trouble),
            Err(error) => {
                let error = format!("a look at it was lost: {error}");
                self.found(Some(ApiError::new(ErrorCode::Internal, error).into()));
                Round::Well
            }
        }
    }

    fn fault(&self, state: &mut State<P>, fault: Fault, trouble: Trouble) -> Round {
        state.actual.fault = Some(fault);
        self.found(Some(trouble));
        let wanted = self.wanted.borrow().clone();
        self.show(state, next_step(&wanted, &state.actual));
        Round::Fault
    }

    /// Shows what a look found.
    fn found(&self, finding: Option<Trouble>) {
        self.shown.send_if_modified(|shown| {
            let changed = shown.finding != finding || shown.unanswered.is_some();
            if let Some(trouble) = finding.as_ref().filter(|_| shown.finding != finding) {
                tracing::warn!(volume = %self.name, error = %trouble.error, "not as it should be");
            }
            (shown.finding, shown.unanswered) = (finding, None);
            changed
        });
    }

    /// For status, where `engine` is the one that runs; nothing where nothing is or should be.
    pub fn report(&self, engine: Option<EngineInstance>, platform: &P) -> Option<VolumeServices> {
        let (wanted, shown) = (self.wanted.borrow().clone(), self.shown.borrow().clone());
        let idle = !wanted.device && wanted.mount.is_none();
        if idle && shown.actual == Actual::default() && shown.lingering.is_empty() {
            return None;
        }
        // What another engine served isn't right, also while it still stands.
        let served_by = wanted.served_by.filter(|service| Some(service.engine) == engine);
        let stands = standing(&Wanted { served_by, ..wanted.clone() }, &shown.actual);
        let trouble = self.trouble(&wanted, &shown);
        let mount = wanted.mount.as_ref().or(shown.actual.mount.as_ref());
        let ftp: Option<&FtpSetting> = wanted.ftp.as_ref().or(shown.actual.ftp.as_ref());
        // What isn't wanted any more is there until it is gone.
        let state = |wanted: bool, right: bool, there: bool| match (wanted, right, there) {
            (true, true, _) | (false, _, true) => ServiceState::On,
            (true, false, _) => ServiceState::Waiting,
            (false, _, false) => ServiceState::Off,
        };
        Some(VolumeServices {
            volume: self.name.clone(),
            device: shown.device,
            mount: state(wanted.mount.is_some(), stands.mount, shown.actual.mount.is_some()),
            mount_path: mount.map(|mount| mount.path.clone()),
            ftp: state(wanted.ftp.is_some(), stands.ftp, shown.actual.ftp.is_some()),
            ftp_listen: ftp.map(|ftp| platform.ftp_address(ftp)),
            exports: Vec::new(),
            busy_processes: shown
                .lingering
                .into_iter()
                .filter(|holding| platform.is_running(holding.pid))
                .map(|holding| holding.text)
                .chain(shown.trouble.iter().flat_map(|trouble| trouble.holders.clone()))
                .collect(),
            trouble,
        })
    }

    /// What is wrong, the worst of it.
    fn trouble(&self, wanted: &Wanted, shown: &Shown) -> Option<String> {
        let slow = |since: Instant| since.elapsed() >= SLOW;
        let told = shown.trouble.as_ref().or(shown.finding.as_ref());
        if shown.doing.is_some_and(|(_, since)| slow(since)) {
            return self.waits_for();
        }
        if let Some(trouble) = told {
            return Some(trouble.error.to_string());
        }
        if let Some(since) = shown.unanswered.filter(|since| slow(*since)) {
            let seconds = since.elapsed().as_secs();
            return Some(format!(
                "it has not answered for {seconds} s (see `etherpool pool show {}`; if the pool is \
                 well, the log of the engine)",
                self.name.pool()
            ));
        }
        let dead = shown.actual.attached.is_some() && !standing(wanted, &shown.actual).device;
        dead.then(|| "its block device is dead and being cleared away".to_owned())
    }
}

impl<P: Platform> State<P> {
    /// Whether the volume has a block device now.
    pub fn device(&self) -> Option<&PathBuf> {
        self.device.as_ref()
    }

    /// What is.
    pub fn actual(&self) -> &Actual {
        &self.actual
    }
}

/// A volume's task.
async fn keep<P: Platform>(platform: Arc<P>, volume: Weak<Kept<P>>) {
    let Some((mut changes, look)) =
        volume.upgrade().map(|kept| (kept.wanted.subscribe(), Arc::clone(&kept.look)))
    else {
        return;
    };
    let mut faults: u32 = 0;
    loop {
        changes.borrow_and_update();
        let round = {
            let Some(kept) = volume.upgrade() else { return };
            kept.round(&platform).await
        };
        let asked = matches!(round, Round::Well | Round::Idle | Round::Unanswered);
        let pause = match round {
            Round::Changed => continue,
            Round::Failed => RETRY_PAUSE,
            Round::Idle => Duration::MAX,
            Round::Unanswered => LOOK_PAUSE,
            Round::Well => {
                faults = 0;
                LOOK_PAUSE
            }
            Round::Fault => {
                faults = faults.saturating_add(1);
                match faults.checked_sub(2) {
                    // The first is mended at once.
                    None => continue,
                    Some(more) => {
                        RETRY_PAUSE.saturating_mul(1 << more.min(8)).min(REPAIR_PAUSE_MAX)
                    }
                }
            }
        };
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = look.notified(), if asked => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
