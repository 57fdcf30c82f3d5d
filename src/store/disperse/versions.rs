//! Decides which object lies under a name, by what the stores have.
//!
//! Nearly always all stores have shards of the same bytes. After puts that were cut short, and where a store was brought back
//! from an old state, they have not, and some do not answer.

use std::cmp::Reverse;

use super::policy::Policy;
use super::shard::Tail;
use crate::store::ObjectKind;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    /// This is the object.
    Is(&'a Tail),
    /// There is no such object.
    IsNot,
    /// The stores that have not answered may decide.
    Unclear,
}

/// Decides by the tails that were found. Of `unknown` stores nothing is known; the others have no shard. With `is_all`, nothing
/// more will become known.
pub(super) fn judge<'a>(
    policy: Policy,
    kind: ObjectKind,
    tails: impl Iterator<Item = &'a Tail>,
    unknown: usize,
    is_all: bool,
) -> Verdict<'a> {
    let mut counts: Vec<(&Tail, usize)> = Vec::new();
    for tail in tails {
        match counts.iter_mut().find(|(known, _)| known.is_of_same(tail)) {
            Some((_, count)) => *count += 1,
            None => counts.push((tail, 1)),
        }
    }
    let (quorum, needed) = (policy.quorum(), policy.needed(kind));
    if unknown >= quorum {
        return Verdict::Unclear;
    }
    // Of two versions, only one can ever have reached a quorum.
    let mut acknowledged = counts.iter().filter(|(_, count)| count + unknown >= quorum);
    match (acknowledged.next(), acknowledged.next()) {
        (Some((tail, count)), None) if is_all || *count >= needed => return Verdict::Is(tail),
        (Some(_), _) => return Verdict::Unclear,
        (None, _) => {}
    }
    let best = counts.iter().max_by_key(|(tail, count)| (*count, Reverse(tail.whole)));
    match best {
        Some((tail, count)) if is_all && count + unknown >= needed => Verdict::Is(tail),
        Some((_, count)) if !is_all && count + unknown >= needed => Verdict::Unclear,
        None if !is_all && unknown >= needed => Verdict::Unclear,
        _ => Verdict::IsNot,
    }
}

#[cfg(test)]
mod tests {
    use super::super::code::Code;
    use super::*;
    use crate::store::ObjectName;

    const POLICY: Policy = Policy { code: Code { k: 4, m: 2 }, tolerate: 1 };

    fn tail(bytes: &[u8]) -> Tail {
        Tail::of_copy(&ObjectName::epoch(1), bytes, POLICY.stores())
    }

    fn judged(found: &[(&Tail, usize)], unknown: usize, is_all: bool) -> Option<Option<[u8; 32]>> {
        let tails = found.iter().flat_map(|(tail, count)| std::iter::repeat_n(*tail, *count));
        match judge(POLICY, ObjectKind::Epoch, tails, unknown, is_all) {
            Verdict::Is(tail) => Some(Some(tail.whole)),
            Verdict::IsNot => Some(None),
            Verdict::Unclear => None,
        }
    }

    #[test]
    fn two_stores_that_agree_are_believed_and_one_is_not() {
        let (one, other) = (tail(b"one"), tail(b"other"));
        assert_eq!(judged(&[(&one, 2)], 4, false), Some(Some(one.whole)));
        assert_eq!(judged(&[(&one, 1)], 5, false), None);
        assert_eq!(judged(&[(&one, 1)], 4, false), None, "one store alone may be outdated");
        assert_eq!(judged(&[(&one, 1)], 4, true), Some(Some(one.whole)), "no other one answers");
        assert_eq!(judged(&[(&one, 1), (&other, 1)], 4, false), None);
        assert_eq!(judged(&[(&one, 1), (&other, 3)], 2, false), Some(Some(other.whole)));
    }

    #[test]
    fn nobody_is_believed_while_a_quorum_has_not_been_heard() {
        let policy = Policy { code: Code { k: 2, m: 2 }, tolerate: 1 };
        let old = tail(b"old");
        for (unknown, verdict) in [(3, Verdict::Unclear), (2, Verdict::Is(&old))] {
            for is_all in [false, true] {
                let judged = judge(policy, ObjectKind::Epoch, [&old].into_iter(), unknown, is_all);
                assert_eq!(judged, verdict, "{unknown} {is_all}");
            }
        }
    }

    #[test]
    fn what_one_store_alone_has_is_no_object() {
        let one = tail(b"one");
        assert_eq!(judged(&[(&one, 1)], 0, true), Some(None));
        assert_eq!(
            judged(&[(&one, 1)], 1, true),
            Some(Some(one.whole)),
            "the store that is away may have it too"
        );
        assert_eq!(judged(&[], 1, false), Some(None));
        assert_eq!(judged(&[], 2, false), None);
        assert_eq!(judged(&[], 2, true), Some(None));
    }

    #[test]
    fn of_puts_that_were_both_cut_short_all_processes_choose_the_same() {
        let (one, other) = (tail(b"one"), tail(b"other"));
        let lower = if one.whole < other.whole { one.whole } else { other.whole };
        assert_eq!(judged(&[(&one, 3), (&other, 3)], 0, true), Some(Some(lower)));
        assert_eq!(judged(&[(&other, 3), (&one, 3)], 0, true), Some(Some(lower)));
        assert_eq!(judged(&[(&one, 2), (&other, 2)], 2, true), Some(Some(lower)), "neither was acknowledged");
    }
}
