//! One owner: who lost a pool can't use it any more, also after being switched on again.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use blackbox::{Lab, LabOptions, Rival, wait_until};

/// Main job, 10.
#[test]
fn a_deposed_supervisor_can_do_nothing_any_more() {
    let lab = Lab::up(&LabOptions { size: "512M", disks: 1, ..LabOptions::default() });
    std::fs::write(lab.mount().join("kept"), "kept").unwrap();
    rustix::fs::syncfs(std::fs::File::open(lab.mount()).unwrap()).unwrap();

    let rival = Rival::start(&lab);
    wait_until("the rival sees whose pool it is", || rival.pool_state() == "foreign");
    let (done, text) = rival.cli(&["pool", "import", "cluster", "--yes", "--force"]);
    assert!(done, "{text}");
    wait_until("the rival has the pool", || rival.pool_state() == "online");
    wait_until("the former owner knows that it lost it", || {
        matches!(lab.pool_state().as_str(), "fenced" | "foreign")
    });
    // It can't write, and says why.
    let output =
        lab.cli_output(&["volume", "create", "cluster/x", "--size", "16M", "--layout", "mirror:2"]);
    assert!(!output.status.success());
    println!("{}", String::from_utf8_lossy(&output.stderr));
    wait_until("the former owner serves nothing, and says so", || {
        let (served, (code, text)) = (lab.status(), lab.said(&["status"]));
        let is_told = code == 5 && text.contains("another supervisor took it over");
        served["ftp"].is_null() && served["mount"].is_null() && is_told
    });

    // Switched off and on again: it doesn't open what is another's.
    lab.lab(&["kill", "supervisor"]);
    lab.lab(&["start", "supervisor"]);
    wait_until("it sees whose pool it is", || lab.pool_state() == "foreign");
    assert_eq!(rival.pool_state(), "online", "the new owner isn't disturbed");
    let (done, text) = rival.cli(&["volume", "verify", "cluster/hyperspace"]);
    assert!(done, "{text}");

    // Back by an explicit import; everything is there.
    drop(rival);
    lab.cli(&["pool", "import", "cluster", "--yes"]);
    lab.wait_served();
    assert_eq!(std::fs::read(lab.mount().join("kept")).unwrap(), b"kept");
}
