//! Logs: to standard error, or with their fields to systemd's journal where that is where standard error goes.
//!
//! The engine must never wait for whoever reads its log (a full pipe to a service that waits for
//! the engine would be a circle), so lines go through a bounded queue to a thread that writes them;
//! what doesn't fit is dropped and counted. Under systemd the journal has the time already.

mod fields;
mod journal;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use os::dir::Spot;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

pub use journal::catalogue as journal_catalogue;
use journal::{Entries, Journal, STREAM_VARIABLE};

/// Environment variable that overrides the configured level.
const LEVEL_VARIABLE: &str = "ETHERPOOL_LOG";
/// Lines that wait for being written.
const QUEUE_LINES_MAX: usize = 1024;

/// How long the end of a process waits for its last lines.
const FINISH_LIMIT: Duration = Duration::from_millis(500);

static QUEUE: OnceLock<LineQueue> = OnceLock::new();
static SYSLOG: OnceLock<Syslog> = OnceLock::new();

/// Begins logging. `level` is a level or filter; a wrong one is replaced by `info` and said so.
pub fn start(level: &str) {
    let wanted = std::env::var(LEVEL_VARIABLE).unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(&wanted);
    let wrong = filter.is_err();
    let syslog = SYSLOG.get();
    let journal = if syslog.is_none() { Journal::find() } else { None };
    let has_fields = journal.is_some();
    let started = match (syslog, journal) {
        (Some(syslog), _) => LineQueue::start(syslog.clone(), line),
        (None, Some(journal)) => LineQueue::start(journal, journal::plain),
        (None, None) => LineQueue::start(io::stderr(), line),
    };
    let Ok(queue) = started else { return };
    let _ = QUEUE.set(queue.clone());
    let ansi = syslog.is_none() && io::stderr().is_terminal();
    let layer = if has_fields {
        Entries(queue).boxed()
    } else {
        let text = tracing_subscriber::fmt::layer()
            .fmt_fields(fields::Text)
            .with_writer(queue)
            .with_ansi(ansi);
        match syslog.is_some() || std::env::var_os(STREAM_VARIABLE).is_some() {
            true => text.without_time().boxed(),
            false => text.boxed(),
        }
    };
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info"));
    // A second call (tests) keeps the first log.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    if wrong {
        tracing::warn!(level = wanted, "not a log level; logging at info");
    }
}

/// Sends all that is logged and said from now on to syslog, under a name: for daemons without a
/// standard error.
pub fn to_syslog(name: &'static str) {
    // A machine without a log has nobody who would read it. A second call keeps the first name.
    let log = Spot::of(Path::new("/dev/log")).ok().map(Arc::new);
    let _ = SYSLOG.set(Syslog { name, log });
}

/// Says something that isn't for the log's form: to standard error, or syslog.
pub fn say(line: &str) {
    match SYSLOG.get() {
        Some(syslog) => syslog.send(line.as_bytes()),
        None => eprintln!("{line}"),
    }
}

/// How many lines were dropped because nobody took them in time.
pub fn dropped_lines() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.dropped.load(Ordering::Relaxed))
}

/// Waits, for a moment, until what was logged is written: before the process ends.
pub fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.finish();
    }
}

/// The system's log, a line per message, as logger(1) sends them.
#[derive(Clone)]
struct Syslog {
    name: &'static str,
    log: Option<Arc<Spot>>,
}

impl Syslog {
    /// Connects for each line: the log's daemon may have been restarted, and lines are rare.
    fn send(&self, line: &[u8]) {
        let Some(log) = &self.log else { return };
        // user.notice, logger's default.
        let mut message = format!("<13>{}[{}]: ", self.name, std::process::id()).into_bytes();
        message.extend_from_slice(line.trim_ascii_end());
        let sent = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| {
            // A log that isn't read must not stop the daemon.
            socket.set_nonblocking(true)?;
            log.connect(&socket)?;
            socket.send(&message)
        });
        // Nobody is there to be told.
        drop(sent);
    }
}

