//! `backwhen verify`

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::restore::{self, RestoreReport};
use super::{Surroundings, default_jobs, dispersal, left_out, not_exact, ui};
use crate::ambient;
use crate::capture::live;
use crate::error::{Error, Kind, Result, without_verify};
use crate::history::History;
use crate::history::evidence::{CheckMethod, Evidence};
use crate::history::segments::Segments;
use crate::history::timeline::Window;
use crate::history::verify::{self, AcknowledgedEnd, Findings};
use crate::model::{Edge, PgTime};
use crate::past::Reading;
use crate::progress::Progress;
use crate::prove::{self, Proof};
use crate::store::{LocalFolder, Survey};

/// Read every object of the history and check every checksum; the result is kept as evidence
#[derive(Args, Clone)]
pub struct Verify {
    /// Also fold each checkpoint forward and compare it with the next one
    #[arg(long)]
    prove: bool,
    /// Also recover into a throw-away database, and compare digests
    #[arg(long)]
    restore: bool,
    /// With --restore: a connection string to a server on which databases may be created
    #[arg(long, value_name = "CONN", env = "BACKWHEN_INTO", hide_env_values = true)]
    into: Option<String>,
    /// With --restore: the moment to recover
    #[arg(long, value_name = "MOMENT", default_value = "latest", allow_hyphen_values = true)]
    to: String,
    /// With --restore: keep a copy of the database on the server, and have later runs begin with the copy, change only the
    /// rows that differ, and read all rows back
    #[arg(long, requires = "restore")]
    keep_template: bool,
    /// With --restore: how many tables are loaded at the same time
    #[arg(long, env = "BACKWHEN_JOBS", value_name = "N", default_value_t = default_jobs())]
    jobs: usize,
}

#[derive(Serialize)]
struct VerifyReport {
    ok: bool,
    #[serde(flatten)]
    verified: Findings,
    proofs: Vec<Proof>,
    restored: Option<RestoreReport>,
    /// Why the recovery failed, if the history is at fault.
    not_restored: Option<String>,
    /// Whether other users of this machine may read or change the history.
    open_to_others: bool,
    #[serde(skip)]
    root: std::path::PathBuf,
    /// The name of the object that keeps this evidence.
    evidence: Option<String>,
    /// The findings about the stores of a dispersed history.
    dispersal: Option<Survey>,
}

impl Verify {
    pub async fn run(self, at: &Surroundings) -> Result<ExitCode> {
        let (history, _objects) = at.history_held()?;
        let target = if self.restore { Some(restore::target(&history, self.into.as_deref())?) } else { None };
        let mut evidence = Evidence::begun(CheckMethod::Read, PgTime::from_utc(ambient::now()));
        let progress = at.ui.progress();
        let (prove, history_) = (self.prove, history.clone());
        let work = ambient::blocking("verifying", move || read_and_prove(&history_, prove, &*progress));
        let without = |error: Error| Error::new(error.kind(), without_verify(&error.to_string()));
        let Verification { verified, proofs, window, dispersal } = work.await.map_err(without)?;
        evidence.from = window.as_ref().map(|window| window.earliest);
        evidence.up_to = window.map(|window| window.latest);
        note(&mut evidence, &verified, &proofs);
        let restored = match target {
            Some(target) if evidence.is_good() => {
                let done =
                    restore::restore(at, &history, &target, &self.to, (self.jobs, self.keep_template)).await;
                evidence.how = CheckMethod::Restore;
                note_restored(&mut evidence, done)?
            }
            _ => None,
        };
        evidence.finished = PgTime::from_utc(ambient::now());
        let ok = evidence.is_good();
        let not_restored = match (evidence.how, &restored) {
            (CheckMethod::Restore, None) => evidence.differences.last().cloned(),
            _ => None,
        };
        let evidence = keep(&history, &evidence);
        let (open_to_others, root) = (history.is_open_to_others(), history.root().to_owned());
        let shown = VerifyReport {
            ok,
            verified,
            proofs,
            restored,
            not_restored,
            open_to_others,
            root,
            evidence,
            dispersal,
        };
        let inexact = shown.restored.iter().flat_map(|restored| &restored.inexact);
        not_exact::say(at, &inexact.map(|it| not_exact::line(true, it)).collect::<Vec<_>>(), None);
        at.ui.result(&shown, || describe(&shown))?;
        let complete = shown.restored.as_ref().is_none_or(|restored| restored.left_out.is_empty());
        Ok(match (ok, complete) {
            (true, true) => ExitCode::SUCCESS,
            (true, false) => ExitCode::from(Kind::Incomplete.exit_code()),
            (false, _) => ExitCode::from(Kind::Damaged.exit_code()),
        })
    }
}

struct Verification {
    verified: Findings,
    proofs: Vec<Proof>,
    /// The moments that can be recovered.
    window: Option<Window>,
    dispersal: Option<Survey>,
}

