//! What a node or target exports: its configuration file, the plans that follow from it, and the
//! etherpopulate.conf of the system that etherpool replaces.

mod access;
mod config;
mod drive;
mod etherpopulate;
mod health;
mod plan;
mod report;
mod settings;
mod status;

pub use access::GroupError;
pub use config::{ExportConfig, NodeConfig, NodeConfigError};
pub use drive::{DriveConfig, DriveError, DriveNames};
pub use etherpopulate::{Etherpopulate, EtherpopulateError, parse_etherpopulate};
pub use health::drive_health;
pub use plan::{ExportPlan, MediumPlan, PlanError, PlanProblem, Window, plan_found, share};
pub use report::{
    CLIENTS_SHOWN_MAX, ClientReport, Counters, ExportReport, PortReport, TargetReport, TraceLine,
    TraceNews, metrics,
};
pub use settings::{
    AccessList, AccessLists, DamagedState, Editors, ExportSettings, Groups, IoMode, Limit, Sectors,
    SectorsError, WriteCache,
};
pub use status::{
    ASKING, DriveStatus, ExportStatus, NodeReply, NodeRequest, NodeStatus, NotExported, ONLINE,
};
