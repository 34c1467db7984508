//! The examples that packages bring: they say nothing as they are, and what they show is understood.
#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use control::boot::BootConfig;
use control::config::SupervisorConfig;
use control::node::NodeConfig;

/// With the settings that are commented out. Words begin with a space behind the sign.
fn with_all_said(text: &str) -> String {
    let said = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => setting.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(said).collect::<Vec<_>>().join("\n")
}

#[test]
fn examples_are_understood() {
    let text = include_str!("../../../packaging/examples/supervisor.toml");
    assert_eq!(SupervisorConfig::parse(text).unwrap(), SupervisorConfig::default());
    let said = SupervisorConfig::parse(&with_all_said(text)).unwrap();
    assert_eq!(
        (said.interfaces.len(), said.api.clients.len(), said.alerts.webhook.len()),
        (1, 1, 1)
    );

    let text = include_str!("../../../packaging/examples/boot.toml");
    assert_eq!(BootConfig::parse(text).unwrap(), BootConfig::default());
    assert_eq!(BootConfig::parse(&with_all_said(text)).unwrap().fixed.len(), 1);

    for text in [
        include_str!("../../../packaging/examples/node.toml"),
        include_str!("../../../packaging/examples/target.toml"),
    ] {
        let parse = |text: &str| NodeConfig::parse(text, Path::new("example")).unwrap();
        assert_eq!(parse(text), NodeConfig::default());
        assert_eq!(parse(&with_all_said(text)).export.len(), 1);
    }
}
