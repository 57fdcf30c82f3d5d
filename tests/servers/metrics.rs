//! Metrics: in Prometheus' format, the same from `status` and from a running capture, whoever asks for them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::shop::{assert_says, captured_shop};
use crate::support::{Capture, Server, wait_for};

type Labels = BTreeMap<String, String>;

/// What a strict reader of the format finds: by name, the samples with their labels.
fn parse(text: &str) -> BTreeMap<String, Vec<(Labels, f64)>> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut found = BTreeMap::<String, Vec<(Labels, f64)>>::new();
    let mut current = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, about) = help.split_once(' ').expect("a help has a name and a text");
            assert!(is_name(name) && !about.is_empty(), "{line}");
            let kind = lines.next().unwrap_or_default();
            assert_eq!(kind, format!("# TYPE {name} gauge"));
            assert!(found.insert(name.to_owned(), Vec::new()).is_none(), "{name} is there twice");
            name.clone_into(&mut current);
            continue;
        }
        let (name, rest) = line.split_once('{').unwrap_or_else(|| panic!("no sample: {line}"));
        assert_eq!(name, current, "a sample of another metric");
        let (labels, value) = parse_labels(rest);
        let value = value.strip_prefix(' ').expect("a blank before the value");
        let value = value.parse().unwrap_or_else(|e| panic!("{e}: {line}"));
        let samples = found.get_mut(name).unwrap();
        assert!(samples.iter().all(|(other, _)| *other != labels), "twice: {line}");
        samples.push((labels, value));
    }
    assert!(found.values().all(|samples| !samples.is_empty()), "a metric without a sample");
    found
}

fn is_name(name: &str) -> bool {
    name.starts_with("backwhen_") && name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase())
}

/// The labels up to the closing brace, and what follows it.
fn parse_labels(text: &str) -> (Labels, &str) {
    let mut labels = Labels::new();
    let mut rest = text;
    loop {
        let (name, value) = rest.split_once("=\"").expect("a label has a value in quotes");
        assert!(!name.is_empty() && name.bytes().all(|b| b == b'_' || b.is_ascii_lowercase()), "{name}");
        let mut chars = value.char_indices();
        let mut plain = String::new();
        let end = loop {
            match chars.next().expect("a quote is closed") {
                (at, '"') => break at,
                (_, '\\') => plain.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, escaped @ ('\\' | '"'))) => escaped,
                    other => panic!("an escape that is none: {other:?}"),
                }),
                (_, plain_char) => plain.push(plain_char),
            }
        };
        assert!(labels.insert(name.to_owned(), plain).is_none(), "{name} is there twice");
        match value[end + 1..].split_at(1) {
            (",", more) => rest = more,
            ("}", after) => return (labels, after),
            (other, _) => panic!("after a label: {other:?}"),
        }
    }
}

/// The value of the one sample with this label, or of the one sample.
fn value(metrics: &BTreeMap<String, Vec<(Labels, f64)>>, name: &str, label: Option<(&str, &str)>) -> f64 {
    let samples = metrics.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", metrics.keys()));
    let fits =
        |labels: &Labels| label.is_none_or(|(name, value)| labels.get(name).is_some_and(|it| it == value));
    let found: Vec<_> = samples.iter().filter(|(labels, _)| fits(labels)).collect();
    assert_eq!(found.len(), 1, "{name}: {samples:?}");
    found[0].1
}

/// Where a capture that listens says that it does.
fn address(capture: &mut Capture<'_>) -> String {
    capture.wait_for_line("metrics at http://");
    let printed = capture.printed();
    let address = printed.split("metrics at http://").nth(1).unwrap();
    address.split('/').next().unwrap().to_owned()
}

