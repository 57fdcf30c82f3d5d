//! The table of crash recovery: what the writer does with the segments that it finds, a row for each case.
//!
//! Only the epoch's newest segment matters: its `.open` file, its `.seg`, or both. Older open segments were finished before
//! the newest one was started, and only wait to be sealed.

/// The state in which the open form was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenForm {
    Missing,
    /// The header is cut short or its checksum does not agree.
    BadHeader,
    /// The header names another history.
    Foreign,
    /// The header names another epoch or start than the file's name.
    Misnamed,
    /// The header or a block is of a newer version.
    Newer,
    /// The file ends after a complete transaction.
    Whole,
    /// The file ends inside a transaction, at the end of a block.
    Incomplete,
    /// The file ends with bytes that were never synced.
    Torn,
    /// A block that was synced is bad, or blocks do not follow each other.
    Damaged,
}

impl OpenForm {
    pub(super) const ALL: [OpenForm; 9] = [
        OpenForm::Missing,
        OpenForm::BadHeader,
        OpenForm::Foreign,
        OpenForm::Misnamed,
        OpenForm::Newer,
        OpenForm::Whole,
        OpenForm::Incomplete,
        OpenForm::Torn,
        OpenForm::Damaged,
    ];
}

/// The state in which the sealed form of the same segment was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SealedForm {
    Missing,
    /// Every byte agrees with the digest, and the segment is of this history.
    Valid,
    Invalid,
    Newer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecoveryAction {
    /// Start the epoch's first segment at the frontier that the caller gives.
    Create,
    /// Start a segment at the end of the sealed one, with the relations in force there.
    ContinueSealed,
    /// Remove the open file, and go on as in `ContinueSealed`.
    RemoveOpen,
    Append,
    /// Cut off the bytes behind the last complete transaction, and append.
    Cut,
    /// Remove the sealed form, and go on as in `Cut`.
    RemoveSealed,
    /// Stop: bytes that were acknowledged are bad.
    Damaged,
    /// Stop: written by a newer backwhen.
    Newer,
    /// Stop: the file belongs to another history.
    Foreign,
}

pub(super) struct RecoveryCase {
    pub(super) open: &'static [OpenForm],
    pub(super) sealed: &'static [SealedForm],
    pub(super) action: RecoveryAction,
    /// Why the action is right. The log shows this text with the action.
    pub(super) why: &'static str,
}

