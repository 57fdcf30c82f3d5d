//! The roles that an archive names, so that their absence on a target is noticed before the restoration fails.

use std::collections::BTreeSet;

use super::select::EntrySelection;
use super::toc::{Entry, Toc};

/// The roles that the kept entries of an archive name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// The roles that own an object.
    pub owners: BTreeSet<String>,
    /// The roles that receive or grant a privilege.
    pub granted: BTreeSet<String>,
    /// The entries, beside owners and privileges, that cannot be created without certain roles: row security policies
    /// and user mappings.
    pub required_by: Vec<(i32, Vec<String>)>,
}

impl Roles {
    pub fn of(toc: &Toc, selection: &EntrySelection) -> Roles {
        let mut roles = Roles::default();
        for entry in selection.entries(toc) {
            roles.owners.extend(entry.owner.clone());
            match entry.kind.as_str() {
                "ACL" | "DEFAULT ACL" => roles.granted.extend(granted(entry)),
                "POLICY" => roles.required(entry, policy_roles(&entry.definition)),
                "USER MAPPING" => roles.required(entry, after_keyword(&words(&entry.definition), "FOR")),
                _ => {}
            }
        }
        roles
    }

    fn required(&mut self, entry: &Entry, names: Vec<String>) {
        if !names.is_empty() {
            self.required_by.push((entry.id, names));
        }
    }

    /// Returns every role that is named.
    pub fn all(&self) -> BTreeSet<&str> {
        let required = self.required_by.iter().flat_map(|(_, names)| names);
        self.owners.iter().chain(&self.granted).chain(required).map(String::as_str).collect()
    }
}

fn granted(entry: &Entry) -> Vec<String> {
    roles_of_privileges(&entry.definition)
}

/// Returns the roles in GRANT, REVOKE, ALTER DEFAULT PRIVILEGES and SET SESSION AUTHORIZATION statements.
pub fn roles_of_privileges(sql: &str) -> Vec<String> {
    let words = words(sql);
    let mut names = Vec::new();
    for statement in words.split(|word| word.is_sign(';')) {
        for keyword in ["TO", "FROM", "ROLE", "AUTHORIZATION"] {
            names.extend(after_keyword(statement, keyword));
        }
    }
    names
}

/// Returns the roles of `CREATE POLICY … TO a, b USING (…)`; none if the policy is for PUBLIC.
fn policy_roles(definition: &str) -> Vec<String> {
    let words = words(definition);
    let head = words.split(|word| word.is_sign('(')).next().unwrap_or_default();
    after_keyword(head, "TO")
}

/// Returns the comma-separated names after the last `keyword`; PUBLIC and DEFAULT are not names.
fn after_keyword(words: &[SqlToken], keyword: &str) -> Vec<String> {
    let Some(at) = words.iter().rposition(|word| word.is(keyword)) else { return Vec::new() };
    let mut names = Vec::new();
    let mut rest = &words[at + 1..];
    loop {
        rest = match rest {
            [group, tail @ ..] if group.is("GROUP") => tail,
            _ => rest,
        };
        let [name, tail @ ..] = rest else { return names };
        match name {
            SqlToken::Quoted(name) => names.push(name.clone()),
            SqlToken::Plain(name) if name.eq_ignore_ascii_case("PUBLIC") || name == "DEFAULT" => {}
            SqlToken::Plain(name) => names.push(name.clone()),
            SqlToken::Sign(_) => return names,
        }
        match tail {
            [comma, tail @ ..] if comma.is_sign(',') => rest = tail,
            _ => return names,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum SqlToken {
    Plain(String),
    Quoted(String),
    Sign(char),
}

impl SqlToken {
    fn is(&self, keyword: &str) -> bool {
        matches!(self, SqlToken::Plain(text) if text == keyword)
    }

    fn is_sign(&self, sign: char) -> bool {
        *self == SqlToken::Sign(sign)
    }
}

/// Splits SQL in the form that pg_dump writes into words; strings are skipped.
fn words(sql: &str) -> Vec<SqlToken> {
    let mut words = Vec::new();
    let mut letters = sql.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => words.push(SqlToken::Quoted(quoted(&mut letters, '"'))),
            '\'' => drop(quoted(&mut letters, '\'')),
            letter if letter.is_whitespace() => {}
            letter if is_in_name(letter) => {
                let mut name = String::from(letter);
                while let Some(letter) = letters.next_if(|letter| is_in_name(*letter)) {
                    name.push(letter);
                }
                words.push(SqlToken::Plain(name));
            }
            sign => words.push(SqlToken::Sign(sign)),
        }
    }
    words
}

fn is_in_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_' || letter == '$'
}

/// Reads the rest of a quoted word after its first quote.
fn quoted(letters: &mut std::iter::Peekable<std::str::Chars<'_>>, quote: char) -> String {
    let mut text = String::new();
    while let Some(letter) = letters.next() {
        if letter == quote && letters.next_if_eq(&quote).is_none() {
            break;
        }
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::toc::Section;
    use super::*;

    fn roles(kind: &str, definition: &str) -> Vec<String> {
        let entry = Entry {
            id: 1,
            oid: 0,
            kind: kind.into(),
            tag: "x".into(),
            schema: None,
            owner: Some("own er".into()),
            tablespace: None,
            access_method: None,
            section: Section::PreData,
            definition: definition.into(),
            drop: String::new(),
            depends_on: vec![],
        };
        let toc = Toc { entries: vec![entry], database: "d".into(), server_major: 15, dump_major: 15 };
        let roles = Roles::of(&toc, &EntrySelection::whole(&toc));
        assert!(roles.owners.contains("own er"));
        let mut all: Vec<_> =
            roles.all().into_iter().filter(|name| *name != "own er").map(str::to_owned).collect();
        all.sort();
        all
    }

    #[test]
    fn finds_the_roles_of_privileges_and_policies() {
        for (kind, sql, names) in [
            (
                "ACL",
                "REVOKE ALL ON TABLE a.b FROM PUBLIC;\nGRANT SELECT ON TABLE a.b TO reader;",
                vec!["reader"],
            ),
            ("ACL", "GRANT ALL ON SCHEMA \"TO\" TO \"a \"\"b\" WITH GRANT OPTION;", vec!["a \"b"]),
            (
                "ACL",
                "SET SESSION AUTHORIZATION g;\nGRANT ALL ON TABLE x TO y;\nRESET SESSION AUTHORIZATION;",
                vec!["g", "y"],
            ),
            (
                "DEFAULT ACL",
                "ALTER DEFAULT PRIVILEGES FOR ROLE maker IN SCHEMA s GRANT SELECT ON TABLES  TO reader;",
                vec!["maker", "reader"],
            ),
            (
                "POLICY",
                "CREATE POLICY p ON a.t FOR SELECT TO r1, r2 USING ((x = ANY(to_it)));",
                vec!["r1", "r2"],
            ),
            ("POLICY", "CREATE POLICY \"TO\" ON a.t USING ((x TO y));", vec![]),
            ("USER MAPPING", "CREATE USER MAPPING FOR web SERVER s OPTIONS (\"user\" 'FOR x');", vec!["web"]),
            ("USER MAPPING", "CREATE USER MAPPING FOR PUBLIC SERVER s;", vec![]),
        ] {
            assert_eq!(roles(kind, sql), names, "{sql}");
        }
    }
}
