//! The objects of a history, sorted into those that stay and those that go.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::References;
use crate::ambient;
use crate::error::Result;
use crate::history::catalog::{Catalog, CheckpointRow};
use crate::history::evidence;
use crate::history::expiry::{self, Expiry};
use crate::history::image::{Blocks, FolderDirectory};
use crate::history::timeline::Timeline;
use crate::history::{History, inventory, journal, read_object, roles};

/// A list of roles is written before the stream tells of it; so long, at the most, nothing names it.
const UNNAMED: Duration = Duration::from_secs(3600);

/// The objects of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    pub kind: &'static str,
    pub stay: u64,
    pub bytes_stay: u64,
    pub go: u64,
    pub bytes_go: u64,
}

/// Those of one folder that go, and how many of which size stay.
#[derive(Clone, Debug)]
pub(super) struct Sorted {
    pub folder: &'static str,
    pub go: Vec<PathBuf>,
    tally: Tally,
}

/// In the order in which they go.
#[derive(Clone, Debug)]
pub(super) struct Objects(pub Vec<Sorted>);

impl Objects {
    /// `kept`: the checkpoints that stay. `record`: from where on journal and checkpoints stay.
    pub(super) fn sort(
        history: &History,
        timeline: &Timeline,
        kept: &[CheckpointRow],
        record: &Expiry,
    ) -> Result<Objects> {
        let ids: BTreeSet<_> = kept.iter().map(|row| row.id.as_str()).collect();
        let needed = needed(history, timeline, kept, record)?;
        let sort = |folder, endings: &[&str], stays: &dyn Fn(&Path) -> bool| {
            Sorted::of(history.root(), folder, endings, stays)
        };
        let newest = newest_evidence(history)?;
        Ok(Objects(vec![
            sort("checkpoints", &["json"], &|path| ids.contains(&*stem(path)))?,
            segments(history, record)?,
            sort("packs", &["pack"], &|path| needed.packs.contains(&*stem(path)))?,
            sort("schemas", &["dump", "sql"], &|path| needed.schemas.contains(&*name(path)) || is_new(path))?,
            sort(evidence::FOLDER, &["json"], &|path| {
                newest.contains(&*name(path)) || !record.covers_evidence(path, history.authorship())
            })?,
            // What the new record says is more.
            sort(expiry::FOLDER, &["json"], &|path| !is_covered(history, path, record))?,
        ]))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|sorted| sorted.go.is_empty() || sorted.folder == expiry::FOLDER)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|sorted| sorted.tally.bytes_go).sum()
    }

    pub(super) fn tallies(&self) -> Vec<Tally> {
        let shown = self.0.iter().filter(|sorted| sorted.folder != expiry::FOLDER);
        shown.map(|sorted| sorted.tally.clone()).collect()
    }

    pub(super) fn packs(&self) -> Vec<String> {
        self.going("packs").map(|path| stem(path)).collect()
    }

    pub(super) fn schemas(&self) -> Vec<String> {
        self.going("schemas").map(|path| name(path)).collect()
    }

    fn going(&self, folder: &str) -> impl Iterator<Item = &PathBuf> {
        self.0.iter().filter(move |sorted| sorted.folder == folder).flat_map(|sorted| &sorted.go)
    }
}

impl Sorted {
    fn of(
        root: &Path,
        folder: &'static str,
        endings: &[&str],
        stays: &dyn Fn(&Path) -> bool,
    ) -> Result<Sorted> {
        let names = inventory::names(root, folder, endings)?;
        let paths = names.iter().map(|name| root.join(name));
        Ok(Sorted::split(folder, paths, stays))
    }

    fn split(
        folder: &'static str,
        paths: impl Iterator<Item = PathBuf>,
        stays: &dyn Fn(&Path) -> bool,
    ) -> Sorted {
        let mut sorted = Sorted { folder, go: Vec::new(), tally: Tally { kind: folder, ..Tally::default() } };
        for path in paths {
            let bytes = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            let tally = &mut sorted.tally;
            if stays(&path) {
                (tally.stay, tally.bytes_stay) = (tally.stay + 1, tally.bytes_stay + bytes);
            } else {
                (tally.go, tally.bytes_go) = (tally.go + 1, tally.bytes_go + bytes);
                sorted.go.push(path);
            }
        }
        sorted
    }
}

/// Both forms of a segment, if it has two: by their names, since what an expiry left is no part of any stretch.
fn segments(history: &History, record: &Expiry) -> Result<Sorted> {
    let mut files = journal::list_all(&history.journal_folder())?;
    files.sort();
    let gone: BTreeSet<_> =
        files.iter().filter(|file| record.covers_segment(file)).map(|file| file.path.clone()).collect();
    let paths = files.into_iter().map(|file| file.path);
    Ok(Sorted::split("journal", paths, &|path| !gone.contains(path)))
}

/// All that a history holds which an expiry, perhaps another copy's, does not cover.
///
/// # Errors
/// `Damaged` if the history is.
pub fn needed_by_the_rest(history: &History, expiry: &Expiry) -> Result<References> {
    let timeline = Timeline::read(history, &Catalog::open(history)?)?;
    let kept: Vec<_> =
        timeline.checkpoints().filter(|row| !expiry.covers_checkpoint(&row.id)).cloned().collect();
    needed(history, &timeline, &kept, expiry)
}

/// All that the checkpoints name, and the lists of roles that the journal does.
fn needed(
    history: &History,
    timeline: &Timeline,
    kept: &[CheckpointRow],
    record: &Expiry,
) -> Result<References> {
    // As the packs are now, and not as the catalog has them.
    let directory = Arc::new(FolderDirectory::scan(&history.packs_folder())?);
    let blocks = Blocks::new(&history.packs_folder(), Arc::clone(&directory) as Arc<_>);
    let mut needed = References::default();
    for row in kept {
        needed.add(&history.read_checkpoint(&row.id)?, &blocks, &*directory)?;
    }
    let segments = timeline.stretches.iter().flat_map(|stretch| &stretch.segments);
    let lists = roles::told_in(history, segments.filter(|segment| !record.covers_segment(&segment.file)))?;
    needed.schemas.extend(lists.into_iter().map(|digest| format!("{digest}.sql")));
    Ok(needed)
}

/// Whether a list of roles may still be told of. One whose age cannot be told is new.
fn is_new(path: &Path) -> bool {
    let written = fs::metadata(path).and_then(|metadata| metadata.modified());
    let age = written.ok().and_then(|written| SystemTime::from(ambient::now()).duration_since(written).ok());
    path.extension().is_some_and(|ending| ending == "sql") && age.is_none_or(|age| age < UNNAMED)
}

/// The newest evidence of each kind, by name.
fn newest_evidence(history: &History) -> Result<BTreeSet<String>> {
    let mut kinds = BTreeSet::new();
    let mut newest = BTreeSet::new();
    for (path, evidence) in history.evidence()?.rev() {
        if kinds.insert(evidence.how) {
            newest.insert(name(Path::new(&path)));
        }
    }
    Ok(newest)
}

fn is_covered(history: &History, path: &Path, record: &Expiry) -> bool {
    let earlier = read_object::<Expiry>(path, history.authorship()).ok().flatten();
    earlier.is_some_and(|it| {
        (it.epoch, it.lsn, it.journal_from) <= (record.epoch, record.lsn, record.journal_from)
    })
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
