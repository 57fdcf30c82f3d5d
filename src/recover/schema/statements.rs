//! Splits a text into statements, and names the kind of each in the server's words.

use crate::recover::lexer::{Word, WordKind, words};

/// One statement, without its semicolon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sql {
    pub text: String,
    /// The range of the statement's text within `text`.
    pub words: Vec<Word>,
    /// The command tag, like `CREATE TABLE AS`; for a statement that changes no definition, its first word.
    pub tag: String,
}

/// The kinds that can follow CREATE, ALTER, DROP; a longer kind comes before its own beginning.
const KINDS: &[&str] = &[
    "ACCESS METHOD",
    "AGGREGATE",
    "CAST",
    "COLLATION",
    "CONVERSION",
    "DATABASE",
    "DEFAULT PRIVILEGES",
    "DOMAIN",
    "EVENT TRIGGER",
    "EXTENSION",
    "FOREIGN DATA WRAPPER",
    "FOREIGN TABLE",
    "FUNCTION",
    "GROUP",
    "INDEX",
    "LANGUAGE",
    "LARGE OBJECT",
    "MATERIALIZED VIEW",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "OPERATOR",
    "OWNED",
    "POLICY",
    "PROCEDURE",
    "PUBLICATION",
    "ROLE",
    "ROUTINE",
    "RULE",
    "SCHEMA",
    "SEQUENCE",
    "SERVER",
    "STATISTICS",
    "SUBSCRIPTION",
    "SYSTEM",
    "TABLE",
    "TABLESPACE",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "TRANSFORM",
    "TRIGGER",
    "TYPE",
    "USER MAPPING",
    "USER",
    "VIEW",
];

/// Words that can stand between CREATE, ALTER or DROP and the kind.
const BETWEEN: &[&str] = &[
    "or",
    "replace",
    "global",
    "local",
    "temp",
    "temporary",
    "unlogged",
    "unique",
    "recursive",
    "constraint",
    "trusted",
    "procedural",
    "default",
];

/// Other commands whose tags have more than one word.
const LONG_TAGS: &[&str] = &[
    "IMPORT FOREIGN SCHEMA",
    "REASSIGN OWNED",
    "REFRESH MATERIALIZED VIEW",
    "SECURITY LABEL",
    "ROLLBACK PREPARED",
    "PREPARE TRANSACTION",
    "START TRANSACTION",
];

impl Sql {
    /// Returns the first line, without the contents of its strings, since they may be values.
    pub fn headline(&self) -> String {
        let mut line = String::new();
        let mut at = 0;
        for word in self.words.iter().filter(|word| word.kind == WordKind::String) {
            line.push_str(&self.text[at..word.at.start]);
            line.push_str("'…'");
            at = word.at.end;
        }
        line.push_str(&self.text[at..]);
        line.lines().next().unwrap_or_default().trim_end().to_owned()
    }

    /// Whether this is a statement of the server's tag. A statement that a newer server knows has its first word as its
    /// tag here; it is known by its first words.
    pub(super) fn is_of(&self, tag: &str) -> bool {
        self.tag == tag || !self.tag.contains(' ') && begins_with(&self.words, tag)
    }

    /// Whether one of the words is this name.
    pub fn names(&self, name: &str) -> bool {
        self.words.iter().any(|word| word.name() == Some(name))
    }

    /// Returns the words outside all parentheses, with their numbers.
    pub fn outer(&self) -> impl Iterator<Item = (usize, &Word)> {
        let mut depth = 0_i32;
        self.words.iter().enumerate().filter(move |(_, word)| {
            let outside = depth == 0 && !word.is_sign(')');
            match () {
                () if opens(word) => depth += 1,
                () if closes(word) => depth -= 1,
                () => {}
            }
            outside
        })
    }

    /// Whether the statement grants or revokes privileges.
    pub(super) fn is_about_privileges(&self) -> bool {
        matches!(self.tag.as_str(), "GRANT" | "REVOKE" | "ALTER DEFAULT PRIVILEGES")
    }

    /// Whether these words stand one after the other, outside of parentheses.
    pub fn says(&self, phrase: &[&str]) -> bool {
        let outer: Vec<_> = self.outer().map(|(_, word)| word).collect();
        outer.windows(phrase.len()).any(|some| some.iter().zip(phrase).all(|(word, wanted)| word.is(wanted)))
    }

    fn new(text: &str, words: &[Word], start: usize) -> Sql {
        let moved = |word: &Word| Word { at: word.at.start - start..word.at.end - start, ..word.clone() };
        let mut sql =
            Sql { text: text.to_owned(), words: words.iter().map(moved).collect(), tag: String::new() };
        sql.tag = sql.find_tag();
        sql
    }

