//! A child process: started again when it ends, with growing pauses when it ends at once.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use tokio::process::{Child, Command};

/// First pause before a restart; the next are twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A child that ran as long as this was fine: the pause begins anew.
const FINE_AFTER: Duration = Duration::from_secs(30);

/// The very executable that runs, also where its file has another one in its place: after an upgrade a child that ended
/// is started again beside others of the former version, which it must understand.
const ITSELF: &str = "/proc/self/exe";

/// Environment variable by which a child knows whose it is.
const PARENT_VARIABLE: &str = "ETHERPOOL_PARENT";

/// Whether a supervisor has started this process.
pub fn is_child() -> bool {
    std::env::var_os(PARENT_VARIABLE).is_some()
}

/// Called first thing in a child: it is killed when its supervisor dies, however that dies. The
/// check afterwards covers a death before the call.
pub fn die_with_parent() -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("PR_SET_PDEATHSIG")?;
    // It would be called `exe`, as it was started by that name.
    rustix::thread::set_name(c"etherpool").context("the process's name")?;
    check_parent()
}

/// Whether the supervisor that started this process is there.
pub fn check_parent() -> anyhow::Result<()> {
    let Ok(expected) = std::env::var(PARENT_VARIABLE) else {
        bail!("this process is started by `etherpool supervisor`, not by hand");
    };
    let parent = getppid().map(Pid::as_raw_nonzero).map(i32::from);
    if parent.map(|pid| pid.to_string()).as_deref() != Some(expected.as_str()) {
        bail!("the supervisor (process {expected}) is gone");
    }
    Ok(())
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Program {
    /// The subcommand.
    pub name: &'static str,
    /// Its arguments.
    pub arguments: Vec<std::ffi::OsString>,
}

/// How long to pause before the next start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The child ended after having run that long.
    pub fn ended(&mut self, ran: Duration) -> Duration {
        if ran >= FINE_AFTER {
            self.failures = 0;
        }
        let pause = PAUSE_MIN.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        pause
    }
}

/// A running child.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
    /// Since when.
    pub begun: Instant,
}

impl Program {
    /// Of this very executable.
    pub fn new(name: &'static str, arguments: Vec<std::ffi::OsString>) -> Program {
        Program { name, arguments }
    }

    /// Starts it.
    pub fn start(&self) -> anyhow::Result<Running> {
        let child = Command::new(ITSELF)
            .arg0(std::env::args_os().next().unwrap_or_else(|| "etherpool".into()))
            .arg(self.name)
            .args(&self.arguments)
            .env(PARENT_VARIABLE, std::process::id().to_string())
            // Readiness is the supervisor's to tell.
            .env_remove("NOTIFY_SOCKET")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            // A Ctrl-C at a terminal is for the supervisor, which ends the children in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} can't be started", self.name))?;
        tracing::info!(process = self.name, pid = child.id(), "started");
        Ok(Running { child, begun: Instant::now() })
    }
}

impl Running {
    /// Asks it to end.
    pub fn terminate(&self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended a moment ago.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }

    /// Asks it to end, waits, and kills it when it doesn't.
    pub async fn stop(mut self, name: &str, limit: Duration) {
        self.terminate();
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(Ok(status)) => tracing::info!(process = name, %status, "ended"),
            Ok(Err(error)) => tracing::warn!(process = name, %error, "can't be waited for"),
            Err(_) => {
                tracing::error!(process = name, "did not end within {} s; killed", limit.as_secs());
                let _ = self.child.kill().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_begin_anew_after_a_good_run() {
        let mut backoff = Backoff::default();
        let short = Duration::from_millis(5);
        let pauses: Vec<u128> = (0..9).map(|_| backoff.ended(short).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(backoff.ended(FINE_AFTER), PAUSE_MIN);
        for _ in 0..100 {
            backoff.ended(short);
        }
        assert_eq!(backoff.ended(short), PAUSE_MAX);
    }
}
