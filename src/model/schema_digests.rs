//! Digests of what defines a database, by which the definitions of two databases are compared without sending them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Edge, Inexact};

/// The digests of all objects that pg_dump would write, as a server computed them. No oid is part of what is digested.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaDigests {
    /// The server's major version: servers of other versions may write the same expression otherwise.
    pub server_major: u32,
    /// By object, such as `table public.t`, and by part, such as `column id` or `owner`; the object itself is the part
    /// without a name.
    pub objects: BTreeMap<String, ObjectDigests>,
}

/// The digests of one object's parts.
pub type ObjectDigests = BTreeMap<String, PartDigest>;

/// The objects whose digests are not those of an earlier set, with their new digests; `None` for objects that are gone.
pub type DigestChanges = BTreeMap<String, Option<ObjectDigests>>;

/// The names of the parts that tell how a NOT NULL is called begin with these. Servers before version 18, for domains before
/// 17, do not have such parts, nor do sets that older versions of backwhen took.
const NOT_NULL: [&str; 2] = ["NOT NULL of column ", "NOT NULL of the domain"];

/// The object that stands for the connected database itself.
pub const DATABASE: &str = "database";

/// Whether the recovered definitions were compared with digests of the source's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "proof", rename_all = "lowercase")]
pub enum SchemaProof {
    /// Followed up to `at`, they are what the source had there.
    Proved { at: Edge },
    /// Followed up to `at`, some objects are not what the source had there: each is named.
    Differs { at: Edge, objects: usize },
    /// The definitions are those of `since` with the statements told since then. The history holds no digests of a later
    /// position.
    Unproved { since: Edge },
}

/// To be read after the word "schema".
impl std::fmt::Display for SchemaProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SchemaProof::Proved { at } => write!(f, "proved at {} ({})", at.lsn, at.time),
            SchemaProof::Differs { at, objects } => {
                write!(f, "differs from the source's at {} ({}) in {objects} objects", at.lsn, at.time)
            }
            SchemaProof::Unproved { since } => {
                write!(
                    f,
                    "not proved: no digests of the source's definitions since {} ({})",
                    since.lsn, since.time
                )
            }
        }
    }
}

/// Adds the differences from `first` to the list of what is inexact. If the object is in the list already, the difference
/// is added to its reason; if a statement is in the list whose failure concerns several objects, it explains theirs.
pub fn name_differences(differences: &[SchemaDifference], first: &str, inexact: &mut Vec<Inexact>) {
    for difference in differences.iter().map(|it| it.inexact(first)) {
        if let Some(named) = inexact.iter_mut().find(|it| it.what == difference.what) {
            named.why = format!("{}; {}", named.why, difference.why);
        } else if !inexact.iter().any(|it| it.what.split(", ").any(|what| what == difference.what)) {
            inexact.push(difference);
        }
    }
}

/// Whether a part says who owns an object or may do what with it, where these are not followed.
pub fn skips_rights(object: &str, part: &str, (owners, privileges): (bool, bool)) -> bool {
    !owners && part == "owner"
        || !privileges && (part.starts_with("privileges") || object.starts_with("default acl"))
}

/// The digest of a part's text; of a text that holds expressions also, after a space, the digest without parentheses
/// and casts to text, which change on the way through pg_dump and pg_restore (`IN` over varchar).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartDigest(pub String);

/// An object that differs between two databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaDifference {
    pub object: String,
    pub kind: DifferenceKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DifferenceKind {
    /// The object is in the first database only.
    Missing,
    /// The object is in the second database only.
    Added,
    /// These parts are not the same in both.
    Parts(BTreeSet<String>),
}

impl SchemaDifference {
    /// Says how the second database differs from `first`, such as `the source at 0/1A2B`.
    pub fn inexact(&self, first: &str) -> Inexact {
        let why = match &self.kind {
            DifferenceKind::Missing => format!("is missing, although {first} has it"),
            DifferenceKind::Added => format!("is there, although {first} does not have it"),
            DifferenceKind::Parts(parts) => {
                format!("{} not as in {first}", listed(parts))
            }
        };
        self.named(why)
    }

    /// Says that nobody told when, between the two positions, the object was changed.
    pub fn untold(&self, from: Edge, to: Edge) -> Inexact {
        let what = match &self.kind {
            DifferenceKind::Missing => "was made".to_owned(),
            DifferenceKind::Added => "was dropped".to_owned(),
            DifferenceKind::Parts(parts) => format!("{} changed", listed(parts)),
        };
        self.named(format!(
            "{what} between {} ({}) and {} ({}), and nothing told when: it is recovered as of the latter{}",
            from.lsn,
            from.time,
            to.lsn,
            to.time,
            if self.lacks_rows() { ", without rows" } else { "" }
        ))
    }

