//! Doing something inside another network namespace. A thread belongs to one namespace, so the call
//! runs on a thread of its own; sockets made there stay there, wherever they are used.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps its namespaces.
const NAMED: &str = "/run/netns";

/// The file that stands for a namespace: a name as of `ip netns`, or a path.
pub fn path_of(netns: &str) -> PathBuf {
    if netns.contains('/') { PathBuf::from(netns) } else { Path::new(NAMED).join(netns) }
}

/// A namespace that was opened once: whoever serves resolves no path, and one that was deleted is kept
/// for those who are in it.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

impl Namespace {
    /// Opens a namespace: a name as of `ip netns`, or a path. Resolves the path.
    pub fn open(netns: &str) -> io::Result<Namespace> {
        let path = path_of(netns);
        let opened = File::open(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("network namespace {}: {error}", path.display()))
        })?;
        Ok(Namespace(opened.into()))
    }

    /// Runs `call` inside. Blocks for its duration.
    pub fn run<T: Send>(&self, call: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let inside = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(
                scope,
                move || {
                    move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
                    call()
                },
            )?;
            inside
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a call in a namespace panicked")))
        })
    }
}

/// Runs `call` inside `netns` (in the present namespace for `None`). Blocks for its duration.
pub fn run_in<T: Send>(
    netns: Option<&str>,
    call: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    match netns {
        None => call(),
        Some(netns) => Namespace::open(netns)?.run(call),
    }
}
