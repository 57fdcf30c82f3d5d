//! `status` in Prometheus' text format: for a textfile collector, and for capture's own address.

use super::{CopyShown, StatusReport, grade, state_word, warnings};
use crate::capture::live::CopyStore;
use crate::capture::state::State;
use crate::model::PgTime;

/// The content type of what [`exposition`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A label's name and its value.
type Label<'a> = (&'a str, &'a str);

/// All metrics, in the order of their meaning. One that is not known now is left out.
pub fn exposition(shown: &StatusReport) -> String {
    let mut text = Text::of(shown);
    standing(&mut text, shown);
    behind(&mut text, shown);
    copied(&mut text, shown);
    held(&mut text, shown);
    proved(&mut text, shown);
    shown.outlook.expose(&mut text);
    text.out
}

fn standing(text: &mut Text, shown: &StatusReport) {
    text.labelled(
        "backwhen_build_info",
        "1; the version is a label.",
        &[(&[("version", env!("CARGO_PKG_VERSION"))], Some(1.0))],
    );
    let (level, _) = grade(shown);
    text.one("backwhen_level", "What status --nagios says: 0 OK, 1 WARNING, 2 CRITICAL.", f64::from(level));
    let warnings = warnings(shown);
    let warnings = warnings.map(|(reason, holds)| ([("reason", reason)], Some(f64::from(u8::from(holds)))));
    let warnings: Vec<_> = warnings.iter().map(|(label, value)| (&label[..], *value)).collect();
    text.labelled("backwhen_warning", "1 for each reason to warn that holds now.", &warnings);
    let all = State::ALL.map(Some).into_iter().chain([None]);
    let names: Vec<_> = all.map(|state| (state_word(state), state == shown.state)).collect();
    let states: Vec<_> =
        names.iter().map(|(name, is)| ([("state", name.as_str())], f64::from(u8::from(*is)))).collect();
    let states: Vec<_> = states.iter().map(|(label, value)| (&label[..], Some(*value))).collect();
    text.labelled("backwhen_state", "1 for the state of the protection cycle, 0 for the others.", &states);
    text.maybe(
        "backwhen_state_since_timestamp_seconds",
        "When it came into that state.",
        shown.since.map(unix_seconds),
    );
    text.flag("backwhen_capture_running", "A capture runs on the history.", shown.capture.running);
    text.flag("backwhen_source_reachable", "The source answered just now.", shown.reachable);
}

fn behind(text: &mut Text, shown: &StatusReport) {
    text.maybe(
        "backwhen_frontier_age_seconds",
        "From the last moment that is held until now; 0 if the source has nothing newer.",
        shown.lag.seconds,
    );
    text.maybe(
        "backwhen_frontier_lag_bytes",
        "Log of the source that is not in the history yet.",
        shown.lag.bytes.map(|bytes| bytes as f64),
    );
    let slot = &shown.slot;
    text.maybe(
        "backwhen_retained_wal_bytes",
        "Log that the slot keeps on the source.",
        slot.retained_bytes.map(|bytes| bytes as f64),
    );
    text.maybe(
        "backwhen_retained_wal_limit_bytes",
        "What it may keep, --max-retained-wal.",
        slot.max_retained_bytes.map(|bytes| bytes as f64),
    );
    let share = slot.retained_bytes.and(slot.max_retained_bytes).map(|_| slot.share());
    text.maybe("backwhen_retained_wal_ratio", "The one by the other: from 0.5 on it warns.", share);
    text.one(
        "backwhen_received_bytes_per_second",
        "What capture received lately.",
        shown.rates.bytes_per_second,
    );
}

fn copied(text: &mut Text, shown: &StatusReport) {
    let urls: Vec<_> = shown.copies.iter().map(|copy| [("url", copy.url.as_str())]).collect();
    let mut each = |name: &str, help: &str, value: &dyn Fn(&CopyShown) -> Option<f64>| {
        let samples: Vec<_> =
            urls.iter().zip(&shown.copies).map(|(label, copy)| (&label[..], value(copy))).collect();
        text.labelled(name, help, &samples);
    };
    each(
        "backwhen_copy_lag_seconds",
        "How long the copy has lacked something that the history holds.",
        &|it| it.lag.seconds,
    );
    each("backwhen_copy_lag_bytes", "Log of the source that is in the history and not in the copy.", &|it| {
        it.lag.bytes.map(|bytes| bytes as f64)
    });
    each("backwhen_copy_failing", "1 if the copy cannot be kept up to date now.", &|it| {
        Some(f64::from(u8::from(it.fault.is_some())))
    });
    each("backwhen_copy_could_lose", "How many of any of the copy's stores could be lost now.", &|it| {
        it.could_lose.map(|stores| stores as f64)
    });
    copy_stores(text, shown);
}

