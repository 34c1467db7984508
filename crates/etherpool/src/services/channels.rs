//! The ways to people: the journal, the mailer, webhooks, commands. Each has a queue and a task of its own, so that
//! one that hangs or fails holds up neither the others nor whoever has something to tell. What can't be delivered
//! is tried again, ever more seldom, for a day; of more than can be kept the newest are lost, which is told.

use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::alerts::{
    AlertsConfig, Batch, ChannelReport, Message, Step, WebhookConfig, mail_subject, text_of,
};
use pool::Severity;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Messages that wait for a channel.
const WAITING_MAX: usize = 256;
/// Messages that go together.
const BATCH_MAX: usize = 64;
/// How long a delivery may take.
const DELIVERY_LIMIT: Duration = Duration::from_secs(30);
/// As much of what a program said is told.
const SAID_BYTES_MAX: usize = 300;

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// What comes within so long goes together: a disk that goes means several things.
    gather: Duration,
    /// Between the first two attempts; twice as long each time.
    retry_min: Duration,
    /// At the longest.
    retry_max: Duration,
    /// What couldn't be delivered for so long is given up.
    give_up: Duration,
}

impl Pace {
    const USUAL: Pace = Pace {
        gather: Duration::from_secs(5),
        retry_min: Duration::from_secs(10),
        retry_max: Duration::from_secs(15 * 60),
        give_up: Duration::from_secs(24 * 3600),
    };
}

/// All ways that are configured.
pub struct Channels {
    host: String,
    channels: Vec<Channel>,
}

struct Channel {
    way: Arc<Way>,
    queue: mpsc::Sender<Message>,
    state: Arc<Mutex<ChannelReport>>,
}

enum Way {
    Journal,
    Mail { sendmail: std::path::PathBuf, to: Vec<String> },
    Webhook(WebhookConfig),
    Command { argv: Vec<String> },
}

impl Channels {
    /// As configured. The mailer is used where it is there.
    pub fn start(config: &AlertsConfig, host: &str) -> Channels {
        Channels::start_at(config, host, Pace::USUAL)
    }

    fn start_at(config: &AlertsConfig, host: &str, pace: Pace) -> Channels {
        let mut ways = vec![Way::Journal];
        let (mail, wanted) = (&config.mail, config.mail.enabled && !config.nobody);
        if wanted && !mail.to.is_empty() && mail.sendmail.exists() {
            ways.push(Way::Mail { sendmail: mail.sendmail.clone(), to: mail.to.clone() });
        }
        ways.extend(config.webhook.iter().cloned().map(Way::Webhook));
        ways.extend(config.command.iter().map(|one| Way::Command { argv: one.argv.clone() }));
        let channels = ways.into_iter().map(|way| Channel::start(way, host.to_owned(), pace));
        Channels { host: host.to_owned(), channels: channels.collect() }
    }

    /// Has it delivered by all of them. Nobody waits.
    pub fn tell(&self, message: &Message) {
        for channel in &self.channels {
            match channel.queue.try_send(message.clone()) {
                Ok(()) => lock(&channel.state).waiting += 1,
                Err(_) => lock(&channel.state).lost += 1,
            }
        }
    }

    /// How they do.
    pub fn reports(&self) -> Vec<ChannelReport> {
        self.channels.iter().map(|channel| lock(&channel.state).clone()).collect()
    }

    /// Sends a test by each at once; what each of them answered.
    pub async fn test(&self, message: &Message) -> Vec<(String, Result<String, String>)> {
        let batch = self.batch(vec![message.clone()]);
        let sent = self.channels.iter().map(|channel| {
            let batch = batch.clone();
            async move { (channel.way.name(), channel.way.deliver(&batch).await) }
        });
        futures::future::join_all(sent).await
    }

    fn batch(&self, messages: Vec<Message>) -> Batch {
        Batch { host: self.host.clone(), messages, lost: 0 }
    }
}

fn lock(state: &Mutex<ChannelReport>) -> MutexGuard<'_, ChannelReport> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Channel {
    fn start(way: Way, host: String, pace: Pace) -> Channel {
        let (queue, messages) = mpsc::channel(WAITING_MAX);
        let reaches_people = !matches!(way, Way::Journal);
        let report = ChannelReport { name: way.name(), reaches_people, ..ChannelReport::default() };
        let (way, state) = (Arc::new(way), Arc::new(Mutex::new(report)));
        tokio::spawn(run(Arc::clone(&way), host, pace, messages, Arc::clone(&state)));
        Channel { way, queue, state }
    }
}

async fn run(
    way: Arc<Way>,
    host: String,
    pace: Pace,
    mut queue: mpsc::Receiver<Message>,
    state: Arc<Mutex<ChannelReport>>,
) {
    let mut lost_told = 0;
    while let Some(first) = queue.recv().await {
        let mut messages = vec![first];
        if !matches!(*way, Way::Journal) {
            tokio::time::sleep(pace.gather).await;
        }
        while let (true, Ok(next)) = (messages.len() < BATCH_MAX, queue.try_recv()) {
            messages.push(next);
        }
        let lost = lock(&state).lost;
        let batch = Batch { host: host.clone(), messages, lost: lost - lost_told };
        if deliver_at_last(&way, &batch, pace, &state).await {
            lost_told = lost;
        }
    }
}

