//! The supervisor's loop: its children, signals, readiness.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use control::config::SupervisorConfig;
use os::manager::Manager;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use super::Identity;
use super::child::{Backoff, Program, Running};

/// Services may have to wait for the kernel to write a file system back.
const SERVICES_STOP_LIMIT: Duration = Duration::from_secs(90);
/// The engine destages its logs and releases its leases.
const ENGINE_STOP_LIMIT: Duration = Duration::from_secs(60);
/// How often the engine's loop says that it turns, by a line.
pub const ENGINE_SAYS_EVERY: Duration = Duration::from_secs(5);
/// How long it may be silent. A machine that is short of everything has its pauses.
const ENGINE_SILENCE_MAX: Duration = Duration::from_secs(20);
/// What services print once all that can be served is.
pub const READY_LINE: &str = "ready";
/// What they print when there is a witness to be exported.
pub const WITNESS_LINE: &str = "witness";
/// It waits for nobody.
const BOOT_STOP_LIMIT: Duration = Duration::from_secs(5);
/// By then services have had it let go of all.
const FTP_STOP_LIMIT: Duration = Duration::from_secs(5);
/// Disks that hang are left to themselves before.
const WITNESSES_STOP_LIMIT: Duration = Duration::from_secs(10);

/// A child that is kept running.
struct Kept {
    program: Program,
    running: Option<Running>,
    backoff: Backoff,
    start_at: Instant,
}

impl Kept {
    fn new(program: Program) -> Kept {
        Kept { program, running: None, backoff: Backoff::default(), start_at: Instant::now() }
    }

    /// Waits until something is to be done about the child.
    async fn due(&mut self) -> std::io::Result<Option<std::process::ExitStatus>> {
        match &mut self.running {
            Some(running) => running.child.wait().await.map(Some),
            None => {
                tokio::time::sleep_until(self.start_at).await;
                Ok(None)
            }
        }
    }

    /// Does it: starts the child, or takes note of its end.
    fn handle(&mut self, ended: std::io::Result<Option<std::process::ExitStatus>>) {
        if let Some(running) = self.running.take() {
            let pause = self.backoff.ended(running.begun.elapsed());
            let how = match ended {
                Ok(Some(status)) => status.to_string(),
                Ok(None) => "unknown".into(),
                Err(error) => error.to_string(),
            };
            tracing::error!(
                event = "process-ended",
                process = self.program.name,
                how,
                "ended by itself; it is started again in {} ms",
                pause.as_millis()
            );
            self.start_at = Instant::now() + pause;
            return;
        }
        match self.program.start() {
            Ok(running) => self.running = Some(running),
            Err(error) => {
                let pause = self.backoff.ended(Duration::ZERO);
                tracing::error!(process = self.program.name, "{error:#}");
                self.start_at = Instant::now() + pause;
            }
        }
    }

    async fn stop(&mut self, limit: Duration) {
        if let Some(running) = self.running.take() {
            running.stop(self.program.name, limit).await;
        }
    }
}

