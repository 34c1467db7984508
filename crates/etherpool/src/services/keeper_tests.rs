//! The keeper on a platform that remembers what it was told to do.

#![allow(clippy::unwrap_used)]

use super::*;
use control::api::{ApiError, ErrorCode};
use control::settings::{FTP_KEY, MOUNT_KEY};
use pool::{PoolState, Settled, VotesReport};
use std::path::Path;

#[derive(Default)]
struct Fake {
    log: Mutex<Vec<String>>,
    failing: Mutex<BTreeSet<&'static str>>,
    leftovers: Mutex<Vec<super::super::platform::Leftover>>,
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

    async fn attach(&self, _: &VolumeName) -> Result<PathBuf, Trouble> {
        self.act("attach").map(|()| "/dev/loop0".into())
    }

    async fn detach(&self, _: &VolumeName, abort: bool) -> Result<(), Trouble> {
        self.act(if abort { "abort" } else { "detach" })
    }

    async fn mount(&self, _: &Path, _: &MountSetting) -> Result<(), Trouble> {
        self.act("mount")
    }

    async fn unmount(&self, _: &Path) -> Result<(), Trouble> {
        self.act("unmount")
    }

    async fn shut_down(&self, _: &Path) -> Result<Vec<Holding>, Trouble> {
        let holding = |pid| Holding { pid, text: format!("process {pid}") };
        self.act("shut-down").map(|()| vec![holding(1), holding(2)])
    }

    fn is_running(&self, pid: u32) -> bool {
        pid == 2
    }

    async fn start_ftp(
        &self,
        _: &VolumeName,
        _: &Path,
        _: &MountSetting,
        _: &FtpSetting,
    ) -> Result<(), Trouble> {
        self.act("start-ftp")
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
        volumes: vec![VolumeReport {
            name: "v".into(),
            id: "1".into(),
            layout: "mirror:2".into(),
            size_bytes: 1,
            properties,
            degraded: false,
            missed_bytes: 0,
            caught_up_bytes: 0,
            read_bytes: 0,
            written_bytes: 0,
            repaired_blocks: 0,
            log_bytes: 0,
            suspended: None,
            settled: Settled::default(),
        }],
    }
}

async fn wait(keeper: &Keeper<Fake>, good: impl Fn(&Shown) -> bool) -> Shown {
    let kept = keeper.volume(&VolumeName::new("p", "v"));
    let mut shown = kept.watch();
    shown.wait_for(|shown| good(shown)).await.unwrap().clone()
}

fn is_up(shown: &Shown, generation: u64) -> bool {
    shown.actual.ftp.is_some() && shown.actual.attached == Some(EngineGeneration(generation))
}

fn log(keeper: &Keeper<Fake>) -> Vec<String> {
    std::mem::take(&mut *keeper.platform().log.lock().unwrap())
}

const UP: [&str; 3] = ["attach", "mount", "start-ftp"];

#[tokio::test]
async fn a_new_engine_means_everything_anew_without_a_command() {
    let keeper = Keeper::new(Fake::default());
    keeper.want(Some(EngineGeneration(1)), &[pool_report()]);
    wait(&keeper, |shown| is_up(shown, 1)).await;
    assert_eq!(log(&keeper), UP);
    assert!(keeper.is_settled());

    keeper.want(None, &[]);
    wait(&keeper, |shown| shown.actual == Actual::default()).await;
    assert_eq!(log(&keeper), ["stop-ftp", "shut-down", "abort"]);

    keeper.want(Some(EngineGeneration(2)), &[pool_report()]);
    wait(&keeper, |shown| is_up(shown, 2)).await;
    assert_eq!(log(&keeper), UP);
    // Who still holds files of the old file system is named; who has ended isn't.
    assert_eq!(keeper.report()[0].busy_processes, ["process 2"]);
}

#[tokio::test]
async fn a_pool_without_its_lease_is_taken_down_and_comes_back() {
    let keeper = Keeper::new(Fake::default());
    keeper.want(Some(EngineGeneration(1)), &[pool_report()]);
    wait(&keeper, |shown| is_up(shown, 1)).await;
    log(&keeper);
    let fenced = PoolReport { state: PoolState::Fenced, ..pool_report() };
    let leaseless = PoolReport { lease_ok: false, ..pool_report() };
    for lost in [fenced, leaseless] {
        keeper.want(Some(EngineGeneration(1)), &[lost]);
        wait(&keeper, |shown| shown.actual == Actual::default()).await;
        assert_eq!(log(&keeper), ["stop-ftp", "shut-down", "abort"]);
        keeper.want(Some(EngineGeneration(1)), &[pool_report()]);
        wait(&keeper, |shown| is_up(shown, 1)).await;
        assert_eq!(log(&keeper), UP);
    }
}

