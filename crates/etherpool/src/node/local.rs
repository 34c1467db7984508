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

use super::server::{Node, Service};

/// A question is short.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Programs of this machine that may ask at once.
const ASKERS_MAX: usize = 16;
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

/// A question on its way to the reactor, and where its answer goes.
type Letter = (NodeRequest, SyncSender<NodeReply>);

/// Answers questions. Reading and writing is done by threads, so that an asker that hangs holds up
/// nobody.
pub fn listen_control(service: &Rc<Service>) -> anyhow::Result<Listening> {
    let run_dir = service.node().run_dir.as_ref().context("no run directory for sockets")?;
    let path = control_socket(run_dir);
    // The node's lock is held: whatever is there was left behind.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen at {}", path.display()))?;
    let (sender, mut letters) = mailbox::<Letter>(ASKERS_MAX);
    std::thread::Builder::new()
        .name("node-control".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || take_askers(&listener, &sender))?;
    let answering = Rc::clone(service);
    let (task, handle) = abortable(async move {
        while let Some((request, reply)) = letters.receive().await {
            // An asker that went away takes its answer with it.
            let _ = reply.try_send(answer(&answering, request).await);
        }
    });
    service.node().handle.runtime().spawn(task.map(drop));
    Ok(Listening(handle))
}

async fn answer(service: &Service, request: NodeRequest) -> NodeReply {
    let done = match request {
        NodeRequest::Status => Ok(()),
        NodeRequest::Export { path } => service.exporter.export_path(&path).await,
        NodeRequest::Reload => service.reload().await,
    };
    match done {
        Ok(()) => NodeReply::Status(service.exporter.status()),
        Err(error) => NodeReply::Error(format!("{error:#}")),
    }
}

fn take_askers(listener: &UnixListener, sender: &MailSender<Letter>) {
    let askers = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        if askers.fetch_add(1, Ordering::SeqCst) >= ASKERS_MAX {
            askers.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (sender, counter) = (sender.clone(), Arc::clone(&askers));
        let asker = std::thread::Builder::new().name("node-asker".to_owned());
        let started = asker.stack_size(STACK_BYTES).spawn(move || {
            if let Err(error) = serve_asker(&stream, &sender) {
                tracing::debug!(%error, "a program of this machine asked in vain");
            }
            counter.fetch_sub(1, Ordering::SeqCst);
        });
        if started.is_err() {
            askers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve_asker(stream: &UnixStream, sender: &MailSender<Letter>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(ASKER_PATIENCE))?;
    stream.set_write_timeout(Some(ASKER_PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)? > 0 {
        let reply = match serde_json::from_str::<NodeRequest>(&line) {
            Err(error) => NodeReply::Error(format!("not a request: {error}")),
            Ok(request) => {
                let (answer, answered) = std::sync::mpsc::sync_channel(1);
                match sender.send((request, answer)) {
                    Err(_) => NodeReply::Error("the node is busy or stopping".to_owned()),
                    Ok(()) => answered
                        .recv_timeout(ASKER_PATIENCE)
                        .unwrap_or_else(|_| NodeReply::Error("no answer from the node".to_owned())),
                }
            }
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        (&mut &*stream).write_all(&text)?;
        line.clear();
    }
    Ok(())
}
