//! Who may have signed what counts of a pool: a few keys, kept in its votes (`vote`).

use std::collections::BTreeSet;

use seal::{KEY_BYTES, PublicKey};

/// Supervisors that took a pool one after the other, each of which ended before it had written a checkpoint.
pub(super) const SIGNERS_MAX: usize = 4;
/// Bytes of their keys.
pub(super) const SIGNERS_BYTES: usize = SIGNERS_MAX * KEY_BYTES;

/// Whose signature of the metadata counts. Without any nobody's is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers(BTreeSet<PublicKey>);

impl Signers {
    /// These; of more than fit the first.
    pub fn of(keys: impl IntoIterator<Item = PublicKey>) -> Signers {
        let mut signers = Signers::default();
        for key in keys {
            if signers.0.len() < SIGNERS_MAX {
                signers.0.insert(key);
            }
        }
        signers
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.0.iter().copied()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether what somebody signed counts, or what nobody did.
    pub fn admit(&self, by: Option<PublicKey>) -> bool {
        self.is_empty() || by.is_some_and(|by| self.0.contains(&by))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_named_counts_and_everybody_where_nobody_is() {
        let key = |number: u8| PublicKey([number; KEY_BYTES]);
        let two = Signers::of([key(2), key(1), key(2)]);
        assert_eq!(two.iter().collect::<Vec<_>>(), [key(1), key(2)]);
        for (signers, admitted) in
            [(&Signers::default(), [true, true, true]), (&two, [false, true, false])]
        {
            let by = [None, Some(key(1)), Some(key(3))];
            assert_eq!(by.map(|by| signers.admit(by)), admitted);
        }
        assert_eq!(Signers::of((0..9).map(key)), Signers::of((0..4).map(key)));
    }
}
