//! The reconciler on a platform that remembers what it was told to do.

#![allow(clippy::unwrap_used)]

use super::super::kept::Shown;
use super::super::platform::{Finding, Holding, Made};
use super::*;
use control::api::{ServiceState, VolumeServices};
use control::reconcile::{AttachedVolume, EngineInstance, Fault};
use control::settings::{FTP_KEY, FtpSetting, MOUNT_KEY};
use pool::{PoolState, Replayed, VotesReport};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Default)]
struct Fake {
    log: Mutex<Vec<String>>,
    failing: Mutex<BTreeSet<&'static str>>,
    /// Steps that don't end, until they are let go.
    hanging: Mutex<BTreeSet<&'static str>>,
    leftovers: Mutex<Vec<super::super::platform::Leftover>>,
    /// The engine that serves, and how many attachments it made.
    engine: AtomicU64,
    attachments: AtomicU64,
    findings: Mutex<Vec<Finding>>,
    thorough: AtomicU64,
    ftp_ended: AtomicBool,
    came_back: AtomicBool,
}

impl Fake {
    fn of_engine(engine: u64) -> Fake {
        Fake { engine: engine.into(), ..Fake::default() }
    }

    async fn wait(&self, what: &'static str) {
        while self.hanging.lock().unwrap().contains(what) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Fake {
    fn act(&self, what: &'static str) -> Result<(), Trouble> {
        self.log.lock().unwrap().push(what.into());
        if self.failing.lock().unwrap().contains(what) {
            return Err(ApiError::new(ErrorCode::Io, format!("{what} failed")).into());
        }
        Ok(())
    }
}

impl Platform for Fake {
    type Ftp = ();

    async fn attach(&self, _: &VolumeName) -> Result<Made, Trouble> {
        self.act("attach")?;
        let engine = EngineInstance(self.engine.load(Ordering::Relaxed));
        let number = self.attachments.fetch_add(1, Ordering::Relaxed) + 1;
        let attachment = Attachment { engine, number };
        Ok(Made { device: "/dev/loop0".into(), attachment })
    }

    async fn detach(&self, _: &VolumeName, abort: bool) -> Result<(), Trouble> {
        self.act(if abort { "abort" } else { "detach" })
    }

    async fn mount(&self, _: &Path, _: &MountSetting, comes_back: bool) -> Result<(), Trouble> {
        self.came_back.store(comes_back, Ordering::Relaxed);
        self.act("mount")
    }

    async fn unmount(&self, _: &Path, _: &Path) -> Result<(), Trouble> {
        self.wait("unmount").await;
        self.act("unmount")
    }

    async fn check(
        &self,
        _: &VolumeName,
        _: &Path,
        _: Option<&MountSetting>,
        thorough: bool,
    ) -> Finding {
        self.wait("check").await;
        self.thorough.fetch_add(thorough.into(), Ordering::Relaxed);
        self.findings.lock().unwrap().pop().unwrap_or(Finding::Well)
    }

    async fn shut_down(&self, _: &Path, _: &Path) -> Result<Vec<Holding>, Trouble> {
        let holding = |pid| Holding { pid, text: format!("process {pid}") };
        self.wait("shut-down").await;
        self.act("shut-down").map(|()| vec![holding(1), holding(2)])
    }

    fn is_running(&self, pid: u32) -> bool {
        pid == 2
    }

    async fn start_ftp(
        &self,
        _: (&VolumeName, Attachment),
        _: &Path,
        _: &MountSetting,
        _: &FtpSetting,
    ) -> Result<(), Trouble> {
        self.ftp_ended.store(false, Ordering::Relaxed);
        self.act("start-ftp")
    }

    fn ftp_runs(&self, (): &()) -> bool {
        !self.ftp_ended.load(Ordering::Relaxed)
    }

    async fn stop_ftp(&self, (): ()) {
        self.log.lock().unwrap().push("stop-ftp".into());
    }

    fn ftp_address(&self, _: &FtpSetting) -> SocketAddr {
        ([127, 0, 0, 1], 2121).into()
    }

    async fn leftovers(&self) -> Result<Vec<super::super::platform::Leftover>, Trouble> {
        Ok(self.leftovers.lock().unwrap().clone())
    }
}

fn pool_report() -> PoolReport {
    let properties = BTreeMap::from([
        (MOUNT_KEY.to_string(), r#"{"path":"/srv/v"}"#.to_string()),
        (FTP_KEY.to_string(), "{}".to_string()),
    ]);
    PoolReport {
        read_only: false,
        stale_secs: None,
        name: "p".into(),
        id: "1".into(),
        state: PoolState::Online,
        owner: "host".into(),
        epoch: 1,
        capacity_bytes: 0,
        free_bytes: 0,
        survives: 1,
        disks: Vec::new(),
        votes: VotesReport::default(),
        lease_ok: true,
        ours: true,
        jobs: Vec::new(),
        scrub: None,
        spare: None,
        grant: None,
        volumes: vec![VolumeReport {
            name: "v".into(),
            id: "1".into(),
            layout: "mirror:2".into(),
            converting_to: None,
            size_bytes: 1,
            properties,
            state: pool::VolumeState::Online,
            degraded: false,
            dirty_bytes: 0,
            resynced_bytes: 0,
            read_bytes: 0,
            written_bytes: 0,
            repaired_blocks: 0,
            log_bytes: 0,
            log_capacity_bytes: 1 << 20,
            survives_disks: 1,
            survives_nodes: 1,
            survives_labels: Default::default(),
            shared_groups: 0,
            replayed: Replayed::default(),
            replaying: None,
        }],
    }
}

async fn wait(reconciler: &Reconciler<Fake>, good: impl Fn(&Shown) -> bool) -> Shown {
    let kept = reconciler.volume(&VolumeName::new("p", "v").unwrap());
    let mut shown = kept.watch();
    shown.wait_for(|shown| good(shown)).await.unwrap().clone()
}

fn is_up(shown: &Shown, instance: u64) -> bool {
    shown.actual.ftp.is_some()
        && shown.actual.attached.map(|device| device.engine) == Some(EngineInstance(instance))
}

/// The word of an engine that serves the volume through this attachment, or none.
fn word(engine: u64, alive: Option<u64>, next: u64) -> Attachments {
    let volume = VolumeName::new("p", "v").unwrap();
    let served = alive.map(|number| AttachedVolume { volume, number, errors: 0 });
    let engine = EngineInstance(engine);
    Attachments { engine, next, served: served.into_iter().collect() }
}

/// What an engine that ended nothing says at any time.
fn serving(reconciler: &Reconciler<Fake>) -> Attachments {
    let fake = reconciler.platform();
    let made = fake.attachments.load(Ordering::Relaxed);
    let alive = Some(made).filter(|made| *made > 0);
    word(fake.engine.load(Ordering::Relaxed), alive, made + 1)
}

fn want(reconciler: &Reconciler<Fake>, report: PoolReport) {
    reconciler.want(Some(&serving(reconciler)), &[report]);
}

async fn up() -> Arc<Reconciler<Fake>> {
    let reconciler = Reconciler::new(Fake::of_engine(1));
    want(&reconciler, pool_report());
    wait(&reconciler, |shown| is_up(shown, 1)).await;
    assert_eq!(log(&reconciler), UP);
    reconciler
}

fn broken(what: Fault) -> Finding {
    Finding::Fault(what, ApiError::new(ErrorCode::Io, "it is dead").into())
}

fn trouble(reconciler: &Reconciler<Fake>) -> Option<String> {
    report(reconciler).first().and_then(|report| report.trouble.clone())
}

fn report(reconciler: &Reconciler<Fake>) -> Vec<VolumeServices> {
    let engine = reconciler.platform().engine.load(Ordering::Relaxed);
    reconciler.report(Some(EngineInstance(engine)))
}

fn log(reconciler: &Reconciler<Fake>) -> Vec<String> {
    std::mem::take(&mut *reconciler.platform().log.lock().unwrap())
}

const UP: [&str; 3] = ["attach", "mount", "start-ftp"];
const HARD_AND_UP: [&str; 6] = ["stop-ftp", "shut-down", "abort", "attach", "mount", "start-ftp"];

#[tokio::test]
async fn a_new_engine_means_everything_anew_without_a_command() {
    let reconciler = up().await;
    assert!(reconciler.is_up_to_date());
    assert!(!reconciler.platform().came_back.load(Ordering::Relaxed));

    reconciler.want(None, &[]);
    wait(&reconciler, |shown| shown.actual == Actual::default()).await;
    assert_eq!(log(&reconciler), ["stop-ftp", "shut-down", "abort"]);

    reconciler.platform().engine.store(2, Ordering::Relaxed);
    reconciler.want(Some(&word(2, None, 1)), &[pool_report()]);
    wait(&reconciler, |shown| is_up(shown, 2)).await;
    assert_eq!(log(&reconciler), UP);
    // Who still holds files of the old file system is named; who has ended isn't.
    assert_eq!(report(&reconciler)[0].busy_processes, ["process 2"]);
    assert!(reconciler.platform().came_back.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_pool_without_its_lease_is_taken_down_and_comes_back() {
    let reconciler = up().await;
    let fenced = PoolReport { state: PoolState::Fenced, ..pool_report() };
    let leaseless = PoolReport { lease_ok: false, ..pool_report() };
    for lost in [fenced, leaseless] {
        want(&reconciler, lost);
        wait(&reconciler, |shown| shown.actual == Actual::default()).await;
        assert_eq!(log(&reconciler), ["stop-ftp", "shut-down", "abort"]);
        want(&reconciler, pool_report());
        wait(&reconciler, |shown| is_up(shown, 1)).await;
        assert_eq!(log(&reconciler), UP);
    }
}

#[tokio::test]
async fn a_wait_for_disks_within_the_lease_costs_nobody_their_files() {
    let suspended = || {
        let mut report = pool_report();
        report.state = PoolState::Suspended { why: "votes".into() };
        report.volumes[0].state = pool::VolumeState::Suspended { why: "votes".into() };
        report
    };
    // It doesn't begin so,
    let reconciler = Reconciler::new(Fake::of_engine(1));
    want(&reconciler, suspended());
    tokio::task::yield_now().await;
    assert!(log(&reconciler).is_empty());
    // but it stays, until the lease is over.
    want(&reconciler, pool_report());
    wait(&reconciler, |shown| is_up(shown, 1)).await;
    log(&reconciler);
    want(&reconciler, suspended());
    tokio::task::yield_now().await;
    assert!(log(&reconciler).is_empty());
    want(&reconciler, PoolReport { lease_ok: false, ..suspended() });
    wait(&reconciler, |shown| shown.actual == Actual::default()).await;
}

#[tokio::test]
async fn what_another_volume_waits_for_holds_nobody_up() {
    let reconciler = Reconciler::new(Fake::of_engine(1));
    let mut report = pool_report();
    let why = "no disk has it".to_owned();
    report.state = PoolState::Suspended { why: format!("volume w: {why}") };
    let state = pool::VolumeState::Suspended { why };
    report.volumes.push(VolumeReport { name: "w".into(), state, ..report.volumes[0].clone() });
    want(&reconciler, report);
    wait(&reconciler, |shown| is_up(shown, 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_is_shown_and_tried_again() {
    let reconciler = Reconciler::new(Fake::of_engine(1));
    reconciler.platform().failing.lock().unwrap().insert("mount");
    want(&reconciler, pool_report());
    let shown = wait(&reconciler, |shown| shown.failures == 2).await;
    assert_eq!(shown.trouble.unwrap().error.message, "mount failed");
    assert!(!reconciler.is_up_to_date());
    let report = report(&reconciler);
    assert_eq!(report[0].mount, ServiceState::Waiting);
    assert_eq!(report[0].trouble.as_deref(), Some("mount failed"));
    reconciler.platform().failing.lock().unwrap().clear();
    let shown = wait(&reconciler, |shown| is_up(shown, 1)).await;
    assert_eq!(shown.trouble, None);
    assert_eq!(log(&reconciler), ["attach", "mount", "mount", "mount", "start-ftp"]);
}

#[tokio::test]
async fn what_is_held_stays_down_whatever_the_pool_says() {
    let reconciler = Reconciler::new(Fake::of_engine(1));
    for what in ["p", "p/v"] {
        want(&reconciler, pool_report());
        wait(&reconciler, |shown| is_up(shown, 1)).await;
        log(&reconciler);
        assert!(reconciler.hold(what).await.is_empty());
        assert_eq!(log(&reconciler), ["stop-ftp", "unmount", "detach"]);
        want(&reconciler, pool_report());
        tokio::task::yield_now().await;
        assert!(log(&reconciler).is_empty());
        reconciler.let_go(what);
    }
}

#[tokio::test]
async fn the_end_of_the_process_is_orderly() {
    let reconciler = up().await;
    reconciler.stop().await;
    assert_eq!(log(&reconciler), ["stop-ftp", "unmount", "detach"]);
}

#[tokio::test]
async fn what_a_dead_predecessor_left_is_gone_on_with_only_if_its_engine_lives() {
    let name = VolumeName::new("p", "v").unwrap();
    let left = super::super::platform::Leftover {
        volume: name.clone(),
        device: Some("/dev/loop0".into()),
        mounted_at: Some("/srv/v".into()),
    };
    for alive in [true, false] {
        let reconciler = Reconciler::new(Fake::of_engine(1));
        *reconciler.platform().leftovers.lock().unwrap() = vec![left.clone()];
        reconciler.platform().attachments.store(4, Ordering::Relaxed);
        let served = word(1, Some(4).filter(|_| alive), 5);
        reconciler.adopt(Some(&served), &[pool_report()]).await;
        // The volume's task runs before the first word of the engine that follows.
        tokio::task::yield_now().await;
        reconciler.want(Some(&served), &[pool_report()]);
        wait(&reconciler, |shown| is_up(shown, 1)).await;
        let expected: &[&str] = if alive {
            &["start-ftp"]
        } else {
            &["shut-down", "abort", "attach", "mount", "start-ftp"]
        };
        assert_eq!(log(&reconciler), expected);
        reconciler.look_now(Some(&served)).await;
        // Nobody knows what it met under the predecessor.
        assert_eq!(reconciler.platform().thorough.load(Ordering::Relaxed), u64::from(alive));
    }
}

#[tokio::test]
async fn two_volumes_do_not_share_an_address() {
    let reconciler = up().await;
    let address = ([127, 0, 0, 1], 2121).into();
    let own = VolumeName::new("p", "v").unwrap();
    assert_eq!(
        reconciler.ftp_user_of(address, &VolumeName::new("p", "w").unwrap()),
        Some(own.clone())
    );
    assert_eq!(reconciler.ftp_user_of(address, &own), None);
    assert_eq!(
        reconciler.ftp_user_of(([127, 0, 0, 1], 9).into(), &VolumeName::new("p", "w").unwrap()),
        None
    );
}

/// 5.6: the engine is the same, but it ended the device while nobody looked.
#[tokio::test]
async fn an_attachment_that_its_engine_ended_is_made_anew() {
    let reconciler = up().await;
    // A word from before the attachment was made condemns nothing.
    for word in [word(1, None, 1), word(1, Some(1), 2), word(1, Some(1), 7)] {
        reconciler.want(Some(&word), &[pool_report()]);
        tokio::task::yield_now().await;
        assert!(log(&reconciler).is_empty(), "{word:?}");
    }
    reconciler.platform().attachments.store(6, Ordering::Relaxed);
    reconciler.look_now(Some(&word(1, None, 7))).await;
    wait(&reconciler, |shown| is_up(shown, 1) && shown.actual.attached.unwrap().number == 7).await;
    assert_eq!(log(&reconciler), HARD_AND_UP);
}

/// Status between the engine's word and what is done about it.
#[tokio::test]
async fn what_is_known_to_be_dead_is_not_called_well_for_a_moment() {
    let reconciler = up().await;
    reconciler.want(Some(&word(1, None, 2)), &[pool_report()]);
    let report = &report(&reconciler)[0];
    assert_eq!((&report.mount, &report.ftp), (&ServiceState::Waiting, &ServiceState::Waiting));
    assert!(report.trouble.as_ref().is_some_and(|text| text.contains("dead")), "{report:?}");
}

/// Status between the death of an engine and what is done about it, also when its successor runs.
#[tokio::test]
async fn what_a_dead_engine_served_is_not_called_well() {
    let reconciler = up().await;
    assert_eq!(report(&reconciler)[0].mount, ServiceState::On);
    for engine in [None, Some(EngineInstance(2))] {
        let report = &reconciler.report(engine)[0];
        assert_eq!((&report.mount, &report.ftp), (&ServiceState::Waiting, &ServiceState::Waiting));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_look_finds_dead_is_made_anew() {
    let expected: [(Fault, &[&str]); 2] = [
        (Fault::Mount, &["stop-ftp", "unmount", "mount", "start-ftp"]),
        (Fault::Device, &HARD_AND_UP),
    ];
    for (fault, steps) in expected {
        let reconciler = up().await;
        reconciler.platform().hanging.lock().unwrap().extend(["unmount", "shut-down"]);
        reconciler.platform().findings.lock().unwrap().push(broken(fault));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(trouble(&reconciler).as_deref(), Some("it is dead"));
        assert_eq!(report(&reconciler)[0].mount, ServiceState::Waiting);
        reconciler.platform().hanging.lock().unwrap().clear();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(log(&reconciler), steps);
        assert_eq!(trouble(&reconciler), None, "{fault:?}");
        assert_eq!(report(&reconciler)[0].ftp, ServiceState::On);
        assert!(reconciler.platform().came_back.load(Ordering::Relaxed));
    }
    let reconciler = up().await;
    reconciler.platform().ftp_ended.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(log(&reconciler), ["stop-ftp", "start-ftp"]);
    assert_eq!(trouble(&reconciler), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_dead_each_time_is_not_made_anew_without_a_pause() {
    let reconciler = up().await;
    *reconciler.platform().findings.lock().unwrap() = vec![broken(Fault::Device); 50];
    tokio::time::sleep(Duration::from_secs(100)).await;
    let attached = log(&reconciler).iter().filter(|step| *step == "attach").count();
    assert!((3..10).contains(&attached), "{attached} times");
    assert_eq!(trouble(&reconciler).as_deref(), Some("it is dead"));
    reconciler.platform().findings.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(trouble(&reconciler), None);
}

#[tokio::test(start_paused = true)]
async fn errors_that_the_engine_tells_of_call_for_a_thorough_look() {
    let reconciler = up().await;
    reconciler.look_now(None).await;
    assert_eq!(reconciler.platform().thorough.load(Ordering::Relaxed), 0);
    let mut told = serving(&reconciler);
    told.served[0].errors = 3;
    for _ in 0..3 {
        reconciler.want(Some(&told), &[pool_report()]);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(reconciler.platform().thorough.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_that_hangs_is_told_of_and_holds_nothing_up() {
    let reconciler = up().await;
    reconciler.platform().hanging.lock().unwrap().insert("check");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(trouble(&reconciler), None, "a pause is no failure");
    tokio::time::sleep(Duration::from_secs(25)).await;
    let told = trouble(&reconciler).unwrap();
    assert!(told.contains("has not answered for"), "{told}");
    assert!(report(&reconciler)[0].mount == ServiceState::On);
    // Its engine ends it meanwhile.
    reconciler.want(Some(&word(1, None, 2)), &[pool_report()]);
    wait(&reconciler, |shown| is_up(shown, 1) && shown.actual.attached.unwrap().number == 2).await;
    assert_eq!(log(&reconciler), HARD_AND_UP);
    reconciler.platform().hanging.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(trouble(&reconciler), None);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_taken_down_in_time_is_named() {
    let reconciler = up().await;
    reconciler.platform().hanging.lock().unwrap().insert("unmount");
    let begun = tokio::time::Instant::now();
    let troubles = reconciler.hold("p").await;
    assert!(begun.elapsed() <= TAKE_DOWN_LIMIT + Duration::from_secs(1));
    assert_eq!(troubles.len(), 1);
    let told = troubles[0].error.to_string();
    assert!(told.starts_with("p/v: unmounting it has taken"), "{told}");
    assert_eq!(troubles[0].error.code, ErrorCode::Unavailable);
    assert!(trouble(&reconciler).is_some_and(|told| told.contains("unmounting it")));
    let kept = reconciler.volume(&VolumeName::new("p", "v").unwrap());
    let refused = kept.pause().await.err().unwrap();
    assert!(refused.message.contains("unmounting it"), "{refused}");
    reconciler.platform().hanging.lock().unwrap().clear();
    wait(&reconciler, |shown| shown.actual == Actual::default()).await;
}

/// 5.18: FTP that couldn't be started and isn't wanted any more.
#[tokio::test(start_paused = true)]
async fn a_remark_ends_with_its_cause() {
    let reconciler = Reconciler::new(Fake::of_engine(1));
    reconciler.platform().failing.lock().unwrap().insert("start-ftp");
    want(&reconciler, pool_report());
    wait(&reconciler, |shown| shown.failures > 0).await;
    assert_eq!(trouble(&reconciler).as_deref(), Some("start-ftp failed"));
    let mut without = pool_report();
    without.volumes[0].properties.remove(FTP_KEY);
    want(&reconciler, without);
    wait(&reconciler, |shown| shown.trouble.is_none()).await;
    assert_eq!(trouble(&reconciler), None);
    assert_eq!(report(&reconciler)[0].mount, ServiceState::On);

    // A mount that fails, and then isn't wanted, or can't be had.
    for (engine, report) in [
        (Some(serving(&reconciler)), PoolReport { volumes: Vec::new(), ..pool_report() }),
        (None, pool_report()),
    ] {
        let reconciler = Reconciler::new(Fake::of_engine(1));
        reconciler.platform().failing.lock().unwrap().insert("mount");
        want(&reconciler, pool_report());
        wait(&reconciler, |shown| shown.failures > 0).await;
        reconciler.want(engine.as_ref(), &[report]);
        wait(&reconciler, |shown| shown.actual == Actual::default()).await;
        assert_eq!(trouble(&reconciler), None);
    }
}
