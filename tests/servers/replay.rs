//! The schema at every moment between two statements, replayed from what they were.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::support::{Backwhen, Dump, Server, assert_same, for_each_version, versions};
use backwhen::connect::{Conninfo, Session};
use backwhen::error::{Kind, Result};
use backwhen::history::checkpoint::SchemaFacts;
use backwhen::history::definitions::SchemaKnown;
use backwhen::history::{Identity, read_json, write_json};
use backwhen::model::{DatabaseFacts, Edge, Inexact, Lsn, PgTime};
use backwhen::pgtools::{LocalServer, Tools, dump_schema, materialized_views};
use backwhen::progress::Silent;
use backwhen::recover::schema::{ReplayRequest, ReplayedSchema, ScratchServer, SourceRoles, schema_at};
use backwhen::signal::{DefinitionChange, DefinitionSignal};
use backwhen::store::{Folder, ObjectKind, ObjectName, Store};

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
    /// Holds the archive.
    _folder: tempfile::TempDir,
    archive: PathBuf,
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
        let archive = folder.path().join("base.dump");
        dump_schema(tool, &info, None, "pg_dump", &archive).await.unwrap();
        let facts = facts(&info).await;
        server.psql(&database, include_str!("support/recorder.sql"));
        Source { server: server.clone(), database, _folder: folder, archive, tools, facts }
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

    fn request<'a>(&'a self, server: &'a Conninfo, roles: &'a SourceRoles) -> ReplayRequest<'a> {
        ReplayRequest {
            strict: true,
            server,
            ours: true,
            roles,
            limit: Duration::from_secs(60),
            tools: &self.tools,
            archive: &self.archive,
            base: &self.facts,
            sequences: Box::leak(Box::new(BTreeMap::new())),
            orders: Box::leak(Box::new(BTreeMap::new())),
            changes: &[],
            later: &[],
            shown: None,
            progress: &Silent,
            interrupt: Box::leak(Box::new(CancellationToken::new())),
        }
    }

    /// On a server of our own, as a recovery does it.
    async fn replay_changes(&self, changes: &[DefinitionChange]) -> ReplayedSchema {
        let roles = SourceRoles::read(Some(&self.globals()));
        let server = ScratchServer::find(None, &self.tools, &self.facts.database, &roles).await.unwrap();
        assert_eq!(server.notes(), [""; 0], "everything is closed to it");
        let replayed =
            schema_at(&ReplayRequest { changes, ..self.request(server.info(), &roles) }).await.unwrap();
        server.stop().await;
        replayed
    }

    /// On a server that somebody named.
    async fn replay_on(&self, server: &str, changes: &[DefinitionChange]) -> Result<ReplayedSchema> {
        let (server, roles) = (Conninfo::parse(server).unwrap(), SourceRoles::read(None));
        schema_at(&ReplayRequest { ours: false, changes, ..self.request(&server, &roles) }).await
    }

    fn globals(&self) -> String {
        let output = self.server.client(
            "pg_dumpall",
            "dbname=postgres",
            &["--globals-only", "--no-role-passwords"],
            "",
        );
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn replay(&self) -> ReplayedSchema {
        self.replay_changes(&self.changes()).await
    }

    fn dump(&self) -> Dump {
        Dump::with(&self.server, &self.database, &["--schema-only"])
    }

    fn dump_of(&self, replayed: &ReplayedSchema) -> Dump {
        self.dump_of_with(replayed, &[])
    }

    fn dump_of_with(&self, replayed: &ReplayedSchema, arguments: &[&str]) -> Dump {
        let tool = self.tools.for_dump(self.server.major()).unwrap();
        let mut command = std::process::Command::new(tool.program("pg_restore"));
        let output = command
            .args(["--schema-only", "--file=-"])
            .args(arguments)
            .arg(&replayed.archive)
            .output()
            .unwrap();
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
        roles_digest: None,
        digests: None,
        since: Vec::new(),
    }
}

/// Somebody who may make databases there, and nothing else.
fn limited(server: &Server) -> String {
    server.psql("postgres", "CREATE ROLE replaying LOGIN CREATEDB");
    server.conninfo("postgres").replace("user=postgres", "user=replaying")
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
            assert!(replayed.inexact.is_empty(), "{:?}", replayed.inexact);
            assert!(replayed.notes.is_empty(), "{:?}", replayed.notes);
            assert_same(&source.dump(), &source.dump_of(&replayed));
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
    });
}

