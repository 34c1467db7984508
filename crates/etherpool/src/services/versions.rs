//! The request of the API about versions: who runs which.

use axum::extract::State;
use control::api::{NodeVersion, SupervisorVersion, VersionReport};
use control::channel::EngineRequest;
use pool::{DiskState, PoolReport};

use super::api::{Answer, App, Json};

pub(super) async fn show(State(services): App) -> Answer<VersionReport> {
    let mut nodes: Vec<NodeVersion> = services.engine.call(EngineRequest::Versions).await?;
    add_missing(&mut nodes, &services.pools.borrow());
    let supervisor = SupervisorVersion {
        version: env!("CARGO_PKG_VERSION").into(),
        host: services.host.clone(),
        owner: services.owner.to_string(),
    };
    Ok(Json(VersionReport::new(supervisor, nodes)))
}

/// Of one that is out of use it isn't told whether it is there.
fn is_away(state: &DiskState) -> bool {
    matches!(state, DiskState::Missing | DiskState::Offline | DiskState::Out)
}

/// Machines of which pools miss disks, and none is seen: they may run anything when they are back.
fn add_missing(nodes: &mut Vec<NodeVersion>, pools: &[PoolReport]) {
    let disks = pools.iter().filter(|pool| pool.is_ours()).flat_map(|pool| &pool.disks);
    for disk in disks.filter(|disk| is_away(&disk.state) && !disk.node.is_empty()) {
        let address = disk.name.parse().ok();
        match nodes.iter_mut().find(|node| node.name == disk.node) {
            Some(node) if node.heard_secs.is_none() => node.disks.extend(address),
            Some(_) => {}
            None => nodes.push(NodeVersion {
                name: disk.node.clone(),
                id: None,
                key: disk.node_key,
                version: None,
                heard_secs: None,
                disks: address.into_iter().collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use pool::PoolDisk;

    use super::*;
    use crate::cli::samples;

    #[test]
    fn machines_whose_disks_pools_miss_are_among_the_nodes() {
        let mut pool = samples::pool();
        let seen = NodeVersion {
            name: "n1".into(),
            id: Some(uuid::Uuid::nil()),
            key: None,
            version: Some("0.2.0".into()),
            heard_secs: Some(1),
            disks: Default::default(),
        };
        let disk = pool.disks.pop().unwrap_or_else(|| panic!("a disk"));
        let missing = |name: &str, node: &str| PoolDisk {
            name: name.into(),
            node: node.into(),
            state: DiskState::Missing,
            ..disk.clone()
        };
        pool.disks = vec![
            disk.clone(),
            missing("e1.1", "n1"),
            missing("e2.0", "n2"),
            PoolDisk { state: DiskState::Offline, ..missing("e2.1", "n2") },
            PoolDisk { state: DiskState::Usable, ..missing("e3.0", "n3") },
        ];
        let mut nodes = vec![seen.clone()];
        add_missing(&mut nodes, &[pool.clone()]);
        let [first, away] = nodes.as_slice() else { panic!("{nodes:?}") };
        assert_eq!(first, &seen);
        assert_eq!((away.name.as_str(), away.heard_secs), ("n2", None));
        assert_eq!(
            away.disks.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["e2.0", "e2.1"]
        );

        let mut nodes = Vec::new();
        add_missing(&mut nodes, &[PoolReport { state: pool::PoolState::Released, ..pool }]);
        assert_eq!(nodes, []);
    }
}
