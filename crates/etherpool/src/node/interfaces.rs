//! On which interfaces exports are answered for: those that the configuration names, as they come
//! and go. A port that is still wanted after a reload isn't touched, so that no frame in it is lost.

use futures::FutureExt;
use futures::future::{AbortHandle, abortable};
use os::net::netlink::{Link, LinkWatch, links};
use os::net::{InterfaceSpec, PacketPort, Role};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::choose::matches;
use super::export::LOOK_EVERY;
use super::server::Node;
use super::source::Wanted;
use crate::namespaces::{Namespaces, spec_of};
use aoe_wire::PortId;

/// Ports on interfaces; closed when dropped.
pub struct Interfaces {
    ports: Rc<Ports>,
    watch: AbortHandle,
}

struct Ports {
    node: Rc<Node>,
    wanted: RefCell<Patterns>,
    open: RefCell<BTreeMap<String, (PortId, Rc<PacketPort>)>>,
}

/// Which interfaces are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    /// All real ones, because an export answers everywhere.
    all: bool,
    named: BTreeSet<String>,
}

impl Patterns {
    /// Those of a configuration.
    pub fn of(wanted: &Wanted) -> Patterns {
        if wanted.placed.is_some() {
            return Patterns::default();
        }
        let default = wanted.config.defaults.interfaces.clone().unwrap_or_default();
        let anywhere = |list: &[String]| list.is_empty();
        let plans = &wanted.plans;
        let all = (wanted.automatic || plans.is_empty()) && anywhere(&default)
            || plans.iter().any(|plan| anywhere(&plan.interfaces));
        let named = plans.iter().flat_map(|plan| plan.interfaces.iter().cloned());
        Patterns { all, named: named.chain(default).collect() }
    }

    /// Whether all real ones are meant, because some export names none.
    pub fn means_all(&self) -> bool {
        self.all
    }

    /// The names and patterns.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.named.iter().map(String::as_str)
    }

    /// Whether a link that is there is one of them.
    pub fn want_link(&self, link: &Link) -> bool {
        self.want(&link.name, is_ethernet(link))
    }

    fn want(&self, name: &str, usable: bool) -> bool {
        self.all && usable || self.named.iter().any(|pattern| matches(pattern, name))
    }
}

fn is_ethernet(link: &Link) -> bool {
    link.mac.is_some() && !link.loopback
}

/// The Ethernet interfaces of this machine in a line each, for who has to choose one. Blocks for a
/// moment.
pub fn list_ethernet() -> String {
    let links = match links(None) {
        Ok(links) => links,
        Err(error) => return format!("This machine's interfaces can't be listed: {error}"),
    };
    let lines: Vec<String> = links.iter().filter(|link| is_ethernet(link)).map(describe).collect();
    match lines.is_empty() {
        true => "This machine has no Ethernet interface now.".to_owned(),
        false => format!("This machine's Ethernet interfaces:\n{}", lines.join("\n")),
    }
}

/// An interface in a line.
pub fn describe(link: &Link) -> String {
    let mac = link.mac.map_or_else(|| "no address".to_owned(), |mac| mac.to_string());
    let state = match (link.up, link.running) {
        (false, _) => "down",
        (true, false) => "up, no link",
        (true, true) => "up",
    };
    format!("  {}  {mac}  MTU {}  {state}", link.name, link.mtu_bytes)
}

