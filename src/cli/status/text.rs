//! `status` in words: for a person, and in one line for monitoring.

use chrono::Local;

use super::{StatusReport, state_word};
use crate::capture::live::Durability;
use crate::capture::state::State;
use crate::cli::{dispersal, ui};
use crate::history::resolution;
use crate::model::PgTime;
use crate::model::inexact::insert_only_note;

/// Each reason to warn, and whether it holds.
pub(super) fn warnings(shown: &StatusReport) -> [(&'static str, bool); 9] {
    [
        ("state", shown.state != Some(State::Streaming)),
        ("source", shown.source.starts_with("cannot")),
        ("lag", shown.lag.seconds.is_none_or(|seconds| seconds >= shown.lag_limits.0)),
        ("retained_wal", shown.slot.warning().is_some()),
        // Not for tables that are left out on purpose or by their kind: that alarm would never end.
        ("tables", shown.refused),
        ("event_triggers", shown.event_triggers.fault.is_some()),
        ("copies", shown.copies.iter().any(|copy| copy.needs_attention(shown.lag_limits.0))),
        ("needs", shown.outlook.needs_warn()),
        ("room", shown.outlook.room_warns()),
    ]
}

/// The exit code for monitoring, and its word.
pub(super) fn grade(shown: &StatusReport) -> (u8, &'static str) {
    let late = shown.lag.seconds.is_none_or(|seconds| seconds >= shown.lag_limits.1);
    // Where the first copy decides what is confirmed, the source retains WAL for as long as that copy is behind.
    let held = shown.copies.first().filter(|_| shown.durable == Durability::Store);
    let late = late || held.is_some_and(|copy| copy.lag.seconds.is_some_and(|it| it >= shown.lag_limits.1));
    match shown.state {
        Some(State::Lost) => (2, "CRITICAL"),
        _ if late || shown.slot.share() >= 1.0 || shown.outlook.room_is_critical() => (2, "CRITICAL"),
        _ if warnings(shown).iter().any(|(_, holds)| *holds) => (1, "WARNING"),
        _ => (0, "OK"),
    }
}

pub(super) fn nagios(shown: &StatusReport) -> (u8, String) {
    let (code, word) = grade(shown);
    let state = state_word(shown.state);
    // `U` is how a plug-in says that a value is not known.
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "U".to_owned(), |bytes| format!("{bytes}B"));
    let seconds = shown.lag.seconds.map_or_else(|| "U".to_owned(), |seconds| format!("{seconds:.1}s"));
    let mut text = format!("BACKWHEN {word} - {state}: {}", shown.cause);
    if shown.source.strip_prefix("cannot be asked: ").is_some_and(|why| text.contains(why)) {
        text.push_str("; the source cannot be asked");
    } else if shown.source.starts_with("cannot") {
        text.push_str(&format!("; the source {}", shown.source));
    }
    if let Some(warning) = shown.slot.warning() {
        text.push_str(&format!("; {warning}"));
    }
    // The tables that capture could not protect come first.
    if let Some(first) = shown.unprotected.first().filter(|_| shown.refused) {
        text.push_str(&format!("; not protected: {} ({})", first.table, first.reason));
    }
    if let Some(fault) = &shown.event_triggers.fault {
        text.push_str(&format!("; schema changes are no longer told by triggers: {fault}"));
    }
    for copy in shown.copies.iter().filter(|copy| copy.needs_attention(shown.lag_limits.0)) {
        text.push_str(&format!("; the copy {}", copy.describe()));
        copy.describe_stores().iter().for_each(|it| text.push_str(&format!("; {it}")));
    }
    for warning in shown.outlook.warnings() {
        text.push_str(&format!("; {warning}"));
    }
    // Of room that lasts for longer than anybody looks ahead, or is not known, there is no number.
    let days_left = shown.outlook.days_left().map_or_else(|| "U".to_owned(), |days| format!("{days:.1}"));
    text.push_str(&format!(
        " | lag_bytes={} lag_seconds={seconds};{};{} retained_wal={} gaps={} room_days={days_left}",
        bytes(shown.lag.bytes),
        shown.lag_limits.0,
        shown.lag_limits.1,
        bytes(shown.slot.retained_bytes),
        shown.gaps.len()
    ));
    (code, text)
}

