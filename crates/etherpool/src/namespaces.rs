//! The network namespaces of the configured interfaces, each opened once: before anything is served, or,
//! if it isn't there by then, on a thread of its own as soon as it is. Who opens a port finds it here
//! and resolves no path.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use control::config::InterfaceConfig;
use os::ReactorHandle;
use os::net::netns::Namespace;
use os::net::{InterfaceSpec, PacketPort, PacketPortError, Role};

/// The interface in the `os` crate's words.
pub fn spec_of(interface: &InterfaceConfig) -> InterfaceSpec {
    InterfaceSpec { name: interface.name.clone(), netns: interface.netns.clone() }
}

/// Namespaces by their name or path, as configured.
pub struct Namespaces(RefCell<BTreeMap<String, Found>>);

/// A namespace, or why it isn't open: errors can't be copied, what matters of them can.
type Found = Result<Rc<Namespace>, (io::ErrorKind, String)>;

impl Namespaces {
    /// Those of all interfaces. Resolves their paths: before anything is served.
    pub fn of(interfaces: &[InterfaceConfig]) -> Rc<Namespaces> {
        let names = interfaces.iter().filter_map(|interface| interface.netns.clone());
        let opened = names.map(|name| {
            let opened = found(Namespace::open(&name));
            (name, opened)
        });
        Rc::new(Namespaces(RefCell::new(opened.collect())))
    }

    /// Looks again for those that aren't open, on a thread of its own.
    pub async fn look(&self, handle: &ReactorHandle) {
        let missing: Vec<String> = {
            let known = self.0.borrow();
            known.iter().filter(|(_, one)| one.is_err()).map(|(name, _)| name.clone()).collect()
        };
        for name in missing {
            let wanted = name.clone();
            let opened = handle.blocking(move || Namespace::open(&wanted)).await;
            self.0.borrow_mut().insert(name, found(opened.flatten()));
        }
    }

    /// Opens a port in the namespace of its interface.
    pub fn open_port(
        &self,
        handle: &ReactorHandle,
        interface: InterfaceSpec,
        role: Role,
    ) -> Result<PacketPort, PacketPortError> {
        let Some(name) = &interface.netns else {
            return PacketPort::open_in(handle, interface, None, role);
        };
        let namespace = match self.0.borrow().get(name) {
            Some(Ok(namespace)) => Ok(Rc::clone(namespace)),
            Some(Err((kind, why))) => Err(io::Error::new(*kind, why.clone())),
            None => {
                Err(io::Error::new(io::ErrorKind::NotFound, format!("{name} is not configured")))
            }
        };
        match namespace {
            Ok(namespace) => PacketPort::open_in(handle, interface, Some(&namespace), role),
            Err(error) => Err(PacketPortError { interface, error }),
        }
    }
}

fn found(opened: io::Result<Namespace>) -> Found {
    opened.map(Rc::new).map_err(|error| (error.kind(), error.to_string()))
}
