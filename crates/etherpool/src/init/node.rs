//! The node process: started, told of changes, started anew when it ends or hangs.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use block::Instant;
use boot::node::{Slots, sound};
use os::dir::Directory;
use os::machine::{EndStatus, Ended};
use os::manager;
use rustix::net::RecvFlags;
use tokio::net::UnixDatagram;

use super::course::Course;
use super::plan::{Change, Plan, RUN_DIR, STATE_DIR};
use super::start;
use crate::keys;
use crate::node::Identity;

/// Where its configuration is, and where it tells how it is.
const PLACE: &str = "/run/etherpool-init";
const CONFIGURATION: &str = "node.toml";
const NOTIFY: &str = "notify";
/// Longest that it says at once.
const MESSAGE_BYTES_MAX: usize = 4096;
/// How long it may be silent before it is taken for dead. A start under way, too, in which it waits for its commands.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// How often it is to say that it is alive: it does at half of that.
const ALIVE_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to end.
const END_MAX: Duration = Duration::from_secs(90);
/// How often it is killed before nobody waits any more for it to go: a process that waits for a dead disk takes no signal.
const KILLS_MAX: u32 = 3;
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
    /// It was told to end, and is killed then; not for the first time.
    Ending { pid: u32, kill_at: Instant, kills: u32 },
}

/// The process, and what it is to do.
pub struct NodeProcess {
    state: State,
    pause: Duration,
    course: Course,
    notify: UnixDatagram,
    /// What it says of itself.
    status: String,
    /// Why it ends, by its own word.
    reason: Option<String>,
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
    /// It doesn't end, so that nothing can take its place.
    Stuck,
}

impl NodeProcess {
    /// Not started yet.
    pub fn new() -> anyhow::Result<NodeProcess> {
        NodeProcess::at(Path::new(PLACE))
    }

