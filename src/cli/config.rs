//! `backwhen.toml`: options for cron and services.
//!
//! A key is an option's long name. At the top of the file it applies to every command with that option; in a table
//! named after a command it applies only to that command.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Command;
use toml::{Table, Value};

use crate::error::{Context, Error, Kind, Result};

const PLACES: [&str; 2] = ["backwhen.toml", "/etc/backwhen.toml"];

/// Makes the file's values the defaults of `command`, which flags and environment override.
///
/// # Errors
/// Fails with `Usage` if the file cannot be read, or contains a key that is not an option.
pub fn with_defaults(command: Command, arguments: &[OsString]) -> Result<Command> {
    match file(arguments)? {
        Some(path) => apply(command, &read(&path)?, &path),
        None => Ok(command),
    }
}

fn file(arguments: &[OsString]) -> Result<Option<PathBuf>> {
    let mut named = std::env::var_os("BACKWHEN_CONFIG").map(PathBuf::from);
    let mut words = arguments.iter().skip(1);
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if text == "--config" {
            named = words.next().map(PathBuf::from);
        } else if let Some(path) = text.strip_prefix("--config=") {
            named = Some(PathBuf::from(path));
        }
    }
    match named {
        Some(path) if path.exists() => Ok(Some(path)),
        Some(path) => Err(Error::usage(format!("configuration file {} is not there", path.display()))),
        None => Ok(PLACES.iter().map(PathBuf::from).find(|path| path.exists())),
    }
}

fn read(path: &Path) -> Result<Table> {
    let text =
        std::fs::read_to_string(path).context(Kind::Usage, || format!("cannot read {}", path.display()))?;
    text.parse().context(Kind::Usage, || format!("{} is not TOML", path.display()))
}

fn apply(mut command: Command, table: &Table, path: &Path) -> Result<Command> {
    let names: Vec<_> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    for (key, value) in table {
        if let Value::Table(own) = value {
            if !names.contains(key) {
                return Err(unknown(path, &format!("[{key}]")));
            }
            for (key_, value) in own {
                let mut found = false;
                command = command.mut_subcommand(key, |sub| set(sub, key_, value, &mut found));
                if !found {
                    return Err(unknown(path, &format!("{key_} in [{key}]")));
                }
            }
            continue;
        }
        let mut found = false;
        command = set(command, key, value, &mut found);
        for name in &names {
            command = command.mut_subcommand(name, |sub| set(sub, key, value, &mut found));
        }
        if !found {
            return Err(unknown(path, key));
        }
    }
    Ok(command)
}

fn set(command: Command, key: &str, value: &Value, found: &mut bool) -> Command {
    let own = |argument: &&clap::Arg| argument.get_long() == Some(key);
    let Some(id) = command.get_arguments().find(own).map(|argument| argument.get_id().clone()) else {
        return command;
    };
    *found = true;
    let values: Vec<String> = match value {
        Value::Array(values) => values.iter().map(text).collect(),
        value => vec![text(value)],
    };
    command.mut_arg(id, |argument| argument.required(false).default_values(values))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn unknown(path: &Path, key: &str) -> Error {
    Error::usage(format!("{}: {key} is no option; see: backwhen help", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn applied(text: &str) -> Result<Command> {
        apply(Cli::command(), &text.parse().expect("a test's own TOML"), Path::new("backwhen.toml"))
    }

    #[test]
    fn the_file_fills_in_what_the_command_line_leaves_out() {
        let command = applied("history = '/srv/shop'\n[recover]\njobs = 3\n").unwrap();
        let matches =
            command.try_get_matches_from(["backwhen", "recover", "--to", "latest", "--into", "x"]).unwrap();
        let (_, recover) = matches.subcommand().unwrap();
        assert_eq!(recover.get_one::<String>("history").map(String::as_str), Some("/srv/shop"));
        assert_eq!(recover.get_one::<usize>("jobs"), Some(&3));
    }

    #[test]
    fn what_is_no_option_is_refused_by_name() {
        for text in ["histroy = 'x'", "[recover]\nnojobs = 1", "[rescue]\njobs = 1"] {
            assert_eq!(applied(text).unwrap_err().kind(), Kind::Usage, "{text}");
        }
    }

    #[test]
    fn a_file_of_any_bytes() {
        let seeds = [
            "history = '/srv/shop'\n[recover]\njobs = 3\ntable = ['a.*', 'b']\n",
            "[copy]\nto = \"/mnt/copy\"\nquiet = true",
            "source = 'host=x password=y'\nheartbeat = '5s'",
        ];
        let seeds = seeds.map(|text| text.as_bytes().to_vec()).to_vec();
        crate::hostile::throw("configuration", seeds, |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return "no text".into() };
            let Ok(table) = text.parse::<Table>() else { return "no TOML".into() };
            match apply(Cli::command(), &table, Path::new("backwhen.toml")) {
                Err(error) => format!("{:?}", error.kind()),
                Ok(command) => {
                    let arguments = ["backwhen", "recover", "--to", "latest", "--into", "x"];
                    format!("{:?}", command.try_get_matches_from(arguments).map(drop).map_err(|it| it.kind()))
                }
            }
        });
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
