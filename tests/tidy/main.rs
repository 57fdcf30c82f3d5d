//! The repository keeps its own rules: who imports whom, the size and names of files, no test that
//! nobody runs, no link that leads nowhere.

#![allow(clippy::disallowed_methods, reason = "tests spoil files and wait for clocks by themselves")]

mod circles;
mod doors;
mod sleeps;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of a file in `src`.
const LONGEST: usize = 500;

/// Modules that everybody but `model` may import, and what they import themselves; `model` only knows what an error is.
const OPEN: &[(&str, &[&str])] =
    &[("error", &[]), ("ambient", &["error"]), ("progress", &[]), ("hostile", &["error"])];

/// The crate's own roots, which import what they begin.
const ROOTS: &[(&str, &[&str])] = &[("lib", &[]), ("main", &["cli"])];

/// Each other module with all the others that it may import.
const IMPORTS: &[(&str, &[&str])] = &[
    ("model", &["error"]),
    ("codec", &["model"]),
    ("signal", &["model"]),
    ("connect", &[]),
    ("pgtools", &["connect", "model"]),
    ("store", &["model"]),
    ("history", &["model", "signal", "store"]),
    ("source", &["model", "codec", "connect", "history", "pgtools", "signal"]),
    ("follow", &["model", "codec", "history", "signal"]),
    ("fold", &["model", "codec", "history", "follow", "signal"]),
    ("past", &["model", "codec", "history", "follow", "fold", "signal", "store"]),
    ("prove", &["model", "codec", "history", "fold", "past"]),
    ("travel", &["model", "codec", "history", "follow", "fold", "past", "signal"]),
    (
        "protect",
        &[
            "model", "codec", "history", "follow", "fold", "past", "signal", "store", "connect", "pgtools",
            "source",
        ],
    ),
    ("capture", &["model", "history", "signal", "store", "connect", "pgtools", "source", "protect"]),
    ("recover", &["model", "codec", "history", "fold", "past", "signal", "connect", "pgtools", "store"]),
    ("serve", &["model", "connect", "recover"]),
    ("bisect", &["model", "follow", "fold", "past", "travel", "connect", "recover", "store"]),
    (
        "rewind",
        &[
            "model", "codec", "history", "follow", "fold", "past", "travel", "signal", "connect", "source",
            "recover",
        ],
    ),
    (
        "testing",
        &[
            "model", "history", "past", "connect", "pgtools", "source", "protect", "capture", "recover",
            "rewind", "store",
        ],
    ),
    (
        "cli",
        &[
            "model", "history", "past", "prove", "signal", "store", "connect", "pgtools", "source",
            "protect", "capture", "recover", "rewind", "travel", "bisect", "serve",
        ],
    ),
];

/// Where segments of the journal may be opened besides in the journal itself: in the table that opens each once.
const OPENERS: &[&str] = &["src/history/segments.rs"];

/// What reads and writes servers; the history and all below it do without.
const SERVERS: &[&str] = &["tokio", "tokio_postgres", "postgres_protocol", "crate::connect"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// `model` for `src/model/lsn.rs` as for `src/model.rs`.
fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).expect("it lies in src");
    let first = inside.components().next().expect("it has a name").as_os_str();
    Path::new(first).file_stem().expect("it has a name").to_string_lossy().into_owned()
}

/// Modules named in paths that begin with `crate::`, also in `use crate::{a, b::c}`.
fn imported(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(top_level(list).into_iter().map(|item| first_word(&item))),
            None => {
                found.insert(first_word(rest));
            }
        }
    }
    // Items of the crate's root, such as macros.
    found.retain(|name| !name.is_empty() && name.starts_with(|c: char| c.is_ascii_lowercase()));
    found
}

/// The items of a list of imports, without those in braces inside it.
fn top_level(list: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut depth = 0;
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ if depth == 0 => items.last_mut().expect("there is one").push(c),
            _ => {}
        }
    }
    items
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

