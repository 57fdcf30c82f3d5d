//! The order in which statements are replayed: the order of their events, with one exception.
//!
//! An event trigger of the application may run statements of its own, for instance to set up each new table. If its
//! name sorts before ours, the events of these inner statements come before the event of the outer statement, and the
//! inner ones fail without the outer one.

use std::collections::VecDeque;

use crate::signal::DefinitionChange;

pub(super) struct Order<'a> {
    waiting: VecDeque<&'a DefinitionChange>,
    /// The statements that ran inside another statement, kept until that one has run.
    put_off: Vec<&'a DefinitionChange>,
    /// The statements that have been tried a second time.
    tried: Vec<&'a DefinitionChange>,
}

impl<'a> Order<'a> {
    pub fn of(changes: &'a [DefinitionChange]) -> Order<'a> {
        Order { waiting: changes.iter().collect(), put_off: Vec::new(), tried: Vec::new() }
    }

    pub fn next(&mut self) -> Option<&'a DefinitionChange> {
        let next = self.waiting.pop_front()?;
        // The statements that waited for this one follow it.
        if next.signal.statement.context.is_empty() {
            while let Some(at) = self.put_off.iter().rposition(|inner| same_message(inner, next)) {
                let inner = self.put_off.remove(at);
                self.tried.push(inner);
                self.waiting.push_front(inner);
            }
        }
        Some(next)
    }

    /// Defers a failed statement until after the next statement that the client itself sent in the same message;
    /// returns whether there is one.
    pub fn put_off(&mut self, failed: &'a DefinitionChange) -> bool {
        let inside = !failed.signal.statement.context.is_empty();
        let outer =
            |it: &&DefinitionChange| it.signal.statement.context.is_empty() && same_message(it, failed);
        let tried = self.tried.iter().any(|it| std::ptr::eq(*it, failed));
        if tried || !inside || !self.waiting.iter().any(outer) {
            return false;
        }
        self.put_off.push(failed);
        true
    }
}

fn same_message(one: &DefinitionChange, other: &DefinitionChange) -> bool {
    let key = |it: &DefinitionChange| (it.signal.statement.process, it.signal.statement.started, it.xid);
    key(one) == key(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lsn, PgTime};
    use crate::signal::{DefinitionSignal, Statement};

    fn change(tag: &str, context: &str) -> DefinitionChange {
        let statement = Statement { context: context.into(), ..Statement::default() };
        let signal = DefinitionSignal { tag: tag.into(), statement, ..DefinitionSignal::default() };
        DefinitionChange { lsn: Lsn(1), end_lsn: Lsn(2), time: PgTime(0), xid: 1, signal }
    }

    #[test]
    fn what_ran_inside_of_a_statement_is_tried_again_after_it() {
        let changes = [change("a", "inner"), change("b", "inner"), change("c", ""), change("d", "")];
        let mut order = Order::of(&changes);
        let mut done = Vec::new();
        while let Some(change) = order.next() {
            let fails = change.signal.tag.as_str() < "c" && !done.contains(&"c");
            if !(fails && order.put_off(change)) {
                done.push(change.signal.tag.as_str());
            }
        }
        assert_eq!(done, ["c", "a", "b", "d"]);
    }

    #[test]
    fn nothing_is_put_off_twice_or_for_nothing() {
        let changes = [change("a", "inner"), change("c", "")];
        let mut order = Order::of(&changes);
        let first = order.next().unwrap();
        assert!(order.put_off(first));
        let outer = order.next().unwrap();
        assert!(!order.put_off(outer));
        let again = order.next().unwrap();
        assert_eq!(again.signal.tag, "a");
        assert!(!order.put_off(again));
        assert!(order.next().is_none());
    }
}
