//! How a dispersed history is shown: a line for each store, and what could still be lost.

use super::ui;
use crate::store::{StoreState, Survey};

/// Describes what the stores have. `is_healed` says whether missing shards were made again.
pub(super) fn describe(survey: &Survey, is_healed: bool) -> String {
    let mut text = String::new();
    for (number, it) in survey.stores.iter().enumerate() {
        let state = describe_store(it, is_healed);
        text.push_str(&format!("store {number:<4}{}: {state}\n", ui::printable(&it.store)));
    }
    for shards in &survey.not_healed {
        text.push_str(&format!("NOT DONE  {}\n", ui::printable(shards)));
    }
    for fault in &survey.faults {
        text.push_str(&format!("DAMAGED   {}\n", ui::printable(fault)));
    }
    text.push_str(&format!("dispersed {}\n", margin(survey)));
    text
}

fn describe_store(it: &StoreState, is_healed: bool) -> String {
    let mut parts = Vec::new();
    if let Some(why) = &it.away {
        parts.push(format!("away ({})", ui::printable(why)));
    }
    for (count, word) in [(it.lacks, "lacks"), (it.damaged, "has damaged")] {
        if count > 0 {
            parts.push(format!("{word} {count}"));
        }
    }
    if is_healed && it.healed > 0 {
        parts.push(format!("made {} again", it.healed));
    }
    if it.would_lose > 0 {
        parts.push(format!("its loss would lose {} objects", it.would_lose));
    }
    if parts.is_empty() { "has all".to_owned() } else { parts.join(", ") }
}

/// How many stores may still be lost, in words.
fn margin(survey: &Survey) -> String {
    let Survey { objects, could_lose, m, .. } = survey;
    let mut text = format!("{objects} objects; any {could_lose} of the stores may be lost");
    if could_lose < m {
        text.push_str(&format!(", and not {m}: make what is missing again with: backwhen repair"));
    }
    if survey.remnants > 0 {
        text.push_str(&format!("; {} shards of unfinished puts are left over", survey.remnants));
    }
    text
}
