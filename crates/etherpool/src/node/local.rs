//! The node's sockets for programs of its own machine: frames for the engine, and questions.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::Context;
use aoe::driver::Port;
use control::node::{NodeReply, NodeRequest};
use futures::FutureExt;
use futures::future::{AbortHandle, abortable};
use os::net::UnixPortListener;
use os::reactor::{MailSender, mailbox};
use runtime::Semaphore;

use super::observe::{self, Listen, Listeners};
use super::server::{Node, Service};

/// A question is short.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Programs of this machine that may ask at once.
const ASKERS_MAX: usize = 16;
/// Questions that may wait: one of each asker, and those for metrics.
const LETTERS_MAX: usize = 32;
const ASKER_PATIENCE: Duration = Duration::from_secs(30);
/// The process locks its memory, stacks included.
const STACK_BYTES: usize = 256 * 1024;

/// Where an engine of this machine sends its frames.
pub fn frame_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("node.sock")
}

/// Where programs ask [`NodeRequest`]s.
pub fn control_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("node-control.sock")
}

/// A task that ends when this is dropped.
pub struct Listening(AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes engines' connections as ports of the target.
pub fn listen_frames(node: &Rc<Node>) -> anyhow::Result<Listening> {
    let run_dir = node.run_dir.as_ref().context("no run directory for sockets")?;
    let path = frame_socket(run_dir);
    let listener = UnixPortListener::bind(&node.handle, &path)
        .with_context(|| format!("cannot listen at {}", path.display()))?;
    let listening = Rc::clone(node);
    let (task, handle) = abortable(async move {
        loop {
            let port = Rc::new(listener.accept().await);
            let closed = port.closed();
            let id = listening.driver.add_port(port as Rc<dyn Port>);
            let node = Rc::clone(&listening);
            listening.handle.runtime().spawn(async move {
                closed.await;
                node.driver.remove_port(id);
            });
        }
    });
    node.handle.runtime().spawn(task.map(drop));
    Ok(Listening(handle))
}

/// A question on its way to the reactor.
pub enum Letter {
    /// And where its answer goes.
    Ask(NodeRequest, SyncSender<NodeReply>),
    /// Somebody wants to hear of requests.
    Listen(Listen),
}

/// Where questions are put. For any thread.
#[derive(Clone)]
pub struct Desk(MailSender<Letter>);

impl Desk {
    /// Asks, and waits for the answer.
    pub fn ask(&self, request: NodeRequest) -> NodeReply {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        match self.0.send(Letter::Ask(request, answer)) {
            Err(_) => NodeReply::Error("the node is busy or stopping".to_owned()),
            Ok(()) => answered
                .recv_timeout(ASKER_PATIENCE)
                .unwrap_or_else(|_| NodeReply::Error("no answer from the node".to_owned())),
        }
    }

    fn listen(&self, listen: Listen) -> bool {
        self.0.send(Letter::Listen(listen)).is_ok()
    }
}

/// Answers what is put on the desk.
pub fn open_desk(service: &Rc<Service>) -> (Desk, Listening) {
    let (sender, mut letters) = mailbox::<Letter>(LETTERS_MAX);
    let answering = Rc::clone(service);
    let handle = service.node().handle.clone();
    let (task, listening) = abortable(async move {
        let listeners = Listeners::default();
        let changing = Semaphore::new(1);
        while let Some(letter) = letters.receive().await {
            let node = answering.node();
            match letter {
                Letter::Listen(listen) => listeners.admit(&node.handle, &node.driver, listen),
                // Each by itself: who asks how things are doesn't wait for a disk that is looked at
                // for somebody else. Each has an asker, so they are few.
                Letter::Ask(request, reply) => {
                    let (service, changing) = (Rc::clone(&answering), Rc::clone(&changing));
                    node.handle.runtime().spawn(async move {
                        // An asker that went away takes its answer with it.
                        let _ = reply.try_send(answer(&service, &changing, request).await);
                    });
                }
            }
        }
    });
    handle.runtime().spawn(task.map(drop));
    (Desk(sender), Listening(listening))
}

/// Takes programs' questions at the control socket. Reading and writing is done by threads, so that
/// an asker that hangs holds up nobody.
pub fn listen_control(run_dir: &Path, desk: Desk) -> anyhow::Result<()> {
    let path = control_socket(run_dir);
    // The node's lock is held: whatever is there was left behind.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen at {}", path.display()))?;
    std::thread::Builder::new()
        .name("node-control".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || take_askers(&listener, &desk))?;
    Ok(())
}

async fn answer(service: &Service, changing: &Rc<Semaphore>, request: NodeRequest) -> NodeReply {
    let node = service.node();
    let done = match request {
        NodeRequest::Status => Ok(()),
        NodeRequest::Stats { exports } => {
            let mut report = observe::report(&node.handle, &node.driver, &node.name).await;
            let missing = report.keep(&exports);
            return match missing.first() {
                None => NodeReply::Stats(report),
                Some(address) => NodeReply::Error(format!("{address} is not exported here")),
            };
        }
        // Those who listen don't come here.
        NodeRequest::Trace { .. } => Err(anyhow::anyhow!("the log needs a connection of its own")),
        NodeRequest::Export { path } => {
            let _turn = changing.acquire(1).await;
            service.exporter.export_path(&path).await
        }
        NodeRequest::Reload => {
            let _turn = changing.acquire(1).await;
            service.reload().await
        }
    };
    match done {
        Ok(()) => NodeReply::Status(service.exporter.status()),
        Err(error) => NodeReply::Error(format!("{error:#}")),
    }
}

fn take_askers(listener: &UnixListener, desk: &Desk) {
    let askers = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if askers.fetch_add(1, Ordering::SeqCst) >= ASKERS_MAX {
            askers.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (desk, counter) = (desk.clone(), Arc::clone(&askers));
        let asker = std::thread::Builder::new().name("node-asker".to_owned());
        let started = asker.stack_size(STACK_BYTES).spawn(move || {
            if let Err(error) = serve_asker(&stream, &desk) {
                tracing::debug!(%error, "a program of this machine asked in vain");
            }
            counter.fetch_sub(1, Ordering::SeqCst);
        });
        if started.is_err() {
            askers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve_asker(stream: &UnixStream, desk: &Desk) -> std::io::Result<()> {
    stream.set_read_timeout(Some(ASKER_PATIENCE))?;
    stream.set_write_timeout(Some(ASKER_PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)? > 0 {
        let reply = match serde_json::from_str::<NodeRequest>(&line) {
            Err(error) => NodeReply::Error(format!("not a request: {error}")),
            Ok(NodeRequest::Trace { exports }) => {
                let (listen, listening) = observe::listener(exports);
                if desk.listen(listen) {
                    return listening.serve(stream, ASKER_PATIENCE);
                }
                NodeReply::Error("the node is busy or stopping".to_owned())
            }
            Ok(request) => desk.ask(request),
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        (&mut &*stream).write_all(&text)?;
        line.clear();
    }
    Ok(())
}