#[test]
fn an_event_trigger_of_the_application_is_heard_of_before_its_statement() {
    block_on(async {
        let server = Server::shared(None);
        let source = Source::new(&server, include_str!("definitions/own_triggers.sql")).await;
        source.run(
            "CREATE TABLE a (x int)\\; CREATE TABLE b (x int)\\; ALTER TABLE a DROP COLUMN set_up_at; \
             CREATE TABLE c (x int);",
        );
        let replayed = source.replay().await;
        assert_same(&source.dump(), &source.dump_of(&replayed));
        assert!(replayed.inexact.is_empty(), "{:?}", replayed.inexact);
    });
}

#[test]
fn on_a_server_without_the_roles_nothing_is_done_as_them() {
    block_on(async {
        let source = Source::new(&Server::shared(None), BEFORE).await;
        source.run(CHAPTERS[0]);
        // Without what only a superuser makes.
        let rights = CHAPTERS[3]
            .split_inclusive('\n')
            .filter(|line| !["away", "checked"].iter().any(|it| line.contains(it)));
        source.run(&rights.collect::<String>());
        let bare = Server::start(Some(source.server.major()));
        let replayed = source.replay_on(&limited(&bare), &source.changes()).await.unwrap();
        assert!(replayed.inexact.is_empty(), "{:?}", replayed.inexact);
        assert!(replayed.notes.iter().any(|note| note.contains("ddl_owner")), "{:?}", replayed.notes);
        let plain = ["--no-owner", "--no-privileges"];
        let mut truth = Dump::with(&source.server, &source.database, &["--schema-only", plain[0], plain[1]]);
        truth.schema.retain(|name, _| !name.starts_with("POLICY"));
        let mut replayed = source.dump_of_with(&replayed, &plain);
        replayed.schema.retain(|name, _| !name.starts_with("POLICY"));
        assert_same(&truth, &replayed);
        assert_eq!(bare.psql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'ddl%'"), "0");
        assert_eq!(scratch_databases(&bare), "");
    });
}

#[test]
fn a_server_where_we_could_do_harm_is_refused() {
    block_on(async {
        let server = Server::shared(None);
        let source = Source::new(&server, "CREATE TABLE t (a int)").await;
        server.psql("postgres", "CREATE ROLE programs LOGIN CREATEDB IN ROLE pg_execute_server_program");
        for user in ["postgres", "programs"] {
            let info = server.conninfo("postgres").replace("user=postgres", &format!("user={user}"));
            let error = source.replay_on(&info, &[]).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.message().contains("CREATE ROLE replay LOGIN CREATEDB"), "{error}");
        }
    });
}

#[test]
fn a_statement_that_the_server_refuses_is_named_without_its_values() {
    block_on(async {
        let source = Source::new(&Server::shared(None), "CREATE TABLE t (a int)").await;
        source.run("ALTER TABLE t ADD b text DEFAULT 'secret'");
        let mut changes = source.changes();
        changes[0].signal.statement.query = "ALTER TABLE gone ADD b text DEFAULT 'secret'".into();
        let replayed = source.replay_changes(&changes).await;
        assert_eq!(replayed.inexact.len(), 1, "{:?}", replayed.inexact);
        let Inexact { what, why: said } = &replayed.inexact[0];
        assert_eq!(what, "public.t");
        assert!(said.contains("the ALTER TABLE of 2000-01-01") && said.contains("0/1"), "{said}");
        assert!(said.contains("relation \"gone\" does not exist") && !said.contains("secret"), "{said}");
        let at = Edge { lsn: Lsn(1), time: PgTime(0) };
        assert_eq!(replayed.grade, SchemaKnown::Except { statements: 1, at });
        // The column is known anyway, though not its default: rows fit.
        assert!(replayed.unfit.is_empty(), "{:?}", replayed.unfit);
        source.run("ALTER TABLE t ALTER b DROP DEFAULT");
        assert_eq!(
            source.dump_of(&replayed).schema.get("TABLE public.t"),
            source.dump().schema.get("TABLE public.t")
        );
    });
}

#[test]
fn what_cannot_be_replayed_is_named() {
    block_on(async {
        let source = Source::new(&Server::shared(None), "CREATE TABLE t (a int)").await;
        source.run(
            "ALTER TABLE t ADD b text; CREATE TABLE u (a int, b numeric(3, 1)); CREATE VIEW v AS TABLE t; \
             ALTER TABLE t ADD c date",
        );
        let mut changes = source.changes();
        for number in [0, 1, 2] {
            changes[number].signal.statement.context = "a frame that nobody knows".into();
        }
        let replayed = source.replay_changes(&changes).await;
        let named: Vec<_> = replayed.inexact.iter().map(|it| it.what.as_str()).collect();
        assert_eq!(named, ["public.t", "public.u", "view public.v"], "{:?}", replayed.inexact);
        assert!(replayed.inexact[0].why.contains("ALTER TABLE was not replayed"), "{:?}", replayed.inexact);
        // What is known of a table's columns is there anyway.
        let dump = source.dump_of(&replayed);
        assert_eq!(dump.schema.get("TABLE public.u"), source.dump().schema.get("TABLE public.u"));
    });
}

