//! The schema at every moment between two statements, replayed from what they were.

mod support;

use std::path::PathBuf;

use backwhen::connect::{Conninfo, Session};
use backwhen::error::Result;
use backwhen::history::checkpoint::SchemaFacts;
use backwhen::history::signal::{DefinitionChange, DefinitionSignal};
use backwhen::model::{DatabaseFacts, Lsn, PgTime};
use backwhen::pgtools::{Tools, dump_schema, materialized_views};
use backwhen::progress::Silent;
use backwhen::recover::schema::{ReplayedSchema, Request, schema_at};
use support::{Dump, Server, assert_same, for_each_version};

const BEFORE: &str = include_str!("definitions/before.sql");
const CHAPTERS: [&str; 5] = [
    include_str!("definitions/tables.sql"),
    include_str!("definitions/types.sql"),
    include_str!("definitions/functions.sql"),
    include_str!("definitions/rights.sql"),
    include_str!("definitions/messages.sql"),
];

/// A database whose statements are recorded, and an archive of it from before them.
struct Source {
    server: Server,
    database: String,
    folder: tempfile::TempDir,
    tools: Tools,
    facts: SchemaFacts,
}

impl Source {
    async fn new(server: &Server, before: &str) -> Source {
        let database = server.fresh_database("replayed");
        server.psql(&database, before);
        let info = Conninfo::parse(&server.conninfo(&database)).unwrap();
        let tools = Tools::find(server.bin()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let tool = tools.for_dump(server.major()).unwrap();
        dump_schema(tool, &info, None, &folder.path().join("base.dump")).await.unwrap();
        let facts = facts(&info).await;
        server.psql(&database, include_str!("support/recorder.sql"));
        Source { server: server.clone(), database, folder, tools, facts }
    }

    fn run(&self, sql: &str) {
        self.server.psql(&self.database, sql);
    }

    fn changes(&self) -> Vec<DefinitionChange> {
        let log = self.server.psql(&self.database, "SELECT signal FROM backwhen.log ORDER BY number");
        let change = |(number, line): (usize, &str)| {
            let signal: DefinitionSignal = serde_json::from_str(line).unwrap();
            let lsn = Lsn(number as u64 + 1);
            DefinitionChange { lsn, end_lsn: lsn, time: PgTime(0), xid: 1, signal }
        };
        log.lines().enumerate().map(change).collect()
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("base.dump")
    }

    async fn replay_on(&self, server: &Server, changes: &[DefinitionChange]) -> Result<ReplayedSchema> {
        schema_at(&Request {
            server: &Conninfo::parse(&server.conninfo("postgres")).unwrap(),
            ours: false,
            tools: &self.tools,
            archive: &self.archive(),
            base: &self.facts,
            changes,
            progress: &Silent,
        })
        .await
    }

    async fn replay(&self) -> ReplayedSchema {
        self.replay_on(&self.server, &self.changes()).await.unwrap()
    }

    fn dump(&self) -> Dump {
        Dump::with(&self.server, &self.database, &["--schema-only"])
    }

    fn dump_of(&self, replayed: &ReplayedSchema) -> Dump {
        let tool = self.tools.for_dump(self.server.major()).unwrap();
        let mut command = std::process::Command::new(tool.program("pg_restore"));
        let output = command.args(["--schema-only", "--file=-"]).arg(&replayed.archive).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Dump::parse(&output.stdout)
    }
}

async fn facts(info: &Conninfo) -> SchemaFacts {
    let session = Session::connect_utf8(info, "test").await.unwrap();
    let views = materialized_views(&session).await.unwrap();
    let filled = views.into_iter().filter(|view| view.populated).map(|view| (view.schema, view.name));
    SchemaFacts {
        lsn: Lsn::ZERO,
        time: PgTime(0),
        archive: String::new(),
        globals: None,
        pg_dump_major: 0,
        server_version: String::new(),
        database: DatabaseFacts::read(&session).await.unwrap(),
        roles: Vec::new(),
        materialized_views: filled.collect(),
        large_objects: 0,
        left_out: Vec::new(),
        fingerprint: String::new(),
        since: Vec::new(),
    }
}

fn scratch_databases(server: &Server) -> String {
    server.psql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'backwhen_scratch%'")
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

#[test]
fn every_kind_of_statement_comes_back() {
    for_each_version(|server| {
        block_on(async {
            let source = Source::new(server, BEFORE).await;
            for chapter in CHAPTERS {
                source.run(chapter);
            }
            let replayed = source.replay().await;
            assert_same(&source.dump(), &source.dump_of(&replayed));
            assert!(replayed.inexact.is_empty(), "{:?}", replayed.inexact);
            assert!(replayed.notes.is_empty(), "{:?}", replayed.notes);
            let info = Conninfo::parse(&server.conninfo(&source.database)).unwrap();
            assert_eq!(replayed.facts.materialized_views, facts(&info).await.materialized_views);
        });
    });
}

#[test]
fn every_moment_between_the_chapters_comes_back() {
    block_on(async {
        let source = Source::new(&Server::shared(None), BEFORE).await;
        for chapter in CHAPTERS {
            source.run(chapter);
            assert_same(&source.dump(), &source.dump_of(&source.replay().await));
        }
        assert_eq!(scratch_databases(&source.server), "");
    });
}
