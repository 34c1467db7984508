//! What a node process tells programs of its own machine, on `node-control.sock` in its run
//! directory: one JSON line as request, one as answer.

use aoe_wire::ShelfSlot;
use seal::{PublicKey, Token};
use serde::{Deserialize, Serialize};

use super::report::{TargetReport, TraceNews};
use crate::api::MembersReport;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum NodeRequest {
    /// Answered with [`NodeStatus`].
    Status,
    /// Export a disk that isn't in the configuration, until the node stops: for `pool create` with
    /// a path. Only what is blank or etherpool's and unused. Answered with [`NodeStatus`].
    Export {
        /// Path of a block device or file.
        path: String,
    },
    /// Answered with [`TargetReport`].
    Stats {
        /// Addresses of the exports to tell about; all without any.
        #[serde(default)]
        exports: Vec<String>,
    },
    /// The log of requests from now on: one [`TraceNews`] a line until the asker goes. Nothing else
    /// can be asked on this connection any more.
    Trace {
        /// Addresses of the exports to tell about; all without any.
        #[serde(default)]
        exports: Vec<String>,
    },
    /// Read configuration and disks anew. Answered with [`NodeStatus`].
    Reload,
    /// Take a token, by which it comes to know a supervisor, and that it. Answered with [`NodeStatus`].
    Join {
        /// It.
        token: Token,
    },
    /// Take a machine that joined for a stranger again. Answered with [`NodeStatus`].
    Forget {
        /// By its key.
        key: PublicKey,
    },
    /// Have a disk obey whoever claims it. Answered with [`NodeStatus`].
    ResetOwner {
        /// Its address.
        disk: ShelfSlot,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeReply {
    /// It is done.
    Status(NodeStatus),
    /// The counters.
    Stats(TargetReport),
    /// The log of requests follows, a line each.
    Trace(TraceNews),
    /// It isn't: what failed, on what, what to do.
    Error(String),
}

/// What a node exports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's name.
    pub name: String,
    /// Its identity in failure domains.
    pub node_id: String,
    /// The socket for frames of this machine's own engine.
    pub frame_socket: String,
    /// Interfaces it exports on.
    pub interfaces: Vec<String>,
    /// Its exports.
    pub exports: Vec<ExportStatus>,
    /// Disks that were looked at and aren't exported, with the reason.
    pub not_exported: Vec<NotExported>,
    /// Drives that have settings.
    #[serde(default)]
    pub drives: Vec<DriveStatus>,
    /// Who joined, and by what others may.
    #[serde(default)]
    pub members: MembersReport,
}

impl NodeStatus {
    /// All in a line: how many exports run, and what is wrong with the first that doesn't.
    pub fn summary(&self) -> String {
        let (online, not): (Vec<_>, Vec<_>) =
            self.exports.iter().partition(|export| export.state == ONLINE);
        let plural = if online.len() == 1 { "" } else { "s" };
        let mut text = format!("{} export{plural} online", online.len());
        if let Some(first) = not.first() {
            text.push_str(&format!("; {} not: {} {}", not.len(), first.address, first.state));
        }
        let refused: usize = self.drives.iter().map(|drive| drive.refused.len()).sum();
        if refused > 0 {
            text.push_str(&format!("; {refused} drive settings refused"));
        }
        text
    }
}

/// The state of an export that is served.
pub const ONLINE: &str = "online";

/// How the state of one begins of which nobody knows yet whether another has its address.
pub const ASKING: &str = "asking";

/// An export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportStatus {
    /// Its address, `e194.0`.
    pub address: String,
    /// Path as configured or found.
    pub path: String,
    /// The same path without symbolic links.
    pub device: String,
    /// Its size; zero while it is missing.
    pub size_bytes: u64,
    /// `online`, or why not.
    pub state: String,
}

/// A drive with settings of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveStatus {
    /// The drive.
    pub path: String,
    /// The settings that it or the system refused, each with the reason. All others are applied.
    pub refused: Vec<String>,
}

/// A disk that isn't exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotExported {
    /// The disk.
    pub path: String,
    /// Why, and what to do to have it exported.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_runs_and_what_not() {
        let export = |address: &str, state: &str| ExportStatus {
            address: address.to_owned(),
            path: "/d".to_owned(),
            device: "/d".to_owned(),
            size_bytes: 0,
            state: state.to_owned(),
        };
        let mut status = NodeStatus::default();
        assert_eq!(status.summary(), "0 exports online");
        status.exports = vec![export("e1.0", ONLINE)];
        assert_eq!(status.summary(), "1 export online");
        status.exports.extend([export("e1.1", ONLINE), export("e1.2", "no such file")]);
        status.drives = vec![DriveStatus { path: "/d".into(), refused: vec!["x: y".into()] }];
        assert_eq!(
            status.summary(),
            "2 exports online; 1 not: e1.2 no such file; 1 drive settings refused"
        );
    }
}
