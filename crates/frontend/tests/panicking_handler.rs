//! A volume file whose server ends in the middle. In a process of its own: a child that another test starts
//! at that moment has the server's descriptor and the file, and waits for the answer to its close of the
//! one while it keeps the other open. Neither it nor who waits for it could be ended.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;

use frontend::attach::{self, Detach};
use support::{mounted_below, over_ring, possible};

/// A bug in the engine's handler must not leave the kernel waiting.
#[test]
fn a_handler_that_panics_ends_the_service() {
    if !possible("a_handler_that_panics_ends_the_service") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let places = attach::Places { run: root.path().join("run"), links: root.path().join("dev") };
    let name: block::VolumeName = "pool/vol".parse().unwrap();
    let connection = attach::mount(&places, &name).unwrap();
    let (ended, wait) = std::sync::mpsc::channel();
    let options = frontend::fuse::Options {
        sectors: 2048,
        read_only: true,
        over_ring: over_ring(),
        on_end: Box::new(move || ended.send(()).unwrap()),
    };
    let (served, ring) =
        frontend::fuse::VolumeFile::serve(connection, options, |request, _reply| {
            panic!("told to, at {request:?}")
        })
        .unwrap();
    let reactor = ring.map(|ring| {
        std::thread::spawn(move || {
            let (mut reactor, handle) = os::Reactor::new().unwrap();
            let queues = handle.fuse_queues(frontend::fuse::TRANSFER_BYTES_MAX).unwrap();
            let served = ring.serve(queues, |request, _reply| panic!("told to, at {request:?}"));
            handle.runtime().spawn(served);
            reactor.run_until(std::future::pending::<()>()).unwrap();
        })
    });
    assert_eq!(reactor.is_some(), over_ring());
    let path = attach::list(&places).unwrap()[0].directory.clone().unwrap().join("volume");
    let file = File::open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    assert!(file.read_at(&mut [0; 512], 0).is_err());
    wait.recv().unwrap();
    assert_eq!(served.is_over_ring(), over_ring());
    assert!(reactor.is_none_or(|thread| thread.join().is_err()));
    assert!(!served.is_served() && file.read_at(&mut [0; 512], 0).is_err());
    drop(file);
    attach::detach(&places, &name, Detach::Abort).unwrap();
    assert!(!mounted_below(root.path()));
}
