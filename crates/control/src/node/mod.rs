//! What a node exports: its configuration file, and the etherpopulate.conf of the system that
//! etherpool replaces.

mod config;
mod drive;
mod etherpopulate;
mod status;

pub use config::{ExportConfig, IoMode, NodeConfig, NodeConfigError};
pub use drive::{DriveConfig, DriveError, DriveNames};
pub use etherpopulate::{Etherpopulate, EtherpopulateError, parse_etherpopulate};
pub use status::{DriveStatus, ExportStatus, NodeReply, NodeRequest, NodeStatus, NotExported};
