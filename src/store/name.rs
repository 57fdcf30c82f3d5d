//! Names of objects: a kind, and a stem that tells the objects of one kind apart.

use std::fmt;

use crate::error::{Error, Result};

/// The kind of an object. In the order of the variants, an object comes after every object that it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Blocks of checkpoint images.
    Pack,
    /// An archive that pg_dump wrote.
    Archive,
    /// The server's roles at one moment.
    Roles,
    /// A stretch of the history without gaps.
    Epoch,
    /// A sealed segment of the journal.
    Segment,
    /// A piece of an open segment in an object store, where nothing grows.
    Increment,
    /// A checkpoint's manifest.
    Checkpoint,
    /// A pin, which keeps a checkpoint whatever the rules of retention say, with the reason.
    Pin,
    /// The findings of a verification.
    Evidence,
    /// The objects that an expiry removed.
    Expiry,
    /// The objects that `init` is about to make on the source; this file is removed once the history exists.
    InitIntent,
    /// Which history a folder is becoming a copy of; the object goes once the copy is a history.
    CopyIntent,
    /// Which history this is.
    Identity,
    /// The key of an encrypted store, wrapped for one recipient. It belongs to the store and not to the history.
    StoreKey,
    /// A part of an object, or a copy of one, in one of the stores of a dispersed history.
    Shard,
    /// The mark that tells which of the stores of a dispersed history this is.
    Dispersal,
}

impl ObjectKind {
    /// Every kind of object of a history. Wrapped keys belong to an encrypted store, shards and marks to a dispersed one.
    pub const ALL: [ObjectKind; 13] = [
        ObjectKind::Pack,
        ObjectKind::Archive,
        ObjectKind::Roles,
        ObjectKind::Epoch,
        ObjectKind::Segment,
        ObjectKind::Increment,
        ObjectKind::Checkpoint,
        ObjectKind::Pin,
        ObjectKind::Evidence,
        ObjectKind::Expiry,
        ObjectKind::InitIntent,
        ObjectKind::CopyIntent,
        ObjectKind::Identity,
    ];

    /// The folder that objects of this kind lie in, or the empty string for the history's own folder; and the ending
    /// of their names.
    pub fn place(self) -> (&'static str, &'static str) {
        match self {
            ObjectKind::Pack => ("packs", "pack"),
            ObjectKind::Archive => ("schemas", "dump"),
            ObjectKind::Roles => ("schemas", "sql"),
            ObjectKind::Epoch => ("epochs", "json"),
            ObjectKind::Segment => ("journal", "seg"),
            ObjectKind::Increment => ("journal", "inc"),
            ObjectKind::Checkpoint => ("checkpoints", "json"),
            ObjectKind::Pin => ("pins", "json"),
            ObjectKind::Evidence => ("evidence", "json"),
            ObjectKind::Expiry => ("expired", "json"),
            ObjectKind::InitIntent
            | ObjectKind::CopyIntent
            | ObjectKind::Identity
            | ObjectKind::Dispersal => ("", "json"),
            ObjectKind::StoreKey => ("keys", "age"),
            ObjectKind::Shard => ("shards", "shard"),
        }
    }

    /// The stem of the one object of this kind; `None` if there may be many.
    pub fn only_stem(self) -> Option<&'static str> {
        match self {
            ObjectKind::InitIntent => Some("init"),
            ObjectKind::CopyIntent => Some("copy"),
            ObjectKind::Identity => Some("history"),
            ObjectKind::Dispersal => Some("dispersal"),
            _ => None,
        }
    }

    /// The object of this kind whose file is called `file`; `None` if such a file is none.
    pub fn object_in(self, file: &str) -> Option<ObjectName> {
        let stem = file.strip_suffix(self.place().1)?.strip_suffix('.')?;
        let is_one = self.only_stem().is_none_or(|only| only == stem);
        let name = ObjectName::new(self, stem);
        (is_one && name.check().is_ok()).then_some(name)
    }
}

/// An object's name within its history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    kind: ObjectKind,
    stem: String,
}

impl ObjectName {
    pub fn new(kind: ObjectKind, stem: impl Into<String>) -> ObjectName {
        ObjectName { kind, stem: stem.into() }
    }

    /// The name of the object of a kind of which there is only one.
    pub fn only(kind: ObjectKind) -> ObjectName {
        ObjectName::new(kind, kind.only_stem().unwrap_or_default())
    }

    /// The name of `epochs/NNNN.json`.
    pub fn epoch(number: u32) -> ObjectName {
        ObjectName::new(ObjectKind::Epoch, format!("{number:04}"))
    }

    /// The object whose name is written `text`, as by [`fmt::Display`]; `None` if no kind has such names.
    pub fn parse(text: &str) -> Option<ObjectName> {
        let (folder, file) = text.rsplit_once('/').unwrap_or(("", text));
        let mut kinds = ObjectKind::ALL.iter().filter(|kind| kind.place().0 == folder);
        kinds.find_map(|kind| kind.object_in(file))
    }

    pub fn kind(&self) -> ObjectKind {
        self.kind
    }

    pub fn stem(&self) -> &str {
        &self.stem
    }

    /// The name without the folder.
    pub fn file_name(&self) -> String {
        format!("{}.{}", self.stem, self.kind.place().1)
    }

    /// A store calls this before it touches anything, so that no name from a manifest leads out of the history.
    ///
    /// # Errors
    /// `Damaged` if the stem is empty, or would name something in another folder.
    pub fn check(&self) -> Result<()> {
        let is_plain = !self.stem.is_empty() && !self.stem.contains(['/', '\\', '\0']);
        if is_plain {
            Ok(())
        } else {
            Err(Error::damaged(format!("no object can have the name {:?}", self.to_string())))
        }
    }
}

/// `epochs/0001.json`, or `history.json`.
impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (folder, ending) = self.kind.place();
        let parting = if folder.is_empty() { "" } else { "/" };
        write!(f, "{folder}{parting}{}.{ending}", self.stem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for kind in ObjectKind::ALL {
            let name = ObjectName::new(kind, kind.only_stem().unwrap_or("0001-A.b c"));
            assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
        }
        assert_eq!(ObjectName::epoch(1).to_string(), "epochs/0001.json");
        assert_eq!(ObjectName::only(ObjectKind::Identity).to_string(), "history.json");
    }

    #[test]
    fn what_lies_beside_the_objects_is_no_object() {
        for text in
            ["epochs/0001.json.01-2.tmp", "epochs/.json", "live/capture.json", "other.json", "packs/a/b.pack"]
        {
            assert_eq!(ObjectName::parse(text), None, "{text}");
        }
        assert!(ObjectName::new(ObjectKind::Pack, "../live/x").check().is_err());
    }
}
