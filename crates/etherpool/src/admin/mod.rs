//! Where programs of this machine ask a target how it is and have it changed: the control socket, and
//! what answers there. Nodes, targets and the engine's exports of volumes have one each.
//!
//! Sockets are read and written by threads; what is asked travels to the reactor and its answer back.
//! So who asks slowly, nonsense, or about a disk that hangs, holds up nobody.

mod conflicts;
mod metrics;
mod observe;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use aoe_target::TargetDriver;
use aoe_wire::ShelfSlot;
use block::VolumeName;
use control::node::{NodeReply, NodeRequest, NodeStatus, TargetReport};
use futures::FutureExt;
use futures::future::{AbortHandle, LocalBoxFuture, abortable};
use os::ReactorHandle;
use os::reactor::{MailSender, mailbox};
use pool::VolumeStats;
use runtime::Semaphore;
use seal::{PublicKey, Token};

pub use metrics::{Metrics, MetricsServer, PAGE_TYPE};

use crate::json_lines::{self, Connection, Rules};
use observe::{Listen, Listeners};

/// A question is short.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Programs of this machine that may ask at once.
const ASKERS_MAX: usize = 16;
/// Questions that may wait: one of each asker, and those for metrics.
const MESSAGES_MAX: usize = 32;
const ASKER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where programs ask [`NodeRequest`]s.
pub fn control_socket(run_dir: &Path) -> PathBuf {
    run_dir.join("node-control.sock")
}

/// Who has a target, and answers for it.
pub trait AdminHandler {
    /// The reactor's.
    fn handle(&self) -> &ReactorHandle;

    /// The target.
    fn driver(&self) -> &TargetDriver;

    /// What it is called.
    fn name(&self) -> String;

    /// How it is, but for what only the target's driver knows.
    fn status(&self) -> NodeStatus;

    /// Where the time of its volumes goes, if it has volumes.
    fn volumes(&self) -> BTreeMap<VolumeName, VolumeStats> {
        BTreeMap::new()
    }

    /// Changes something. One at a time.
    fn change(self: Rc<Self>, change: Change) -> LocalBoxFuture<'static, anyhow::Result<()>>;
}

/// What can be changed by asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Export a disk, until the end.
    Export {
        /// Its path.
        path: String,
    },
    /// Read the configuration anew.
    Reload,
    /// Take a token.
    Join {
        /// It.
        token: Token,
    },
    /// Take a machine that joined for a stranger.
    Forget {
        /// By its key.
        key: PublicKey,
    },
    /// Have a disk obey whoever claims it.
    ResetOwner {
        /// Its address.
        disk: ShelfSlot,
    },
}

/// For the log: of a token nothing.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Export { path } => write!(f, "export {path}"),
            Change::Reload => f.write_str("reload"),
            Change::Join { .. } => f.write_str("join"),
            Change::Forget { key } => write!(f, "key forget {key}"),
            Change::ResetOwner { disk } => write!(f, "disk reset-owner {disk}"),
        }
    }
}

/// How a target is, with what its driver knows.
pub fn status_of(handler: &dyn AdminHandler) -> NodeStatus {
    let mut status = handler.status();
    conflicts::mark(&mut status, &handler.driver().exports());
    status
}

async fn report_of(handler: &dyn AdminHandler) -> TargetReport {
    let (handle, driver) = (handler.handle(), handler.driver());
    let mut report = observe::report(handle, driver, &handler.name()).await;
    report.volumes = handler.volumes();
    report
}

/// How a target is, for Prometheus.
pub async fn metrics_of(handler: Rc<dyn AdminHandler>) -> String {
    control::node::metrics(&report_of(&*handler).await, &status_of(&*handler))
}

/// The end of answering, when it is dropped.
pub struct Answering(AbortHandle);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A question on its way to the reactor.
enum Message {
    /// And where its answer goes.
    Ask(Asked, SyncSender<NodeReply>),
    /// Somebody wants to hear of requests.
    Listen(Listen),
}

/// A question, and who asks.
struct Asked {
    request: NodeRequest,
    /// By the kernel's word; nobody for metrics.
    uid: Option<u32>,
}

/// Where questions are put. For any thread.
#[derive(Clone)]
pub struct AdminServer(MailSender<Message>);

