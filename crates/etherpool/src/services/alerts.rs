//! Looks every few seconds what is wrong, and has people told. What is wrong, and when that is told, is decided in
//! `control::alerts`; how, in `channels`. It waits for nobody who isn't the engine, and nobody waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use block::VolumeName;
use control::alerts::{
    ALERTS_FILE, Alerts, AlertsReport, ChannelAnswer, Kind, Message, Seen, Slow, SlowDisks, Wrong,
    conditions,
};
use control::api::{PoolReportExt as _, ProcessState};
use control::channel::EngineRequest;
use pool::{PoolEvent, PoolReport, VolumeStats};
use tokio::sync::broadcast::Receiver;

use super::Services;
use super::channel_client::News;
use super::channels::Channels;

/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the speed of disks is compared.
const COMPARE_EVERY: Duration = Duration::from_secs(300);
/// How often is written down what is only counted.
const STORE_COUNTS_EVERY: Duration = Duration::from_secs(60);
/// After the start nothing is known of pools for so long: their disks aren't discovered yet.
pub(super) const DISCOVERY: Duration = Duration::from_secs(30);

/// What is wrong, and the ways to people.
pub struct Teller {
    alerts: Mutex<Alerts>,
    /// Disks that were slow when they were compared last.
    slow: Mutex<Vec<Slow>>,
    channels: Channels,
}

impl Teller {
    /// With what was known before.
    pub fn start(config: &control::config::SupervisorConfig, host: &str) -> Teller {
        let alerts = Mutex::new(read(&config.state_dir));
        Teller { alerts, slow: Mutex::default(), channels: Channels::start(&config.alerts, host) }
    }

    /// What is wrong, and how the channels do.
    pub fn report(&self) -> AlertsReport {
        let alerts = self.alerts();
        AlertsReport {
            raised: alerts.raised().into_iter().cloned().collect(),
            more: alerts.is_overflown(),
            channels: self.channels.reports(),
        }
    }

    /// What is wrong now, with what isn't told yet because it may pass; then what nobody is to be told of.
    pub fn wrong(&self, seen: &Seen<'_>, ignored: &BTreeSet<Kind>) -> (Vec<Wrong>, Vec<Wrong>) {
        let slow = self.slow().clone();
        let found = conditions(&Seen { slow: &slow, ..*seen });
        let wrong = self.alerts().wrong(seen.now_secs, found, seen.pools);
        let ignored: BTreeSet<&str> = ignored.iter().map(|kind| kind.name()).collect();
        wrong.into_iter().partition(|wrong| !ignored.contains(wrong.kind.as_str()))
    }

    /// Sends a test by each channel; what each answered.
    pub async fn test(&self) -> Vec<ChannelAnswer> {
        let answers = self.channels.test(&Message::test(now_secs())).await;
        let answers = answers.into_iter().map(|(channel, answer)| match answer {
            Ok(answer) => ChannelAnswer { channel, delivered: true, answer },
            Err(answer) => ChannelAnswer { channel, delivered: false, answer },
        });
        answers.collect()
    }

    fn slow(&self) -> MutexGuard<'_, Vec<Slow>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alerts(&self) -> MutexGuard<'_, Alerts> {
        self.alerts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was known before; nothing if that can't be read: then people are told again.
fn read(state_dir: &Path) -> Alerts {
    let file = state_dir.join(ALERTS_FILE);
    let text = match std::fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Alerts::default(),
        Err(error) => {
            tracing::warn!("{}: {error}; all alerts are new", file.display());
            return Alerts::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!("{}: {error}; all alerts are new", file.display());
        Alerts::default()
    })
}

/// In one step: whoever reads it finds the former or the new.
fn store(state_dir: &Path, alerts: &Alerts) -> anyhow::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
    file.write_all(&serde_json::to_vec(alerts)?)?;
    file.as_file().sync_all()?;
    file.persist(state_dir.join(ALERTS_FILE))?;
    Ok(())
}

pub(super) fn now_secs() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs()
}

