//! What a node process tells programs of its own machine, on `node-control.sock` in its run
//! directory: one JSON line as request, one as answer.

use serde::{Deserialize, Serialize};

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
    /// Read configuration and disks anew. Answered with [`NodeStatus`].
    Reload,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeReply {
    /// It is done.
    Status(NodeStatus),
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
}

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