/// Tries until it is delivered, or given up; tells which.
async fn deliver_at_last(
    way: &Way,
    batch: &Batch,
    pace: Pace,
    state: &Mutex<ChannelReport>,
) -> bool {
    let (begun, mut pause) = (Instant::now(), pace.retry_min);
    let count = batch.messages.len() as u64;
    loop {
        let why = match way.deliver(batch).await {
            Ok(_) => {
                let mut state = lock(state);
                state.waiting = state.waiting.saturating_sub(count);
                state.delivered += count;
                state.trouble = None;
                return true;
            }
            Err(why) => why,
        };
        let gives_up = begun.elapsed() >= pace.give_up;
        {
            let mut state = lock(state);
            if state.trouble.is_none() {
                tracing::error!("no message goes out by {}: {why}; tried again", state.name);
            }
            state.failures += 1;
            state.trouble = Some(why);
            if gives_up {
                state.waiting = state.waiting.saturating_sub(count);
                state.lost += count;
            }
        }
        if gives_up {
            return false;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(pace.retry_max);
    }
}

impl Way {
    fn name(&self) -> String {
        match self {
            Way::Journal => "journal".to_owned(),
            Way::Mail { to, .. } => format!("mail to {}", to.join(", ")),
            Way::Webhook(hook) => hook.name(),
            Way::Command { argv } => {
                format!("command {}", argv.first().map_or("", String::as_str))
            }
        }
    }

    /// Delivers; what was answered, or why it wasn't delivered.
    async fn deliver(&self, batch: &Batch) -> Result<String, String> {
        let delivery = async {
            match self {
                Way::Journal => Ok(journal(batch)),
                Way::Mail { sendmail, to } => mail(sendmail, to, batch).await,
                Way::Webhook(hook) => super::webhook::post(hook, batch).await,
                Way::Command { argv } => {
                    let input = serde_json::to_vec(batch).map_err(|error| error.to_string())?;
                    let (program, arguments) = argv.split_first().ok_or("names no program")?;
                    let mut command = Command::new(program);
                    command.args(arguments);
                    given(command, &input).await
                }
            }
        };
        let delivered = tokio::time::timeout(DELIVERY_LIMIT, delivery).await;
        delivered.unwrap_or_else(|_| Err(format!("not done within {} s", DELIVERY_LIMIT.as_secs())))
    }
}

fn journal(batch: &Batch) -> String {
    for message in &batch.messages {
        let line = message.line();
        let (event, pool) = (message.id(), message.pool.as_deref());
        let (volume, disk) = (message.volume(), message.disk());
        let remedy = &message.remedy;
        match (message.step, message.severity) {
            (Step::Cleared | Step::Test, _) | (_, Severity::Info) => {
                tracing::info!(event, pool, volume, disk, "alert: {line}");
            }
            (_, Severity::Warning) => {
                tracing::warn!(event, pool, volume, disk, "alert: {line}; {remedy}");
            }
            (_, Severity::Error) => {
                tracing::error!(event, pool, volume, disk, "alert: {line}; {remedy}");
            }
        }
    }
    "logged".to_owned()
}

async fn mail(sendmail: &std::path::Path, to: &[String], batch: &Batch) -> Result<String, String> {
    let text = format!(
        "To: {}\nSubject: {}\nAuto-Submitted: auto-generated\nMIME-Version: 1.0\n\
         Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{}",
        to.join(", "),
        mail_subject(batch),
        text_of(batch)
    );
    let mut command = Command::new(sendmail);
    // A line of a single dot is none that ends the mail.
    command.arg("-i").arg("--").args(to);
    given(command, text.as_bytes()).await
}

/// Runs a program that gets `input`; what it said.
async fn given(mut command: Command, input: &[u8]) -> Result<String, String> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    command.env_clear().env("PATH", path).current_dir("/").kill_on_drop(true).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("can't be started: {error}"))?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let write = async {
        let Some(mut stdin) = stdin else { return };
        // One that doesn't read what it is given says by its end how it went.
        let _ = stdin.write_all(input).await;
    };
    let read = async {
        let mut said = Vec::new();
        if let Some(stderr) = stderr {
            let mut some = tokio::io::AsyncReadExt::take(stderr, 64 << 10);
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut some, &mut said).await;
        }
        said
    };
    let ((), said, ended) = tokio::join!(write, read, child.wait());
    let said = String::from_utf8_lossy(&said[..said.len().min(SAID_BYTES_MAX)]);
    let said = said.trim().replace(|c: char| c.is_control(), " ");
    match ended {
        Ok(status) if status.success() => Ok("done".to_owned()),
        Ok(status) if said.is_empty() => Err(format!("it ended with {status}")),
        Ok(status) => Err(format!("it ended with {status}: {said}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
#[path = "channels_tests.rs"]
mod tests;