    fn find_tag(&self) -> String {
        let Some(first) = self.words.iter().find_map(|word| word.name()) else { return String::new() };
        match first {
            "create" | "alter" | "drop" => self.object_tag(first),
            "rollback" if self.words.iter().any(|word| word.is("to")) => "ROLLBACK TO".into(),
            "select" | "with" | "table" | "values" if self.selects_into() => "SELECT INTO".into(),
            _ => {
                let long = LONG_TAGS.iter().find(|tag| begins_with(&self.words, tag));
                long.map_or_else(|| first.to_uppercase(), |tag| (*tag).into())
            }
        }
    }

    fn object_tag(&self, verb: &str) -> String {
        let between = |word: &Word| word.name().is_some_and(|name| BETWEEN.contains(&name));
        let kind_at = |from: usize| KINDS.iter().find(|kind| begins_with(&self.words[from..], kind));
        let mut from = 1;
        let kind = loop {
            match kind_at(from) {
                // `DEFAULT` is the beginning of a kind, and can also stand before CONVERSION.
                Some(kind) => break *kind,
                None if self.words.get(from).is_some_and(between) => from += 1,
                None => return verb.to_uppercase(),
            }
        };
        let verb = verb.to_uppercase();
        if verb == "CREATE" && kind == "TABLE" && self.outer().any(|(_, word)| word.is("as")) {
            return "CREATE TABLE AS".into();
        }
        if kind == "DEFAULT PRIVILEGES" || verb != "CREATE" || kind != "USER" {
            return format!("{verb} {kind}");
        }
        "CREATE ROLE".into()
    }

    fn selects_into(&self) -> bool {
        let mut outer = self.outer().map(|(_, word)| word);
        let decisive = outer.find(|word| ["into", "insert", "merge"].iter().any(|it| word.is(it)));
        decisive.is_some_and(|word| word.is("into"))
    }
}

/// Splits a text into its statements, and skips empty ones.
pub fn split(text: &str, plain_backslashes: bool) -> Vec<Sql> {
    let all = words(text, plain_backslashes);
    let mut statements = Vec::new();
    let mut begin = 0;
    let mut nesting = Nesting::default();
    for (number, word) in all.iter().enumerate() {
        if nesting.ends_at(&all[begin..], number - begin) {
            push(&mut statements, text, &all[begin..number], word.at.start);
            begin = number + 1;
            nesting = Nesting::default();
        }
    }
    push(&mut statements, text, &all[begin..], text.len());
    statements
}

fn push(statements: &mut Vec<Sql>, text: &str, words: &[Word], end: usize) {
    let Some(first) = words.first() else { return };
    let start = first.at.start;
    statements.push(Sql::new(text[start..end].trim_end(), words, start));
}

/// The depth of a position in parentheses and in bodies between BEGIN ATOMIC and END.
#[derive(Default)]
struct Nesting {
    parentheses: i32,
    body: i32,
}

impl Nesting {
    /// Whether the word with this number is the semicolon that ends the statement.
    fn ends_at(&mut self, statement: &[Word], number: usize) -> bool {
        let word = &statement[number];
        match () {
            () if opens(word) => self.parentheses += 1,
            () if closes(word) => self.parentheses -= 1,
            () if word.is("begin") && statement.get(number + 1).is_some_and(|next| next.is("atomic")) => {
                self.body += 1;
            }
            () if self.body > 0 && word.is("case") => self.body += 1,
            () if self.body > 0 && word.is("end") => self.body -= 1,
            () => {}
        }
        word.is_sign(';') && self.parentheses <= 0 && self.body == 0
    }
}

fn opens(word: &Word) -> bool {
    word.is_sign('(') || word.is_sign('[')
}

fn closes(word: &Word) -> bool {
    word.is_sign(')') || word.is_sign(']')
}

