//! How far a long piece of work has come, told to whoever shows it.

/// What a phase counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Rows,
    Tables,
    Transactions,
    Statements,
    Objects,
}

/// Hears of progress; only `cli::ui` shows it.
pub trait Progress: Send + Sync {
    /// A new phase, which ends the one before. `total` is 0 where it is not known.
    fn phase(&self, name: &str, total: u64, unit: Unit);

    /// More of the current phase is done.
    fn advance(&self, count: u64);
}

/// Shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _name: &str, _total: u64, _unit: Unit) {}

    fn advance(&self, _count: u64) {}
}
