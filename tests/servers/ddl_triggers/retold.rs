//! Of tables whose values read otherwise, not the rows are told but what became of the values.

use std::collections::BTreeMap;

use backwhen::signal::retold::{Retold, TypeBefore, TypeFacts};

use crate::ddl_triggers::told::{Source, Told};
use crate::support::{Server, for_each_version};

const TYPES: &str = "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN feeling AS mood; CREATE TYPE twain AS (m mood, n int);
     CREATE TYPE span AS RANGE (subtype = mood); CREATE TABLE other (id int); CREATE TABLE row_type (a int, b text);
     CREATE TABLE direct (id int PRIMARY KEY, m mood); CREATE TABLE indirect (m mood[], f feeling, b twain[], s span);
     CREATE TABLE holder (id int PRIMARY KEY, r row_type[]);
     INSERT INTO direct VALUES (1, 'good'); INSERT INTO indirect VALUES ('{good,bad}', 'good', ARRAY[ROW('bad', 1)::twain]);";

/// The message tells of these tables and brings no rows.
fn retold<'a>(told: &'a Told, tables: &[&str]) -> &'a Retold {
    told.assert_no_trouble();
    assert!(told.rows.is_empty());
    let mut names: Vec<_> = told.signal().tables.iter().map(|it| it.facts.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, tables);
    told.signal().retold.as_ref().expect("it is told")
}

fn labels(of: &[(u32, String)]) -> Vec<&str> {
    of.iter().map(|(_, label)| label.as_str()).collect()
}

fn one<T>(of: &BTreeMap<u32, T>) -> (u32, &T) {
    assert_eq!(of.len(), 1);
    of.iter().next().map(|(oid, it)| (*oid, it)).expect("there is one")
}

#[test]
fn a_new_name_of_a_label_is_told_with_all_types_that_have_it_inside() {
    for_each_version(|server| {
        let source = Source::new(server);
        source.run(TYPES);
        let told = source.run("ALTER TYPE mood RENAME VALUE 'good' TO 'fine'");
        let retold = retold(&told, &["direct", "indirect"]);
        let (mood, before) = one(&retold.before);
        let TypeBefore::Enum(before) = before else { panic!("{before:?}") };
        let Some(TypeFacts::Enum(now)) = retold.types.get(&mood) else { panic!("{retold:?}") };
        assert_eq!((labels(before), labels(now)), (vec!["good", "bad"], vec!["fine", "bad"]));
        let column = |table: &str, at: usize| told.table(table).facts.columns[at].type_oid;
        let of = |table, at| &retold.types[&column(table, at)];
        assert_eq!(column("direct", 1), mood);
        assert_eq!(*of("indirect", 0), TypeFacts::Array(mood, ",".into()));
        assert_eq!(*of("indirect", 1), TypeFacts::Domain(mood));
        assert_eq!(*of("indirect", 3), TypeFacts::Range(mood));
        let TypeFacts::Array(twain, _) = of("indirect", 2) else { panic!("{retold:?}") };
        assert_eq!(retold.types[twain], TypeFacts::Composite(vec![(1, mood), (2, 23)]));
        // Not those of tables.
        assert!(retold.types.values().all(|it| *it != TypeFacts::Composite(vec![(1, 23), (2, mood)])));
    });
}

#[test]
fn a_further_label_is_told_since_it_may_have_an_old_name() {
    let source = Source::new(&Server::shared(None));
    source.run(TYPES);
    let told = source.run("ALTER TYPE mood ADD VALUE 'so so' BEFORE 'bad'");
    let (_, before) = one(&retold(&told, &["direct", "indirect"]).before);
    assert!(matches!(before, TypeBefore::Enum(labels) if labels.len() == 2));
    let told = source.run("ALTER TYPE mood ADD VALUE IF NOT EXISTS 'bad'");
    assert!(told.signals.iter().all(|signal| signal.retold.is_none()));
    let told = source.run("ALTER TYPE mood RENAME TO temper; ALTER TYPE twain RENAME ATTRIBUTE n TO number");
    assert!(told.signals.iter().all(|signal| signal.retold.is_none() && signal.trouble.is_none()));
    // A function's text is not to be seen.
    source.run("CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ALTER TYPE temper RENAME VALUE 'bad' TO 'worse'$$");
    retold(&source.run("SELECT f()"), &["direct", "indirect"]);
}