/// The stores of copies that are dispersed over several.
fn copy_stores(text: &mut Text, shown: &StatusReport) {
    let of =
        |copy: &'_ CopyShown| copy.stores.iter().map(|it| (copy.url.clone(), it.clone())).collect::<Vec<_>>();
    let stores: Vec<_> = shown.copies.iter().flat_map(of).collect();
    let labels: Vec<_> =
        stores.iter().map(|(url, it)| [("url", url.as_str()), ("store", it.store.as_str())]).collect();
    let mut each = |name: &str, help: &str, value: &dyn Fn(&CopyStore) -> Option<f64>| {
        let values = labels.iter().zip(&stores);
        let samples: Vec<_> = values.map(|(label, (_, it))| (&label[..], value(it))).collect();
        text.labelled(name, help, &samples);
    };
    each("backwhen_copy_store_away", "1 if that store of the copy does not answer now.", &|it| {
        Some(f64::from(u8::from(it.away.is_some())))
    });
    each("backwhen_copy_store_lacks", "Objects of which that store has no part.", &|it| {
        it.lacks.map(|objects| objects as f64)
    });
}

fn held(text: &mut Text, shown: &StatusReport) {
    let window = shown.window.as_ref();
    text.maybe(
        "backwhen_window_earliest_timestamp_seconds",
        "The oldest moment that can be recovered.",
        window.map(|window| unix_seconds(window.earliest.time)),
    );
    text.maybe(
        "backwhen_window_latest_timestamp_seconds",
        "The newest.",
        window.map(|window| unix_seconds(window.latest.time)),
    );
    text.one("backwhen_gaps", "Stretches in between that cannot be recovered.", shown.gaps.len() as f64);
    text.one("backwhen_checkpoints", "Checkpoints.", shown.checkpoints as f64);
    text.dated("backwhen_checkpoint", "The newest checkpoint's moment.", shown.newest, shown.now);
    let bytes = [("journal", shown.size.journal_bytes), ("checkpoints", shown.size.checkpoint_bytes)];
    let bytes = bytes.map(|(kind, bytes)| ([("kind", kind)], Some(bytes as f64)));
    let bytes: Vec<_> = bytes.iter().map(|(label, value)| (&label[..], *value)).collect();
    text.labelled("backwhen_history_bytes", "Bytes of the history's files.", &bytes);
    text.one("backwhen_segments", "Segments of the journal.", shown.segments as f64);
    text.one("backwhen_tables", "Tables whose rows are protected.", shown.tables as f64);
    text.one(
        "backwhen_unprotected_tables",
        "Tables whose rows are not, by their kind or for a fault.",
        shown.unprotected.len() as f64,
    );
}

fn proved(text: &mut Text, shown: &StatusReport) {
    let proof = shown.proof.as_ref();
    text.dated("backwhen_proof", "When the history was last proved.", proof.map(|it| it.finished), shown.now);
    text.maybe(
        "backwhen_proof_differences",
        "Tables that differed then.",
        proof.map(|it| it.differences.len() as f64),
    );
    text.maybe(
        "backwhen_proof_faults",
        "Objects that were damaged or missing then.",
        proof.map(|it| it.faults.len() as f64),
    );
}

fn unix_seconds(time: PgTime) -> f64 {
    time.to_utc().timestamp_micros() as f64 / 1e6
}

/// The text so far, and the labels that every sample bears: several histories may be on one machine.
pub(super) struct Text {
    out: String,
    labels: String,
}

impl Text {
    fn of(shown: &StatusReport) -> Text {
        let labels = format!(
            "database=\"{}\",slot=\"{}\"",
            escape_label(&shown.database),
            escape_label(&shown.slot.name)
        );
        Text { out: String::new(), labels }
    }

    fn one(&mut self, name: &str, help: &str, value: f64) {
        self.labelled(name, help, &[(&[], Some(value))]);
    }

    pub(super) fn maybe(&mut self, name: &str, help: &str, value: Option<f64>) {
        self.labelled(name, help, &[(&[], value)]);
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.one(name, help, f64::from(u8::from(value)));
    }

    /// When, and how long ago: the one stays right in a file that is written seldom.
    fn dated(&mut self, stem: &str, help: &str, when: Option<PgTime>, now: PgTime) {
        self.maybe(&format!("{stem}_timestamp_seconds"), help, when.map(unix_seconds));
        let age = when.map(|when| now.seconds_since(when).max(0.0));
        self.maybe(&format!("{stem}_age_seconds"), "Seconds since then.", age);
    }

    /// A metric with all its samples. All are gauges: what is counted here may become less.
    fn labelled(&mut self, name: &str, help: &str, samples: &[(&[Label<'_>], Option<f64>)]) {
        if samples.iter().all(|(_, value)| value.is_none()) {
            return;
        }
        self.out.push_str(&format!("# HELP {name} {}\n# TYPE {name} gauge\n", escape_help(help)));
        for (labels, value) in samples {
            let Some(value) = value else { continue };
            let own: String =
                labels.iter().map(|(name, value)| format!(",{name}=\"{}\"", escape_label(value))).collect();
            self.out.push_str(&format!("{name}{{{}{own}}} {value}\n", self.labels));
        }
    }
}

fn escape_label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn escape_help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_holds_any_name() {
        let mut text =
            Text { out: String::new(), labels: format!("database=\"{}\"", escape_label("a\"b\\c\nd")) };
        text.one("backwhen_gaps", "Gaps.", 3.0);
        text.maybe("backwhen_unknown", "Not known.", None);
        let expected = "# HELP backwhen_gaps Gaps.\n# TYPE backwhen_gaps gauge\n\
                        backwhen_gaps{database=\"a\\\"b\\\\c\\nd\"} 3\n";
        assert_eq!(text.out, expected);
    }
}
