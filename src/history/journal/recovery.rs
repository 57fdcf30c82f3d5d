//! What the writer does with the files it finds: a table, a row per case.
//!
//! The files that matter are those with the epoch's newest start: an `.open`, a `.seg`, or both.
//! Older open files were finished before the newest was started; they only wait to be sealed.

/// The open file, as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    Missing,
    /// The header is cut short or its checksum does not agree.
    BadHeader,
    /// The header names another history.
    Foreign,
    /// The header names another epoch or start than the file's name.
    Misnamed,
    /// The header or a block is of a newer version.
    Newer,
    /// Ends after a complete transaction.
    Whole,
    /// Ends inside a transaction, at a block's end.
    Incomplete,
    /// Ends with bytes that were never synced.
    Torn,
    /// A block that was synced is bad, or blocks do not follow each other.
    Damaged,
}

/// The sealed file of the same segment, as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sealed {
    Missing,
    /// Every byte agrees with the file's digest, and it is of this history.
    Valid,
    Invalid,
    Newer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start the epoch's first segment at the frontier that the caller gives.
    Create,
    /// Start a segment at the end of the sealed one, with the relations in force there.
    ContinueSealed,
    /// Remove the open file, then as `ContinueSealed`.
    RemoveOpen,
    Append,
    /// Cut off what follows the last complete transaction, then append.
    Cut,
    /// Remove the sealed file, then as `Cut`.
    RemoveSealed,
    /// Stop: bytes that were acknowledged are bad.
    Damaged,
    /// Stop: written by a newer backwhen.
    Newer,
    /// Stop: the file belongs to another history.
    Foreign,
}

pub(super) struct Case {
    pub(super) open: &'static [Open],
    pub(super) sealed: &'static [Sealed],
    pub(super) action: Action,
    /// Why this is right; shown where it is done.
    pub(super) why: &'static str,
}

pub(super) const CASES: &[Case] = &[
    Case {
        open: &[Open::Missing],
        sealed: &[Sealed::Missing],
        action: Action::Create,
        why: "the epoch has no segment yet",
    },
    Case {
        open: &[Open::Missing],
        sealed: &[Sealed::Valid],
        action: Action::ContinueSealed,
        why: "the open segment had been sealed and removed, and no next one was started",
    },
    Case {
        open: &[Open::Missing],
        sealed: &[Sealed::Invalid],
        action: Action::Damaged,
        why: "where the epoch ends cannot be known while its last segment is damaged",
    },
    Case {
        open: &[
            Open::Missing,
            Open::BadHeader,
            Open::Foreign,
            Open::Misnamed,
            Open::Newer,
            Open::Whole,
            Open::Incomplete,
            Open::Torn,
            Open::Damaged,
        ],
        sealed: &[Sealed::Newer],
        action: Action::Newer,
        why: "a newer backwhen has sealed here; what it left open may follow other rules",
    },
    Case {
        open: &[Open::Newer],
        sealed: &[Sealed::Missing, Sealed::Valid, Sealed::Invalid],
        action: Action::Newer,
        why: "a newer backwhen wrote the open segment; appending in an older format could spoil it",
    },
    Case {
        open: &[Open::Foreign],
        sealed: &[Sealed::Missing, Sealed::Valid, Sealed::Invalid],
        action: Action::Foreign,
        why: "the file was copied here from another history; neither may be touched",
    },
    Case {
        open: &[Open::BadHeader, Open::Misnamed],
        sealed: &[Sealed::Missing, Sealed::Invalid],
        action: Action::Damaged,
        why: "a segment gets its name only once its header is durable, so a crash cannot explain this",
    },
    Case {
        open: &[Open::BadHeader, Open::Misnamed, Open::Whole, Open::Incomplete, Open::Torn, Open::Damaged],
        sealed: &[Sealed::Valid],
        action: Action::RemoveOpen,
        why: "the segment was sealed whole, and only the removal of the open file was interrupted",
    },
    Case {
        open: &[Open::Whole],
        sealed: &[Sealed::Missing],
        action: Action::Append,
        why: "the writer stopped cleanly",
    },
    Case {
        open: &[Open::Incomplete],
        sealed: &[Sealed::Missing],
        action: Action::Cut,
        why: "the writer stopped inside a transaction; it was never acknowledged, and comes again",
    },
    Case {
        open: &[Open::Torn],
        sealed: &[Sealed::Missing],
        action: Action::Cut,
        why: "the writer stopped inside a write; it was never synced, so never acknowledged, and comes again",
    },
    Case {
        open: &[Open::Whole, Open::Incomplete],
        sealed: &[Sealed::Invalid],
        action: Action::RemoveSealed,
        why: "the sealed copy is damaged, but the open file that it was made from is whole",
    },
    Case {
        open: &[Open::Torn],
        sealed: &[Sealed::Invalid],
        action: Action::Damaged,
        why: "a segment is sealed only after all of it was synced, so the torn end is damage in both copies",
    },
    Case {
        open: &[Open::Damaged],
        sealed: &[Sealed::Missing, Sealed::Invalid],
        action: Action::Damaged,
        why: "what follows the bad block was acknowledged; cutting it off would lose it",
    },
];

/// The one row that fits.
pub(super) fn decide(open: Open, sealed: Sealed) -> &'static Case {
    CASES
        .iter()
        .find(|case| case.open.contains(&open) && case.sealed.contains(&sealed))
        .expect("the table has a row for every combination, as its test shows")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENS: [Open; 9] = [
        Open::Missing,
        Open::BadHeader,
        Open::Foreign,
        Open::Misnamed,
        Open::Newer,
        Open::Whole,
        Open::Incomplete,
        Open::Torn,
        Open::Damaged,
    ];
    const SEALED: [Sealed; 4] = [Sealed::Missing, Sealed::Valid, Sealed::Invalid, Sealed::Newer];

    #[test]
    fn every_combination_meets_exactly_one_row() {
        for open in OPENS {
            for sealed in SEALED {
                let rows =
                    CASES.iter().filter(|c| c.open.contains(&open) && c.sealed.contains(&sealed)).count();
                assert_eq!(rows, 1, "{open:?} with {sealed:?}");
            }
        }
        assert_eq!(CASES.iter().map(|case| case.open.len() * case.sealed.len()).sum::<usize>(), 36);
    }

    /// Cutting and removing are the only actions that lose bytes: each must have another copy, or
    /// bytes that were never acknowledged.
    #[test]
    fn nothing_acknowledged_is_ever_cut_off() {
        for open in OPENS {
            for sealed in SEALED {
                match decide(open, sealed).action {
                    Action::Cut => assert!(matches!(open, Open::Incomplete | Open::Torn)),
                    Action::RemoveOpen => assert_eq!(sealed, Sealed::Valid),
                    Action::RemoveSealed => assert!(matches!(open, Open::Whole | Open::Incomplete)),
                    _ => {}
                }
            }
        }
    }
}
