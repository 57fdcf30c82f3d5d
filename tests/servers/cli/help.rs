//! The whole help of every command, as one file that a change of the command line changes too.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

const REFERENCE: &str = "tests/servers/cli/reference.md";

fn help(words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backwhen"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("BACKWHEN_") || text == "COLUMNS" {
            command.env_remove(&name);
        }
    }
    // The default of --jobs is the number of cores.
    let cores = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    let output = command.args(words).arg("--help").env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let text = text.replace(&format!("[default: {cores}]"), "[default: the number of cores, 2 to 8]");
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// The commands in the list of `backwhen --help`.
fn commands(help: &str) -> Vec<String> {
    let lines =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let named = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    named.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn the_reference_is_the_help() {
    let top = help(&[]);
    let commands = commands(&top);
    let expected = [
        "check",
        "init",
        "capture",
        "checkpoint",
        "mark",
        "status",
        "list",
        "recover",
        "verify",
        "copy",
        "repair",
        "drop",
    ];
    assert!(expected.iter().all(|name| commands.iter().any(|command| command == name)), "{commands:?}");
    let mut reference = String::from(
        "# The command line\n\nMade by `UPDATE_REFERENCE=1 cargo test --test servers cli::help`.\n",
    );
    write!(reference, "\n## backwhen\n\n```text\n{top}```\n").unwrap();
    for command in commands.iter().filter(|command| *command != "help") {
        write!(reference, "\n## backwhen {command}\n\n```text\n{}```\n", help(&[command])).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(REFERENCE);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &reference).unwrap();
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        known == reference,
        "{REFERENCE} is not the help any more; run: UPDATE_REFERENCE=1 cargo test --test servers cli::help"
    );
}

#[test]
fn restore_is_recover() {
    // clap names the command by its own name, in either case.
    assert_eq!(help(&["restore"]), help(&["recover"]));
}

#[test]
fn every_option_of_a_command_has_an_environment_variable_or_none_by_intent() {
    // What is said anew each time: patterns, labels, moments, and what changes what a command does.
    let by_hand = [
        "--help",
        "--version",
        "--verbose",
        "--to",
        "--at",
        "--create",
        "--before",
        "--reset",
        "--table",
        "--dry-run",
        "--include",
        "--exclude",
        "--label",
        "--reason",
        "--from-source",
        "--from",
        "--refill",
        "--against-source",
        "--restore",
        "--create-roles",
        "--on-demand",
        "--first",
        "--resume",
        "--schema-only",
        "--force",
        "--slot",
        "--strict",
        "--if-older-than",
        "--if-needed",
        "--despite-room",
        "--expire",
        "--apply",
        "--nagios",
        "--offline",
        "--prove",
        "--tables",
        "--since",
        "--until",
        "--op",
        "--min-rows",
        "--where",
        "--with-references",
        "--into-schema",
        "--except",
        "--keep-template",
        "--target",
        "--key",
        "--largest",
        "--newest",
        "--limit",
        "--sql",
        "--reverse",
        "--rows",
        "--good",
        "--bad",
        "--check",
        "--check-command",
        "--file",
        "--read-only",
        "--fdw",
    ];
    for command in commands(&help(&[])).iter().filter(|command| *command != "help") {
        // An option begins a line; what follows, up to the next one, is about it.
        let text = help(&[command]);
        let mut options = Vec::<String>::new();
        for line in text.lines().map(str::trim_start) {
            match options.last_mut() {
                Some(option) if !line.starts_with('-') => *option += &format!(" {line}"),
                _ => options.push(line.to_owned()),
            }
        }
        for option in options.iter().filter(|option| option.starts_with('-')) {
            let words: Vec<_> = option.split_whitespace().collect();
            let name = words.iter().find(|word| word.starts_with("--")).unwrap().trim_end_matches("...");
            let has_variable = words.join(" ").contains("[env: BACKWHEN_");
            assert!(has_variable || by_hand.contains(&name), "{command} {name} has no variable: {option}");
        }
    }
}

/// The jobs of cron and the timers of systemd are commands that this version knows.
#[test]
fn the_commands_in_contrib_are_well_formed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
    let files = ["cron/backwhen", "systemd/backwhen-capture.service", "systemd/backwhen-checkpoint.service"];
    let texts = files
        .into_iter()
        .chain(["systemd/backwhen-expire.service"])
        .map(|file| std::fs::read_to_string(folder.join(file)).unwrap());
    let texts: Vec<_> = texts.collect();
    let commands =
        texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.split_once("/bin/backwhen "));
    let commands: Vec<_> = commands.map(|(_, words)| words.trim_end_matches(" >/dev/null")).collect();
    assert_eq!(commands.len(), 7, "{commands:?}");
    for command in commands {
        let mut run = Command::new(env!("CARGO_BIN_EXE_backwhen"));
        let output = run.args(command.split_whitespace()).args(["--history", "/nowhere"]).output().unwrap();
        // There is no history, and nothing is wrong with the words.
        assert_eq!(output.status.code(), Some(14), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
