//! A test that sleeps is slow on a quick machine and fails on a slow one.

use std::fs;

use super::files;

/// The one place that sleeps for the others.
const WAITING: &str = "tests/servers/support/waiting.rs";

#[test]
fn a_test_waits_for_a_condition_or_says_why_it_sleeps() {
    for file in files("tests/servers", "rs").into_iter().filter(|file| !file.ends_with(WAITING)) {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let sleeps = line.trim_start().starts_with("sleep(") || line.contains("::sleep(");
            let has_reason = number > 0 && lines[number - 1].trim_start().starts_with("//");
            assert!(
                !sleeps || has_reason,
                "{}:{} sleeps: use support::wait_for, or say why in a comment above",
                file.display(),
                number + 1
            );
        }
    }
}
