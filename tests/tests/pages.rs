//! Pages of the manual, as people go through them: what a page has typed is typed on machines that are namespaces, and what
//! that prints is compared with what the page says. (Those that need a kernel of their own: `emulated_pages.rs`.)
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../qemu/rack.rs"]
#[allow(dead_code)]
mod rack;

use rack::{Disks, Rack};

#[test]
fn something_dies() {
    let mut rack = Rack::new(&[
        ("one", 1, &[("sdb", 512)]),
        ("two", 2, &[("sdb", 512)]),
        ("three", 3, &[("sdb", 512)]),
        ("four", 4, &[("sdb", 512)]),
        ("five", 5, &[("sdb", 512)]),
        ("six", 6, &[("sdb", 512)]),
    ]);
    rack.set_up(&["one", "two", "three", "four", "five", "six"]);
    rack.make_pool(
        "e1.0 e2.0 e3.0 e4.0 e5.0 e6.0",
        &[("files", "200M", "mirror:2"), ("papers", "64M", "mirror:3")],
    );
    rack.machine("one").must("echo hello >/srv/files/hello; echo dear >/srv/papers/letter; sync");
    rack.follow("docs/when-something-dies.md", include_str!("../../docs/when-something-dies.md"))
        .unwrap();
}

#[test]
fn disks_become_larger() {
    let small: Disks = &[("sdb", 512)];
    let mut rack = Rack::new(&[("one", 1, small), ("two", 2, small), ("three", 3, small)]);
    rack.set_up(&["one", "two", "three"]);
    rack.make_pool("e1.0 e2.0 e3.0", &[("files", "200M", "mirror:2")]);
    // Beforehand, as it wants the same machines.
    rack.follow("docs/performance.md", include_str!("../../docs/performance.md")).unwrap();
    rack.follow("docs/larger-disks.md", include_str!("../../docs/larger-disks.md")).unwrap();
    // What was pulled and is no pool's isn't listed for ever; what is there is.
    blackbox::wait_until("the first disk that was pulled isn't listed", || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let listed = rack.machine("one").must("etherpool disk list");
        assert!(["e1.1 ", "e2.1 ", "e3.1 "].iter().all(|disk| listed.contains(disk)), "{listed}");
        !listed.contains("e1.0 ")
    });
}
