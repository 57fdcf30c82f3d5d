//! One object never costs the rest: what a target refuses is left out and named with its SQL, and all else comes back.
//! Each test compares the recovered database with the source, object by object.

mod odd;
mod places;
mod rows;
mod rules;

use serde_json::Value;

use crate::support::{Backwhen, Dump, Server, compare};

/// The exit code of a recovery without some objects.
const INCOMPLETE: i32 = 15;

fn protected(server: &Server, name: &str, schema: &str) -> Backwhen {
    let database = server.fresh_database(name);
    server.psql(&database, schema);
    let backwhen = Backwhen::new(server, &database);
    backwhen.init();
    backwhen
}

/// A recovery that left something out.
struct Recovered {
    report: Value,
    database: String,
    /// The source's objects that came back otherwise, as pg_dump sees them.
    differences: Vec<String>,
    /// The file that the recovery wrote.
    sql: String,
}

/// Recovers the source as it is now, or as it was at a moment from which it has not changed since.
fn recover(backwhen: &Backwhen, target: &Server, further: &[&str]) -> Recovered {
    recover_as("postgres", backwhen, target, further)
}

/// A member of the superusers, with the rights on their objects and without their own.
fn member(target: &Server) -> String {
    let member = format!("{}_member", target.fresh_database("without"));
    target.psql("postgres", &format!("CREATE ROLE {member} LOGIN CREATEDB; GRANT postgres TO {member}"));
    member
}

fn recover_as(role: &str, backwhen: &Backwhen, target: &Server, further: &[&str]) -> Recovered {
    let database = format!("{}_new", target.fresh_database("without"));
    let into = target.conninfo(&database).replace("user=postgres", &format!("user={role}"));
    let arguments = [&["recover", "--create", "--into", &into, "--output", "json", "--to"], further].concat();
    let output = backwhen.run(&arguments);
    assert_eq!(output.status.code(), Some(INCOMPLETE), "{}{}", output.stdout, output.stderr);
    let report: Value = serde_json::from_str(&output.stdout).expect("one JSON object");
    assert_eq!(report["proved"], true, "{report}");
    for object in report["left_out"].as_array().expect("a list") {
        let (what, why) = (&object["what"], object["why"].as_str().unwrap());
        let named = |it: &&Value| &it["what"] == what && it["why"].as_str().unwrap().starts_with(why);
        assert_eq!(
            report["inexact"].as_array().unwrap().iter().filter(named).count(),
            1,
            "{object}: {report}"
        );
        assert!(["what", "why", "sql"].iter().all(|field| object[field].is_string()), "{object}");
    }
    let file = report["left_out_file"].as_str().expect("a file");
    assert!(file.starts_with(&database) && file.ends_with(".sql"), "{file}");
    let sql = std::fs::read_to_string(backwhen.folder().join(file)).expect("the file is there");
    let truth = Dump::of(backwhen.server(), backwhen.database());
    let differences = compare(&truth, &Dump::of(target, &database));
    let differences = differences.into_iter().map(|it| it.object).collect();
    Recovered { report, database, differences, sql }
}

impl Recovered {
    fn left_out(&self) -> Vec<String> {
        let left_out = self.report["left_out"].as_array().unwrap().iter();
        left_out.map(|it| it["what"].as_str().unwrap().to_owned()).collect()
    }

    /// Exactly these objects are named as left out.
    #[track_caller]
    fn names(&self, what: &[&str]) {
        assert_eq!(self.left_out(), what, "{:#}", self.report["left_out"]);
    }

    /// Asserts that no object that was left out is named again as a difference between definitions.
    #[track_caller]
    fn names_each_once(&self) {
        let inexact = self.report["inexact"].to_string();
        assert!(!inexact.contains("what was to be recovered"), "{:#}", self.report["inexact"]);
    }

    /// Exactly these objects are otherwise than on the source.
    #[track_caller]
    fn differs_in(&self, objects: &[&str]) {
        assert_eq!(self.differences, objects, "{:#}", self.report["left_out"]);
    }

    #[track_caller]
    fn why(&self, text: &str) {
        let why = self.report["left_out"].to_string();
        assert!(why.contains(text), "no {text:?} in {why}");
    }
}
