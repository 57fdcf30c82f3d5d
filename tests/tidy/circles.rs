//! No file imports another one that imports it in turn, by whatever way around.
//!
//! A parent and its children may know each other. Whoever imports a name that a parent only passes on imports the
//! file that has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{ItemMod, ItemUse, UseTree, Visibility};

use super::{files, root};

/// The names of a path, as written or from the crate's root.
type Names = Vec<String>;

/// The imports and the passed-on names of one file.
#[derive(Default)]
struct Mentions {
    paths: Vec<Names>,
    /// Names that the file passes on, each with the path that it stands for.
    exports: BTreeMap<String, Names>,
}

impl Mentions {
    fn of(text: &str) -> Mentions {
        let mut mentions = Mentions::default();
        mentions.visit_file(&syn::parse_file(text).expect("it compiles"));
        mentions
    }

    fn follow(&mut self, tree: &UseTree, before: &[String], passed_on: bool) {
        let below = |name: &dyn ToString| [before, &[name.to_string()]].concat();
        let (path, name) = match tree {
            UseTree::Path(it) => return self.follow(&it.tree, &below(&it.ident), passed_on),
            UseTree::Group(it) => return it.items.iter().for_each(|it| self.follow(it, before, passed_on)),
            UseTree::Glob(_) => return self.paths.push(before.to_vec()),
            UseTree::Name(it) if it.ident == "self" => (before.to_vec(), before.last().cloned()),
            UseTree::Name(it) => (below(&it.ident), Some(it.ident.to_string())),
            UseTree::Rename(it) => (below(&it.ident), Some(it.rename.to_string())),
        };
        if passed_on {
            self.exports.insert(name.expect("it has a name"), path);
        } else {
            self.paths.push(path);
        }
    }
}

impl Visit<'_> for Mentions {
    fn visit_item_use(&mut self, it: &ItemUse) {
        self.follow(&it.tree, &[], !matches!(it.vis, Visibility::Inherited));
    }

    fn visit_item_mod(&mut self, it: &ItemMod) {
        // Tests may import whatever they test.
        if it.ident != "tests" {
            visit::visit_item_mod(self, it);
        }
    }

    fn visit_path(&mut self, it: &syn::Path) {
        let names: Names = it.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if ["crate", "super", "self"].contains(&names[0].as_str()) {
            self.paths.push(names);
        }
        visit::visit_path(self, it);
    }
}

/// All files of a crate, each under its names from the crate's root.
struct Graph(BTreeMap<Names, Mentions>);

impl Graph {
    /// The file in which the path ends that `from` mentions; none for another crate's.
    fn target(&self, from: &[String], path: &[String]) -> Option<Names> {
        let mut at = from.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => at.clear(),
            "super" | "self" => {}
            child if self.0.contains_key(&[from, &[child.to_owned()]].concat()) => {}
            _ => return None,
        }
        while let Some((name, after)) = rest.split_first() {
            match name.as_str() {
                "crate" | "self" => {}
                "super" => drop(at.pop()),
                name => {
                    let child = [&at[..], &[name.to_owned()]].concat();
                    if !self.0.contains_key(&child) {
                        let passed_on = self.0.get(&at).and_then(|file| file.exports.get(name));
                        return passed_on.and_then(|path| self.target(&at, path)).or(Some(at));
                    }
                    at = child;
                }
            }
            rest = after;
        }
        Some(at)
    }

    fn imports(&self) -> BTreeMap<&Names, BTreeSet<Names>> {
        let of = |name: &Names, file: &Mentions| {
            let targets = file.paths.iter().filter_map(|path| self.target(name, path));
            targets.filter(|other| !other.starts_with(name) && !name.starts_with(other)).collect()
        };
        self.0.iter().map(|(name, file)| (name, of(name, file))).collect()
    }

    /// The files in circles, and those between two circles, each with what it imports of them.
    fn circles(&self) -> Vec<String> {
        let mut imports = self.imports();
        loop {
            let imported: BTreeSet<Names> = imports.values().flatten().cloned().collect();
            let before = imports.len();
            imports.retain(|name, others| !others.is_empty() && imported.contains(*name));
            let left: BTreeSet<Names> = imports.keys().map(|name| (*name).clone()).collect();
            imports.values_mut().for_each(|others| others.retain(|other| left.contains(other)));
            if imports.len() == before {
                break;
            }
        }
        let join = |names: &Names| names.join("::");
        let line = |(name, others): (&&Names, &BTreeSet<Names>)| {
            format!("{} imports {}", join(name), others.iter().map(join).collect::<Vec<_>>().join(", "))
        };
        imports.iter().map(line).collect()
    }
}

/// `history::image` for `src/history/image/mod.rs`; the crate's root has no names.
fn names_of(path: &Path) -> Names {
    let inside = path.strip_prefix(root().join("src")).expect("it lies in src").with_extension("");
    let mut names: Names = inside.iter().map(|it| it.to_string_lossy().into_owned()).collect();
    names.pop_if(|last| ["mod", "lib"].contains(&last.as_str()));
    names
}

#[test]
fn no_file_imports_itself_by_way_of_others() {
    let kept = files("src", "rs").into_iter().map(|path| (names_of(&path), path));
    let kept = kept.filter(|(names, _)| names.last().is_none_or(|last| last != "main" && last != "tests"));
    let graph =
        Graph(kept.map(|(names, path)| (names, Mentions::of(&fs::read_to_string(path).unwrap()))).collect());
    let circles = graph.circles();
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn circles_are_found_through_what_a_parent_passes_on() {
    let files = [
        ("", "mod a; mod b;"),
        ("a", "mod one; mod two; pub use one::{One, Other as Another}; fn f() { two::f() }"),
        ("a::one", "use super::Two; use crate::b::Unused; use std::fs;"),
        ("a::two", "pub struct Two; fn f(_: crate::a::Another) {}"),
        ("b", "mod c; #[cfg(test)] mod tests { use crate::a::One; }"),
        ("b::c", "use super::B;"),
    ];
    let parsed = files.map(|(name, text)| {
        (name.split("::").filter(|it| !it.is_empty()).map(str::to_owned).collect(), Mentions::of(text))
    });
    let mut graph = Graph(parsed.into());
    assert_eq!(graph.circles(), [""; 0]);
    graph.0.insert(vec!["a".into(), "one".into()], Mentions::of("use super::two::Two;"));
    assert_eq!(graph.circles(), ["a::one imports a::two", "a::two imports a::one"]);
}
