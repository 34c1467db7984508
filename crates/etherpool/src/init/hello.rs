//! Saying hello to the boot server, again and again, until it says who this node is, and ever after.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use boot::node::{
    ANSWER_BYTES_MAX, Answer, DISKS_MAX, Disk, HELLO_PATH, Hello, MACS_MAX, Phase, Slots, State,
    VERSION,
};
use client::http;
use control::boot::sign_slots;
use control::node::{NodeReply, NodeRequest, NodeStatus, ONLINE};
use hyper::Method;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::node::NodeProcess;
use super::plan::{Machine, Plan, RUN_DIR};
use crate::cli::targets;
use crate::node::BLANK;

/// As long as nobody has accepted the node.
const PENDING_EVERY: Duration = Duration::from_secs(10);
/// Afterwards: so that it learns of changes.
const ACCEPTED_EVERY: Duration = Duration::from_secs(60);
/// After a server that doesn't answer, growing.
const FAILED_FIRST: Duration = Duration::from_secs(1);
const FAILED_MAX: Duration = Duration::from_secs(30);
/// How long the whole of it may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long disks may take to be found.
const DISKS_LIMIT: Duration = Duration::from_secs(5);
/// What is on a disk of which the node of this machine has said nothing.
const NOT_LOOKED_AT: &str = "not looked at yet";
/// How long the node of this machine may take to say what it exports.
const NODE_LIMIT: Duration = Duration::from_secs(2);

/// When to say it next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pauses {
    failed: Option<Duration>,
}

impl Pauses {
    /// After that, or after a failure.
    pub fn after(&mut self, answer: Option<&Answer>) -> Duration {
        let Some(answer) = answer else {
            let pause = self.failed.map_or(FAILED_FIRST, |pause| (pause * 2).min(FAILED_MAX));
            self.failed = Some(pause);
            return pause;
        };
        self.failed = None;
        match answer.state {
            State::Accepted => ACCEPTED_EVERY,
            State::Unknown | State::Pending => PENDING_EVERY,
        }
    }
}

/// How the node is, for a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// How far it is.
    pub phase: Phase,
    /// More about it.
    pub message: Option<String>,
}

impl Condition {
    /// Of a node that ended by itself, if that is why, and doesn't do what it was told, if it doesn't. `is_bare`: nor what
    /// it was told before.
    pub fn of(
        node: &NodeProcess,
        failed: Option<&str>,
        wrong: Option<&str>,
        is_bare: bool,
    ) -> Condition {
        Condition::by(failed, wrong, is_bare, node.is_ready(), node.status())
    }

    fn by(
        failed: Option<&str>,
        wrong: Option<&str>,
        is_bare: bool,
        is_ready: bool,
        status: &str,
    ) -> Condition {
        let phase = match (failed, wrong) {
            (Some(_), _) => Phase::Failed,
            (None, Some(_)) if is_bare => Phase::Failed,
            _ if is_ready => Phase::Serving,
            _ => Phase::Started,
        };
        let message = failed.or(wrong).or(Some(status).filter(|text| !text.is_empty()));
        Condition { phase, message: message.map(str::to_owned) }
    }
}

/// The disks of this machine as they were found last. One look at a time: a disk or a node that hangs holds up one thread,
/// and no hello.
#[derive(Clone)]
pub struct Disks {
    found: Arc<Mutex<Vec<Disk>>>,
    looking: Arc<Semaphore>,
}

impl Disks {
    /// Nobody has looked yet.
    pub fn new() -> Disks {
        Disks { found: Arc::default(), looking: Arc::new(Semaphore::new(1)) }
    }

