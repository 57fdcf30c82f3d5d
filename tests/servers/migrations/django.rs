//! A Django project whose migrations wait for this test's word, one by one.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rand::rngs::StdRng;

use crate::migrations::story::Migrations;
use crate::support::Backwhen;

/// `project.py`, which prints the names of its migrations and applies each when told to.
pub struct Project {
    python: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    names: Vec<String>,
}

impl Project {
    /// With Django from `packages`, for the database of `backwhen`.
    pub fn start(packages: &Path, backwhen: &Backwhen) -> Project {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/migrations/django");
        let mut python = Command::new("python3")
            .args(["-B", "project.py", &backwhen.source()])
            .current_dir(folder)
            .env("PYTHONPATH", packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let orders = python.stdin.take();
        let answers = BufReader::new(python.stdout.take().expect("stdout is piped"));
        let mut project = Project { python, orders, answers, names: Vec::new() };
        let names = project.answer();
        project.names = names.split_whitespace().map(str::to_owned).collect();
        project
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("its output can be read");
        assert!(line.ends_with('\n'), "Django ended: its message is above");
        line.trim().to_owned()
    }
}

impl Migrations for Project {
    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    fn apply(&mut self, number: usize, _: &Backwhen, _: &mut StdRng) {
        let name = self.names[number].clone();
        writeln!(self.orders.as_mut().expect("it takes orders"), "{name}").expect("Django lives");
        assert_eq!(self.answer(), format!("applied {name}"));
    }
}

/// It ends when nobody orders any more.
impl Drop for Project {
    fn drop(&mut self) {
        self.orders.take();
        let _ = self.python.wait();
    }
}
