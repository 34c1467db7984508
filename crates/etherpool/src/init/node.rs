//! The node process: started, told of changes, started anew when it ends or hangs.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use block::Instant;
use os::machine::Ended;
use tokio::net::UnixDatagram;

use super::plan::{Change, Plan, RUN_DIR, STATE_DIR};
use super::start;
use crate::keys;

/// Where its configuration is, and where it tells how it is.
const PLACE: &str = "/run/etherpool-init";
const CONFIGURATION: &str = "node.toml";
const NOTIFY: &str = "notify";
/// How long it may be silent before it is taken for dead. A start under way, too, in which it waits for its commands.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// How often it is to say that it is alive: it does at half of that.
const ALIVE_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to end.
const END_MAX: Duration = Duration::from_secs(90);
/// After an end by itself.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Who ran for that long has had a good start.
const GOOD_RUN: Duration = Duration::from_secs(60);

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It doesn't run; it is started then, if it is to be.
    Off { start_at: Instant },
    /// It runs since then, and was heard then.
    On { pid: u32, since: Instant, heard: Instant },
    /// It was told to end, and is killed then.
    Ending { pid: u32, kill_at: Instant },
}

/// The process, and what it is to do.
pub struct NodeProcess {
    state: State,
    pause: Duration,
    plan: Option<Plan>,
    notify: UnixDatagram,
    /// What it says of itself.
    status: String,
    is_ready: bool,
    /// Things to be told, in order.
    news: VecDeque<News>,
}

/// What happened to the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It serves.
    Ready,
    /// It ended by itself, or couldn't be started.
    Failed(String),
}

impl NodeProcess {
    /// Not started yet.
    pub fn new() -> anyhow::Result<NodeProcess> {
        std::fs::create_dir_all(PLACE).context(PLACE)?;
        let path = Path::new(PLACE).join(NOTIFY);
        let notify = UnixDatagram::bind(&path).with_context(|| path.display().to_string())?;
        let state = State::Off { start_at: Instant::from_nanos(0) };
        Ok(NodeProcess {
            state,
            pause: PAUSE_FIRST,
            plan: None,
            notify,
            status: String::new(),
            is_ready: false,
            news: VecDeque::new(),
        })
    }

    /// What it is doing at the moment, in a line of its own.
    pub fn status(&self) -> &str {
        &self.status
    }

    /// Whether it serves.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Whether it runs.
    pub fn is_off(&self) -> bool {
        matches!(self.state, State::Off { .. })
    }

    /// The next that happened.
    pub fn next_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// It is to do this from now on.
    pub fn follow(&mut self, now: Instant, plan: Plan) {
        let change = match &self.plan {
            None => Change::Restart,
            Some(former) => plan.change_from(former),
        };
        if change == Change::None {
            self.plan = Some(plan);
            return;
        }
        let is_running = matches!(self.state, State::On { .. });
        self.plan = Some(plan);
        match (change, self.state) {
            (Change::Reload, State::On { pid, .. }) => {
                let written = self.write();
                if let Err(error) = written.and_then(|()| Ok(os::machine::hang_up(pid)?)) {
                    tracing::error!("the node's configuration can't be changed: {error:#}");
                    self.end(now);
                } else {
                    tracing::info!("the node reads its configuration again");
                }
            }
            _ if is_running => {
                tracing::info!("the node starts anew, by what the boot server says");
                self.end(now);
            }
            // It is written before the next start.
            _ => {}
        }
    }

    /// Tells it to end, and not to come back.
    pub fn stop(&mut self, now: Instant) {
        self.plan = None;
        self.end(now);
    }

    fn end(&mut self, now: Instant) {
        if let State::On { pid, .. } = self.state {
            // One that has ended is told of in a moment.
            let _ = os::machine::end(Some(pid), false);
            self.state = State::Ending { pid, kill_at: now + END_MAX };
        }
    }

