//! What a running target tells about itself: counters, and the log of requests to those who listen.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use aoe_target::{TargetDriver, TraceStream};
use control::node::{ExportReport, NodeReply, TargetReport, TraceLine, TraceNews};
use futures::channel::oneshot;
use futures::future::{Either, select};
use os::ReactorHandle;

use crate::json_lines::{Connection, Outgoing, Queue};

/// Listeners to the log at once: each costs the target time for every request.
const LISTENERS_MAX: usize = 4;
/// Records on their way to a listener; more are counted and gone.
const NEWS_MAX: usize = 4096;
/// How often is looked whether a listener is still there when there is nothing to tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// All counters, as they are now.
pub async fn report(handle: &ReactorHandle, driver: &TargetDriver, name: &str) -> TargetReport {
    let mut report = TargetReport::new(name, driver.stats());
    report.ports = driver.port_status().iter().map(Into::into).collect();
    for export in driver.exports() {
        let clients = driver.clients(export.id);
        report.exports.push(ExportReport::new(&export, &clients, handle.runtime().now()));
        // Many exports with many clients are no reason to let frames wait.
        handle.runtime().yield_now().await;
    }
    report
}

/// A listener's wish, on its way to the reactor.
pub struct Listen {
    exports: Vec<String>,
    news: Outgoing<TraceNews>,
    /// Its end is the listener's.
    gone: oneshot::Receiver<()>,
    accepted: SyncSender<Result<(), String>>,
}

/// A listener's end, for the thread that serves it.
pub struct Listening {
    news: Queue<TraceNews>,
    accepted: Receiver<Result<(), String>>,
    _here: oneshot::Sender<()>,
}

/// Both ends for a listener to these exports, or to all if none is named.
pub fn listener(exports: Vec<String>) -> (Listen, Listening) {
    let (outgoing, news) = Outgoing::new(0, NEWS_MAX, TraceNews::Lost);
    let (accepted_sender, accepted) = sync_channel(1);
    let (here, gone) = oneshot::channel();
    let listen = Listen { exports, news: outgoing, gone, accepted: accepted_sender };
    (listen, Listening { news, accepted, _here: here })
}

/// Those who listen.
#[derive(Default)]
pub struct Listeners {
    count: Rc<Cell<usize>>,
}

impl Listeners {
    /// Takes one more, until it goes.
    pub fn admit(&self, handle: &ReactorHandle, driver: &TargetDriver, listen: Listen) {
        let present: Vec<String> =
            driver.exports().iter().map(|e| e.options.address.to_string()).collect();
        let missing = listen.exports.iter().find(|address| !present.contains(address));
        let verdict = match missing {
            _ if self.count.get() >= LISTENERS_MAX => {
                Err(format!("{LISTENERS_MAX} listen to the log already"))
            }
            Some(address) => Err(format!("{address} is not exported here")),
            None => Ok(()),
        };
        let refused = verdict.is_err();
        let Listen { exports, news, gone, accepted } = listen;
        if accepted.try_send(verdict).is_err() || refused {
            return;
        }
        let count = Rc::clone(&self.count);
        count.set(count.get() + 1);
        let stream = driver.subscribe_trace(None);
        handle.runtime().spawn(async move {
            let forwarding = std::pin::pin!(forward(&stream, &exports, news));
            // Also when nothing happens that could be told: requests needn't be recorded any more.
            match select(forwarding, gone).await {
                Either::Left(_) | Either::Right(_) => count.set(count.get() - 1),
            }
        });
    }
}

async fn forward(stream: &TraceStream, exports: &[String], outgoing: Outgoing<TraceNews>) {
    loop {
        let record = stream.next().await;
        outgoing.note_lost(stream.take_lost());
        let line = TraceLine::from(&record);
        if (exports.is_empty() || exports.contains(&line.export))
            && !outgoing.tell(TraceNews::Request(line))
        {
            return;
        }
    }
}

impl Listening {
    /// Tells the listener at the other end what is to be told, until it goes or the target stops. A
    /// listener that is refused hears why.
    pub fn serve(self, connection: &Connection, timeout: Duration) -> std::io::Result<()> {
        let verdict = self.accepted.recv_timeout(timeout);
        if let Err(why) = verdict.unwrap_or_else(|_| Err("the target is stopping".to_owned())) {
            return connection.send(&NodeReply::Error(why));
        }
        // Nothing was lost yet: the first line only says that from here on all is told.
        connection.send(&NodeReply::Trace(TraceNews::Lost(0)))?;
        loop {
            match self.news.next_within(LOOK_EVERY) {
                Ok(first) => {
                    let all = std::iter::once(first).chain(self.news.waiting());
                    connection.send_all(all.map(NodeReply::Trace))?;
                }
                Err(RecvTimeoutError::Timeout) if connection.is_open() => {}
                Err(_) => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{BufRead, BufReader};

    fn line(tag: u32) -> TraceLine {
        TraceLine {
            at_us: 1,
            export: "e1.0".into(),
            client: "02:00:00:00:00:01".into(),
            tag,
            command: "READ".into(),
            lba: 8,
            count: 2,
            status: "done".into(),
            took_us: 3,
        }
    }

    #[test]
    fn a_listener_gets_lines_until_it_goes() {
        let (here, there) = Connection::pair();
        let (listen, listening) = listener(Vec::new());
        listen.accepted.try_send(Ok(())).unwrap();
        let serving = std::thread::spawn(move || listening.serve(&here, Duration::from_secs(60)));
        let outgoing = listen.news;
        assert!(outgoing.tell(TraceNews::Request(line(7))));
        let mut reader = BufReader::new(&there);
        let mut next = || {
            let mut text = String::new();
            reader.read_line(&mut text).unwrap();
            serde_json::from_str::<NodeReply>(&text).unwrap()
        };
        assert_eq!(next(), NodeReply::Trace(TraceNews::Lost(0)));
        assert_eq!(next(), NodeReply::Trace(TraceNews::Request(line(7))));
        drop(there);
        // Nothing is told any more; its going is noticed all the same.
        serving.join().unwrap().unwrap();
        assert!(!outgoing.tell(TraceNews::Request(line(8))));
    }

    #[test]
    fn a_refused_listener_hears_why() {
        let (here, there) = Connection::pair();
        let (listen, listening) = listener(Vec::new());
        listen.accepted.try_send(Err("no".into())).unwrap();
        listening.serve(&here, Duration::from_secs(60)).unwrap();
        drop(here);
        let mut text = String::new();
        BufReader::new(there).read_line(&mut text).unwrap();
        assert_eq!(
            serde_json::from_str::<NodeReply>(&text).unwrap(),
            NodeReply::Error("no".into())
        );
    }
}