#[test]
fn attributes_and_columns_are_told_by_their_numbers() {
    for_each_version(|server| {
        let source = Source::new(server);
        source.run(TYPES);
        let told = source.run("ALTER TYPE twain ADD ATTRIBUTE c text, DROP ATTRIBUTE m");
        let (twain, before) = one(&retold(&told, &["indirect"]).before);
        assert_eq!(*before, TypeBefore::Composite(vec![1, 2]));
        assert_eq!(
            told.signal().retold.as_ref().unwrap().types[&twain],
            TypeFacts::Composite(vec![(2, 23), (3, 25)])
        );
        let told = source.run("ALTER TABLE row_type DROP COLUMN a");
        let (row, before) = one(&retold(&told, &["holder", "row_type"]).before);
        assert_eq!(*before, TypeBefore::Row { dropped: vec![1], grown: false });
        assert_eq!(told.signal().retold.as_ref().unwrap().types[&row], TypeFacts::Composite(vec![(2, 25)]));
        let told = source.run("ALTER TABLE row_type ADD COLUMN c int");
        let (_, before) = one(&retold(&told, &["holder", "row_type"]).before);
        assert_eq!(*before, TypeBefore::Row { dropped: vec![], grown: true });
        let told =
            source.run("ALTER TABLE row_type ALTER c SET NOT NULL; ALTER TABLE other ADD COLUMN c int");
        assert!(told.signals[1].retold.is_none());
    });
}

#[test]
fn labels_of_another_encoding_are_told_as_bytes() {
    let server = Server::builder().encoding("LATIN1").start();
    let source = Source::new(&server);
    source.psql("SET client_encoding = 'UTF8'; CREATE TYPE mood AS ENUM ('müde'); CREATE TABLE t (m mood)");
    source.told();
    let told = source.run("SET client_encoding = 'UTF8'; ALTER TYPE mood RENAME VALUE 'müde' TO 'wäch'");
    let retold = retold(&told, &["t"]);
    let (mood, TypeBefore::Enum(before)) = one(&retold.before) else { panic!("{retold:?}") };
    let TypeFacts::Enum(now) = &retold.types[&mood] else { panic!("{retold:?}") };
    assert_eq!(retold.label_bytes(&before[0].1).as_deref(), Some(&b"m\xfcde"[..]));
    assert_eq!(retold.label_bytes(&now[0].1).as_deref(), Some(&b"w\xe4ch"[..]));
}

/// The reader names the columns of a type of which nothing is told. To tell a part would pass the others off as dropped.
#[test]
fn names_that_grow_beyond_what_is_kept_are_not_told() {
    let server = Server::shared(None);
    let database = server.fresh_database("many");
    server.psql(
        &database,
        "CREATE SCHEMA a; CREATE TABLE calls (id int PRIMARY KEY, f regproc, o regoper);
         DO $$ BEGIN FOR i IN 1..9000 LOOP
             EXECUTE format('CREATE FUNCTION a.%s() RETURNS int LANGUAGE sql AS ''SELECT 1''', rpad('f' || i || '_', 60, 'x'));
         END LOOP; END $$",
    );
    let source = Source::of(&server, &database, &[]);
    let told = source.run("ALTER SCHEMA a RENAME TO b");
    told.assert_no_trouble();
    let retold = told.signal().retold.as_ref().expect("it is told");
    let Some(TypeFacts::Names(now)) = retold.types.get(&24) else { panic!("{:?}", retold.types.keys()) };
    assert_eq!(now.len(), 9000);
    assert_eq!(retold.types[&2203], TypeFacts::Names(vec![]), "there are no operators");
    let told = source.run(&format!("ALTER SCHEMA b RENAME TO {}", "long".repeat(15)));
    told.assert_no_trouble();
    assert_eq!(told.signal().retold, None);
}
