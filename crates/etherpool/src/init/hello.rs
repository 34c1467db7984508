//! Saying hello to the boot server, again and again, until it says who this node is, and ever after.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use boot::node::{
    ANSWER_BYTES_MAX, Answer, DISKS_MAX, Disk, HELLO_PATH, Hello, MACS_MAX, Phase, State, VERSION,
};
use control::node::{NodeReply, NodeRequest, NodeStatus, ONLINE};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::plan::{Machine, Plan, RUN_DIR, shown};
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
#[derive(Clone, Debug)]
pub struct Condition {
    /// How far it is.
    pub phase: Phase,
    /// More about it.
    pub message: Option<String>,
}

/// What is said.
pub fn compose(machine: &Machine, plan: &Plan, condition: Condition, disks: Vec<Disk>) -> Hello {
    let mut macs = machine.macs.clone();
    macs.truncate(MACS_MAX);
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
        identity: (!plan.is_handed).then(|| shown(&machine.key)),
    }
}

/// Says it, and hears the answer.
pub async fn say(server: SocketAddr, hello: &Hello) -> anyhow::Result<Answer> {
    let said = tokio::time::timeout(LIMIT, exchange(server, hello)).await;
    said.with_context(|| format!("it doesn't answer within {} s", LIMIT.as_secs()))?
}

async fn exchange(server: SocketAddr, hello: &Hello) -> anyhow::Result<Answer> {
    let stream = TcpStream::connect(server).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(HELLO_PATH)
        .header("host", server.to_string())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(serde_json::to_vec(hello)?)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    connection.abort();
    if !status.is_success() {
        bail!("{status}: {}", boot::node::plain(&String::from_utf8_lossy(&body)));
    }
    Ok(Answer::parse(&body)?)
}

/// The disks of this machine, as its kernel and its node know them. Blocks for a moment; opens none.
pub fn disks() -> Vec<Disk> {
    let status = || -> Option<NodeStatus> {
        let mut node = targets(Some(Path::new(RUN_DIR)), NODE_LIMIT).ok()?.into_iter().next()?;
        match node.ask(&NodeRequest::Status).ok()? {
            NodeReply::Status(status) => Some(status),
            _ => None,
        }
    };
    let found = os::disks::list_unopened().unwrap_or_default();
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
            contents: left.and_then(|left| contents_of(&left.why)),
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
        };
        let export = ExportStatus {
            address: "e7.0".into(),
            path: "/dev/vda".into(),
            device: "/dev/vda".into(),
            size_bytes: 4096,
            state: ONLINE.into(),
        };
        let left = |path: &str, why: &str| NotExported { path: path.into(), why: why.into() };
        let status = NodeStatus {
            exports: vec![export],
            not_exported: vec![
                left("/dev/vdb", "carries ext4; name it in node.toml to export it all the same"),
                left("/dev/vdc", BLANK),
                left("/dev/vdd", "has partitions (vdd1)"),
            ],
            ..NodeStatus::default()
        };
        let found = ["vda", "vdb", "vdc", "vdd"].map(|name| disk(name, true));
        let found = found.into_iter().chain([disk("loop0", false)]).collect();
        let told = described(found, &status);
        let shown: Vec<_> =
            told.iter().map(|disk| (disk.exported, disk.contents.as_deref())).collect();
        let expected = [
            (true, None),
            (false, Some("ext4")),
            (false, None),
            (false, Some("has partitions (vdd1)")),
        ];
        assert_eq!(shown, expected);
        assert_eq!((told[0].size_bytes, told[0].serial.as_deref()), (4096, Some("vda")));
    }
}
