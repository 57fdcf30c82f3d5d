//! How many stores must have, give or lack something.

use super::code::Code;
use crate::store::ObjectKind;

/// The numbers of one dispersal. With `n` stores and the tolerance `T`, which is less than `k` and at most `m`:
///
/// - `n - T` stores are a quorum. Two quorums always share a store, as `2T < n`. A put and a role need a quorum.
/// - `T + 1` stores always include one of any quorum. So what `T + 1` stores say alike, no quorum contradicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub code: Code,
    /// The number of stores that a put may lack.
    pub tolerate: usize,
}

impl Policy {
    /// The number of stores.
    pub fn stores(self) -> usize {
        self.code.shards()
    }

    pub fn quorum(self) -> usize {
        self.stores() - self.tolerate
    }

    /// The number of stores that include one of every quorum.
    pub fn witnesses(self) -> usize {
        self.tolerate + 1
    }

    /// The erasure code for objects of a kind: of those that are not cut, each store has a copy.
    pub fn code_of(self, kind: ObjectKind) -> Code {
        if is_coded(kind) { self.code } else { Code { k: 1, m: self.stores() - 1 } }
    }

    /// The number of stores that must have a part of an object for the object to exist. Of a copied object it is two where an
    /// acknowledged one is in two stores even after the loss of `m`: what one store alone has is a put that was cut short, or an
    /// object that was removed while that store was away.
    pub fn needed(self, kind: ObjectKind) -> usize {
        match (is_coded(kind), self.code.k - self.tolerate) {
            (true, _) => self.code.k,
            (false, 2..) => 2,
            (false, _) => 1,
        }
    }

    /// The number of stores that are read from for an object of a kind if all is well.
    pub fn first_readers(self, kind: ObjectKind) -> usize {
        self.code_of(kind).k.max(self.witnesses())
    }
}

/// Whether objects of a kind are cut into shards. The others are small, and each store has a copy.
pub(super) fn is_coded(kind: ObjectKind) -> bool {
    matches!(kind, ObjectKind::Pack | ObjectKind::Archive | ObjectKind::Segment | ObjectKind::Increment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_exists_after_the_loss_of_m_stores_less_those_that_lacked_it() {
        for k in 1..8 {
            for m in 1..8 {
                for tolerate in 0..=m.min(k - 1) {
                    let policy = Policy { code: Code { k, m }, tolerate };
                    let (n, quorum) = (policy.stores(), policy.quorum());
                    assert!(2 * quorum > n && quorum + policy.witnesses() > n, "{policy:?}");
                    assert!(quorum - (m - tolerate) >= policy.needed(ObjectKind::Pack), "{policy:?}");
                    assert!(quorum - m >= policy.needed(ObjectKind::Epoch), "{policy:?}");
                }
            }
        }
    }
}
