//! Looks for words in the names and the bytes of files.

use std::fs;
use std::path::{Path, PathBuf};

/// Every file in a folder, with what lies beneath it.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found
}

/// The words of the source, and the secrets, that are found in names or bytes.
pub fn readable<'a>(words: &[&'a str], objects: &[(String, Vec<u8>)]) -> Vec<&'a str> {
    let holds = |bytes: &[u8], word: &str| bytes.windows(word.len()).any(|it| it == word.as_bytes());
    let is_there =
        |word: &&str| objects.iter().any(|(name, bytes)| holds(name.as_bytes(), word) || holds(bytes, word));
    words.iter().copied().filter(is_there).collect()
}