#[test]
fn modules_import_only_what_the_design_lets_them() {
    let mut faults = Vec::new();
    for path in files("src", "rs") {
        let module = module_of(&path);
        let mut rows = IMPORTS.iter().chain(OPEN).chain(ROOTS);
        let Some((_, allowed)) = rows.find(|(name, _)| *name == module) else {
            faults.push(format!("{} belongs to a module without a row of imports", name(&path)));
            continue;
        };
        for other in imported(&fs::read_to_string(&path).unwrap()) {
            let open = module != "model" && OPEN.iter().any(|(name, _)| *name == other);
            if other != module && !open && !allowed.contains(&other.as_str()) {
                faults.push(format!("{} imports crate::{other}", name(&path)));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// A row for a module that is gone would be free for the next one of that name.
#[test]
fn every_row_of_imports_is_about_a_module() {
    let modules: BTreeSet<_> = files("src", "rs").iter().map(|path| module_of(path)).collect();
    for (module, allowed) in IMPORTS.iter().chain(OPEN).chain(ROOTS) {
        for name in std::iter::once(module).chain(*allowed) {
            assert!(modules.contains(*name), "{name} in the row of {module} is no module");
        }
    }
}

/// A module that opens a segment by itself reads the same blocks again, and perhaps another state of the open segment.
#[test]
fn segments_are_opened_in_one_place() {
    for path in files("src", "rs") {
        let place = name(&path);
        if place.starts_with("src/history/journal/") || OPENERS.contains(&place.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let opens =
            text.lines().find(|line| !line.trim_start().starts_with("//") && line.contains("Segment::open("));
        assert!(
            opens.is_none(),
            "{place}: {}; ask the timeline's view of it instead",
            opens.unwrap_or_default()
        );
    }
}

/// A fold is put together where the past of a moment is known, so that nobody forgets a part of it.
#[test]
fn folds_begin_in_one_place() {
    for path in
        files("src", "rs").into_iter().filter(|path| !["fold", "past"].contains(&module_of(path).as_str()))
    {
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains("fold::FoldInput"),
            "{} puts together a fold; ask a Past instead",
            name(&path)
        );
    }
}

#[test]
fn the_history_and_what_lies_below_it_know_no_server() {
    for path in files("src", "rs") {
        let below =
            ["model", "codec", "signal", "store", "history", "follow", "fold", "past", "prove", "travel"];
        if !below.contains(&module_of(&path).as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for server in SERVERS {
            let known = code.iter().find(|line| line.contains(&format!("{server}::")));
            assert!(known.is_none(), "{}: {}", name(&path), known.unwrap_or(&""));
        }
    }
}

/// Words that only SQL and its senders have.
const SQL: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "DELETE FROM ",
    "LOCK TABLE ",
    "\"BEGIN",
    "\"COMMIT",
    "\"SET ",
    "\"SHOW ",
    "pg_catalog.",
    ".query(",
    ".query_one(",
    ".query_opt(",
    ".query_raw(",
    ".query_typed",
    ".simple_query(",
    ".batch_execute(",
    ".execute(",
    ".prepare(",
    ".copy_in(",
    ".copy_out(",
    "tokio_postgres",
];

/// Lines of code before the tests of a file.
fn code_lines(text: &str) -> Vec<&str> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect()
}

/// Queries to the protected database stand in `source`, each as a named function with a named answer.
#[test]
fn only_the_source_speaks_sql_to_the_protected_database() {
    let mut faults = Vec::new();
    for path in files("src", "rs") {
        if !["capture", "protect", "rewind", "cli"].contains(&module_of(&path).as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let spoken = code_lines(&text).into_iter().filter(|line| SQL.iter().any(|word| line.contains(word)));
        faults.extend(spoken.map(|line| format!("{}: {}", name(&path), line.trim())));
    }
    assert!(faults.is_empty(), "move these into source: {faults:#?}");
}

/// The command line makes one token from the signals and passes it down; below, nobody listens to the process.
#[test]
fn only_the_command_line_hears_signals() {
    let mut faults = Vec::new();
    for path in files("src", "rs") {
        let text = fs::read_to_string(&path).unwrap();
        let hears = |line: &&str| line.contains("heed_signals") || line.contains("signal::unix");
        let open = ["cli", "ambient"].contains(&module_of(&path).as_str());
        let heard = code_lines(&text).into_iter().find(hears).filter(|_| !open);
        faults.extend(heard.map(|line| format!("{}: {}", name(&path), line.trim())));
    }
    assert!(faults.is_empty(), "take a CancellationToken instead: {faults:#?}");
}

#[test]
fn sql_is_recognised() {
    let text = "// SELECT 1\nlet row = client.query_one(QUERY, &[]).await;\nlet set = \"SET a = 1\";\n\
                let fine = settings();\n#[cfg(test)]\nmod tests {\n    \"SELECT 1\"\n}";
    let lines = code_lines(text).into_iter().filter(|line| SQL.iter().any(|word| line.contains(word)));
    assert_eq!(lines.count(), 2);
}

/// Calls that wait for the history's disk.
const WAITS_FOR_DISK: &[&str] = &[
    "Catalog::open(",
    ".synchronise(",
    "Timeline::read(",
    "Segment::open(",
    "Writer::open(",
    "Seam::new(",
    ".draft(",
    ".put_file(",
    ".put_content(",
    "journal::seal(",
    "packs.finish(",
    ".read_checkpoint(",
    ".current_epoch(",
    ".keep_evidence(",
    ".lock_checkpoint(",
    "history.hold_objects(",
    "live::read(",
    "Board::new(",
    "write_now(",
    "files::",
    "fs::",
    "epoch::begin(",
    "checkpoint::publish(",
    " publish(history",
    "fold_newest(",
    "fold_to(",
    "read_json",
    "write_json",
    "read_object",
    "write_object",
];

/// Functions that run while no stream is open, so that there is nothing to confirm.
const BEFORE_A_STREAM: &[&str] = &["init", "run", "undo_killed_init", "withdraw"];

/// Name and body of each `async fn`.
fn async_functions(text: &str) -> Vec<(String, String)> {
    let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for (at, keyword) in code.match_indices("async fn ") {
        let rest = &code[at + keyword.len()..];
        let Some((_, body)) = rest.split_once(" {\n") else { continue };
        found.push((first_word(rest), inside(body, '{', '}').to_owned()));
    }
    found
}

/// Returns the part of `text` before the bracket that closes the one in front of it.
fn inside(text: &str, open: char, close: char) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            _ if c == close && depth == 0 => return &text[..at],
            _ if c == close => depth -= 1,
            _ if c == open => depth += 1,
            _ => {}
        }
    }
    text
}

/// `body` without what it hands to `ambient::blocking`, or to a closure that is handed on under a name.
fn on_its_own_thread(body: &str) -> String {
    let mut left = body.to_owned();
    while let Some((before, after)) = left.split_once("blocking(") {
        left = format!("{before}{}", &after[inside(after, '(', ')').len()..]);
    }
    while let Some((before, after)) = left.split_once("move || ") {
        let end = match after.strip_prefix('{') {
            Some(block) => inside(block, '{', '}').len() + 1,
            None => after.find(";\n").unwrap_or(after.len()),
        };
        left = format!("{before}{}", &after[end..]);
    }
    left
}

/// Capture confirms from one thread: what waits for a disk there, beside the stream, delays what the server hears.
#[test]
fn what_runs_beside_a_stream_waits_for_the_disk_in_other_threads() {
    let mut faults = Vec::new();
    for path in files("src", "rs") {
        if !["capture", "protect"].contains(&module_of(&path).as_str()) {
            continue;
        }
        for (function, body) in async_functions(&fs::read_to_string(&path).unwrap()) {
            let body = on_its_own_thread(&body);
            let waits = WAITS_FOR_DISK.iter().filter(|call| body.contains(**call));
            let waits = waits.filter(|_| !BEFORE_A_STREAM.contains(&function.as_str()));
            faults.extend(waits.map(|call| format!("{}: {function} calls {call}", name(&path))));
        }
    }
    assert!(faults.is_empty(), "hand these to ambient::blocking: {faults:#?}");
}

#[test]
fn calls_that_wait_are_recognised() {
    let text = "impl A {\n    pub async fn a(&self) -> Result<()> {\n        let x = ambient::blocking(\"w\", move || {\n            Catalog::open(&h)\n        });\n        let y = move || store.draft(kind);\n        x.await?;\n        history.current_epoch()?;\n    }\n    fn b() { Catalog::open(&h) }\n}";
    let functions = async_functions(text);
    let [(name, body)] = &functions[..] else { panic!("{functions:?}") };
    let body = on_its_own_thread(body);
    let waits: Vec<_> = WAITS_FOR_DISK.iter().filter(|call| body.contains(**call)).collect();
    assert_eq!((name.as_str(), waits), ("a", vec![&".current_epoch("]));
}

#[test]
fn imports_are_recognised() {
    let text =
        "use crate::{error::{Error, Kind}, model};\n// use crate::source;\ncrate::fold::fold(); crate::Thing";
    let expected = ["error", "fold", "model"].map(str::to_owned);
    assert_eq!(imported(text), BTreeSet::from(expected));
}

#[test]
fn files_are_short_and_named_for_what_they_are_about() {
    for path in files("src", "rs").into_iter().chain(files("tests", "rs")) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        let in_src = path.starts_with(root().join("src"));
        assert!(
            !in_src || lines <= LONGEST,
            "{} has {lines} lines; cut it where its subjects part",
            name(&path)
        );
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let nameless =
            ["utils", "util", "common", "types", "manager", "helpers", "misc"].contains(&stem.as_str());
        assert!(!nameless, "{} is named for nothing", name(&path));
    }
}

