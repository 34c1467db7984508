//! On which interfaces a node answers: those that the configuration names, as they come and go.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use aoe::target::PortId;
use control::node::NodeConfig;
use futures::FutureExt;
use futures::future::{AbortHandle, abortable};
use os::net::netlink::{LinkWatch, links};
use os::net::{InterfaceSpec, PacketPort, Role};

use super::Node;

/// Ports on interfaces; closed when dropped.
pub struct Interfaces {
    ports: Rc<Ports>,
    watch: AbortHandle,
}

struct Ports {
    node: Rc<Node>,
    wanted: Vec<String>,
    open: RefCell<BTreeMap<String, PortId>>,
}

/// Opens a port on each wanted interface, and on those that appear later.
pub fn follow(node: &Rc<Node>, config: &NodeConfig) -> anyhow::Result<Interfaces> {
    let mut wanted = config.interfaces.clone();
    wanted.extend(config.export.iter().flat_map(|export| export.interfaces.iter().cloned()));
    let ports = Rc::new(Ports { node: Rc::clone(node), wanted, open: RefCell::default() });
    let watch = LinkWatch::open(&node.handle, None)?;
    ports.open_new()?;
    let followed = Rc::clone(&ports);
    let (task, watch_task) = abortable(async move {
        loop {
            watch.changed().await;
            if let Err(error) = followed.open_new() {
                tracing::warn!("interfaces: {error:#}");
            }
        }
    });
    node.handle.runtime().spawn(task.map(drop));
    Ok(Interfaces { ports, watch: watch_task })
}

impl Ports {
    fn open_new(&self) -> anyhow::Result<()> {
        for link in links(None)? {
            let usable = link.mac.is_some() && !link.loopback;
            let named =
                self.wanted.iter().any(|pattern| super::choose::matches(pattern, &link.name));
            let wanted = if self.wanted.is_empty() { usable } else { named };
            if !wanted || self.open.borrow().contains_key(&link.name) {
                continue;
            }
            let interface = InterfaceSpec { name: link.name.clone(), netns: None };
            let port = PacketPort::open(&self.node.handle, interface, Role::Requests)?;
            let id = self.node.driver.add_port(Rc::new(port));
            tracing::info!(interface = link.name, mtu = link.mtu_bytes, "exporting here");
            self.open.borrow_mut().insert(link.name, id);
        }
        Ok(())
    }
}

impl Drop for Interfaces {
    fn drop(&mut self) {
        self.watch.abort();
        for id in std::mem::take(&mut *self.ports.open.borrow_mut()).into_values() {
            self.ports.node.driver.remove_port(id);
        }
    }
}
