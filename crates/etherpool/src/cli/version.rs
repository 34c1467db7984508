//! `etherpool version`: which version this program is, the supervisor, and each node.

use clap::Args;
use control::api::{SupervisorVersion, VersionReport};
use control::exit::Exit;
use serde::Serialize;

use super::{Context, Failure, output};

/// Whose version.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// Also which version each node runs, and whether all of them work together
    #[arg(long)]
    cluster: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Shown {
    /// Of this program.
    version: &'static str,
    /// None where none runs.
    supervisor: Option<SupervisorVersion>,
    #[serde(flatten)]
    cluster: Option<Cluster>,
}

#[derive(Serialize)]
struct Cluster {
    nodes: Vec<control::api::NodeVersion>,
    remarks: Vec<String>,
}

/// Runs it.
pub async fn run(context: &Context, args: VersionArgs) -> Result<Exit, Failure> {
    let report = match context.client.version().await.map_err(Failure::from) {
        Ok(report) => Some(report),
        // A node's machine has none, and a program that is of a version all the same.
        Err(failure) if failure.exit == Exit::NotRunning && !args.cluster => None,
        Err(failure) => return Err(failure),
    };
    let (supervisor, cluster) = report.map_or((None, None), |report| {
        let VersionReport { supervisor, nodes, remarks } = report;
        (Some(supervisor), args.cluster.then_some(Cluster { nodes, remarks }))
    });
    let shown = Shown { version: env!("CARGO_PKG_VERSION"), supervisor, cluster };
    output::show(context.json, &shown, || {
        let supervisor = shown.supervisor.as_ref();
        let mut text = output::programs(shown.version, supervisor);
        if let Some(Cluster { nodes, remarks }) = &shown.cluster {
            text.push_str(&output::node_versions(nodes, remarks));
        }
        text
    })?;
    Ok(Exit::Ok)
}