/// What comes back for a request, until the other end closes.
fn ask(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // It may have been answered and closed before all of it was taken.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

fn scrape(address: &str) -> BTreeMap<String, Vec<(Labels, f64)>> {
    let answer = ask(address, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert_says(
        head,
        &["HTTP/1.1 200 OK", "text/plain; version=0.0.4", &format!("Content-Length: {}", body.len())],
    );
    parse(body)
}

#[test]
fn a_budget_that_is_nearly_used_up_shows_in_the_metrics_of_a_capture() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server).with_env("BACKWHEN_MAX_RETAINED_WAL", "200MB");
    backwhen.ok(&["verify", "--prove"]);
    let mut capture = backwhen.spawn_capture_with(&["--metrics-listen", "0"]);
    capture.allow("more than half of --max-retained-wal").allow("at --max-retained-wal");
    let address = address(&mut capture);
    capture.wait_caught_up();

    let calm = scrape(&address);
    assert_eq!(value(&calm, "backwhen_warning", Some(("reason", "retained_wal"))), 0.0);
    assert_eq!(value(&calm, "backwhen_state", Some(("state", "streaming"))), 1.0);
    assert_eq!(value(&calm, "backwhen_state", Some(("state", "lost"))), 0.0);
    assert_eq!(value(&calm, "backwhen_level", None), 0.0);
    assert_eq!(value(&calm, "backwhen_capture_running", None), 1.0);
    assert_eq!(value(&calm, "backwhen_gaps", None), 0.0);
    assert_eq!(value(&calm, "backwhen_proof_differences", None), 0.0);
    assert_eq!(value(&calm, "backwhen_retained_wal_limit_bytes", None), f64::from(200 << 20));
    for age in
        ["backwhen_frontier_age_seconds", "backwhen_checkpoint_age_seconds", "backwhen_proof_age_seconds"]
    {
        assert!((0.0..600.0).contains(&value(&calm, age, None)), "{age}");
    }
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - value(&calm, "backwhen_window_latest_timestamp_seconds", None)).abs() < 600.0);
    assert!(value(&calm, "backwhen_history_bytes", Some(("kind", "journal"))) > 0.0);
    let database = &calm["backwhen_gaps"][0].0["database"];
    assert_eq!(database, backwhen.database());

    let documented = include_str!("../../docs/METRICS.md");
    calm.keys()
        .for_each(|name| assert!(documented.contains(&format!("| `{name}` |")), "{name} is not documented"));

    // Until the next note of running transactions the slot keeps it, whoever has it.
    let log = "SELECT pg_logical_emit_message(false, 'backwhen-test', repeat('x', 1000000)) FROM generate_series(1, 120)";
    let begun = Instant::now();
    let much = loop {
        server.psql(backwhen.database(), log);
        let found = scrape(&address);
        if value(&found, "backwhen_retained_wal_ratio", None) >= 0.5 {
            break found;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{found:?}");
    };
    assert_eq!(value(&much, "backwhen_warning", Some(("reason", "retained_wal"))), 1.0);
    assert!(value(&much, "backwhen_level", None) >= 1.0);
    assert!(value(&much, "backwhen_retained_wal_bytes", None) >= f64::from(100 << 20));

    // The same from `status`, for a collector of files.
    let status = parse(&backwhen.ok(&["status", "--output", "prometheus"]));
    let names =
        |metrics: &BTreeMap<String, Vec<(Labels, f64)>>| metrics.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&status), names(&much));
    capture.stop();
    let offline = parse(&backwhen.ok(&["status", "--offline", "--output", "prometheus"]));
    assert_eq!(value(&offline, "backwhen_capture_running", None), 0.0);
    assert_eq!(value(&offline, "backwhen_source_reachable", None), 0.0);
    assert!(!offline.contains_key("backwhen_retained_wal_bytes"), "what is not known is left out");
    assert_says(&backwhen.fails(2, &["list", "gaps", "--output", "prometheus"]), &["goes with status"]);
}

#[test]
fn a_hostile_request_neither_ends_nor_holds_up_a_capture() {
    let server = Server::shared(None);
    let backwhen = captured_shop(&server);
    let mut capture = backwhen.spawn_capture_with(&["--metrics-listen", "127.0.0.1:0"]);
    let address = address(&mut capture);
    let long = [&b"GET /"[..], &vec![b'a'; 1 << 20], b" HTTP/1.1\r\n\r\n"].concat();
    for (request, expected) in [
        (&b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\nbackwhen!"[..], "405 Method Not Allowed"),
        (b"GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"GET /metrics/../../etc/passwd HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"\x00\xff\xfe\r\n\r\n", "400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400 Bad Request"),
        (b"GET /metrics", "400 Bad Request"),
    ] {
        let answer = ask(&address, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}\r\n")), "{request:?}: {answer}");
    }
    // The answer may be lost, as more comes than is read.
    assert!(!ask(&address, &long).contains("200 OK"));
    // More than there is room for, which say nothing or stop in the middle, and never go away.
    let mut silent: Vec<_> = (0..40).map(|_| TcpStream::connect(&address).unwrap()).collect();
    silent.iter_mut().step_by(2).for_each(|stream| {
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
    });
    server.psql(backwhen.database(), "INSERT INTO visits (page) VALUES ('/beside')");
    capture.wait_caught_up();
    // They are given up.
    wait_for("somebody else is answered", || !ask(&address, b"GET /metrics HTTP/1.1\r\n\r\n").is_empty());
    scrape(&address);
    let second = backwhen.run(&["capture", "--metrics-listen", &address]);
    assert_eq!(second.status.code(), Some(10), "{}", second.stderr);
    assert_says(&second.stderr, &["cannot listen", "--metrics-listen"]);
    capture.stop();
}

/// Whoever reaches the port learns that there are no figures; why is for those who read the log.
#[test]
fn an_answer_without_figures_names_no_server_and_no_path() {
    let backwhen = captured_shop(&Server::shared(None));
    let mut capture = backwhen.spawn_capture_with(&["--metrics-listen", "0"]);
    capture.allow("no figures for metrics");
    let address = address(&mut capture);
    capture.wait_caught_up();
    let folder = backwhen.history().join("evidence");
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::write(&folder, "no folder").unwrap();
    let begun = Instant::now();
    let answer = loop {
        let answer = ask(&address, b"GET /metrics HTTP/1.1\r\n\r\n");
        if !answer.contains("200 OK") {
            break answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{answer}");
    };
    assert_says(&answer, &["HTTP/1.1 503 Service Unavailable\r\n", "no figures now; see the log of capture"]);
    let history = backwhen.history().display().to_string();
    for named in [history.as_str(), "evidence", "host", "postgres"] {
        assert!(!answer.contains(named), "{answer}");
    }
    capture.wait_for_line("no figures for metrics");
    assert_says(&capture.printed(), &["cannot read", &history]);
    capture.stop();
}
