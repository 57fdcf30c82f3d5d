//! The built program as a shell starts it: with another umask, or with its outputs led elsewhere.

use std::process::{Command, Stdio};

use crate::support::{Backwhen, Output};

/// Runs a command by `script`, in which `"$@"` stands for it.
pub fn run(backwhen: &Backwhen, script: &str, arguments: &[&str]) -> Output {
    let output = command(backwhen, script, arguments).stdin(Stdio::null()).output().expect("sh starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// The same, not started yet.
pub fn command(backwhen: &Backwhen, script: &str, arguments: &[&str]) -> Command {
    let direct = backwhen.command(arguments);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script, "sh"]).arg(direct.get_program()).args(direct.get_args());
    for (name, value) in direct.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.current_dir(direct.get_current_dir().expect("it has a folder"));
    shell
}
