//! Where options come from: flags beat the environment, the environment beats `backwhen.toml`.

use crate::support::shop::{assert_says, captured_shop, shop};
use crate::support::{Backwhen, Server};

/// Runs `status` and returns exit code, standard output and standard error.
fn status(backwhen: &Backwhen, arguments: &[&str], environment: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = backwhen.command(&[&["status", "--offline"], arguments].concat());
    command.env_remove("BACKWHEN_HISTORY").envs(environment.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn flag_over_environment_over_file() {
    let backwhen = captured_shop(&Server::shared(None));
    let history = backwhen.history();
    let history = history.to_str().unwrap();
    let file = backwhen.folder().join("backwhen.toml");

    let (code, _, message) = status(&backwhen, &[], &[]);
    assert_eq!(code, 2);
    assert_says(&message, &["no history is named", "--history", "BACKWHEN_HISTORY"]);

    // The file in the folder it is run from.
    std::fs::write(&file, format!("history = '{history}'\noutput = 'json'\n[status]\noffline = true\n"))
        .unwrap();
    let (code, shown, message) = status(&backwhen, &[], &[]);
    assert_eq!(code, 0, "{message}");
    assert!(shown.starts_with('{'), "{shown}");
    let (_, shown, _) = status(&backwhen, &[], &[("BACKWHEN_OUTPUT", "text")]);
    assert!(shown.starts_with("state"), "{shown}");
    let (_, shown, _) = status(&backwhen, &["--output", "json"], &[("BACKWHEN_OUTPUT", "text")]);
    assert!(shown.starts_with('{'), "{shown}");
    let (code, _, message) = status(&backwhen, &[], &[("BACKWHEN_HISTORY", "/not/there")]);
    assert_eq!(code, 14);
    assert_says(&message, &["/not/there"]);
    let (code, ..) = status(&backwhen, &["--history", history], &[("BACKWHEN_HISTORY", "/not/there")]);
    assert_eq!(code, 0);

    // A file that is named.
    let other = backwhen.folder().join("other.toml");
    std::fs::write(&other, "history = '/nowhere'\n").unwrap();
    let other = other.to_str().unwrap();
    for (arguments, environment) in
        [(&["--config", other][..], &[][..]), (&[], &[("BACKWHEN_CONFIG", other)])]
    {
        let (code, _, message) = status(&backwhen, arguments, environment);
        assert_eq!(code, 14);
        assert_says(&message, &["/nowhere"]);
    }
}

#[test]
fn a_file_with_mistakes_is_refused_by_name() {
    let backwhen = shop(&Server::shared(None));
    let file = backwhen.folder().join("backwhen.toml");
    for (text, pieces) in [
        ("histroy = 'x'\n", &["backwhen.toml", "histroy is no option", "backwhen help"][..]),
        ("[recover]\nnojobs = 1\n", &["nojobs in [recover]"]),
        ("[rescue]\njobs = 1\n", &["[rescue]"]),
        ("history = \n", &["backwhen.toml is not TOML"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let (code, _, message) = status(&backwhen, &[], &[]);
        assert_eq!(code, 2, "{text}");
        assert_says(&message, pieces);
    }
    std::fs::remove_file(&file).unwrap();
    let (code, _, message) = status(&backwhen, &["--config", "/no/such/file.toml"], &[]);
    assert_eq!(code, 2);
    assert_says(&message, &["/no/such/file.toml is not there"]);
}

#[test]
fn environment_variables_stand_for_options() {
    let server = Server::shared(None);
    let backwhen = shop(&server);
    let source = backwhen.source();
    let script = backwhen.folder().join("shop.sql");
    let into = format!("sql:{}", script.display());
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = backwhen.command(arguments).envs(environment.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["init"], &[("BACKWHEN_SOURCE", &source), ("BACKWHEN_JOBS", "1")]);
    run(
        &["capture"],
        &[("BACKWHEN_UNTIL", "caught-up"), ("BACKWHEN_HEARTBEAT", "1s"), ("BACKWHEN_QUIET", "true")],
    );
    run(&["recover", "--to", "latest"], &[("BACKWHEN_INTO", &into), ("BACKWHEN_NO_PROGRESS", "true")]);
    assert!(script.exists());
    // libpq's own variables name a source as well.
    let (host, port) =
        (server.psql("postgres", "SHOW unix_socket_directories"), server.psql("postgres", "SHOW port"));
    let libpq = [
        ("PGHOST", host.as_str()),
        ("PGPORT", &port),
        ("PGUSER", "postgres"),
        ("PGDATABASE", backwhen.database()),
    ];
    assert!(run(&["check"], &libpq).contains("public.orders"));
}

#[test]
fn quiet_says_only_results_and_errors() {
    let backwhen = shop(&Server::shared(None));
    let begun = backwhen.run(&["init", "--source", &backwhen.source(), "--quiet"]);
    assert!(begun.status.success() && begun.stdout.contains("history"));
    assert_eq!(begun.stderr, "");
    let captured = backwhen.run(&["capture", "--until", "caught-up", "--quiet"]);
    assert!(captured.stdout.starts_with("captured up to "));
    assert_eq!(captured.stderr, "");
    let loud = backwhen.run(&["capture", "--until", "caught-up"]);
    assert!(loud.stderr.contains("streaming from"), "{}", loud.stderr);
    let failed = backwhen.run(&["recover", "--to", "0/1", "--dry-run", "--quiet"]);
    assert!(failed.stderr.starts_with("backwhen: 0/1 is outside the window"), "{}", failed.stderr);
    assert_eq!(failed.stdout, "");
}

#[test]
fn usage_errors_exit_with_2() {
    let backwhen = shop(&Server::shared(None));
    for arguments in [
        &[][..],
        &["nonsense"],
        &["recover"],
        &["recover", "--to", "latest"],
        &["capture", "--until", "tomorrow"],
        &["capture", "--heartbeat", "often"],
        &["list"],
        &["list", "tables"],
        &["status", "--output", "xml"],
        &["status", "--no-such-option"],
        &["status", "--history", "ftp://bucket/shop"],
        &["mark", ""],
    ] {
        let output = backwhen.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}{}", output.stdout, output.stderr);
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["help", "recover"]] {
        assert!(backwhen.ok(arguments).contains("backwhen"));
    }
}
