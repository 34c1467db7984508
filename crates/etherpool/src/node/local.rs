//! The node's socket for frames of an engine on its own machine.

use std::rc::Rc;

use anyhow::Context;
use aoe_wire::Port;
use futures::FutureExt;
use futures::future::{AbortHandle, abortable};
use os::net::UnixPortListener;

use super::server::Node;

/// Where an engine of this machine sends its frames, in the run directory.
pub const FRAME_SOCKET: &str = "node.sock";

/// A task that ends when this is dropped.
pub struct Listening(AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes engines' connections as ports of the target.
pub fn listen_frames(node: &Rc<Node>) -> anyhow::Result<Listening> {
    let run_dir = node.run_dir.as_ref().context("no run directory for sockets")?;
    let listener = UnixPortListener::bind(&node.handle, run_dir, FRAME_SOCKET)
        .with_context(|| format!("cannot listen at {}", node.frame_socket()))?;
    let listening = Rc::clone(node);
    let (task, handle) = abortable(async move {
        loop {
            let port = Rc::new(listener.accept().await);
            let closed = port.closed();
            let id = listening.driver.add_port(port as Rc<dyn Port>);
            let node = Rc::clone(&listening);
            listening.handle.runtime().spawn(async move {
                closed.await;
                node.driver.remove_port(id);
            });
        }
    });
    node.handle.runtime().spawn(task.map(drop));
    Ok(Listening(handle))
}