fn read_and_prove(history: &History, prove: bool, progress: &dyn Progress) -> Result<Verification> {
    let segments = Arc::new(Segments::new(history.journal()));
    let verified = verify::verify(history, &segments, acknowledged(history.local()), progress)?;
    let dispersal = history.store().dispersal().map(|dispersed| dispersed.survey(progress)).transpose()?;
    let reading = Reading::open_with(history, &segments);
    if !prove || !verified.faults.is_empty() {
        // The fault that prevents a damaged history from being opened is among the listed faults.
        let window = reading.ok().and_then(|reading| reading.timeline().window());
        return Ok(Verification { verified, proofs: Vec::new(), window, dispersal });
    }
    let reading = reading?;
    let proofs = prove::prove_all(&reading, progress)?;
    Ok(Verification { verified, proofs, window: reading.timeline().window(), dispersal })
}

/// Adds the objects that were read and the checkpoints that were proved to the evidence.
fn note(evidence: &mut Evidence, verified: &Findings, proofs: &[Proof]) {
    evidence.faults.clone_from(&verified.faults);
    evidence.checkpoints.clone_from(&verified.sound);
    evidence.bytes = verified.bytes;
    for proof in proofs {
        evidence.differences.extend(proof.differences.iter().map(|what| format!("{}: {what}", proof.to)));
        evidence.not_compared.extend(proof.not_compared.iter().cloned());
    }
    if let Some(last) = proofs.last() {
        evidence.how = CheckMethod::Prove;
        evidence.up_to = Some(last.up_to);
        evidence.tables.clone_from(&last.compared);
    }
}

/// A recovery that reveals a fault of the history has served its purpose, so it is not a failure of the command.
fn note_restored(evidence: &mut Evidence, done: Result<RestoreReport>) -> Result<Option<RestoreReport>> {
    match done {
        Ok(done) => {
            evidence.from = None;
            evidence.up_to = Some(Edge { lsn: done.moment.lsn, time: done.moment.time });
            evidence.tables.clone_from(&done.digests);
            evidence.schema = Some(done.schema_proof);
            (evidence.loading, evidence.folding) = done.measured.unzip();
            Ok(Some(done))
        }
        Err(error) if matches!(error.kind(), Kind::Damaged | Kind::Internal) => {
            evidence.differences.push(without_verify(&error.to_string()));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Stores the evidence. If that is impossible, as on a read-only disk, the command says so and does not fail.
pub(super) fn keep(history: &History, evidence: &Evidence) -> Option<String> {
    match history.keep_evidence(evidence) {
        Ok(name) => Some(name.to_string()),
        Err(error) => {
            tracing::warn!("the evidence is not kept: {error}");
            None
        }
    }
}

/// Returns the LSN that the last capture on the history in a folder reported to the source as durable.
pub(super) fn acknowledged(local: &LocalFolder) -> Option<AcknowledgedEnd> {
    let live = live::read(&local.live_state())?;
    Some(AcknowledgedEnd { epoch: live.epoch, durable: live.durable })
}

fn describe(shown: &VerifyReport) -> String {
    let it = &shown.verified;
    let mut text = format!(
        "read      {} checkpoints, {} packs, {} segments, {} schemas: {}\n",
        it.checkpoints,
        it.packs,
        it.segments,
        it.schemas,
        ui::bytes(it.bytes)
    );
    for fault in &it.faults {
        text.push_str(&format!("DAMAGED   {}\n", ui::printable(fault)));
    }
    for note in &it.notes {
        text.push_str(&format!("note      {}\n", ui::printable(note)));
    }
    for proof in &shown.proofs {
        describe_proof(proof, &mut text);
    }
    if let Some(restored) = &shown.restored {
        text.push_str(&format!(
            "restored  {} rows in {} tables as of {}, 0 differences, in {:.2} s\n",
            restored.rows, restored.tables, restored.moment.time, restored.seconds
        ));
        for note in &restored.notes {
            text.push_str(&format!("note      {}\n", ui::printable(note)));
        }
        text.push_str(left_out::describe(&restored.left_out).trim_start());
        text.push_str(if restored.left_out.is_empty() { "" } else { "\n" });
        text.push_str(&format!("schema    {}\n", restored.schema_proof));
    }
    if let Some(why) = &shown.not_restored {
        text.push_str(&format!("DIFFERS   {}\n", ui::printable(why)));
    }
    if let Some(survey) = &shown.dispersal {
        text.push_str(&dispersal::describe(survey, false));
    }
    if shown.open_to_others {
        text.push_str(&format!("access    {}\n", ui::open_to_others(&shown.root)));
    }
    if let Some(evidence) = &shown.evidence {
        text.push_str(&format!("evidence  {evidence}\n"));
    }
    text.push_str(if shown.ok {
        "all is well"
    } else {
        "the history is damaged; what is not named above is whole"
    });
    text
}

fn describe_proof(proof: &Proof, text: &mut String) {
    if proof.differences.is_empty() {
        text.push_str(&format!(
            "proved    {} + {} transactions = {}, {} tables\n",
            proof.from, proof.transactions, proof.to, proof.tables
        ))
    } else {
        text.push_str(&format!(
            "DIFFERS   {} folded forward is not {}: {}\n",
            proof.from,
            proof.to,
            ui::printable(&proof.differences.join(", "))
        ))
    }
    for skipped in &proof.not_compared {
        text.push_str(&format!("skipped   {}\n", ui::printable(skipped)));
    }
}