/// A module that nobody declares is never compiled, and its tests never fail.
#[test]
fn every_file_is_a_module_of_something() {
    for path in files("src", "rs").into_iter().chain(files("tests", "rs")) {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let parent = path.parent().unwrap();
        let is_root = ["main", "lib"].contains(&stem.as_str()) || parent == root().join("tests");
        if is_root {
            continue;
        }
        // `a/mod.rs` and `a.rs` are declared as `a`.
        let (module, folder) = match stem.as_str() {
            "mod" => (parent.file_name().unwrap().to_string_lossy().into_owned(), parent.parent().unwrap()),
            _ => (stem, parent),
        };
        let by_folder = folder.with_extension("rs");
        let mut declarers = ["mod.rs", "lib.rs", "main.rs"].map(|file| folder.join(file)).to_vec();
        declarers.push(by_folder);
        let declared = declarers.iter().any(|file| has_line(file, &format!("mod {module};")))
            || files_in(folder).iter().any(|file| has_line(file, &format!("#[path = \"{module}.rs\"]")));
        assert!(declared, "no file declares mod {module}: {}", name(&path));
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

/// Whether a line is this one, whoever may see it.
fn has_line(file: &Path, wanted: &str) -> bool {
    let Ok(text) = fs::read_to_string(file) else { return false };
    let bare = |line: &str| {
        ["pub(crate) ", "pub(super) ", "pub "].iter().find_map(|it| line.strip_prefix(it)).map(str::to_owned)
    };
    text.lines().map(str::trim).any(|line| bare(line).as_deref().unwrap_or(line) == wanted)
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let mut documents = files("docs", "md");
    documents.extend(files("src", "md"));
    documents.extend(["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(|file| root().join(file)));
    for document in documents.iter().filter(|document| document.exists()) {
        let text = fs::read_to_string(document).unwrap();
        for target in links(&text) {
            let outside = target.contains("://") || target.starts_with("mailto:");
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() { document.clone() } else { document.parent().unwrap().join(file) };
            assert!(outside || path.exists(), "{} links to {target}, which is not there", name(document));
            if !outside && !anchor.is_empty() && path.extension().is_some_and(|it| it == "md") {
                let headings = headings(&fs::read_to_string(&path).unwrap());
                assert!(headings.contains(anchor), "{} links to {target}: no such heading", name(document));
            }
        }
    }
}

/// A promise is worth what its test is: one that is renamed or removed must not leave it behind.
#[test]
fn every_test_that_the_readme_names_for_a_promise_is_there() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, promises) = readme.split_once("## Promises").expect("the README has its promises");
    let promises = promises.split("\n## ").next().unwrap_or_default();
    let last_word = |code: &str| code.rsplit("::").next().unwrap_or_default().to_owned();
    let mut named: Vec<String> = promises.split('`').skip(1).step_by(2).map(last_word).collect();
    // Names of tests are sentences; shorter words in code are programs and settings.
    named.retain(|name| name.matches('_').count() >= 3);
    assert!(named.len() > 10, "the promises name their tests: {named:?}");
    let code: Vec<String> = files("src", "rs").into_iter().chain(files("tests", "rs")).map(read).collect();
    for name in named {
        let function = format!("fn {name}(");
        assert!(code.iter().any(|text| text.contains(&function)), "README.md names the test {name}");
    }
}

/// The same for every fault in RELIABILITY.md.
#[test]
fn every_test_that_shows_what_a_fault_does_is_there() {
    let text = fs::read_to_string(root().join("docs/RELIABILITY.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let named: Vec<_> = rows.flat_map(|line| line.split('`').skip(1).step_by(2)).collect();
    let code: Vec<String> = files("src", "rs").into_iter().chain(files("tests", "rs")).map(read).collect();
    let tests: Vec<_> = named.into_iter().filter(|name| name.matches('_').count() >= 3).collect();
    assert!(tests.len() > 40, "the faults name their tests: {tests:?}");
    for name in tests {
        let function = format!("fn {name}(");
        assert!(code.iter().any(|text| text.contains(&function)), "RELIABILITY.md names the test {name}");
    }
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

/// The targets of `[text](target)`, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        let pieces = if in_code { "" } else { line };
        for (at, mark) in pieces.match_indices("](") {
            let rest = &pieces[at + mark.len()..];
            let target = rest.split([')', ' ']).next().unwrap_or_default();
            found.push(target.to_owned());
        }
    }
    found
}

/// Anchors as GitHub makes them.
fn headings(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
    };
    headings.map(anchor).collect()
}