impl Write for Syslog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A queue of lines to a writing thread.
#[derive(Clone)]
struct LineQueue {
    sender: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Line(Vec<u8>),
    /// Answered when all lines before it are written.
    Finish(SyncSender<()>),
}

/// Collects one event; queued when dropped.
struct Line<'a> {
    queue: &'a LineQueue,
    bytes: Vec<u8>,
}

impl LineQueue {
    /// `form` makes a line of a sentence of its own.
    fn start(
        mut output: impl Write + Send + 'static,
        form: fn(&str) -> Vec<u8>,
    ) -> io::Result<LineQueue> {
        let (sender, receiver) = sync_channel::<Message>(QUEUE_LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&dropped);
        std::thread::Builder::new().name("log".into()).stack_size(128 << 10).spawn(move || {
            // Confined before its process is: it only writes.
            let _ = os::confine::give_up_capabilities();
            let mut told = 0;
            for message in receiver {
                let line = match message {
                    Message::Line(line) => line,
                    Message::Finish(done) => {
                        // Whoever asked may have lost patience.
                        let _ = done.try_send(());
                        continue;
                    }
                };
                if output.write_all(&line).is_err() {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
                let now = seen.load(Ordering::Relaxed);
                if now > told {
                    let _ =
                        output.write_all(&form(&format!("{} log lines were dropped", now - told)));
                    told = now;
                }
            }
        })?;
        Ok(LineQueue { sender, dropped })
    }

    fn push(&self, line: Vec<u8>) {
        if self.sender.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn finish(&self) {
        let (done, finished) = sync_channel(1);
        if self.sender.try_send(Message::Finish(done)).is_ok() {
            let _ = finished.recv_timeout(FINISH_LIMIT);
        }
    }
}

/// A sentence as a line of text.
fn line(text: &str) -> Vec<u8> {
    format!("{text}\n").into_bytes()
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: self, bytes: Vec::new() }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.queue.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// An output that takes a line only when it gets a permit.
    struct Slow {
        permits: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
        done: Sender<()>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.permits.recv().is_err() {
                let _ = self.done.send(());
                return Ok(bytes.len());
            }
            self.written.lock().unwrap().extend_from_slice(bytes);
            let _ = self.done.send(());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn syslog_gets_lines_with_name_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let spot = Spot::of(&path).unwrap();
        Syslog { name: "vbladed", log: Some(Arc::new(spot)) }.send(b"hello\n");
        let mut bytes = [0; 64];
        let len = log.recv(&mut bytes).unwrap();
        let expected = format!("<13>vbladed[{}]: hello", std::process::id());
        assert_eq!(&bytes[..len], expected.as_bytes());
    }

    #[test]
    fn the_end_waits_for_the_last_line() {
        let (permit, permits) = channel();
        let (done, _finished) = channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let queue =
            LineQueue::start(Slow { permits, written: Arc::clone(&written), done }, line).unwrap();
        writeln!(queue.make_writer(), "last words").unwrap();
        permit.send(()).unwrap();
        queue.finish();
        assert_eq!(*written.lock().unwrap(), b"last words\n");
    }

    #[test]
    fn a_stuck_reader_costs_lines_but_no_waiting() {
        let (permit, permits) = channel();
        let (done, finished) = channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let queue =
            LineQueue::start(Slow { permits, written: Arc::clone(&written), done }, line).unwrap();
        let count = QUEUE_LINES_MAX + 50;
        for number in 0..count {
            writeln!(queue.make_writer(), "line {number}").unwrap();
        }
        // One line may already be with the writer; the rest of the surplus is dropped.
        let dropped = queue.dropped.load(Ordering::Relaxed);
        assert!((49..=50).contains(&dropped), "{dropped}");
        permit.send(()).unwrap();
        finished.recv().unwrap();
        assert_eq!(*written.lock().unwrap(), b"line 0\n");
        drop(permit);
    }
}
