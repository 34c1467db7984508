//! Versions.

use std::time::Duration;

use control::api::{NodeVersion, SupervisorVersion};

use super::{facts, or_dash, section, table};

/// This program's and the supervisor's.
pub fn programs(own: &str, supervisor: Option<&SupervisorVersion>) -> String {
    let told = supervisor.map(|one| format!("{} on {}", one.version, one.host));
    facts(&[
        ("etherpool", own.to_owned()),
        ("supervisor", told.unwrap_or_else(|| "none runs here".to_owned())),
    ])
}

/// Those of nodes, and what is to be said of all.
pub fn node_versions(nodes: &[NodeVersion], remarks: &[String]) -> String {
    let mut nodes_table = table(&["NODE", "VERSION", "HEARD", "DISKS", "KEY"]);
    for node in nodes {
        let disks: Vec<String> = node.disks.iter().map(ToString::to_string).collect();
        let heard =
            node.heard_secs.map(|secs| format!("{} ago", block::spoken(Duration::from_secs(secs))));
        nodes_table.add_row([
            node.name.clone(),
            or_dash(node.version.as_deref()),
            or_dash(heard.as_deref()),
            disks.join(" "),
            node.key.map_or_else(|| "-".to_owned(), |key| key.to_string()),
        ]);
    }
    let mut text = String::new();
    section(&mut text, &nodes_table, !nodes.is_empty());
    if !remarks.is_empty() {
        text.push('\n');
        remarks.iter().for_each(|remark| text.push_str(&format!("{remark}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aoe_wire::ShelfSlot;

    use super::*;

    #[test]
    fn who_runs_what_is_a_table_with_remarks_below() {
        let supervisor =
            SupervisorVersion { version: "0.2.0".into(), host: "attic".into(), owner: "7".into() };
        let told = programs("0.3.0", Some(&supervisor));
        assert_eq!(told, "etherpool   0.3.0\nsupervisor  0.2.0 on attic\n");
        assert!(programs("0.3.0", None).contains("none runs here"));

        let disk = |slot| ShelfSlot { shelf: 1, slot };
        let seen = NodeVersion {
            name: "n1".into(),
            id: Some(uuid::Uuid::nil()),
            key: None,
            version: Some("0.2.0".into()),
            heard_secs: Some(3),
            disks: BTreeSet::from([disk(0), disk(1)]),
        };
        let away = NodeVersion {
            name: "n2".into(),
            id: None,
            version: None,
            heard_secs: None,
            disks: BTreeSet::new(),
            ..seen.clone()
        };
        let shown = node_versions(&[seen, away], &["mind that".to_owned()]);
        let expected = "
NODE  VERSION  HEARD          DISKS      KEY
n1    0.2.0    3 seconds ago  e1.0 e1.1  -
n2    -        -                         -

mind that
";
        assert_eq!(shown, expected);
        assert_eq!(node_versions(&[], &[]), "");
    }
}
