//! Measures the cost of encryption as ratios of one run: CPU of a capture, time of a recovery, and size.

use std::time::Instant;

use super::text;
use crate::support::scan::files;
use crate::support::{Backwhen, Server};

/// Runs a command; returns the seconds of CPU that it took, and the seconds on the clock.
fn cost(backwhen: &Backwhen, arguments: &[&str]) -> (f64, f64) {
    let plain = backwhen.command(arguments);
    let mut timed = std::process::Command::new("bash");
    timed.args(["-c", "TIMEFORMAT='cpu %U %S'; time \"$0\" \"$@\" >/dev/null 2>&1"]).arg(plain.get_program());
    timed.args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => timed.env(name, value),
            None => timed.env_remove(name),
        };
    }
    let begun = Instant::now();
    let output = timed.output().unwrap();
    let (took, said) = (begun.elapsed().as_secs_f64(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{arguments:?}: {said}");
    let cpu =
        said.rsplit("cpu ").next().unwrap().split_whitespace().map(|it| it.parse::<f64>().unwrap()).sum();
    (cpu, took)
}

fn size(backwhen: &Backwhen) -> f64 {
    files(&backwhen.history()).iter().map(|(_, bytes)| bytes.len() as f64).sum()
}

#[test]
#[ignore = "it measures; run it alone on an idle machine, with --nocapture"]
fn what_encryption_costs() {
    let server = Server::shared(None);
    let database = server.fresh_database("costs");
    server.psql(&database, "CREATE TABLE t (n int PRIMARY KEY, words text)");
    let plain = Backwhen::new(&server, &database);
    let sealed = Backwhen::new(&server, &database).encrypted();
    plain.init();
    sealed.init();
    let rounds = std::env::var("ROUNDS").map_or(3, |it| it.parse().unwrap());
    let mut captures = [(0.0, 0.0); 2];
    for round in 0..rounds {
        let sql = format!(
            "INSERT INTO t SELECT n, md5(n::text) || md5((n + 1)::text) FROM generate_series({round}00001, {round}80000) n;
             UPDATE t SET words = words || 'x' WHERE n % 3 = 0"
        );
        server.psql(&database, &sql);
        for (backwhen, sum) in [&plain, &sealed].into_iter().zip(&mut captures) {
            let (cpu, took) = cost(backwhen, &["capture", "--until", "caught-up"]);
            *sum = (sum.0 + cpu, sum.1 + took);
        }
    }
    let recover = |backwhen: &Backwhen, number: usize| {
        let into = format!("sql:{}", text(&backwhen.folder().join(format!("out-{number}.sql"))));
        cost(backwhen, &["recover", "--to", "latest", "--into", &into])
    };
    let mut recoveries = [(0.0, 0.0); 2];
    for number in 0..rounds {
        for (backwhen, sum) in [&plain, &sealed].into_iter().zip(&mut recoveries) {
            let (cpu, took) = recover(backwhen, number);
            *sum = (sum.0 + cpu, sum.1 + took);
        }
    }
    println!(
        "encrypted / in the clear: capture's CPU {:.3}, recovery's CPU {:.3}, recovery's time {:.3}, size {:.4} of {:.0} bytes",
        captures[1].0 / captures[0].0,
        recoveries[1].0 / recoveries[0].0,
        recoveries[1].1 / recoveries[0].1,
        size(&sealed) / size(&plain),
        size(&plain)
    );
}