pub(super) const CASES: &[RecoveryCase] = &[
    RecoveryCase {
        open: &[OpenForm::Missing],
        sealed: &[SealedForm::Missing],
        action: RecoveryAction::Create,
        why: "the epoch has no segment yet",
    },
    RecoveryCase {
        open: &[OpenForm::Missing],
        sealed: &[SealedForm::Valid],
        action: RecoveryAction::ContinueSealed,
        why: "the open segment had been sealed and removed, and no next one was started",
    },
    RecoveryCase {
        open: &[OpenForm::Missing],
        sealed: &[SealedForm::Invalid],
        action: RecoveryAction::Damaged,
        why: "where the epoch ends cannot be known while its last segment is damaged",
    },
    RecoveryCase {
        open: &OpenForm::ALL,
        sealed: &[SealedForm::Newer],
        action: RecoveryAction::Newer,
        why: "a newer backwhen has sealed here; what it left open may follow other rules",
    },
    RecoveryCase {
        open: &[OpenForm::Newer],
        sealed: &[SealedForm::Missing, SealedForm::Valid, SealedForm::Invalid],
        action: RecoveryAction::Newer,
        why: "a newer backwhen wrote the open segment; appending in an older format could spoil it",
    },
    RecoveryCase {
        open: &[OpenForm::Foreign],
        sealed: &[SealedForm::Missing, SealedForm::Valid, SealedForm::Invalid],
        action: RecoveryAction::Foreign,
        why: "the file was copied here from another history; neither may be touched",
    },
    RecoveryCase {
        open: &[OpenForm::BadHeader, OpenForm::Misnamed],
        sealed: &[SealedForm::Missing, SealedForm::Invalid],
        action: RecoveryAction::Damaged,
        why: "a segment gets its name only once its header is durable, so a crash cannot explain this",
    },
    RecoveryCase {
        open: &[
            OpenForm::BadHeader,
            OpenForm::Misnamed,
            OpenForm::Whole,
            OpenForm::Incomplete,
            OpenForm::Torn,
            OpenForm::Damaged,
        ],
        sealed: &[SealedForm::Valid],
        action: RecoveryAction::RemoveOpen,
        why: "the segment was sealed whole, and only the removal of the open file was interrupted",
    },
    RecoveryCase {
        open: &[OpenForm::Whole],
        sealed: &[SealedForm::Missing],
        action: RecoveryAction::Append,
        why: "the writer stopped cleanly",
    },
    RecoveryCase {
        open: &[OpenForm::Incomplete],
        sealed: &[SealedForm::Missing],
        action: RecoveryAction::Cut,
        why: "the writer stopped inside a transaction; it was never acknowledged, and comes again",
    },
    RecoveryCase {
        open: &[OpenForm::Torn],
        sealed: &[SealedForm::Missing],
        action: RecoveryAction::Cut,
        why: "the writer stopped inside a write; it was never synced, so never acknowledged, and comes again",
    },
    RecoveryCase {
        open: &[OpenForm::Whole, OpenForm::Incomplete],
        sealed: &[SealedForm::Invalid],
        action: RecoveryAction::RemoveSealed,
        why: "the sealed copy is damaged, but the open file that it was made from is whole",
    },
    RecoveryCase {
        open: &[OpenForm::Torn],
        sealed: &[SealedForm::Invalid],
        action: RecoveryAction::Damaged,
        why: "a segment is sealed only after all of it was synced, so the torn end is damage in both copies",
    },
    RecoveryCase {
        open: &[OpenForm::Damaged],
        sealed: &[SealedForm::Missing, SealedForm::Invalid],
        action: RecoveryAction::Damaged,
        why: "what follows the bad block was acknowledged; cutting it off would lose it",
    },
];

/// Returns the one row that fits.
pub(super) fn decide(open: OpenForm, sealed: SealedForm) -> &'static RecoveryCase {
    CASES
        .iter()
        .find(|case| case.open.contains(&open) && case.sealed.contains(&sealed))
        .expect("the table has a row for every combination, as its test shows")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEALED: [SealedForm; 4] =
        [SealedForm::Missing, SealedForm::Valid, SealedForm::Invalid, SealedForm::Newer];

    #[test]
    fn every_combination_meets_exactly_one_row() {
        for open in OpenForm::ALL {
            for sealed in SEALED {
                let rows =
                    CASES.iter().filter(|c| c.open.contains(&open) && c.sealed.contains(&sealed)).count();
                assert_eq!(rows, 1, "{open:?} with {sealed:?}");
            }
        }
        assert_eq!(CASES.iter().map(|case| case.open.len() * case.sealed.len()).sum::<usize>(), 36);
    }

    /// Cutting and removing are the only actions that lose bytes. There must be another copy of these bytes, or they must
    /// never have been acknowledged.
    #[test]
    fn nothing_acknowledged_is_ever_cut_off() {
        for open in OpenForm::ALL {
            for sealed in SEALED {
                match decide(open, sealed).action {
                    RecoveryAction::Cut => assert!(matches!(open, OpenForm::Incomplete | OpenForm::Torn)),
                    RecoveryAction::RemoveOpen => assert_eq!(sealed, SealedForm::Valid),
                    RecoveryAction::RemoveSealed => {
                        assert!(matches!(open, OpenForm::Whole | OpenForm::Incomplete))
                    }
                    _ => {}
                }
            }
        }
    }
}
