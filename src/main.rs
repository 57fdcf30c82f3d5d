//! The `backwhen` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    backwhen::cli::main()
}