impl AdminServer {
    /// Answers what is put here from now on, and tells the log of others at the target's addresses.
    pub fn open(handler: Rc<dyn AdminHandler>) -> (AdminServer, Answering) {
        let (sender, mut messages) = mailbox::<Message>(MESSAGES_MAX);
        let runtime = handler.handle().runtime().clone();
        let telling = conflicts::tell(handler.driver().clone());
        let answering = async move {
            let listeners = Listeners::default();
            let changing = Semaphore::new(1);
            while let Some(message) = messages.receive().await {
                let (handle, driver) = (handler.handle(), handler.driver());
                match message {
                    Message::Listen(listen) => listeners.admit(handle, driver, listen),
                    // Each by itself: who asks how things are doesn't wait for a disk that is looked
                    // at for somebody else. Each has an asker, so they are few.
                    Message::Ask(asked, reply) => {
                        let (handler, changing) = (Rc::clone(&handler), Rc::clone(&changing));
                        handle.runtime().spawn(async move {
                            // An asker that went away takes its answer with it.
                            let _ = reply.try_send(answer(handler, &changing, asked).await);
                        });
                    }
                }
            }
        };
        let (task, handle) = abortable(async move { futures::join!(answering, telling) });
        runtime.spawn(task.map(drop));
        (AdminServer(sender), Answering(handle))
    }

    /// Takes programs' questions at the control socket in `run_dir`.
    pub fn listen(&self, run_dir: &Path) -> anyhow::Result<()> {
        let rules = Rules {
            name: "node-control",
            connections_max: ASKERS_MAX,
            line_bytes_max: LINE_BYTES_MAX,
            descriptors_max: 0,
            timeout: Some(ASKER_TIMEOUT),
        };
        let admin = self.clone();
        let serve = move |connection: &mut Connection| serve_asker(connection, &admin);
        json_lines::listen(&control_socket(run_dir), rules, serve)
    }

    /// Asks, and waits for the answer.
    fn ask(&self, request: NodeRequest, uid: Option<u32>) -> NodeReply {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        match self.0.send(Message::Ask(Asked { request, uid }, answer)) {
            Err(_) => NodeReply::Error("the node is busy or stopping".to_owned()),
            Ok(()) => answered
                .recv_timeout(ASKER_TIMEOUT)
                .unwrap_or_else(|_| NodeReply::Error("no answer from the node".to_owned())),
        }
    }

    fn hear(&self, listen: Listen) -> bool {
        self.0.send(Message::Listen(listen)).is_ok()
    }
}

async fn answer(
    handler: Rc<dyn AdminHandler>,
    changing: &Rc<Semaphore>,
    Asked { request, uid }: Asked,
) -> NodeReply {
    let change = match request {
        NodeRequest::Status => return NodeReply::Status(status_of(&*handler)),
        NodeRequest::Stats { exports } => {
            let mut report = report_of(&*handler).await;
            return match report.keep(&exports).first() {
                None => NodeReply::Stats(report),
                Some(address) => NodeReply::Error(format!("{address} is not exported here")),
            };
        }
        // Those who listen don't come here.
        NodeRequest::Trace { .. } => {
            return NodeReply::Error("the log needs a connection of its own".to_owned());
        }
        NodeRequest::Export { path } => Change::Export { path },
        NodeRequest::Reload => Change::Reload,
        NodeRequest::Join { token } => Change::Join { token },
        NodeRequest::Forget { key } => Change::Forget { key },
        NodeRequest::ResetOwner { disk } => Change::ResetOwner { disk },
    };
    let _turn = changing.acquire(1).await;
    let what = change.to_string();
    let changed = Rc::clone(&handler).change(change).await;
    tracing::info!(uid, what, done = changed.is_ok(), "command");
    match changed {
        Ok(()) => NodeReply::Status(status_of(&*handler)),
        Err(error) => NodeReply::Error(format!("{error:#}")),
    }
}

fn serve_asker(connection: &mut Connection, admin: &AdminServer) -> std::io::Result<()> {
    while let Some(request) = connection.receive()? {
        let reply = match request {
            Err(error) => NodeReply::Error(format!("not a request: {error}")),
            Ok(NodeRequest::Trace { exports }) => {
                let (listen, listening) = observe::listener(exports);
                if admin.hear(listen) {
                    return listening.serve(connection, ASKER_TIMEOUT);
                }
                NodeReply::Error("the node is busy or stopping".to_owned())
            }
            Ok(request) => admin.ask(request, connection.uid()),
        };
        connection.send(&reply)?;
    }
    Ok(())
}