    /// Looks once more, and says what there is; or what there was, if that takes longer.
    async fn look(
        &self,
        limit: Duration,
        look: impl FnOnce() -> Vec<Disk> + Send + 'static,
    ) -> Vec<Disk> {
        if let Ok(turn) = Arc::clone(&self.looking).try_acquire_owned() {
            let found = Arc::clone(&self.found);
            let looking = tokio::task::spawn_blocking(move || {
                let disks = look();
                *found.lock().unwrap_or_else(PoisonError::into_inner) = disks;
                drop(turn);
            });
            // One that fails has found nothing new.
            let _ = tokio::time::timeout(limit, looking).await;
        }
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Says hello, with the disks that there are, whatever becomes of looking at them.
pub async fn greet(
    server: SocketAddr,
    disks: Disks,
    compose: impl FnOnce(Vec<Disk>) -> Hello + Send + 'static,
) -> anyhow::Result<Answer> {
    whole(async move {
        let disks = disks.look(DISKS_LIMIT, found_disks).await;
        say(server, &compose(disks)).await
    })
    .await
}

/// A hello that ends by a fault is one that failed, and the next is said.
async fn whole(
    saying: impl Future<Output = anyhow::Result<Answer>> + Send + 'static,
) -> anyhow::Result<Answer> {
    let said = tokio::spawn(saying).await;
    said.map_err(|_| anyhow::anyhow!("saying hello ended by a fault"))?
}

/// What is said.
pub fn compose(
    machine: &Machine,
    plan: &Plan,
    condition: Condition,
    disks: Vec<Disk>,
    slots: Slots,
) -> Hello {
    // First the one by which the machine is known, also where its card has no driver.
    let known = Some(machine.mac).filter(|mac| mac.0 != [0; 6]);
    let others = machine.macs.iter().copied().filter(|mac| Some(*mac) != known);
    let macs = known.into_iter().chain(others).take(MACS_MAX).collect();
    Hello {
        version: VERSION,
        uuid: machine.uuid,
        macs,
        hostname: plan.is_accepted.then(|| plan.name.clone()),
        program_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: os::machine::kernel_release(),
        phase: condition.phase,
        message: condition.message,
        disks,
        slots_signature: Some(sign_slots(&plan.key, &slots)),
        slots,
        identity: machine.shown.clone().filter(|_| !plan.is_handed),
    }
}

/// Says it, and hears the answer.
async fn say(server: SocketAddr, hello: &Hello) -> anyhow::Result<Answer> {
    let said = tokio::time::timeout(LIMIT, exchange(server, hello)).await;
    said.with_context(|| format!("it doesn't answer within {} s", LIMIT.as_secs()))?
}

async fn exchange(server: SocketAddr, hello: &Hello) -> anyhow::Result<Answer> {
    let request = http::request(Method::POST, &server.to_string(), HELLO_PATH, hello)?;
    let answer = http::exchange(TcpStream::connect(server).await?, request).await?;
    let status = answer.status();
    let body = answer.whole(ANSWER_BYTES_MAX).await?;
    if !status.is_success() {
        bail!("{status}: {}", boot::node::plain(&String::from_utf8_lossy(&body)));
    }
    Ok(Answer::parse(&body)?)
}

/// The disks of this machine, as its kernel and its node know them. Blocks for a moment; opens none.
fn found_disks() -> Vec<Disk> {
    let status = || -> Option<NodeStatus> {
        let mut node = targets(Some(Path::new(RUN_DIR)), NODE_LIMIT).ok()?.into_iter().next()?;
        match node.ask(&NodeRequest::Status).ok()? {
            NodeReply::Status(status) => Some(status),
            _ => None,
        }
    };
    let found = os::disks::list().unwrap_or_default();
    described(found, &status().unwrap_or_default())
}

fn described(found: Vec<os::disks::Disk>, status: &NodeStatus) -> Vec<Disk> {
    let hardware = found.into_iter().filter(|disk| disk.hardware).take(DISKS_MAX);
    let described = hardware.map(|disk| {
        let path = disk.path.display().to_string();
        let export = status.exports.iter().find(|export| export.device == path);
        let left = status.not_exported.iter().find(|one| one.path == path);
        Disk {
            size_bytes: os::disks::size_bytes(&disk),
            exported: export.is_some_and(|export| export.state == ONLINE),
            contents: match (export, left) {
                (Some(export), _) if export.state == ONLINE => None,
                (Some(export), _) => Some(export.state.clone()),
                (None, Some(left)) => contents_of(&left.why),
                // Without a word here it would be taken for blank.
                (None, None) => Some(NOT_LOOKED_AT.to_owned()),
            },
            path,
            model: disk.model,
            serial: disk.serial,
            wwn: disk.wwn,
        }
    });
    described.collect()
}

/// What is on a disk, by the reason why it isn't exported.
fn contents_of(why: &str) -> Option<String> {
    match why.strip_prefix("carries ") {
        Some(rest) => Some(rest.split(';').next().unwrap_or(rest).to_owned()),
        None if why == BLANK => None,
        None => Some(why.to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use control::node::{ExportStatus, NotExported};

    fn answer(state: State) -> Answer {
        Answer {
            version: VERSION,
            state,
            name: None,
            shelf: None,
            configuration: None,
            supervisors: Vec::new(),
            slots: Slots::new(),
            identity: None,
        }
    }

    #[test]
    fn pauses_grow_while_nobody_answers() {
        let mut pauses = Pauses::default();
        let failed: Vec<u64> = (0..7).map(|_| pauses.after(None).as_secs()).collect();
        assert_eq!(failed, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pauses.after(Some(&answer(State::Pending))), PENDING_EVERY);
        assert_eq!(pauses.after(Some(&answer(State::Accepted))), ACCEPTED_EVERY);
        assert_eq!(pauses.after(None), FAILED_FIRST);
    }

    #[test]
    fn disks_are_told_with_what_is_on_them() {
        let disk = |name: &str, hardware| os::disks::Disk {
            name: name.to_owned(),
            path: format!("/dev/{name}").into(),
            sectors: 8,
            read_only: false,
            rotational: false,
            hardware,
            model: None,
            serial: Some(name.to_owned()),
            wwn: None,
            links: Vec::new(),
            partitions: Vec::new(),
            usage: None,
            writes: None,
        };
        let export = |device: &str, state: &str| ExportStatus {
            address: "e7.0".into(),
            path: device.into(),
            device: device.into(),
            size_bytes: 4096,
            state: state.into(),
        };
        let left = |path: &str, why: &str| NotExported { path: path.into(), why: why.into() };
        let status = NodeStatus {
            exports: vec![export("/dev/vda", ONLINE), export("/dev/vdf", "no such file")],
            not_exported: vec![
                left("/dev/vdb", "carries ext4; name it in node.toml to export it all the same"),
                left("/dev/vdc", BLANK),
                left("/dev/vdd", "has partitions (vdd1)"),
            ],
            ..NodeStatus::default()
        };
        let found = ["vda", "vdb", "vdc", "vdd", "vde", "vdf"].map(|name| disk(name, true));
        let found = found.into_iter().chain([disk("loop0", false)]).collect();
        let told = described(found, &status);
        let shown: Vec<_> =
            told.iter().map(|disk| (disk.exported, disk.contents.as_deref())).collect();
        let expected = [
            (true, None),
            (false, Some("ext4")),
            (false, None),
            (false, Some("has partitions (vdd1)")),
            (false, Some("not looked at yet")),
            (false, Some("no such file")),
        ];
        assert_eq!(shown, expected);
        assert_eq!((told[0].size_bytes, told[0].serial.as_deref()), (4096, Some("vda")));
    }

    #[test]
    fn what_is_wrong_is_told_whatever_is_served() {
        let by = |failed, wrong, is_bare, is_ready| {
            let condition = Condition::by(failed, wrong, is_bare, is_ready, "2 exports online");
            (condition.phase, condition.message.unwrap())
        };
        let told = |phase, message: &str| (phase, message.to_owned());
        assert_eq!(by(None, None, false, true), told(Phase::Serving, "2 exports online"));
        assert_eq!(by(None, None, true, false), told(Phase::Started, "2 exports online"));
        // It goes on as before, or does less than it was told to.
        assert_eq!(by(None, Some("line 1"), false, true), told(Phase::Serving, "line 1"));
        assert_eq!(by(None, Some("line 1"), true, true), told(Phase::Failed, "line 1"));
        assert_eq!(by(Some("code 2"), Some("line 1"), false, false), told(Phase::Failed, "code 2"));
    }

    #[tokio::test]
    async fn disks_that_hang_hold_up_no_hello() {
        let disk = |path: &str| Disk {
            path: path.into(),
            size_bytes: 1,
            model: None,
            serial: None,
            wwn: None,
            contents: None,
            exported: false,
        };
        let long = Duration::from_secs(3600);
        let (disks, a, b) = (Disks::new(), vec![disk("a")], vec![disk("b")]);
        let found = a.clone();
        assert_eq!(disks.look(long, move || found).await, a);
        // One that fails leaves the next its turn.
        assert_eq!(disks.look(long, || panic!("on purpose")).await, a);
        let (end, hanging) = std::sync::mpsc::channel();
        let found = b.clone();
        let hangs = move || {
            let _ = hanging.recv();
            found
        };
        assert_eq!(disks.look(Duration::ZERO, hangs).await, a);
        // As long as that goes on nobody else begins.
        assert_eq!(disks.look(long, || panic!("nobody looks")).await, a);
        end.send(()).unwrap();
        let ended = disks.looking.acquire().await.unwrap();
        drop(ended);
        assert_eq!(*disks.found.lock().unwrap(), b);
    }

    #[tokio::test]
    async fn a_hello_that_fails_by_a_fault_has_failed() {
        let failed = whole(async { panic!("on purpose") }).await;
        assert!(failed.unwrap_err().to_string().contains("fault"));
    }
}
