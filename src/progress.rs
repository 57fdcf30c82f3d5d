//! Reports how far a long piece of work has come.

/// The unit in which a phase counts its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Rows,
    Tables,
    Transactions,
    Statements,
    Objects,
}

/// Receives reports of progress; only `cli::ui` shows them to a person.
pub trait Progress: Send + Sync {
    /// Begins a new phase, which ends the one before. `total` is 0 if it is not known.
    fn phase(&self, name: &str, total: u64, unit: Unit);

    /// Adds `count` to the progress of the current phase.
    fn advance(&self, count: u64);
}

/// Receives reports and shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _name: &str, _total: u64, _unit: Unit) {}

    fn advance(&self, _count: u64) {}
}
