//! Files, clocks, randomness and temporary folders are reached through one door each. clippy.toml refuses the ways round
//! them; these tests say who may use such a way, and see to it that the rules keep their reasons.

use std::fs;

use super::{code_lines, files, name, root};

/// The modules that may reach what clippy.toml refuses, by the file that declares them.
const EXEMPT: &[&str] = &[
    "src/cli/mod.rs: mod config;",
    "src/connect/mod.rs: pub(crate) mod hosts;",
    "src/connect/mod.rs: mod passfile;",
    "src/connect/mod.rs: mod service;",
    "src/connect/mod.rs: mod tls;",
    "src/history/key.rs: mod file;",
    "src/lib.rs: pub mod ambient;",
    "src/lib.rs: pub mod pgtools;",
    "src/lib.rs: pub mod store;",
    "src/recover/mod.rs: pub mod archive;",
    "src/recover/mod.rs: pub mod definitions;",
    "src/recover/mod.rs: pub mod schema;",
    "src/recover/mod.rs: pub mod sink;",
];

/// Ways round the doors for clocks, randomness and temporary files. An exemption is from one lint, and so from all of
/// clippy's rules; these words stand in no module but `ambient` all the same.
const AMBIENT: &[&str] = &[
    "SystemTime::now(",
    "Instant::now(",
    "Utc::now(",
    "Local::now(",
    "getrandom::",
    "temp_dir()",
    "tempfile::tempfile",
    "tempfile::tempdir",
    "tempfile::Builder",
    "NamedTempFile::",
];

#[test]
fn only_named_modules_go_round_a_door() {
    let mut found = Vec::new();
    for path in files("src", "rs") {
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if !line.contains("clippy::disallowed_") || line.contains("cfg_attr(test, ") {
                continue;
            }
            // The attribute may stand on several lines.
            let mut declared = line;
            while !declared.ends_with(';') && !declared.ends_with('{') {
                declared = lines.next().unwrap_or(";");
            }
            found.push(format!("{}: {}", name(&path), declared.trim()));
        }
    }
    assert_eq!(found, EXEMPT);
}

#[test]
fn clocks_randomness_and_temporary_files_are_reached_through_ambient() {
    let mut faults = Vec::new();
    for path in files("src", "rs") {
        let place = name(&path);
        let open = ["src/ambient", "/tests", "hostile.rs", "store/conformance.rs"];
        if open.iter().any(|part| place.contains(part)) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let named = code_lines(&text).into_iter().find(|line| AMBIENT.iter().any(|word| line.contains(word)));
        faults.extend(named.map(|line| format!("{place}: {}", line.trim())));
    }
    assert!(faults.is_empty(), "ask crate::ambient instead: {faults:#?}");
}

/// The objects of a history have names and no paths.
#[test]
fn the_history_names_no_file_system() {
    for path in files("src/history", "rs").into_iter().chain(files("src/fold", "rs")) {
        let place = name(&path);
        if ["/tests", "hostile.rs", "/key/file.rs"].iter().any(|part| place.contains(part)) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let named =
            code_lines(&text).into_iter().find(|line| line.contains("fs::") && !line.contains("rustix"));
        // Sorted runs have no names, and go with the process.
        let named = named.filter(|_| place != "src/history/image/sort/run.rs");
        assert!(named.is_none(), "{place}: {}; ask the store instead", named.unwrap_or_default());
    }
}

#[test]
fn every_rule_of_clippy_says_why() {
    let rules = fs::read_to_string(root().join("clippy.toml")).unwrap();
    let paths = rules.lines().filter(|line| line.contains("path = "));
    assert!(paths.clone().count() > 40);
    paths.for_each(|line| assert!(line.contains("reason = \""), "{line}"));
}