impl Interfaces {
    /// Opens a port on each wanted interface, and on those that appear later.
    pub fn follow(node: &Rc<Node>, wanted: &Wanted) -> anyhow::Result<Interfaces> {
        let patterns = Patterns::of(wanted);
        let ports = Ports {
            node: Rc::clone(node),
            wanted: RefCell::new(patterns),
            open: RefCell::default(),
        };
        let ports = Rc::new(ports);
        let watch = LinkWatch::open(&node.handle, None)?;
        ports.adjust()?;
        ports.tell_missing();
        let followed = Rc::clone(&ports);
        let (task, watch_task) = abortable(async move {
            loop {
                watch.changed().await;
                if let Err(error) = followed.adjust() {
                    tracing::warn!("interfaces: {error:#}");
                }
            }
        });
        node.handle.runtime().spawn(task.map(drop));
        if let Some(placed) = &wanted.placed {
            // Before anything is served: their paths are resolved.
            let namespaces = Namespaces::of(placed);
            let missing = placed.iter().map(spec_of).collect();
            node.handle.runtime().spawn(open_placed(Rc::clone(node), namespaces, missing));
        }
        Ok(Interfaces { ports, watch: watch_task })
    }

    /// Takes a new configuration.
    pub fn reload(&self, wanted: &Wanted) -> anyhow::Result<()> {
        self.ports.wanted.replace(Patterns::of(wanted));
        self.ports.adjust()?;
        self.ports.tell_missing();
        Ok(())
    }
}

/// Opens ports for good on interfaces of certain namespaces, which may appear late.
async fn open_placed(node: Rc<Node>, namespaces: Rc<Namespaces>, mut missing: Vec<InterfaceSpec>) {
    let mut said = BTreeSet::new();
    loop {
        missing.retain(|place| {
            match namespaces.open_port(&node.handle, place.clone(), Role::Requests) {
                Ok(port) => {
                    node.driver.add_port(Rc::new(port));
                    node.ports_changed.notify_all();
                    false
                }
                Err(error) => {
                    let trouble = error.to_string();
                    if said.insert(trouble.clone()) {
                        tracing::warn!("{trouble}; tried again until it works");
                    }
                    true
                }
            }
        });
        if missing.is_empty() {
            return;
        }
        node.handle.runtime().sleep(LOOK_EVERY).await;
        namespaces.look(&node.handle).await;
    }
}

impl Ports {
    /// Opens what is wanted and there, closes what isn't wanted any more. What is only gone stays
    /// open, for its return.
    fn adjust(&self) -> anyhow::Result<()> {
        let links = links(None)?;
        let wanted = self.wanted.borrow();
        let (mut changed, mut failed) = (false, Ok(()));
        let mut open = self.open.borrow_mut();
        open.retain(|name, (id, _)| {
            let there = links.iter().find(|link| link.name == *name);
            let stays = match there {
                Some(link) => wanted.want_link(link),
                None => wanted.want(name, true),
            };
            if !stays {
                tracing::info!(interface = name, "not exporting here any more");
                self.node.driver.remove_port(*id);
                changed = true;
            }
            stays
        });
        for link in &links {
            if !wanted.want_link(link) || open.contains_key(&link.name) {
                continue;
            }
            let interface = InterfaceSpec { name: link.name.clone(), netns: None };
            let port = match PacketPort::open(&self.node.handle, interface, Role::Requests) {
                Ok(port) => Rc::new(port),
                Err(error) => {
                    // The others are none the worse for it.
                    failed = Err(error);
                    continue;
                }
            };
            let id = self.node.driver.add_port(Rc::clone(&port) as Rc<dyn aoe_wire::Port>);
            tracing::info!(interface = link.name, mtu = link.mtu_bytes, "exporting here");
            open.insert(link.name.clone(), (id, port));
            changed = true;
        }
        drop(open);
        if changed {
            self.node.ports_changed.notify_all();
        }
        Ok(failed?)
    }

    /// A misspelt interface looks like one that isn't there yet: said once.
    fn tell_missing(&self) {
        let open = self.open.borrow();
        for pattern in &self.wanted.borrow().named {
            if !open.keys().any(|name| matches(pattern, name)) {
                tracing::warn!(interface = pattern, "no such interface now; waiting for it");
            }
        }
    }
}

impl Drop for Interfaces {
    fn drop(&mut self) {
        self.watch.abort();
        for (id, _) in std::mem::take(&mut *self.ports.open.borrow_mut()).into_values() {
            self.ports.node.driver.remove_port(id);
        }
    }
}
