//! Carries an expiry plan out.

use std::path::Path;

use super::{ExpiryPlan, RetentionRules, plan};
use crate::ambient;
use crate::error::Result;
use crate::history::History;
use crate::history::catalog::Catalog;
use crate::progress::{Progress, Unit};
use crate::store::ObjectKind;

/// Plans what [`expire`] would remove now.
///
/// # Errors
/// Fails as [`plan`] does.
pub fn preview(history: &History, rules: &RetentionRules) -> Result<ExpiryPlan> {
    let _objects = history.hold_objects()?;
    plan(history, &Catalog::open(history)?, rules)
}

/// Removes the objects that no rule keeps, and returns the plan that was carried out. No other process may use the
/// objects meanwhile.
///
/// # Errors
/// `Refused` if the history's key was not given; `Locked` if somebody recovers, verifies, copies or makes a checkpoint; `Unavailable` if the disk fails;
/// otherwise as [`plan`].
pub fn expire(history: &History, rules: &RetentionRules, progress: &dyn Progress) -> Result<ExpiryPlan> {
    rules.check()?;
    history.authorship().check_may_write(Path::new(history.place()))?;
    let _checkpoint = history.lock_checkpoint_alone()?;
    let _objects = history.lock_objects_alone()?;
    // All who write into these folders hold one of the two locks, so no living process writes these files.
    for kind in [ObjectKind::Pack, ObjectKind::Archive, ObjectKind::Roles, ObjectKind::Checkpoint] {
        history.store().remove_unfinished(kind);
    }
    // References are counted under the locks, so that no other process adds one.
    let mut plan = plan(history, &Catalog::open(history)?, rules)?;
    if plan.is_empty() {
        return Ok(plan);
    }
    if !plan.repacked.old.is_empty() {
        let written = plan.repacked.write(history, progress)?;
        plan.objects_to_go.spare_packs(&written);
        plan.record.packs = plan.objects_to_go.packs();
    }
    plan.repacked.check(history, &plan.record.packs.iter().cloned().collect())?;
    ambient::pass("expire.repacked")?;
    ambient::pass("expire.record")?;
    history.record_expiry(&plan.record)?;
    ambient::pass("expire.recorded")?;
    let count = plan.objects_to_go.0.iter().map(|sorted| sorted.count()).sum();
    progress.phase("removing what is not kept", count, Unit::Objects);
    for sorted in &plan.objects_to_go.0 {
        history.store().remove(&sorted.go)?;
        sorted.open.iter().try_for_each(|name| history.journal().remove(*name))?;
        progress.advance(sorted.count());
        ambient::pass("expire.removed")?;
    }
    Catalog::open(history)?;
    Ok(plan)
}