    /// Whether this is a type that is defined otherwise, so that stored values may read otherwise too.
    pub fn is_of_values(&self) -> bool {
        let is_type = self.object.starts_with("type ");
        is_type && matches!(&self.kind, DifferenceKind::Parts(parts) if parts.contains(""))
    }

    /// Whether this is a table of whose rows nothing is known.
    pub fn lacks_rows(&self) -> bool {
        let is_table = self.object.starts_with("table ") && !self.object.starts_with("table constraint ");
        self.kind == DifferenceKind::Missing && is_table
    }

    fn named(&self, why: String) -> Inexact {
        let table = self.object.strip_prefix("table ").filter(|rest| !rest.starts_with("constraint "));
        Inexact { what: table.unwrap_or(&self.object).to_owned(), why }
    }
}

fn listed(parts: &BTreeSet<String>) -> String {
    let named = |part: &String| if part.is_empty() { "definition".to_owned() } else { part.clone() };
    parts.iter().map(named).collect::<Vec<_>>().join(", ")
}

impl PartDigest {
    fn through_dump(&self) -> Option<&str> {
        self.0.split_once(' ').map(|(_, digest)| digest)
    }
}

impl SchemaDigests {
    /// Returns a name for this set, by which a later set says what it follows.
    pub fn name(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.server_major.to_string().as_bytes());
        for (object, parts) in &self.objects {
            hasher.update(format!("\0\0{object}").as_bytes());
            parts.iter().for_each(|(part, digest)| {
                hasher.update(format!("\0{part}\0{}", digest.0).as_bytes());
            });
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// Returns what is not in `earlier` as it is here.
    pub fn changes_since(&self, earlier: &SchemaDigests) -> DigestChanges {
        let changed =
            self.objects.iter().filter(|(object, parts)| earlier.objects.get(*object) != Some(parts));
        let gone = earlier.objects.keys().filter(|object| !self.objects.contains_key(*object));
        let changed = changed.map(|(object, parts)| (object.clone(), Some(parts.clone())));
        changed.chain(gone.map(|object| (object.clone(), None))).collect()
    }

    /// Makes of this set the one that followed it.
    pub fn apply(&mut self, changes: DigestChanges) {
        for (object, parts) in changes {
            match parts {
                Some(parts) => drop(self.objects.insert(object, parts)),
                None => drop(self.objects.remove(&object)),
            }
        }
    }

    /// Returns the digest of an object itself, in the form that pg_dump does not change.
    pub fn of_object(&self, object: &str) -> Option<&str> {
        let digest = self.objects.get(object)?.get("")?;
        digest.through_dump().or(Some(&digest.0))
    }

    fn tells(&self, beginning: &str) -> bool {
        self.objects.values().flat_map(|parts| parts.keys()).any(|part| part.starts_with(beginning))
    }

    /// Lists the objects in which `found` is not what `self` is. A part that is in `dumped` as it is in `self` has been
    /// through pg_dump, and may be written in the other form that pg_dump gives expressions. Expressions of servers of
    /// different versions are not compared. `skips` names the parts that are not to be compared.
    pub fn differences(
        &self,
        found: &SchemaDigests,
        dumped: Option<&SchemaDigests>,
        skips: impl Fn(&str, &str) -> bool,
    ) -> Vec<SchemaDifference> {
        let part_of = |of: Option<&SchemaDigests>, object: &str, part: &str| {
            of.and_then(|of| of.objects.get(object)?.get(part)).cloned()
        };
        let is_same = |object: &str, part: &str| {
            let (here, there) = (part_of(Some(self), object, part), part_of(Some(found), object, part));
            if here == there {
                return true;
            }
            let (Some(one), Some(other)) = (&here, &there) else { return false };
            let loose = one.through_dump();
            loose.is_some()
                && (self.server_major != found.server_major
                    || loose == other.through_dump() && part_of(dumped, object, part) == here)
        };
        let untold: Vec<_> =
            NOT_NULL.into_iter().filter(|part| !(self.tells(part) && found.tells(part))).collect();
        let skips = |object: &str, part: &str| {
            untold.iter().any(|beginning| part.starts_with(beginning)) || skips(object, part)
        };
        let names: BTreeSet<&String> = self.objects.keys().chain(found.objects.keys()).collect();
        let difference = |object: &String| {
            let (here, there) = (self.objects.get(object), found.objects.get(object));
            let is_whole = |parts: Option<&BTreeMap<_, _>>| parts.is_some_and(|it| it.contains_key(""));
            let parts: BTreeSet<String> =
                here.into_iter().chain(there).flat_map(|it| it.keys()).cloned().collect();
            let parts: BTreeSet<_> =
                parts.into_iter().filter(|part| !skips(object, part) && !is_same(object, part)).collect();
            let kind = match (is_whole(here), is_whole(there)) {
                _ if parts.is_empty() => return None,
                (true, false) if parts.contains("") => DifferenceKind::Missing,
                (false, true) if parts.contains("") => DifferenceKind::Added,
                _ => DifferenceKind::Parts(parts),
            };
            Some(SchemaDifference { object: object.clone(), kind })
        };
        names.into_iter().filter_map(difference).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(parts: &[(&str, &str, &str)]) -> SchemaDigests {
        let mut digests = SchemaDigests { server_major: 18, ..SchemaDigests::default() };
        for (object, part, digest) in parts {
            let object = digests.objects.entry((*object).into()).or_default();
            object.insert((*part).into(), PartDigest((*digest).into()));
        }
        digests
    }

    #[test]
    fn each_object_that_differs_is_named_with_its_parts() {
        let one = digests(&[
            ("table a", "", "1"),
            ("table a", "owner", "2"),
            ("view b", "", "3 4"),
            ("view b", "owner", "5"),
        ]);
        let other = digests(&[("table a", "", "1"), ("table a", "owner", "3"), ("view c", "", "1")]);
        let found = one.differences(&other, None, |_, _| false);
        let names: Vec<_> = found.iter().map(|it| (&*it.object, &it.kind)).collect();
        let owner = DifferenceKind::Parts(BTreeSet::from(["owner".to_owned()]));
        assert_eq!(
            names,
            [("table a", &owner), ("view b", &DifferenceKind::Missing), ("view c", &DifferenceKind::Added)]
        );
        let found = one.differences(&other, None, |object, part| object != "table a" || part == "owner");
        assert_eq!(found, []);
    }

    #[test]
    fn names_of_not_null_are_compared_if_both_sets_tell_them() {
        let column = ("table a", "column x", "1");
        let named = |name| digests(&[column, ("table a", "NOT NULL of column x", name)]);
        let differ = |one: &SchemaDigests, other: &SchemaDigests| {
            !one.differences(other, None, |_, _| false).is_empty()
        };
        assert!(differ(&named("2"), &named("3")));
        assert!(!differ(&named("2"), &digests(&[column])));
        assert!(!differ(&digests(&[column]), &named("2")));
    }

    #[test]
    fn a_set_follows_from_the_one_before() {
        let one = digests(&[("table a", "", "1"), ("table a", "owner", "2"), ("view b", "", "3 4")]);
        let other = digests(&[("table a", "", "1"), ("table a", "owner", "3"), ("view c", "", "1")]);
        let changes = other.changes_since(&one);
        assert_eq!(changes.keys().collect::<Vec<_>>(), ["table a", "view b", "view c"]);
        assert!(changes["view b"].is_none());
        let mut followed = one.clone();
        followed.apply(changes);
        assert_eq!((&followed, followed.name()), (&other, other.name()));
        assert_ne!(one.name(), other.name());
        assert!(other.changes_since(&other).is_empty());
    }

    #[test]
    fn a_difference_is_named_although_the_object_is_inexact_for_another_reason() {
        let object = |name: &str| SchemaDifference { object: name.to_owned(), kind: DifferenceKind::Missing };
        let known = |what: &str| Inexact { what: what.to_owned(), why: "known".to_owned() };
        let mut inexact = vec![known("public.a"), known("view b, view c")];
        name_differences(
            &[object("table public.a"), object("view c"), object("view d")],
            "the source",
            &mut inexact,
        );
        let found: Vec<_> = inexact.iter().map(|it| format!("{}: {}", it.what, it.why)).collect();
        let missing = "is missing, although the source has it";
        assert_eq!(
            found,
            [
                format!("public.a: known; {missing}"),
                "view b, view c: known".to_owned(),
                format!("view d: {missing}")
            ]
        );
    }

    #[test]
    fn an_expression_may_be_written_otherwise_once_it_was_dumped() {
        let (one, other) = (digests(&[("view b", "", "3 4")]), digests(&[("view b", "", "5 4")]));
        let differ = |one: &SchemaDigests, other: &SchemaDigests, dumped| {
            !one.differences(other, dumped, |_, _| false).is_empty()
        };
        assert!(differ(&one, &other, None), "nothing says that it was dumped");
        assert!(!differ(&one, &other, Some(&one)));
        assert!(differ(&one, &other, Some(&other)), "what was dumped was another one");
        assert!(differ(&one, &digests(&[("view b", "", "5 6")]), Some(&one)));
        let newer = SchemaDigests { server_major: 19, ..digests(&[("view b", "", "5 6")]) };
        assert!(!differ(&one, &newer, None), "expressions of other versions are not compared");
        assert!(differ(&digests(&[("table a", "", "1")]), &newer, None));
    }
}