#[test]
fn only_what_a_killed_run_left_is_cleared() {
    block_on(async {
        let server = Server::start(None);
        let source = Source::new(&server, "CREATE TABLE t (a int)").await;
        let [left, bare, held, theirs] =
            ["0000000000000001", "0000000000000002", "0000000000000003", "0000000000000004"]
                .map(|number| format!("backwhen_scratch_{number}"));
        for name in [&left, &bare, &held, &theirs] {
            server.create_database(name);
        }
        let comment = "backwhen: a scratch database of a running recovery, not one to use";
        for name in [&left, &held] {
            server.psql("postgres", &format!("COMMENT ON DATABASE {name} IS '{comment}'"));
        }
        server.psql(&theirs, "CREATE TABLE precious (a int)");
        let inside = Session::connect_utf8(&Conninfo::parse(&server.conninfo(&held)).unwrap(), "test").await;
        let info = limited(&server);
        for name in [&left, &bare, &held, &theirs] {
            server.psql("postgres", &format!("ALTER DATABASE {name} OWNER TO replaying"));
        }
        source.replay_on(&info, &[]).await.unwrap();
        assert_eq!(scratch_databases(&server), format!("{held}\n{theirs}"));
        source.run("CREATE TABLE u (a int)");
        let mut refused = source.changes();
        refused[0].signal.tables[0].facts.columns[0].type_name = "no_such_type".into();
        refused[0].signal.statement.query = "CREATE TABLE u (a no_such_type)".into();
        let replayed = source.replay_on(&info, &refused).await.unwrap();
        assert_eq!(replayed.unfit.len(), 1, "{:?}", replayed.unfit);
        assert_eq!(scratch_databases(&server), format!("{held}\n{theirs}"));
        drop(inside);
    });
}

/// A history whose messages are sealed with `secret`, as older versions did, and its source.
fn history(before: &str) -> (Backwhen, Server) {
    let server = Server::shared(None);
    let database = server.fresh_database("history");
    server.psql(&database, before);
    server.psql(&database, include_str!("support/recorder.sql"));
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    let (store, name) = (Folder::new(&backwhen.history()), ObjectName::only(ObjectKind::Identity));
    let mut identity: Identity = read_json(&store, &name).unwrap().unwrap();
    // As it was before messages were signed.
    (identity.secret, identity.messages, identity.event_triggers) = ("secret".into(), 0, None);
    store.remove(std::slice::from_ref(&name)).unwrap();
    write_json(&store, &name, &identity).unwrap();
    (backwhen, server)
}

#[test]
fn the_journal_holds_what_every_moment_is_made_of() {
    let (backwhen, server) = history("CREATE TABLE t (a int PRIMARY KEY)");
    let database = backwhen.database();
    let truth = || Dump::with(&server, database, &["--schema-only"]);
    let mut moments = vec![truth()];
    server.psql(database, "ALTER TABLE t ADD b text DEFAULT 'a secret'; INSERT INTO t VALUES (1)");
    moments.push(truth());
    server.psql(
        database,
        "BEGIN; CREATE TABLE u (a int); DROP TABLE t; COMMIT; BEGIN; CREATE TABLE never (a int); ROLLBACK",
    );
    moments.push(truth());
    // No checkpoint in between: all of it must come from the statements.
    backwhen.ok(&["capture", "--until", "caught-up"]);
    let mut listed = backwhen.json_lines(&["list", "schemas"]);
    // What the event triggers of `init` do for the new table, the recorder tells as well.
    listed.retain(|it| it["tag"] != "ALTER PUBLICATION");
    let commands: Vec<_> = listed.iter().map(|it| it["tag"].as_str().unwrap()).collect();
    assert_eq!(commands, ["ALTER TABLE", "CREATE TABLE", "DROP TABLE"]);
    assert_eq!(listed[0]["statement"], "ALTER TABLE t ADD b text DEFAULT '…'");
    assert_eq!(listed[1]["xid"], listed[2]["xid"]);
    let text = backwhen.ok(&["list", "schemas"]);
    assert!(text.contains("postgres") && !text.contains("a secret"), "{text}");

    let checkpoint = backwhen.json_lines(&["list", "checkpoints"]).remove(0);
    let at = |lsn: &serde_json::Value| {
        let shown = backwhen.json(&["show", "schema", "--at", lsn.as_str().unwrap()]);
        Dump::parse(shown["sql"].as_str().unwrap().as_bytes())
    };
    let lsns = [&checkpoint["lsn"], &listed[0]["lsn"], &listed[2]["lsn"]];
    for (truth, lsn) in moments.iter().zip(lsns) {
        assert_same(truth, &at(lsn));
    }
    // On a server that is named, as somebody with few rights.
    let role = format!("{database}_replaying");
    server.psql("postgres", &format!("CREATE ROLE {role} LOGIN CREATEDB"));
    let scratch = server.conninfo("postgres").replace("user=postgres", &format!("user={role}"));
    let arguments = ["show", "schema", "--at", lsns[2].as_str().unwrap(), "--scratch", &scratch];
    let shown = backwhen.json(&arguments);
    assert!(shown["notes"].to_string().contains("is trusted with what"), "{shown}");
    let sql = shown["sql"].as_str().unwrap().replace(&role, "postgres");
    assert_same(&moments[2], &Dump::parse(sql.as_bytes()));
}