/// Runs until told to stop.
pub async fn run(
    config: SupervisorConfig,
    config_file: Option<PathBuf>,
    identity: Identity,
) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("signals")?;
    tracing::info!(
        owner = %identity.owner,
        host = identity.host,
        interfaces = config.interfaces.len(),
        "supervisor begins"
    );
    let mut own = Vec::new();
    if let Some(file) = config_file {
        let file = std::path::absolute(file).context("the configuration file's path")?;
        own.extend(["--config".into(), file.into()]);
    }
    let mut arguments = vec!["--owner".into(), identity.owner.to_string().into()];
    arguments.extend(["--host".into(), identity.host.into()]);
    arguments.extend(own.iter().cloned());
    let mut ftp = Kept::new(Program::new("ftp", own.clone()));
    let exporting = Program::new("witnesses", own);
    let mut witnesses = has_witnesses(&config).then(|| Kept::new(exporting.clone()));
    let boot = config
        .boot
        .as_ref()
        .map(|file| Program::new("boot", vec!["serve".into(), "--config".into(), file.into()]));
    let mut boot = boot.map(Kept::new);
    let mut engine = Kept::new(Program::new("engine", arguments.clone()));
    let mut services = Kept::new(Program::new("services", arguments));
    let manager = Manager::from_environment();
    manager.status("starting the engine and what it serves");
    let mut news = None;
    let mut engine_news = None;
    let mut heard_at = Instant::now();
    let mut ready = false;
    let mut alive_at = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = stop_signal(&mut terminate, &mut interrupt) => break,
            _ = hangup.recv() => tracing::info!("the configuration is read at the start only; restart to change it"),
            () = next_turn(manager.watchdog(), &mut alive_at) => {
                let silent = engine.running.as_ref().map(|_| heard_at.elapsed());
                if is_well(silent) {
                    manager.alive();
                } else {
                    tracing::error!(event = "watchdog", "the engine's loop does not turn; the service manager isn't told that all is well");
                }
            }
            ended = engine.due() => {
                engine.handle(ended);
                engine_news = lines_of(&mut engine);
                heard_at = Instant::now();
            }
            _ = next_line(&mut engine_news) => heard_at = Instant::now(),
            ended = services.due() => {
                services.handle(ended);
                news = lines_of(&mut services);
            }
            ended = ftp.due() => ftp.handle(ended),
            ended = due_of(&mut witnesses) => {
                if let Some(witnesses) = &mut witnesses {
                    witnesses.handle(ended);
                }
            }
            ended = due_of(&mut boot) => {
                if let Some(boot) = &mut boot {
                    boot.handle(ended);
                }
            }
            line = next_line(&mut news) => match &*line {
                READY_LINE if !ready => {
                    ready = true;
                    tracing::info!("ready");
                    manager.ready();
                    manager.status("serving");
                }
                WITNESS_LINE => {
                    witnesses.get_or_insert_with(|| Kept::new(exporting.clone()));
                }
                _ => {}
            }
        }
    }
    tracing::info!("stopping");
    manager.stopping();
    if let Some(boot) = &mut boot {
        boot.stop(BOOT_STOP_LIMIT).await;
    }
    // Whoever serves ends before what it serves from.
    services.stop(SERVICES_STOP_LIMIT).await;
    ftp.stop(FTP_STOP_LIMIT).await;
    engine.stop(ENGINE_STOP_LIMIT).await;
    if let Some(witnesses) = &mut witnesses {
        witnesses.stop(WITNESSES_STOP_LIMIT).await;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether this supervisor votes in any pool. Where that can't be told the process says why.
fn has_witnesses(config: &SupervisorConfig) -> bool {
    crate::witnesses::files(&config.witness_dir()).map_or(true, |files| !files.is_empty())
}

/// The same as [`Kept::due`]; never without a child.
async fn due_of(kept: &mut Option<Kept>) -> std::io::Result<Option<std::process::ExitStatus>> {
    match kept {
        Some(kept) => kept.due().await,
        None => std::future::pending().await,
    }
}

async fn stop_signal(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn lines_of(kept: &mut Kept) -> Option<Lines<BufReader<ChildStdout>>> {
    let output = kept.running.as_mut()?.child.stdout.take()?;
    Some(BufReader::new(output).lines())
}

/// The next line that the services print; pending for ever when there is none to come.
async fn next_line(news: &mut Option<Lines<BufReader<ChildStdout>>>) -> String {
    if let Some(lines) = news {
        match lines.next_line().await {
            Ok(Some(line)) => return line,
            Ok(None) | Err(_) => *news = None,
        }
    }
    std::future::pending().await
}

/// Whether the service manager may hear that all is well: the engine has said within the limit that
/// its loop turns, or doesn't run just now and is about to be started again.
fn is_well(engine_silent: Option<Duration>) -> bool {
    engine_silent.is_none_or(|silent| silent <= ENGINE_SILENCE_MAX)
}

/// Completes when the service manager is to hear again that this loop turns; never without one.
async fn next_turn(period: Option<Duration>, at: &mut Instant) {
    let Some(period) = period else { return std::future::pending().await };
    tokio::time::sleep_until(*at).await;
    *at = Instant::now() + period;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_hangs_is_not_called_well() {
        assert!(is_well(None), "it is being started again");
        assert!(is_well(Some(ENGINE_SAYS_EVERY * 2)));
        assert!(!is_well(Some(ENGINE_SILENCE_MAX + ENGINE_SAYS_EVERY)));
    }
}