    fn at(place: &Path) -> anyhow::Result<NodeProcess> {
        std::fs::create_dir_all(place).with_context(|| place.display().to_string())?;
        let path = place.join(NOTIFY);
        let notify = UnixDatagram::bind(&path).with_context(|| path.display().to_string())?;
        let state = State::Off { start_at: Instant::from_nanos(0) };
        Ok(NodeProcess {
            state,
            pause: PAUSE_FIRST,
            course: Course::default(),
            notify,
            status: String::new(),
            reason: None,
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

    /// Why it doesn't do what it was told last.
    pub fn wrong(&self) -> Option<&str> {
        self.course.wrong()
    }

    /// Whether it goes without a configuration of its own.
    pub fn is_bare(&self) -> bool {
        self.course.plan().is_some_and(|plan| plan.is_bare)
    }

    /// It is to do this from now on.
    pub fn follow(&mut self, now: Instant, plan: Plan) {
        match (self.course.follow(plan), self.state) {
            (Change::None, _) => {}
            (Change::Reload, State::On { pid, .. }) => {
                let written = self.write();
                if let Err(error) = written.and_then(|()| Ok(os::machine::hang_up(pid)?)) {
                    tracing::error!("the node's configuration can't be changed: {error:#}");
                    self.end(now);
                } else {
                    tracing::info!("the node reads its configuration again");
                }
            }
            (Change::Restart, State::On { .. }) => {
                tracing::info!("the node starts anew, by what the boot server says");
                self.end(now);
            }
            // It is written before the next start.
            _ => {}
        }
    }

    /// Tells it to end, and not to come back.
    pub fn stop(&mut self, now: Instant) {
        self.course.stop();
        self.end(now);
    }

    fn end(&mut self, now: Instant) {
        if let State::On { pid, .. } = self.state {
            // One that has ended is told of in a moment.
            let _ = os::machine::end(Some(pid), false);
            self.state = State::Ending { pid, kill_at: now + END_MAX, kills: 0 };
        }
    }

    fn kill(&mut self, now: Instant, pid: u32, kills: u32) {
        // With its commands: they would go on beside those of the next one.
        let _ = os::machine::end_group(pid);
        self.state = State::Ending { pid, kill_at: now + END_MAX, kills: kills + 1 };
    }

    /// A disk of the machine has come.
    pub fn disk_came(&mut self, now: Instant) {
        self.course.disk_came(now);
    }

    /// Does what is due: starts it, or ends it for good.
    pub fn tick(&mut self, now: Instant) {
        if self.course.tries_again(now) {
            tracing::info!("the node starts anew, by what it couldn't start by before");
            self.end(now);
        }
        match self.state {
            State::Off { start_at } if now >= start_at && self.course.plan().is_some() => {
                self.start(now);
            }
            State::Ending { kill_at, kills: KILLS_MAX.., .. } if now >= kill_at => {
                tracing::error!("the node takes no signal: something in it waits for a device");
                self.state = State::Off { start_at: now + END_MAX };
                self.news.push_back(News::Stuck);
            }
            State::Ending { pid, kill_at, kills } if now >= kill_at => {
                tracing::error!("the node doesn't end, and is killed");
                self.kill(now, pid, kills);
            }
            State::On { pid, heard, .. } if now >= heard + SILENCE_MAX => {
                tracing::error!(
                    "the node says nothing for {} s, and is killed",
                    SILENCE_MAX.as_secs()
                );
                self.kill(now, pid, 0);
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
        // What was killed has ended none of its commands. What others leave, they leave on purpose.
        if matches!(ended.status, EndStatus::Killed(_)) {
            let _ = os::machine::end_group(ended.pid);
        }
        self.hear_last_words();
        let has_served = std::mem::replace(&mut self.is_ready, false);
        self.status.clear();
        let why = match self.reason.take() {
            Some(reason) => format!("the node ended with {} ({reason})", ended.status),
            None => format!("the node ended with {}", ended.status),
        };
        if !has_served {
            self.course.failed(now, &why);
        }
        if is_expected {
            self.state = State::Off { start_at: now };
            return;
        }
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
        self.forget_said();
        self.reason = None;
        let started = self.write().and_then(|()| {
            self.remember();
            let program = std::env::current_exe().context("this program")?;
            let mut command = Command::new(program);
            command
                .args(["node", "--config"])
                .arg(configuration())
                .env_clear()
                .envs(start::environment())
                .env("NOTIFY_SOCKET", Path::new(PLACE).join(NOTIFY))
                .env("WATCHDOG_USEC", ALIVE_WITHIN.as_micros().to_string());
            spawn(&mut command).context("etherpool node")
        });
        match started {
            Ok(pid) => {
                self.course.started();
                self.state = State::On { pid, since: now, heard: now };
            }
            Err(error) => self.fail(now, format!("the node can't be started: {error:#}")),
        }
    }

    /// What it reads when it starts, and when it is told to.
    fn write(&self) -> anyhow::Result<()> {
        let Some(plan) = self.course.plan() else { return Ok(()) };
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

    /// Has it find in its memory which slots its disks have.
    fn remember(&self) {
        let slots = self.course.plan().map(|plan| &plan.slots).filter(|slots| !slots.is_empty());
        let Some(slots) = slots else { return };
        let remembered = Directory::open(Path::new(STATE_DIR))
            .map_err(anyhow::Error::from)
            .and_then(|memory| Identity::load(&memory))
            .and_then(|mut identity| identity.adopt(slots));
        if let Err(error) = remembered {
            tracing::error!("disks may get other addresses than before: {error:#}");
        }
    }

    /// Waits until it says something, and takes it.
    pub async fn listen(&self) -> io::Result<String> {
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let len = self.notify.recv(&mut bytes).await?;
        Ok(String::from_utf8_lossy(&bytes[..len]).into_owned())
    }

    /// Why it ended, where it was gone before that was heard. That it serves doesn't count any more.
    fn hear_last_words(&mut self) {
        let mut last = [0; MESSAGE_BYTES_MAX];
        while let Ok((len, _)) = rustix::net::recv(&self.notify, &mut last, RecvFlags::DONTWAIT) {
            self.note(&String::from_utf8_lossy(last.get(..len).unwrap_or_default()));
        }
    }

    fn note(&mut self, said: &str) {
        for line in said.lines() {
            match line.split_once('=') {
                Some(("STATUS", status)) => status.clone_into(&mut self.status),
                Some((manager::FAILED, "1")) => self.reason = Some(self.status.clone()),
                _ => {}
            }
        }
    }

    /// What the process before has said and nobody has heard: it would count for the next one, which could be taken for
    /// one that serves and never does.
    fn forget_said(&self) {
        // Asked of the socket itself: tokio knows of no message that came since its last look.
        while rustix::net::recv(&self.notify, &mut [0; 1], RecvFlags::DONTWAIT).is_ok() {}
    }

    /// It said that (sd_notify(3)). One that is to end isn't ready any more, whatever it says.
    pub fn heard(&mut self, now: Instant, said: &str) {
        let is_on = match &mut self.state {
            State::On { heard, .. } => {
                *heard = now;
                true
            }
            State::Ending { .. } => false,
            State::Off { .. } => return,
        };
        self.note(said);
        if is_on && !self.is_ready && said.lines().any(|line| line == "READY=1") {
            self.is_ready = true;
            self.course.serves();
            self.pause = PAUSE_FIRST;
            self.news.push_back(News::Ready);
        }
    }
}

/// Starts a process that leads a group of its own, which has its commands, too.
fn spawn(command: &mut Command) -> io::Result<u32> {
    command.stdin(Stdio::null()).process_group(0).spawn().map(|child| child.id())
}

/// Which slots it has given its disks.
pub fn slots() -> Slots {
    let known = Identity::peek(Path::new(STATE_DIR)).map(|identity| identity.slots().clone());
    // More than a shelf has can't be told, nor used.
    known.ok().map(sound).unwrap_or_default()
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn its_commands_are_killed_with_it() {
        use std::io::Read;
        let dir = tempfile::tempdir().unwrap();
        let at = |seconds| Instant::from_nanos(0) + Duration::from_secs(seconds);
        // Killed for its silence, and by somebody else.
        for is_silent in [true, false] {
            let place = dir.path().join(is_silent.to_string());
            let mut node = NodeProcess::at(&place).unwrap();
            let (mut reader, writer) = io::pipe().unwrap();
            let mut command = Command::new("/bin/sh");
            // Its own command holds the pipe; `true` keeps the shell from becoming that.
            command.args(["-c", "echo; sleep 600; true"]).stdout(writer);
            let pid = spawn(&mut command).unwrap();
            drop(command);
            reader.read_exact(&mut [0]).unwrap();
            node.state = State::On { pid, since: at(0), heard: at(0) };
            if is_silent {
                node.tick(at(SILENCE_MAX.as_secs()));
            } else {
                os::machine::end(Some(pid), true).unwrap();
                node.ended(at(1), Ended { pid, status: EndStatus::Killed(9) });
            }
            let (told, closed) = std::sync::mpsc::channel();
            std::thread::spawn(move || told.send(reader.read_to_end(&mut Vec::new()).is_ok()));
            assert_eq!(closed.recv_timeout(Duration::from_secs(30)), Ok(true), "{is_silent}");
        }
    }

    #[tokio::test]
    async fn what_a_process_has_said_does_not_count_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = NodeProcess::at(dir.path()).unwrap();
        let now = Instant::from_nanos(0);
        let says = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let say = |said: &str| says.send_to(said.as_bytes(), dir.path().join(NOTIFY)).map(drop);
        (0..3).for_each(|_| say("READY=1").unwrap());
        node.forget_said();
        say("STATUS=it begins").unwrap();
        assert_eq!(node.listen().await.unwrap(), "STATUS=it begins");
        for state in
            [State::Off { start_at: now }, State::Ending { pid: u32::MAX, kill_at: now, kills: 0 }]
        {
            node.state = state;
            node.heard(now, "READY=1");
            assert!(!node.is_ready() && node.next_news().is_none(), "{state:?}");
            node.heard(now, "STATUS=it ends");
            let is_ending = matches!(state, State::Ending { .. });
            assert_eq!(node.status() == "it ends", is_ending, "{state:?}");
        }
        node.state = State::On { pid: u32::MAX, since: now, heard: now };
        node.heard(now, "READY=1");
        assert!(node.is_ready() && node.next_news() == Some(News::Ready));
    }

    #[tokio::test]
    async fn why_it_ended_is_told_also_where_it_was_gone_before_that_was_heard() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = NodeProcess::at(dir.path()).unwrap();
        let now = Instant::from_nanos(0);
        let says = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let ended = Ended { pid: u32::MAX, status: EndStatus::Exited(1) };
        for (said, why) in [
            ("STATUS=no sh\nX_ETHERPOOL_FAILED=1", "the node ended with code 1 (no sh)"),
            ("STATUS=2 exports\nREADY=1", "the node ended with code 1"),
        ] {
            node.state = State::On { pid: u32::MAX, since: now, heard: now };
            says.send_to(said.as_bytes(), dir.path().join(NOTIFY)).unwrap();
            node.ended(now, ended);
            assert_eq!(node.next_news(), Some(News::Failed(why.to_owned())));
            assert_eq!(node.status(), "");
        }
    }

    #[tokio::test]
    async fn one_that_takes_no_signal_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = NodeProcess::at(dir.path()).unwrap();
        let at = |seconds| Instant::from_nanos(0) + Duration::from_secs(seconds);
        // No process has this number.
        node.state = State::Ending { pid: u32::MAX, kill_at: at(1), kills: 0 };
        let mut now = 1;
        for _ in 0..KILLS_MAX {
            node.tick(at(now));
            assert_eq!(node.next_news(), None);
            now += END_MAX.as_secs();
        }
        node.tick(at(now - 1));
        assert_eq!(node.next_news(), None);
        node.tick(at(now));
        assert_eq!(node.next_news(), Some(News::Stuck));
    }
}
