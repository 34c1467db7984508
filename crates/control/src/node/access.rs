//! Access lists: from MAC addresses and names of groups to sets of MAC addresses.

use std::collections::BTreeSet;

use aoe_target::{Access, AccessPolicy, AccessRule, ListEditors};
use aoe_wire::MacAddr;

use crate::client::{InvalidClient, check_client};

use super::settings::{AccessList, AccessLists, Editors, Groups};

/// Groups within groups: deeper than anybody needs, and not deep enough to overflow a stack.
const DEPTH_MAX: usize = 64;

/// A list that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Neither a MAC address nor a group.
    #[error("'{0}' is neither a MAC address (02:00:00:00:00:01) nor a group in [groups]")]
    Unknown(String),
    /// Nobody's address.
    #[error(transparent)]
    Client(#[from] InvalidClient),
    /// A group that contains itself.
    #[error("group '{0}' contains itself")]
    Circle(String),
    /// Groups of groups of groups.
    #[error("group '{0}' is in a group in a group, more than 64 deep")]
    Deep(String),
    /// A group whose name would be read as an address.
    #[error("group '{0}' has the form of a MAC address")]
    Name(String),
    /// A list without anybody: it could mean nobody or everybody.
    #[error(
        "an accept list is empty; leave it out to accept all, or say default-access = \"reject\""
    )]
    Empty,
}

/// Looks groups up.
pub struct Resolver<'a> {
    groups: &'a Groups,
}

impl<'a> Resolver<'a> {
    /// For these groups.
    pub fn new(groups: &'a Groups) -> Resolver<'a> {
        Resolver { groups }
    }

    /// Whether all groups make sense.
    pub fn check(&self) -> Result<(), GroupError> {
        for (name, members) in self.groups {
            if name.parse::<MacAddr>().is_ok() {
                return Err(GroupError::Name(name.clone()));
            }
            self.macs(members)?;
        }
        Ok(())
    }

    /// Who may do what.
    pub fn access(&self, default: Access, lists: &AccessLists) -> Result<AccessPolicy, GroupError> {
        let rules = lists.iter().map(|(operation, list)| Ok((*operation, self.rule(list)?)));
        Ok(AccessPolicy { default, rules: rules.collect::<Result<_, GroupError>>()? })
    }

    /// Who may change the protocol's lists.
    pub fn editors(&self, editors: &Editors) -> Result<ListEditors, GroupError> {
        Ok(match editors {
            Editors::All => ListEditors::All,
            Editors::Nobody => ListEditors::Nobody,
            Editors::Only(list) => ListEditors::Only(self.macs(list)?),
        })
    }

    fn rule(&self, list: &AccessList) -> Result<AccessRule, GroupError> {
        let rule = AccessRule { accept: self.macs(&list.accept)?, deny: self.macs(&list.deny)? };
        // A group that was emptied must not open an export to all.
        if rule.accept.is_empty() && !list.accept.is_empty() {
            return Err(GroupError::Empty);
        }
        Ok(rule)
    }

    fn macs(&self, list: &[String]) -> Result<BTreeSet<MacAddr>, GroupError> {
        let mut macs = BTreeSet::new();
        self.collect(list, &mut Walk::default(), &mut macs)?;
        Ok(macs)
    }

    fn collect<'l>(
        &'l self,
        list: &'l [String],
        walk: &mut Walk<'l>,
        macs: &mut BTreeSet<MacAddr>,
    ) -> Result<(), GroupError> {
        for one in list {
            if let Ok(mac) = one.parse::<MacAddr>() {
                macs.insert(check_client(mac)?);
                continue;
            }
            let Some(members) = self.groups.get(one) else {
                return Err(GroupError::Unknown(one.clone()));
            };
            if walk.within.contains(&one.as_str()) {
                return Err(GroupError::Circle(one.clone()));
            }
            if walk.done.contains(one.as_str()) {
                continue;
            }
            if walk.within.len() >= DEPTH_MAX {
                return Err(GroupError::Deep(one.clone()));
            }
            walk.within.push(one);
            self.collect(members, walk, macs)?;
            walk.within.pop();
            walk.done.insert(one);
        }
        Ok(())
    }
}

/// The way through groups of groups.
#[derive(Default)]
struct Walk<'l> {
    /// Those that are being looked up, so that a circle is found.
    within: Vec<&'l str>,
    /// Those that are looked up, so that none is twice: many groups of two others would take for
    /// ever.
    done: BTreeSet<&'l str>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn groups(text: &str) -> Groups {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn groups_are_resolved_and_mistakes_named() {
        let groups =
            groups("web = ['02:00:00:00:00:01', 'more']\nmore = ['02:00:00:00:00:02']\nnone = []");
        let resolver = Resolver::new(&groups);
        resolver.check().unwrap();
        let list = |text: &str| vec![text.to_owned()];
        assert_eq!(resolver.macs(&list("web")).unwrap().len(), 2);
        assert_eq!(resolver.macs(&list("2:0:0:0:0:1")).unwrap().len(), 1);
        assert_eq!(resolver.macs(&list("wbe")), Err(GroupError::Unknown("wbe".into())));
        for nobody in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "0:0:0:0:0:0"] {
            let refused = resolver.macs(&list(nobody));
            assert!(matches!(refused, Err(GroupError::Client(_))), "{nobody}: {refused:?}");
        }
        let emptied = AccessList { accept: list("none"), deny: Vec::new() };
        assert_eq!(resolver.rule(&emptied), Err(GroupError::Empty));
    }

    #[test]
    fn groups_of_groups_take_no_longer_than_there_are_groups() {
        let mut groups = Groups::from([("g60".to_owned(), vec!["02:00:00:00:00:01".to_owned()])]);
        for depth in 0..60 {
            groups.insert(format!("g{depth}"), vec![format!("g{}", depth + 1); 2]);
        }
        let resolver = Resolver::new(&groups);
        assert_eq!(resolver.macs(&["g0".to_owned()]).unwrap().len(), 1);
        for depth in 60..70 {
            groups.insert(format!("g{depth}"), vec![format!("g{}", depth + 1)]);
        }
        let deep = Resolver::new(&groups).macs(&["g0".to_owned()]);
        assert!(matches!(deep, Err(GroupError::Deep(_))), "{deep:?}");
    }

    #[test]
    fn a_group_in_itself_is_found() {
        let groups = groups("a = ['b']\nb = ['a']");
        assert!(matches!(Resolver::new(&groups).check(), Err(GroupError::Circle(_))));
        let groups = super::Groups::from([("02:00:00:00:00:01".to_owned(), Vec::new())]);
        assert!(matches!(Resolver::new(&groups).check(), Err(GroupError::Name(_))));
    }
}
