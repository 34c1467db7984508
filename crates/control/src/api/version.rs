//! Who runs which version. Versions that are one apart work together, so that a cluster is upgraded one machine at a time.

use std::collections::BTreeSet;

use aoe_wire::ShelfSlot;
use schemars::JsonSchema;
use seal::PublicKey;
use serde::{Deserialize, Serialize};

/// The first version whose nodes tell it.
const FIRST_TOLD: &str = "0.2";

/// `GET /v2/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VersionReport {
    /// The supervisor that answers.
    pub supervisor: SupervisorVersion,
    /// The machines whose disks it sees, and those whose disks its pools miss.
    pub nodes: Vec<NodeVersion>,
    /// What is to be said of that, for people.
    #[serde(default)]
    pub remarks: Vec<String>,
}

/// A supervisor's version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SupervisorVersion {
    /// It.
    pub version: String,
    /// Host name of the supervisor.
    pub host: String,
    /// Its identity as an owner of pools.
    pub owner: String,
}

/// What a node told of its version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeVersion {
    /// The machine's name.
    pub name: String,
    /// Its lasting identity; none where no disk of it is seen.
    pub id: Option<uuid::Uuid>,
    /// The key that it proved.
    pub key: Option<PublicKey>,
    /// The version of its program; none where it doesn't tell.
    pub version: Option<String>,
    /// How long ago anything was heard of it; none where no disk of it is seen.
    pub heard_secs: Option<u64>,
    /// Its disks that are seen, or that a pool misses.
    pub disks: BTreeSet<ShelfSlot>,
}

impl VersionReport {
    /// With the remarks that follow.
    pub fn new(supervisor: SupervisorVersion, nodes: Vec<NodeVersion>) -> VersionReport {
        let remarks = remarks(&supervisor, &nodes);
        VersionReport { supervisor, nodes, remarks }
    }
}

fn remarks(supervisor: &SupervisorVersion, nodes: &[NodeVersion]) -> Vec<String> {
    let mut remarks = Vec::new();
    let own = ("the supervisor", supervisor.version.as_str());
    let of_nodes = nodes.iter().filter_map(|node| Some((&*node.name, node.version.as_deref()?)));
    let told: Vec<(&str, &str)> = std::iter::once(own).chain(of_nodes).collect();
    let is_silent = |node: &&NodeVersion| node.version.is_none() && node.heard_secs.is_some();
    let silent: Vec<&str> = nodes.iter().filter(is_silent).map(|node| &*node.name).collect();
    let away: Vec<&str> =
        nodes.iter().filter(|node| node.heard_secs.is_none()).map(|node| &*node.name).collect();

    let versions: BTreeSet<&str> = told.iter().map(|(_, version)| *version).collect();
    if versions.len() > 1 || !silent.is_empty() {
        remarks.push(
            "not all machines run the same version: upgrade the others one after the other".into(),
        );
    }
    let known = told.iter().filter_map(|(who, version)| Some((release_of(version)?, who, version)));
    let known: Vec<_> = known.collect();
    if let Some((oldest, newest)) = known.iter().min().zip(known.iter().max())
        && are_too_far_apart(oldest.0, newest.0)
    {
        let [(_, who, version), (_, other, newer)] = [oldest, newest];
        remarks.push(format!(
            "{who} runs {version} and {other} {newer}, which are more than one version apart: nobody has tried whether \
             these work together; bring the older one up first, one version at a time"
        ));
    }
    if !silent.is_empty() {
        let names = silent.join(", ");
        let too_far =
            release_of(FIRST_TOLD).zip(release_of(own.1)).is_some_and(|(first, own)| own > first);
        let so = if too_far { ", more than one version before the supervisor" } else { "" };
        remarks.push(format!(
            "told by no version: {names} (a version before {FIRST_TOLD}{so}, or a name that leaves no room for it)"
        ));
    }
    if !away.is_empty() {
        remarks.push(format!("not heard, so what they run isn't known: {}", away.join(", ")));
    }
    remarks
}

/// Those of one release work together, whatever stands behind its two numbers.
fn release_of(version: &str) -> Option<(u64, u64)> {
    let mut numbers = version.split(['.', '-', '+']).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Of another first number is as far as can be.
fn are_too_far_apart((major, minor): (u64, u64), (other_major, other_minor): (u64, u64)) -> bool {
    major != other_major || minor.abs_diff(other_minor) > 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn node(name: &str, version: Option<&str>, heard_secs: Option<u64>) -> NodeVersion {
        NodeVersion {
            name: name.into(),
            id: None,
            key: None,
            version: version.map(str::to_owned),
            heard_secs,
            disks: BTreeSet::new(),
        }
    }

    fn remarks_of(supervisor: &str, nodes: &[Option<&str>]) -> Vec<String> {
        let version = supervisor.to_owned();
        let supervisor = SupervisorVersion { version, host: "h".into(), owner: String::new() };
        let names = ["n1", "n2", "n3"].into_iter();
        let nodes = names.zip(nodes).map(|(name, version)| node(name, *version, Some(1)));
        VersionReport::new(supervisor, nodes.collect()).remarks
    }

    #[test]
    fn what_is_mixed_is_said_and_what_is_too_far_apart() {
        assert_eq!(remarks_of("0.2.0", &[Some("0.2.0"), Some("0.2.0")]), [""; 0]);
        assert_eq!(remarks_of("0.2.0", &[]), [""; 0]);
        let mixed = remarks_of("0.3.0", &[Some("0.2.9"), Some("0.3.0")]);
        assert_eq!(mixed.len(), 1, "{mixed:?}");
        assert!(mixed[0].contains("one after the other"), "{mixed:?}");
        for (supervisor, nodes) in [
            ("0.4.0", ["0.2.0", "0.3.0"]),
            ("0.3.0", ["0.4.0", "0.2.0"]),
            ("1.0.0", ["0.9.0", "1.0.0"]),
            ("0.10.1-rc.1", ["0.8.0", "0.9.0"]),
        ] {
            let said = remarks_of(supervisor, &nodes.map(Some));
            assert_eq!(said.len(), 2, "{said:?}");
            assert!(said[1].contains("more than one version apart"), "{said:?}");
        }
        let said = remarks_of("0.3.0", &[Some("0.4.0"), Some("0.2.0")]);
        assert!(said[1].starts_with("n2 runs 0.2.0 and n1 0.4.0"), "{said:?}");
    }

    #[test]
    fn who_tells_no_version_is_named_and_who_is_not_heard() {
        let said = remarks_of("0.2.0", &[None, Some("0.2.0"), None]);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[1].contains("n1, n3 (a version before 0.2, or"), "{said:?}");
        let said = remarks_of("0.3.1", &[None]);
        assert!(said[1].contains("more than one version before the supervisor"), "{said:?}");
        // What nobody can read is no version to compare.
        assert_eq!(remarks_of("0.2.0", &[Some("new")]).len(), 1);

        let supervisor =
            SupervisorVersion { version: "0.2.0".into(), host: "h".into(), owner: "o".into() };
        let away = VersionReport::new(supervisor, vec![node("n9", None, None)]);
        assert_eq!(away.remarks, ["not heard, so what they run isn't known: n9"]);
        let text = serde_json::to_string(&away).unwrap();
        assert_eq!(serde_json::from_str::<VersionReport>(&text).unwrap(), away);
    }
}
