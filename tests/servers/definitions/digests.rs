//! Digests of definitions: each change shows in the digest of what it changes and in no other, and a database that went
//! through pg_dump and pg_restore has the digests that it had.

use std::collections::BTreeSet;

use crate::support::{Server, for_each_version};
use backwhen::connect::{Conninfo, Session};
use backwhen::model::schema_digests::{DATABASE, DifferenceKind, SchemaDifference, SchemaDigests};
use backwhen::pgtools::{schema_digests, schema_digests_over};

/// One statement follows the other, with an object of each kind.
const OBJECTS: &str = include_str!("objects.sql");
/// In each line: the objects that differ after a statement (NOT NULL has a name from version 18 on, of domains from 17 on), the first major version that knows the statement, and the
/// statement, in which `@` stands for the database.
const MUTATIONS: &str = include_str!("mutations.sql");

fn source(server: &Server) -> String {
    let database = server.fresh_database("digests");
    for role in ["digest_a", "digest_b"] {
        let _ = server.try_psql("postgres", &format!("CREATE ROLE {role}"));
    }
    server.psql(&database, OBJECTS);
    database
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

async fn session(server: &Server, database: &str) -> Session {
    Session::connect_utf8(&Conninfo::parse(&server.conninfo(database)).unwrap(), "test").await.unwrap()
}

/// A line of the list of mutations, but for the statement.
fn described(differences: &[SchemaDifference]) -> BTreeSet<String> {
    let parts = |how: &DifferenceKind| match how {
        DifferenceKind::Missing => "gone".to_owned(),
        DifferenceKind::Added => "new".to_owned(),
        DifferenceKind::Parts(parts) => {
            let named = |part: &String| if part.is_empty() { "itself".to_owned() } else { part.clone() };
            parts.iter().map(named).collect::<Vec<_>>().join(", ")
        }
    };
    differences.iter().map(|it| format!("{}: {}", it.object, parts(&it.kind))).collect()
}

/// Leaves out the parts that a server of this version does not have.
fn without_later_parts(expected: &str, major: u32) -> String {
    let has = |part: &&str| match *part {
        "NOT NULL of the domain" => major >= 17,
        part => major >= 18 || !part.starts_with("NOT NULL of column"),
    };
    let Some((object, parts)) = expected.split_once(": ") else { return expected.to_owned() };
    format!("{object}: {}", parts.split(", ").filter(has).collect::<Vec<_>>().join(", "))
}

async fn mutated(session: &Session, statement: &str) -> SchemaDigests {
    session.batch_execute("BEGIN").await.unwrap();
    session.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    let digests = schema_digests(session).await.unwrap();
    session.batch_execute("ROLLBACK").await.unwrap();
    digests
}

#[test]
fn each_change_shows_in_what_it_changes_and_nowhere_else() {
    for_each_version(|server| {
        let database = source(server);
        let mut faults = Vec::new();
        block_on(async {
            let session = session(server, &database).await;
            let before = schema_digests(&session).await.unwrap();
            for line in MUTATIONS.lines() {
                let (expected, statement) = line.split_once(" | ").expect("a difference and a statement");
                let expected: BTreeSet<_> = match expected {
                    "nothing" => BTreeSet::new(),
                    listed => listed.split("; ").map(|it| without_later_parts(it, server.major())).collect(),
                };
                let (since, statement) = match statement.split_once(": ") {
                    Some((since, statement)) => (since.parse().expect("a version"), statement),
                    None => (0, statement),
                };
                if server.major() < since {
                    continue;
                }
                let now =
                    mutated(&session, &statement.replace("DATABASE @", &format!("DATABASE {database}")))
                        .await;
                let found = described(&before.differences(&now, None, |_, _| false));
                if found != expected {
                    faults.push(format!("{statement}\n   found {found:?}"));
                }
            }
        });
        // Its slot was never made.
        server.psql(
            &database,
            "ALTER SUBSCRIPTION digest_sub SET (slot_name = NONE); DROP SUBSCRIPTION digest_sub",
        );
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    });
}

#[test]
fn a_dump_that_is_restored_has_the_same_digests() {
    for_each_version(|server| {
        let (database, target) = (source(server), server.fresh_database("digests"));
        let restored = server.client(
            "psql",
            &target,
            &["-Xq"],
            &String::from_utf8_lossy(&server.pg_dump(&database, &[])),
        );
        let said = String::from_utf8_lossy(&restored.stderr).into_owned();
        assert!(!said.contains("ERROR"), "{said}");
        let (here, there) = block_on(async {
            let (here, there) = (session(server, &database).await, session(server, &target).await);
            (schema_digests(&here).await.unwrap(), schema_digests(&there).await.unwrap())
        });
        for database in [&database, &target] {
            server.psql(
                database,
                "ALTER SUBSCRIPTION digest_sub SET (slot_name = NONE); DROP SUBSCRIPTION digest_sub",
            );
        }
        let differences = here.differences(&there, Some(&here), |object, _| object == DATABASE);
        assert_eq!(differences, []);
    });
}

#[test]
fn what_several_sessions_digest_is_together_what_one_digests() {
    for_each_version(|server| {
        let database = source(server);
        block_on(async {
            let mut sessions = vec![session(server, &database).await];
            let whole = schema_digests(&sessions[0]).await.unwrap();
            assert!(whole.objects.len() > 50, "{}", whole.objects.len());
            for _ in 2..=5 {
                sessions.push(session(server, &database).await);
                let clients: Vec<_> = sessions.iter().map(|session| &**session).collect();
                assert_eq!(schema_digests_over(&clients).await.unwrap(), whole, "{} sessions", clients.len());
            }
        });
        server.psql(
            &database,
            "ALTER SUBSCRIPTION digest_sub SET (slot_name = NONE); DROP SUBSCRIPTION digest_sub",
        );
    });
}
