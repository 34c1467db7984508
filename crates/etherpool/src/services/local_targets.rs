//! Targets and nodes of this machine that answer on an interface of a volume's export. The engine can't
//! hear them: the kernel shows no process what leaves by its own interface. So they are asked at their
//! control sockets whether an address is theirs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::api::{ApiError, ErrorCode, ProcessState};
use control::channel::EngineRequest;
use control::node::{NodeReply, NodeRequest, TargetReport};
use control::settings::ExportSetting;

use super::Services;
use crate::cli::targets_below;
use crate::engine::TARGET_DIR;
use aoe_wire::ShelfSlot;

/// A target that hangs doesn't answer clients either.
const TIMEOUT: Duration = Duration::from_secs(3);

impl Services {
    /// Refuses an address that another process of this machine answers for on the same interface.
    pub(super) async fn check_local(&self, setting: &ExportSetting) -> Result<(), ApiError> {
        let state: ProcessState = self.engine.call(EngineRequest::Process).await?;
        let configured = state.interfaces.into_iter().filter(|interface| {
            setting.interfaces.is_empty() || setting.interfaces.contains(&interface.name)
        });
        let mut macs: BTreeSet<String> = configured.map(|interface| interface.mac).collect();
        // Those of the configuration may be in another namespace; all others are here.
        macs.extend(setting.interfaces.iter().filter_map(|name| mac_of(name)));
        let (run_dir, own) = (self.config.run_dir.clone(), self.config.run_dir.join(TARGET_DIR));
        let address = setting.address;
        let asking = tokio::task::spawn_blocking(move || ask(&run_dir, &own, address));
        let reports = match tokio::time::timeout(TIMEOUT, asking).await {
            Ok(Ok(reports)) => reports,
            Ok(Err(_)) | Err(_) => {
                tracing::warn!("a target of this machine doesn't say what it exports");
                return Ok(());
            }
        };
        match reports.iter().find_map(|(socket, report)| conflict(socket, report, address, &macs)) {
            None => Ok(()),
            Some(what) => Err(ApiError::new(ErrorCode::Exists, what).remedy(
                "choose another address (aoe:eSHELF.SLOT), or let one be chosen that is free (aoe)",
            )),
        }
    }
}

/// The address of an interface of our own namespace.
fn mac_of(name: &str) -> Option<String> {
    let path = Path::new("/sys/class/net").join(name).join("address");
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// What the targets with a run directory below `run_dir` export at an address, but `own`.
fn ask(run_dir: &Path, own: &Path, address: ShelfSlot) -> Vec<(PathBuf, TargetReport)> {
    let request = NodeRequest::Stats { exports: vec![address.to_string()] };
    let others = targets_below(run_dir, TIMEOUT).unwrap_or_default().into_iter();
    let others = others.filter(|client| !client.socket.starts_with(own));
    let answers = others.filter_map(|mut client| match client.ask(&request) {
        Ok(NodeReply::Stats(report)) => Some((client.socket, report)),
        // It exports nothing there, or not in words that we know.
        _ => None,
    });
    answers.collect()
}

/// Who has the address on one of the interfaces with these Ethernet addresses.
fn conflict(
    socket: &Path,
    report: &TargetReport,
    address: ShelfSlot,
    macs: &BTreeSet<String>,
) -> Option<String> {
    let export = report.exports.iter().find(|export| export.address == address.to_string())?;
    let port = report.ports.iter().find(|port| macs.contains(&port.mac))?;
    Some(format!(
        "a target of this machine ({}) answers for {address} on {}, {}",
        socket.display(),
        port.name,
        export.name
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use control::node::{ExportReport, PortReport};

    #[test]
    fn the_same_address_on_the_same_interface_is_a_conflict() {
        let report = TargetReport {
            ports: vec![PortReport {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                ..PortReport::default()
            }],
            exports: vec![ExportReport { address: "e7.1".into(), ..ExportReport::default() }],
            ..TargetReport::default()
        };
        let conflict = |address: &str, mac: &str| {
            let macs = BTreeSet::from([mac.to_owned()]);
            conflict(Path::new("/s"), &report, address.parse().unwrap(), &macs)
        };
        assert!(conflict("e7.1", "02:00:00:00:00:01").unwrap().contains("e7.1 on eth0"));
        assert_eq!(conflict("e7.2", "02:00:00:00:00:01"), None);
        assert_eq!(conflict("e7.1", "02:00:00:00:00:02"), None);
    }
}