#[tokio::test]
async fn a_wait_for_disks_within_the_lease_costs_nobody_their_files() {
    let suspended = || {
        let mut report = pool_report();
        report.state = PoolState::Suspended { reason: "votes".into() };
        report.volumes[0].suspended = Some("votes".into());
        report
    };
    // It doesn't begin so,
    let keeper = Keeper::new(Fake::default());
    keeper.want(Some(EngineGeneration(1)), &[suspended()]);
    tokio::task::yield_now().await;
    assert!(log(&keeper).is_empty());
    // but it stays, until the lease is over.
    keeper.want(Some(EngineGeneration(1)), &[pool_report()]);
    wait(&keeper, |shown| is_up(shown, 1)).await;
    log(&keeper);
    keeper.want(Some(EngineGeneration(1)), &[suspended()]);
    tokio::task::yield_now().await;
    assert!(log(&keeper).is_empty());
    keeper.want(Some(EngineGeneration(1)), &[PoolReport { lease_ok: false, ..suspended() }]);
    wait(&keeper, |shown| shown.actual == Actual::default()).await;
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_is_shown_and_tried_again() {
    let keeper = Keeper::new(Fake::default());
    keeper.platform().failing.lock().unwrap().insert("mount");
    keeper.want(Some(EngineGeneration(1)), &[pool_report()]);
    let shown = wait(&keeper, |shown| shown.failures == 2).await;
    assert_eq!(shown.trouble.unwrap().error.message, "mount failed");
    assert!(!keeper.is_settled());
    let report = keeper.report();
    assert_eq!(report[0].mount, ServiceState::Waiting);
    assert_eq!(report[0].trouble.as_deref(), Some("mount failed"));
    keeper.platform().failing.lock().unwrap().clear();
    let shown = wait(&keeper, |shown| is_up(shown, 1)).await;
    assert_eq!(shown.trouble, None);
    assert_eq!(log(&keeper), ["attach", "mount", "mount", "mount", "start-ftp"]);
}

#[tokio::test]
async fn what_is_held_stays_down_whatever_the_pool_says() {
    let keeper = Keeper::new(Fake::default());
    for what in ["p", "p/v"] {
        keeper.want(Some(EngineGeneration(1)), &[pool_report()]);
        wait(&keeper, |shown| is_up(shown, 1)).await;
        log(&keeper);
        assert!(keeper.hold(what).await.is_empty());
        assert_eq!(log(&keeper), ["stop-ftp", "unmount", "detach"]);
        keeper.want(Some(EngineGeneration(1)), &[pool_report()]);
        tokio::task::yield_now().await;
        assert!(log(&keeper).is_empty());
        keeper.let_go(what);
    }
}

#[tokio::test]
async fn the_end_of_the_process_is_orderly() {
    let keeper = Keeper::new(Fake::default());
    keeper.want(Some(EngineGeneration(1)), &[pool_report()]);
    wait(&keeper, |shown| is_up(shown, 1)).await;
    log(&keeper);
    keeper.stop().await;
    assert_eq!(log(&keeper), ["stop-ftp", "unmount", "detach"]);
}

#[tokio::test]
async fn what_a_dead_predecessor_left_is_gone_on_with_only_if_its_engine_lives() {
    let name = VolumeName::new("p", "v");
    let left = super::super::platform::Leftover {
        volume: name.clone(),
        device: Some("/dev/loop0".into()),
        mounted_at: Some("/srv/v".into()),
    };
    for alive in [true, false] {
        let keeper = Keeper::new(Fake::default());
        *keeper.platform().leftovers.lock().unwrap() = vec![left.clone()];
        let served = if alive { BTreeSet::from([name.clone()]) } else { BTreeSet::new() };
        let generation = Some(EngineGeneration(1));
        keeper.adopt(generation, &served, &[pool_report()]).await;
        // The volume's task runs before the first word of the engine that follows.
        tokio::task::yield_now().await;
        keeper.want(generation, &[pool_report()]);
        wait(&keeper, |shown| is_up(shown, 1)).await;
        let expected: &[&str] = if alive {
            &["start-ftp"]
        } else {
            &["shut-down", "abort", "attach", "mount", "start-ftp"]
        };
        assert_eq!(log(&keeper), expected);
    }
}

#[tokio::test]
async fn two_volumes_do_not_share_an_address() {
    let keeper = Keeper::new(Fake::default());
    keeper.want(Some(EngineGeneration(1)), &[pool_report()]);
    wait(&keeper, |shown| is_up(shown, 1)).await;
    let address = ([127, 0, 0, 1], 2121).into();
    let own = VolumeName::new("p", "v");
    assert_eq!(keeper.ftp_user_of(address, &VolumeName::new("p", "w")), Some(own.clone()));
    assert_eq!(keeper.ftp_user_of(address, &own), None);
    assert_eq!(keeper.ftp_user_of(([127, 0, 0, 1], 9).into(), &VolumeName::new("p", "w")), None);
}