pub(super) fn describe(shown: &StatusReport) -> String {
    let mut text = format!("state        {}  ({})\n", state_word(shown.state), ui::printable(&shown.cause));
    if let Some(last) = shown.transitions.last() {
        let word = |state: State| format!("{state:?}").to_lowercase();
        text.push_str(&format!(
            "changed      {}  {} to {}: {}\n",
            ui::both_times(last.at),
            word(last.from),
            word(last.to),
            ui::printable(&last.cause)
        ));
    }
    match &shown.window {
        Some(window) => text.push_str(&format!(
            "window from  {}  {}\n         to  {}  {}\n",
            ui::both_times(window.earliest.time),
            window.earliest.lsn,
            ui::both_times(window.latest.time),
            window.latest.lsn
        )),
        None => text.push_str("window       nothing can be recovered yet\n"),
    }
    if shown.resolution.len() > 1 {
        let day = |time: PgTime| time.to_utc().with_timezone(&Local).format("%Y-%m-%d").to_string();
        text.push_str(&format!("resolution   {}\n", resolution::describe(&shown.resolution, &day)));
    }
    for gap in &shown.gaps {
        let edge = |edge: Option<crate::model::Edge>| {
            edge.map_or_else(|| "?".to_owned(), |edge| format!("{} ({})", edge.time, edge.lsn))
        };
        text.push_str(&format!(
            "gap          {} to {}: {}\n",
            edge(gap.from),
            edge(gap.to),
            ui::printable(&gap.cause)
        ));
    }
    let lag_bytes = shown.lag.bytes.map_or_else(|| "unknown".to_owned(), ui::bytes);
    let lag_seconds =
        shown.lag.seconds.map_or_else(|| "unknown".to_owned(), |seconds| format!("{seconds:.1} s"));
    text.push_str(&format!("lag          {lag_bytes}, {lag_seconds}\n"));
    if shown.source.strip_prefix("cannot be asked: ").is_some_and(|why| text.contains(why)) {
        text.push_str("; the source cannot be asked");
    } else if shown.source.starts_with("cannot") {
        text.push_str(&format!("source       {}\n", ui::printable(&shown.source)));
    }
    let retained = shown.slot.retained_bytes.map_or_else(|| "unknown".to_owned(), ui::bytes);
    let wal_status = shown.slot.wal_status.as_deref().unwrap_or("unknown");
    let most = shown
        .slot
        .max_retained_bytes
        .map_or_else(String::new, |most| format!(" (at most {})", ui::bytes(most)));
    text.push_str(&format!(
        "slot         {} retains {retained} of WAL{most}, {wal_status}\n",
        shown.slot.name
    ));
    if let Some(warning) = shown.slot.warning() {
        text.push_str(&format!("warning      {}\n", ui::printable(&warning)));
    }
    for (number, copy) in shown.copies.iter().enumerate() {
        let decides = number == 0 && shown.durable == Durability::Store;
        let note = if decides { "; the source retains WAL until this copy has it" } else { "" };
        text.push_str(&format!("copy         {}{note}\n", ui::printable(&copy.describe())));
        for store in copy.describe_stores() {
            text.push_str(&format!("             {}\n", ui::printable(&store)));
        }
    }
    if let Some(survey) = &shown.dispersal {
        text.push_str(&dispersal::describe(survey, false));
    }
    text.push_str(&format!(
        "holds        {} tables, {} checkpoints ({}), {} segments ({}), {} marks\n",
        shown.tables,
        shown.checkpoints,
        ui::bytes(shown.size.checkpoint_bytes),
        shown.segments,
        ui::bytes(shown.size.journal_bytes),
        shown.marks
    ));
    text.push_str(&shown.outlook.describe());
    match &shown.proof {
        Some(proof) => text.push_str(&format!("proof        {}\n", proof.describe())),
        None => text.push_str("proof        none yet; see: backwhen verify --help\n"),
    }
    if let Some(known) = &shown.schema {
        let digested = match &shown.schema_digested {
            Some(at) => format!("digested on the source at {} ({})", at.lsn, at.time),
            None => "not digested on the source yet".to_owned(),
        };
        text.push_str(&format!("schema       {known}\ndefinitions  {digested}\n"));
    }
    if shown.schema_changed {
        text.push_str(
            "schema       changed since the newest checkpoint; capture is taking one that knows it\n",
        );
    }
    if let Some(fault) = &shown.event_triggers.fault {
        text.push_str(&format!(
            "triggers     schema changes are no longer told by triggers: {}\n",
            ui::printable(fault)
        ));
    }
    if let Some(encryption) = &shown.encryption {
        text.push_str(&format!(
            "encryption   key {}, opened by {}; {} can open it, see: backwhen key list\n",
            encryption.key,
            encryption.opened_by,
            encryption.recipients.len()
        ));
    }
    if shown.open_to_others {
        text.push_str(&format!("access       {}\n", ui::open_to_others(&shown.root)));
    }
    for left_out in &shown.unprotected {
        text.push_str(&format!(
            "unprotected  {}: {}\n",
            ui::printable(&left_out.table),
            ui::printable(&left_out.reason)
        ));
    }
    if let Some(note) = insert_only_note(shown.insert_only) {
        text.push_str(&format!("insert-only  {note}\n"));
    }
    for inexact in &shown.inexact {
        text.push_str(&format!(
            "not exact    {}: {}\n",
            ui::printable(&inexact.what),
            ui::printable(&inexact.why)
        ));
    }
    text
}
