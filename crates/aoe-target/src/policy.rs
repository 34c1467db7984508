//! Who may do what, as the administrator says. By the protocol's own lists anyone could lock out
//! everyone; these rules no client can change, and sessions are bound by them too.

use std::collections::{BTreeMap, BTreeSet};

use aoe_wire::MacAddr;

/// What a client asks for, as far as access is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum AccessOperation {
    /// Find the export without knowing its address: questions to wildcards, broadcast queries, and
    /// the announcements that the target makes.
    Discover,
    /// Read the configuration string, the mask list and the reservation.
    ConfigRead,
    /// Set the configuration string. Mask list and reservation have [`ListEditors`].
    ConfigSet,
    /// Read, identify, ask for the disk's health; open a session.
    Read,
    /// Change sectors or the disk's settings.
    Write,
}

block::words!(AccessOperation {
    Discover = "discover",
    ConfigRead = "config-read",
    ConfigSet = "config-set",
    Read = "read",
    Write = "write",
});
block::words!(Access { Accept = "accept", Reject = "reject" });
block::serde_as_text!(AccessOperation, Access);

/// What becomes of a client that no list names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum Access {
    /// It may.
    #[default]
    Accept,
    /// It may not.
    Reject,
}

/// The lists of one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRule {
    /// Who may; if it names anybody, all others may not.
    pub accept: BTreeSet<MacAddr>,
    /// Who may not, also if accepted.
    pub deny: BTreeSet<MacAddr>,
}

/// The administrator's rules for an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessPolicy {
    /// For operations without an accept list.
    pub default: Access,
    /// The lists, by operation.
    pub rules: BTreeMap<AccessOperation, AccessRule>,
}

impl AccessPolicy {
    /// Whether a client may: the deny list wins, then the accept list, then the default.
    pub fn allows(&self, operation: AccessOperation, client: MacAddr) -> bool {
        match self.rules.get(&operation) {
            Some(rule) if rule.deny.contains(&client) => false,
            Some(rule) if !rule.accept.is_empty() => rule.accept.contains(&client),
            _ => self.default == Access::Accept,
        }
    }

    /// Whether everybody may.
    pub fn allows_all(&self, operation: AccessOperation) -> bool {
        let unlisted = self
            .rules
            .get(&operation)
            .is_none_or(|rule| rule.accept.is_empty() && rule.deny.is_empty());
        unlisted && self.default == Access::Accept
    }

    /// Whether a client may do anything at all; to others the export isn't there.
    pub fn knows(&self, client: MacAddr) -> bool {
        AccessOperation::ALL.into_iter().any(|operation| self.allows(operation, client))
    }

    /// Who may of those that are named, where only named ones may.
    pub(crate) fn accepted(
        &self,
        operation: AccessOperation,
    ) -> Option<impl Iterator<Item = MacAddr>> {
        let rule = self.rules.get(&operation).filter(|rule| !rule.accept.is_empty())?;
        Some(rule.accept.difference(&rule.deny).copied())
    }
}

/// Who may change mask list and reservation by the protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListEditors {
    /// Everybody, as the protocol has it: anyone can lock out everyone.
    #[default]
    All,
    /// Nobody.
    Nobody,
    /// These.
    Only(BTreeSet<MacAddr>),
}

impl ListEditors {
    /// Whether a client may.
    pub fn allows(&self, client: MacAddr) -> bool {
        match self {
            ListEditors::All => true,
            ListEditors::Nobody => false,
            ListEditors::Only(editors) => editors.contains(&client),
        }
    }

    /// Whether a client is named as one who may.
    pub(crate) fn names(&self, client: MacAddr) -> bool {
        matches!(self, ListEditors::Only(_)) && self.allows(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

    #[test]
    fn deny_wins_then_accept_then_the_default() {
        let rule = |accept: &[MacAddr], deny: &[MacAddr]| AccessRule {
            accept: accept.iter().copied().collect(),
            deny: deny.iter().copied().collect(),
        };
        for (default, rule, expected) in [
            (Access::Accept, rule(&[], &[]), [true, true, true]),
            (Access::Reject, rule(&[], &[]), [false, false, false]),
            (Access::Accept, rule(&[A], &[]), [true, false, false]),
            (Access::Reject, rule(&[A, B], &[]), [true, true, false]),
            (Access::Accept, rule(&[], &[A]), [false, true, true]),
            (Access::Reject, rule(&[], &[A]), [false, false, false]),
            (Access::Accept, rule(&[A, B], &[A]), [false, true, false]),
        ] {
            let rules = BTreeMap::from([(AccessOperation::Write, rule)]);
            let policy = AccessPolicy { default, rules };
            let answers = [A, B, C].map(|mac| policy.allows(AccessOperation::Write, mac));
            assert_eq!(answers, expected, "{policy:?}");
            assert_eq!(policy.allows(AccessOperation::Read, A), default == Access::Accept);
            let all = policy.allows_all(AccessOperation::Write);
            assert!(!all || expected == [true; 3], "{policy:?}");
            assert_eq!(policy.knows(B), expected[1] || default == Access::Accept);
        }
    }
}