fn begins_with(words: &[Word], phrase: &str) -> bool {
    let mut wanted = phrase.split(' ').map(str::to_ascii_lowercase);
    let mut words = words.iter();
    wanted.all(|wanted| words.next().is_some_and(|word| word.is(&wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<String> {
        split(sql, true).into_iter().map(|statement| statement.text).collect()
    }

    fn tag(sql: &str) -> String {
        let statements = split(sql, true);
        assert_eq!(statements.len(), 1, "{sql}");
        statements[0].tag.clone()
    }

    #[test]
    fn statements_end_at_semicolons_that_count() {
        assert_eq!(texts("a; b;; -- c;\n ;d ';'"), ["a", "b", "d ';'"]);
        assert_eq!(
            texts("CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b); x"),
            ["CREATE RULE r AS ON INSERT TO t DO ALSO (DELETE FROM a; DELETE FROM b)", "x"]
        );
        let atomic =
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END";
        assert_eq!(texts(&format!("{atomic}; BEGIN; x; END")), [atomic, "BEGIN", "x", "END"]);
        assert_eq!(texts("CREATE FUNCTION f() AS $$ a; b $$; x"), ["CREATE FUNCTION f() AS $$ a; b $$", "x"]);
        assert!(texts(" ; -- nothing").is_empty());
    }

    #[test]
    fn tags_are_the_servers() {
        for (sql, expected) in [
            ("create table t (a int generated always as (1) stored)", "CREATE TABLE"),
            ("create unlogged table if not exists t as select 1", "CREATE TABLE AS"),
            ("CREATE TEMP TABLE t (a) AS VALUES (1)", "CREATE TABLE AS"),
            ("CREATE TABLE p PARTITION OF t FOR VALUES IN (1)", "CREATE TABLE"),
            ("SELECT a INTO x FROM y", "SELECT INTO"),
            ("WITH q AS (SELECT 1) SELECT * INTO UNLOGGED x FROM q", "SELECT INTO"),
            ("WITH q AS (SELECT 1) INSERT INTO x SELECT * FROM q", "WITH"),
            ("SELECT f()", "SELECT"),
            ("CREATE UNIQUE INDEX CONCURRENTLY ON t (a)", "CREATE INDEX"),
            ("CREATE OR REPLACE VIEW v AS SELECT 1", "CREATE VIEW"),
            ("create or replace temp recursive view v (a) as select 1", "CREATE VIEW"),
            ("CREATE MATERIALIZED VIEW v AS SELECT 1", "CREATE MATERIALIZED VIEW"),
            ("CREATE CONSTRAINT TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION f()", "CREATE TRIGGER"),
            ("CREATE DEFAULT CONVERSION c FOR 'a' TO 'b' FROM f", "CREATE CONVERSION"),
            ("ALTER DEFAULT PRIVILEGES IN SCHEMA s GRANT SELECT ON TABLES TO r", "ALTER DEFAULT PRIVILEGES"),
            ("CREATE OPERATOR CLASS c FOR TYPE int USING btree AS OPERATOR 1 <", "CREATE OPERATOR CLASS"),
            ("create operator + (function = f)", "CREATE OPERATOR"),
            ("ALTER TEXT SEARCH CONFIGURATION c ADD MAPPING FOR a WITH b", "ALTER TEXT SEARCH CONFIGURATION"),
            ("DROP FOREIGN TABLE IF EXISTS t", "DROP FOREIGN TABLE"),
            ("CREATE USER MAPPING FOR x SERVER s", "CREATE USER MAPPING"),
            ("CREATE USER x", "CREATE ROLE"),
            ("DROP OWNED BY x", "DROP OWNED"),
            ("COMMENT ON TABLE t IS 'x'", "COMMENT"),
            ("refresh materialized view v", "REFRESH MATERIALIZED VIEW"),
            ("GRANT SELECT ON t TO x", "GRANT"),
            ("DO $$ begin end $$", "DO"),
            ("ROLLBACK WORK TO SAVEPOINT x", "ROLLBACK TO"),
            ("(SELECT 1)", "SELECT"),
            ("CREATE SCHEMA s CREATE TABLE t (a int) CREATE VIEW v AS SELECT 1", "CREATE SCHEMA"),
        ] {
            assert_eq!(tag(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_statement_knows_its_words_and_where_they_stand() {
        let statements = split("x; ALTER TABLE a.\"B c\" RENAME TO d", true);
        let alter = &statements[1];
        assert!(alter.names("B c") && alter.names("d") && !alter.names("x"));
        assert_eq!(&alter.text[alter.words[4].at.clone()], "\"B c\"");
        let headlines: Vec<_> =
            split("COMMENT ON TABLE t IS 'a\nb' -- x\n; ALTER TABLE t\n ADD x int; DO $$ 'x\n$$", true)
                .iter()
                .map(Sql::headline)
                .collect();
        assert_eq!(headlines, ["COMMENT ON TABLE t IS '…' -- x", "ALTER TABLE t", "DO '…'"]);
        assert!(alter.says(&["rename", "to"]) && !alter.says(&["rename", "column"]));
    }
}