/// Looks, tells and writes down, for ever.
pub async fn run(services: Arc<Services>) {
    let begun = tokio::time::Instant::now();
    let (mut news, mut judge) = (services.engine.news(), SlowDisks::default());
    let mut compared = begun;
    let (mut stored, mut stored_at) = (Alerts::default(), begun);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if compared.elapsed() >= COMPARE_EVERY {
            compared = tokio::time::Instant::now();
            let slow = compare(&services, &mut judge).await;
            *services.teller.slow() = slow;
        }
        let is_discovered = begun.elapsed() >= DISCOVERY;
        let messages = look(&services, events(&mut news), is_discovered).await;
        let ignored = &services.config.alerts.ignore;
        for message in
            messages.iter().filter(|m| m.kind.is_none_or(|kind| !ignored.contains(&kind)))
        {
            services.teller.channels.tell(message);
        }
        let alerts = services.teller.alerts().clone();
        // What is only seen again isn't worth a write, nor is each of many errors.
        let counts_changed =
            alerts.incidents != stored.incidents && stored_at.elapsed() >= STORE_COUNTS_EVERY;
        if !messages.is_empty() || counts_changed {
            stored_at = tokio::time::Instant::now();
            let (state_dir, copy) = (services.config.state_dir.clone(), alerts.clone());
            let written = tokio::task::spawn_blocking(move || store(&state_dir, &copy)).await;
            match written.map_err(anyhow::Error::from).and_then(|stored| stored) {
                Ok(()) => stored = alerts,
                Err(error) => tracing::warn!("alerts can't be written down: {error:#}"),
            }
        }
    }
}

/// What came since the last look; what was lost shows in the reports.
fn events(news: &mut Receiver<News>) -> Vec<PoolEvent> {
    let mut events = Vec::new();
    loop {
        match news.try_recv() {
            Ok(News::Event(event)) => events.push(event),
            Ok(News::Lost(_)) | Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(_) => return events,
        }
    }
}

async fn look(services: &Services, events: Vec<PoolEvent>, is_discovered: bool) -> Vec<Message> {
    let now_secs = now_secs();
    let process: Option<ProcessState> = services.engine.call(EngineRequest::Process).await.ok();
    let pools: Option<Vec<PoolReport>> = match &process {
        Some(_) => services.fresh_pools().await.ok(),
        None => None,
    };
    let reports = services.reconciler.report(services.engine.instance());
    let (known_pools, troubles) = (services.registry.known(), services.registry.trouble());
    let known_pools = if is_discovered { known_pools } else { Vec::new() };
    let troubles: Vec<String> = troubles.into_iter().collect();
    let slow = services.teller.slow().clone();
    let found = conditions(&Seen {
        now_secs,
        pools: pools.as_deref(),
        known_pools: &known_pools,
        process: process.as_ref(),
        services: &reports,
        troubles: &troubles,
        slow: &slow,
    });
    let mut alerts = services.teller.alerts();
    events.iter().for_each(|event| alerts.incidents.note_event(event, now_secs));
    alerts.incidents.note_reports(pools.as_deref().unwrap_or_default(), now_secs);
    let are_known = pools.is_some() && is_discovered;
    alerts.step(now_secs, found, |kind: Kind| are_known || !kind.is_of_pool())
}

/// Which disks were slow since the last time.
async fn compare(services: &Services, judge: &mut SlowDisks) -> Vec<Slow> {
    let pools = services.pools.borrow().clone();
    let open = pools.iter().filter(|pool| pool.is_open());
    let volumes: Vec<VolumeName> =
        open.flat_map(|pool| pool.named_volumes()).map(|(name, _)| name).collect();
    let mut disks = BTreeMap::new();
    for volume in volumes {
        let pool = volume.pool().to_owned();
        let asked = EngineRequest::VolumeStats { volume };
        let Ok(stats) = services.engine.call::<VolumeStats>(asked).await else { continue };
        for disk in stats.disks {
            disks.insert((pool.clone(), disk.name), (disk.node, disk.operations));
        }
    }
    judge.judge(&disks)
}