    /// Does what is due: starts it, or ends it for good.
    pub fn tick(&mut self, now: Instant) {
        match self.state {
            State::Off { start_at } if now >= start_at && self.plan.is_some() => self.start(now),
            State::Ending { pid, kill_at } if now >= kill_at => {
                tracing::error!("the node doesn't end, and is killed");
                let _ = os::machine::end(Some(pid), true);
                self.state = State::Ending { pid, kill_at: now + END_MAX };
            }
            State::On { pid, heard, .. } if now >= heard + SILENCE_MAX => {
                tracing::error!(
                    "the node says nothing for {} s, and is killed",
                    SILENCE_MAX.as_secs()
                );
                let _ = os::machine::end(Some(pid), true);
                self.state = State::Ending { pid, kill_at: now + END_MAX };
            }
            _ => {}
        }
    }

    /// A process has ended.
    pub fn ended(&mut self, now: Instant, ended: Ended) {
        let (since, is_expected) = match self.state {
            State::On { pid, since, .. } if pid == ended.pid => (since, false),
            State::Ending { pid, .. } if pid == ended.pid => (now, true),
            _ => return,
        };
        self.is_ready = false;
        self.status.clear();
        if is_expected {
            self.state = State::Off { start_at: now };
            return;
        }
        let why = format!("the node ended with {}", ended.status);
        if now >= since + GOOD_RUN {
            self.pause = PAUSE_FIRST;
        }
        self.fail(now, why);
    }

    fn fail(&mut self, now: Instant, why: String) {
        tracing::error!("{why}; it starts again in {} s", self.pause.as_secs());
        self.state = State::Off { start_at: now + self.pause };
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.news.push_back(News::Failed(why));
    }

    fn start(&mut self, now: Instant) {
        let started = self.write().and_then(|()| {
            let program = std::env::current_exe().context("this program")?;
            let child = Command::new(program)
                .args(["node", "--config"])
                .arg(configuration())
                .env_clear()
                .envs(start::environment())
                .env("NOTIFY_SOCKET", Path::new(PLACE).join(NOTIFY))
                .env("WATCHDOG_USEC", ALIVE_WITHIN.as_micros().to_string())
                .stdin(Stdio::null())
                .spawn()
                .context("etherpool node")?;
            Ok(child.id())
        });
        match started {
            Ok(pid) => self.state = State::On { pid, since: now, heard: now },
            Err(error) => self.fail(now, format!("the node can't be started: {error:#}")),
        }
    }

    /// What it reads when it starts, and when it is told to.
    fn write(&self) -> anyhow::Result<()> {
        let Some(plan) = &self.plan else { return Ok(()) };
        put(&configuration(), plan.text()?.as_bytes())?;
        std::fs::create_dir_all(STATE_DIR).context(STATE_DIR)?;
        std::fs::create_dir_all(RUN_DIR).context(RUN_DIR)?;
        let key = plan.key.secret().to_text();
        put(&Path::new(STATE_DIR).join(keys::FILE), format!("{}\n", *key).as_bytes())?;
        if let Err(error) = os::machine::set_hostname(&plan.name) {
            tracing::warn!(%error, "the machine can't be called {}", plan.name);
        }
        Ok(())
    }

    /// Waits until it says something, and takes it.
    pub async fn listen(&self) -> io::Result<String> {
        let mut bytes = vec![0; 4096];
        let len = self.notify.recv(&mut bytes).await?;
        Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
    }

    /// It said that (sd_notify(3)).
    pub fn heard(&mut self, now: Instant, said: &str) {
        if let State::On { heard, .. } = &mut self.state {
            *heard = now;
        }
        for line in said.lines() {
            match line.split_once('=') {
                Some(("READY", "1")) if !self.is_ready => {
                    self.is_ready = true;
                    self.pause = PAUSE_FIRST;
                    self.news.push_back(News::Ready);
                }
                Some(("STATUS", status)) => status.clone_into(&mut self.status),
                _ => {}
            }
        }
    }
}

fn configuration() -> PathBuf {
    Path::new(PLACE).join(CONFIGURATION)
}

/// Writes a file as a whole, for root alone: it may hold a secret.
fn put(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    let fresh = path.with_extension("new");
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(contents)?;
        std::fs::rename(&fresh, path)
    })();
    written.with_context(|| format!("cannot write {}", path.display()))
}