/// A server that speaks German, where one on this machine can; an older glibc lets `LANGUAGE` choose beside C.utf8.
fn german() -> Option<Server> {
    let versions = versions().into_iter().rev();
    for version in versions {
        let german = [("LANGUAGE", "de"), ("LC_ALL", "C.utf8")];
        let builder = Server::builder_of(Some(version)).setting("lc_messages", "C.utf8");
        let server = german.iter().fold(builder, |builder, (name, value)| builder.env(name, value)).start();
        let message = server.try_psql("postgres", "SELECT 1 / 0").unwrap_err();
        if message.contains("FEHLER") {
            return Some(server);
        }
    }
    eprintln!("skipped: no server on this machine speaks German");
    None
}

#[test]
fn a_role_that_a_server_of_another_language_lacks_costs_no_more_than_what_is_its_own() {
    let Some(server) = german() else { return };
    let database = server.fresh_database("german");
    server.psql(
        &database,
        "CREATE TABLE t (a int PRIMARY KEY); CREATE ROLE reader; CREATE ROLE replaying LOGIN CREATEDB",
    );
    let backwhen = Backwhen::new(&server, &database);
    backwhen.init();
    server.psql(
        &database,
        "CREATE SCHEMA own AUTHORIZATION reader; CREATE TABLE own.t (a int PRIMARY KEY, b text)",
    );
    backwhen.ok(&["capture", "--until", "caught-up"]);
    server.psql(&database, "DROP OWNED BY reader CASCADE; DROP ROLE reader");
    let scratch = server.conninfo("postgres").replace("user=postgres", "user=replaying");
    let listed = backwhen.json_lines(&["list", "schemas"]);
    let made = listed.iter().find(|it| it["tag"] == "CREATE TABLE").expect("the table was made");
    let at = made["lsn"].as_str().unwrap();
    let shown = backwhen.json(&["show", "schema", "--at", at, "--scratch", &scratch]);
    assert!(shown["sql"].as_str().unwrap().contains("CREATE TABLE own.t"), "{shown}");
    let notes = shown["notes"].to_string();
    assert!(
        notes.contains("a CREATE SCHEMA is left out or lacks a part: the server has no role reader"),
        "{notes}"
    );
    assert!(!notes.contains("failed on the scratch server"), "{notes}");
}

#[test]
fn a_server_of_our_own_comes_and_goes() {
    const NAME: &str = "replay::a_server_of_our_own_comes_and_goes";
    let server = Server::shared(None);
    let tools = Tools::find(server.bin()).unwrap();
    let programs = tools.for_server(server.major()).expect("the tests' servers have programs").clone();
    let found = block_on(async {
        let server = LocalServer::start(&programs, "postgres").await.unwrap();
        let session = Session::connect_utf8(server.info(), "test").await.unwrap();
        let data = session.query_one("SHOW data_directory", &[]).await.unwrap().get::<_, String>(0);
        let folder = PathBuf::from(data).parent().unwrap().to_owned();
        let found = folder.metadata().unwrap();
        server.stop().await;
        assert!(!folder.exists(), "{} is left", folder.display());
        found
    });
    assert_eq!(found.mode() & 0o777, 0o700, "nobody else enters it");
    assert_ne!(found.uid(), 0, "PostgreSQL does not run as root");
    if tempfile::tempfile().unwrap().metadata().unwrap().uid() != 0 {
        return;
    }
    // Once more as somebody who can only run it as himself.
    let folder = tempfile::Builder::new().prefix("backwhen-test-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("again");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut command = std::process::Command::new(copy);
    command.args(["--exact", NAME]).current_dir("/");
    let output = crate::support::as_somebody(&mut command).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
