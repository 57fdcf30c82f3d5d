//! `backwhen verify`

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Surroundings, ui};
use crate::capture::live;
use crate::error::{Context, Kind, Result};
use crate::history::verify::{self, Acknowledged, Verified};
use crate::prove::{self, Proof};

/// Read every object of the history and check every digest
#[derive(Args)]
pub struct Verify {
    /// Fold each checkpoint forward too, and compare it with the next one
    #[arg(long)]
    prove: bool,
}

#[derive(Serialize)]
struct Shown {
    ok: bool,
    #[serde(flatten)]
    verified: Verified,
    proofs: Vec<Proof>,
}

impl Verify {
    pub async fn run(self, at: &Surroundings) -> Result<ExitCode> {
        let history = at.history()?;
        let progress = at.ui.progress();
        let prove = self.prove;
        let work = tokio::task::spawn_blocking(move || {
            let live = live::read(&history.live_path());
            let acknowledged = live.map(|live| Acknowledged { epoch: live.epoch, durable: live.durable });
            let verified = verify::verify(&history, acknowledged, &*progress)?;
            let proofs = match prove && verified.faults.is_empty() {
                true => prove::prove_all(&history, &*progress)?,
                false => Vec::new(),
            };
            Ok::<_, crate::error::Error>((verified, proofs))
        });
        let (verified, proofs) =
            work.await.context(Kind::Internal, || "the verifying thread failed".into())??;
        let ok = verified.faults.is_empty() && proofs.iter().all(|proof| proof.differences.is_empty());
        let shown = Shown { ok, verified, proofs };
        at.ui.result(&shown, || describe(&shown))?;
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(Kind::Damaged.exit_code()) })
    }
}

fn describe(shown: &Shown) -> String {
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
    for proof in &shown.proofs {
        match proof.differences.is_empty() {
            true => text.push_str(&format!(
                "proved    {} + {} transactions = {}, {} tables\n",
                proof.from, proof.transactions, proof.to, proof.tables
            )),
            false => text.push_str(&format!(
                "DIFFERS   {} folded forward is not {}: {}\n",
                proof.from,
                proof.to,
                ui::printable(&proof.differences.join(", "))
            )),
        }
        for skipped in &proof.not_compared {
            text.push_str(&format!("skipped   {}\n", ui::printable(skipped)));
        }
    }
    text.push_str(if shown.ok {
        "all is well"
    } else {
        "the history is damaged; what is not named above is whole"
    });
    text
}
