//! The text of `backwhen status`.

use chrono::Local;

use super::{State, StatusReport, ui};
use crate::history::resolution;
use crate::model::PgTime;
use crate::model::inexact::insert_only_note;

pub(super) fn describe(shown: &StatusReport) -> String {
    let mut text = format!(
        "state        {}  ({})\n",
        format!("{:?}", shown.state).to_lowercase(),
        ui::printable(&shown.cause)
    );
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
    text.push_str(&format!(
        "holds        {} tables, {} checkpoints ({}), {} segments ({}), {} marks\n",
        shown.tables,
        shown.checkpoints,
        ui::bytes(shown.size.checkpoint_bytes),
        shown.segments,
        ui::bytes(shown.size.journal_bytes),
        shown.marks
    ));
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
