//! The transactions that a reader of the source saw.

/// A snapshot as `pg_current_snapshot` writes it: `xmin:xmax:` and the transactions between them that had not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    /// Returns `None` if the text is no snapshot.
    pub fn parse(text: &str) -> Option<Snapshot> {
        let mut parts = text.splitn(3, ':');
        let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let running = parts.next()?.split(',').filter(|it| !it.is_empty());
        let running = running.map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Snapshot { xmin, xmax, running })
    }

    /// Whether the snapshot shows what a committed transaction did. The stream carries only the lower half of a
    /// transaction's number; a transaction of the stream is less than 2^31 away from the snapshot.
    pub fn shows(&self, xid: u32) -> bool {
        let distance = xid.wrapping_sub(self.xmax as u32) as i32;
        let number = self.xmax.saturating_add_signed(distance.into());
        number < self.xmin || number < self.xmax && !self.running.contains(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_shows_what_had_ended() {
        let snapshot = Snapshot::parse("100:105:101,103").unwrap();
        let shown: Vec<_> = (98..108).filter(|xid| snapshot.shows(*xid)).collect();
        assert_eq!(shown, [98, 99, 100, 102, 104]);
        assert_eq!(Snapshot::parse("7:7:").map(|it| it.shows(6)), Some(true));
        assert_eq!(Snapshot::parse("1:2"), None);
        assert_eq!(Snapshot::parse("1:2:x"), None);
    }

    #[test]
    fn numbers_of_transactions_begin_again() {
        let snapshot = Snapshot::parse("4294967290:4294967300:4294967295").unwrap();
        let shown: Vec<_> =
            [4_294_967_289, 4_294_967_295, 4_294_967_294, 0, 3, 4].map(|xid| snapshot.shows(xid)).into();
        assert_eq!(shown, [true, false, true, true, true, false]);
    }
}
