//! Resets a database after a test, again and again: `reset CONNECTION TIMES`. The test is the SQL in `TEST`, which psql
//! runs. Each line of the output is how long one reset took, in seconds; `make bench` reads them.

use std::process::{Command, ExitCode};

use backwhen::testing::{Error, TestDatabase};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let (Some(connection), Some(Ok(times))) = (words.get(1), words.get(2).map(|times| times.parse())) else {
        eprintln!("usage: TEST=SQL reset CONNECTION TIMES");
        return ExitCode::from(2);
    };
    match reset(connection, times, &std::env::var("TEST").unwrap_or_default()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn reset(connection: &str, times: u32, test: &str) -> Result<(), Error> {
    let mut database = TestDatabase::protect(connection)?;
    database.mark("seeded")?;
    for _ in 0..times {
        let tested = Command::new("psql").args(["-XAtqc", test, database.connection()]).status();
        assert!(tested.is_ok_and(|status| status.success()), "the test could not be run by psql");
        println!("{}", database.reset()?.took.as_secs_f64());
    }
    database.stop()
}
