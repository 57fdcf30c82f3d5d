//! A power cut, simulated: takes away what the door to the disk had not made durable.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;
use tempfile::TempDir;

/// Where the processes write down what is at stake, through `BACKWHEN_TEST_POWER`.
pub struct Power {
    folder: TempDir,
}

/// What a power cut met.
pub struct Cut {
    /// Files with bytes, and names, that were not durable.
    pub at_stake: usize,
    /// How many of them it took, or a part of them.
    pub taken: usize,
}

/// A name that came or went, and may do so only after the cut.
enum Name {
    Came(PathBuf),
    /// With where its content is kept.
    Went(PathBuf, PathBuf),
}

impl Name {
    fn folder(&self) -> &Path {
        let (Name::Came(path) | Name::Went(path, _)) = self;
        path.parent().expect("it lies in a folder")
    }
}

impl Power {
    pub fn new() -> Power {
        Power { folder: tempfile::tempdir().unwrap() }
    }

    pub fn folder(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    /// Bytes that were written down: they grow while somebody writes to the disk.
    pub fn len(&self) -> u64 {
        fs::metadata(self.folder.path().join("log")).map_or(0, |log| log.len())
    }

    /// Whether something was done, after `since` bytes were written down, to a file whose path holds this text.
    pub fn tells_since(&self, since: u64, text: &str) -> bool {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.get(since as usize..).is_some_and(|news| news.contains(text))
    }

    /// Cuts the power; all processes are dead.
    pub fn cut(&self, random: &mut StdRng) -> Cut {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let mut unsynced = BTreeMap::<PathBuf, u64>::new();
        let mut names = Vec::new();
        for line in log.lines() {
            let [what, path, rest] = line.split('\t').collect::<Vec<_>>()[..] else { continue };
            let path = PathBuf::from(path);
            match what {
                "write" => {
                    let from = rest.parse().unwrap();
                    unsynced.entry(path).and_modify(|known| *known = (*known).min(from)).or_insert(from);
                }
                "sync" => drop(unsynced.remove(&path)),
                "link" => {
                    if let Some(from) = unsynced.get(Path::new(rest)) {
                        unsynced.insert(path.clone(), *from);
                    }
                    names.push(Name::Came(path));
                }
                "folder-made" => names.push(Name::Came(path)),
                "remove" => names.push(Name::Went(path, rest.into())),
                "folder" => names.retain(|name| name.folder() != path),
                _ => panic!("an unknown line: {line}"),
            }
        }
        unsynced.retain(|path, _| path.extension().is_some_and(|it| it != "tmp"));
        let at_stake = unsynced.len() + names.len();
        let mut taken = 0;
        for (path, from) in &unsynced {
            taken += usize::from(tear(path, *from, random));
        }
        for name in names.iter().rev().filter(|_| random.random_bool(0.5)) {
            taken += usize::from(undo(name));
        }
        // What is on disk now is where the next process starts.
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        Cut { at_stake, taken }
    }
}

/// Takes bytes that were never synced: all, some at the end, or some in the middle.
fn tear(path: &Path, from: u64, random: &mut StdRng) -> bool {
    let Ok(mut file) = OpenOptions::new().write(true).open(path) else { return false };
    let len = file.metadata().unwrap().len();
    if len <= from {
        return false;
    }
    match random.random_range(0..4) {
        0 => file.set_len(from).unwrap(),
        1 => file.set_len(random.random_range(from..=len)).unwrap(),
        2 => {
            let at = random.random_range(from..len);
            let zeros = vec![0; random.random_range(1..=(len - at).min(4096)) as usize];
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&zeros).unwrap();
        }
        _ => return false,
    }
    true
}

fn undo(name: &Name) -> bool {
    match name {
        Name::Came(path) if path.is_dir() => fs::remove_dir_all(path).is_ok(),
        Name::Came(path) => fs::remove_file(path).is_ok(),
        Name::Went(path, kept) => !path.exists() && fs::hard_link(kept, path).is_ok(),
    }
}
