//! Sinks against a real server: what goes in comes out, and nothing half done bears the name.

use std::collections::HashSet;

use crate::support::{Dump, Server, assert_same};
use backwhen::connect::{Conninfo, Session, connect};
use backwhen::error::{Error, Kind, Result};
use backwhen::model::{Column, DatabaseFacts, Grade, RowIdentity, Table};
use backwhen::pgtools::{Tools, dump_globals, dump_schema};
use backwhen::recover::archive::{AfterRows, Archive, EntrySelection};
use backwhen::recover::sink::{
    ArchiveDefinitions, Destination, Opening, Provenance, RowDigest, SequenceValue, Sink,
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

const SCHEMA: &str = include_str!("sink_schema.sql");

/// A source database that was dumped, with what a recovery needs of it.
struct Source {
    server: Server,
    database: String,
    folder: tempfile::TempDir,
    facts: DatabaseFacts,
    tables: Vec<Table>,
    tools: Tools,
}

impl Source {
    async fn new(server: Server, tools: Tools, sql: &str) -> Source {
        let database = server.fresh_database("sink_source");
        server.psql(&database, sql);
        let info = Conninfo::parse(&server.conninfo(&database)).unwrap();
        let session = Session::connect_utf8(&info, "test").await.unwrap();
        let facts = DatabaseFacts::read(&session).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let tool = tools.for_dump(facts.server_major).unwrap();
        dump_schema(tool, &info, None, "pg_dump", &folder.path().join("schema.dump")).await.unwrap();
        let tables = read_tables(&session).await;
        Source { server, database, folder, facts, tables, tools }
    }

    async fn rich() -> Source {
        let server = Server::shared(None);
        let tools = Tools::find(server.bin()).unwrap();
        Source::new(server, tools, SCHEMA).await
    }

    fn archive(&self) -> Archive {
        Archive::open(&self.folder.path().join("schema.dump")).unwrap()
    }

    async fn open(&self, into: &str, create: bool) -> Result<Sink> {
        let archive = self.archive();
        let selection = EntrySelection::whole(&archive.toc);
        self.open_with(into, create, archive, selection).await
    }

    async fn open_with(
        &self,
        into: &str,
        create: bool,
        archive: Archive,
        selection: EntrySelection,
    ) -> Result<Sink> {
        let opening = Opening {
            create,
            strict: true,
            template: None,
            is_part: false,
            source: &self.facts,
            definitions: ArchiveDefinitions::new(archive, selection)?,
            tables: &self.tables,
            unfit: Vec::new(),
            missing: Vec::new(),
            provenance: Provenance { moment: "then".into(), lsn: "0/1".into(), source: "here".into() },
            jobs: 2,
            tools: self.tools.clone(),
        };
        Sink::open(&Destination::parse(into)?, opening).await
    }

    /// The rows of a table, in pieces.
    async fn rows(&self, table: &Table) -> Vec<Bytes> {
        let info = Conninfo::parse(&self.server.conninfo(&self.database)).unwrap();
        let session = connect(&info, "test").await.unwrap();
        let columns = table.quoted_columns();
        let columns = if columns.is_empty() { columns } else { format!(" ({columns})") };
        let copy = session.copy_out(&format!("COPY {}{columns} TO STDOUT", table.quoted())).await.unwrap();
        copy.map(|piece| piece.unwrap()).collect().await
    }

    async fn load(&self, sink: &Sink, table: &Table) -> Result<()> {
        let rows = self.rows(table).await;
        let mut digest = RowDigest::default();
        rows.iter().for_each(|piece| digest.update(piece));
        let (sender, receiver) = mpsc::channel(2);
        let feed = async {
            for piece in rows {
                let _ = sender.send(Ok(piece)).await;
            }
            drop(sender);
        };
        let (loaded, ()) = tokio::join!(sink.load(table, receiver), feed);
        loaded?;
        if let Some(contents) = sink.read_back(table, 2).await? {
            let (rows, sum) = digest.finish();
            assert_eq!(contents.rows, rows, "{}", table.display());
            assert!(contents.digest.is_none_or(|found| found == sum), "{}", table.display());
        }
        Ok(())
    }

    async fn fill(&self, sink: &Sink) -> Result<()> {
        sink.pre_data().await?;
        for table in &self.tables {
            self.load(sink, table).await?;
        }
        sink.large_objects().await?;
        sink.post_data(2, AfterRows::Whole, &HashSet::new()).await?;
        sink.set_sequences(&self.sequences()).await?;
        let views: Vec<_> = self
            .archive()
            .toc
            .materialized_views()
            .map(|(schema, name)| (schema.to_owned(), name.to_owned()))
            .collect();
        sink.refresh_materialized_views(&views).await?;
        sink.analyze().await
    }

    fn sequences(&self) -> Vec<SequenceValue> {
        let sql = "SELECT schemaname, sequencename, coalesce(last_value, start_value), last_value IS NOT NULL \
                   FROM pg_sequences WHERE schemaname <> 'backwhen'";
        let rows = self.server.psql(&self.database, sql);
        rows.lines()
            .map(|row| {
                let parts: Vec<_> = row.split('|').collect();
                SequenceValue {
                    schema: parts[0].into(),
                    name: parts[1].into(),
                    last_value: parts[2].parse().unwrap(),
                    is_called: parts[3] == "t",
                    at_least: None,
                    descending: false,
                }
            })
            .collect()
    }

    fn databases(&self, like: &str) -> String {
        let sql = format!("SELECT datname FROM pg_database WHERE datname LIKE '{like}%' ORDER BY 1");
        self.server.psql("postgres", &sql)
    }
}

/// The ordinary tables of a database with their stored columns.
async fn read_tables(session: &Session) -> Vec<Table> {
    let sql = "SELECT c.oid, n.nspname::text, c.relname::text, \
               array(SELECT attname::text FROM pg_catalog.pg_attribute a WHERE attrelid = c.oid AND attnum > 0 \
                     AND NOT attisdropped AND attgenerated = '' ORDER BY attnum), \
               array(SELECT atttypid FROM pg_catalog.pg_attribute a WHERE attrelid = c.oid AND attnum > 0 \
                     AND NOT attisdropped AND attgenerated = '' ORDER BY attnum) \
               FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace \
               WHERE relkind = 'r' AND relpersistence = 'p' AND c.oid >= 16384 AND nspname <> 'backwhen' ORDER BY 2, 3";
    let rows = session.query(sql, &[]).await.unwrap();
    let table = |row: &tokio_postgres::Row| {
        let (names, types): (Vec<String>, Vec<u32>) = (row.get(3), row.get(4));
        let column =
            |(name, type_oid)| Column { name, number: 0, type_oid, type_modifier: -1, type_name: "?".into() };
        Table {
            oid: row.get(0),
            schema: row.get(1),
            name: row.get(2),
            columns: names.into_iter().zip(types).map(column).collect(),
            identity: RowIdentity::WholeRow,
            grade: Grade::Exact,
            in_stream: None,
            partition_of: Vec::new(),
            storage: Default::default(),
            generated: Default::default(),
        }
    };
    rows.iter().map(table).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovered_database_equals_its_source() {
    let source = Source::rich().await;
    let name = format!("{} copy", source.database);
    let into = format!("{} dbname='{name}'", source.server.conninfo("ignored"));
    let sink = source.open(&into, true).await.unwrap();
    assert_eq!(sink.notes(), [""; 0]);
    source.fill(&sink).await.unwrap();
    assert_eq!(source.databases(&name), format!("{name}.backwhen-unfinished"));
    assert_eq!(sink.make_valid().await.unwrap(), []);
    assert_eq!(source.databases(&name), name);
    assert_same(&Dump::of(&source.server, &source.database), &Dump::of(&source.server, &name));
    let about = "SELECT shobj_description(oid, 'pg_database'), datacl::text FROM pg_database WHERE datname = current_database()";
    assert_eq!(source.server.psql(&name, about), source.server.psql(&source.database, about));
    assert_eq!(source.server.psql(&name, "SHOW work_mem"), "8MB");
    assert_eq!(source.server.psql(&name, "SELECT convert_from(lo_get(4242), 'UTF8')"), "hello large");
    assert_eq!(source.server.psql(&name, "SELECT count(*) FROM shop.mv2"), "1");
    assert_eq!(
        source.server.psql(&name, "SELECT count(*) FROM pg_namespace WHERE nspname = 'backwhen'"),
        "0"
    );
    assert_eq!(source.server.psql(&name, "SELECT string_agg(pubname, ',') FROM pg_publication"), "other");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_database_keeps_its_properties_whether_filled_or_abandoned() {
    let source = Source::rich().await;
    let name = source.server.fresh_database("kept");
    source.server.psql(
        "postgres",
        &format!(
            "COMMENT ON DATABASE {name} IS 'it''s mine'; ALTER DATABASE {name} SET search_path TO \"$user\", x; \
             ALTER DATABASE {name} CONNECTION LIMIT 17; REVOKE ALL ON DATABASE {name} FROM PUBLIC; \
             GRANT CONNECT ON DATABASE {name} TO sink_reader WITH GRANT OPTION"
        ),
    );
    let properties = || {
        let sql = format!(
            "SELECT shobj_description(d.oid, 'pg_database'), datacl::text, datconnlimit, datcollate, setconfig::text \
             FROM pg_database d LEFT JOIN pg_db_role_setting ON setdatabase = d.oid WHERE datname = '{name}'"
        );
        source.server.psql("postgres", &sql)
    };
    let before = properties();
    assert!(before.contains("it's mine") && before.contains("17"), "{before}");
    let sink = source.open(&source.server.conninfo(&name), false).await.unwrap();
    sink.pre_data().await.unwrap();
    assert_eq!(source.databases(&name), format!("{name}.backwhen-unfinished"));
    sink.abandon().await.unwrap();
    assert_eq!(properties(), before);

    let sink = source.open(&source.server.conninfo(&name), false).await.unwrap();
    source.fill(&sink).await.unwrap();
    sink.make_valid().await.unwrap();
    assert_eq!(properties(), before);
    let filled = source.open(&source.server.conninfo(&name), false).await.err().unwrap();
    assert_eq!(filled.kind(), Kind::Refused);
    assert!(filled.message().contains("not empty"), "{filled}");
    assert_eq!(properties(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_in_the_target_is_refused_by_name() {
    let source = Source::rich().await;
    for (sql, named) in [
        ("CREATE TABLE t()", "table public.t"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "function public.f()"),
        ("CREATE TYPE e AS ENUM ('a')", "type public.e"),
        ("CREATE SCHEMA s", "schema s"),
        // The source has no such extension.
        ("CREATE EXTENSION cube", "extension cube"),
        ("SELECT lo_create(77)", "large object 77"),
        ("CREATE PUBLICATION p", "publication p"),
    ] {
        let name = source.server.fresh_database("full");
        source.server.psql(&name, sql);
        let error = source.open(&source.server.conninfo(&name), false).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.message().contains(named), "{sql}: {error}");
        assert_eq!(source.databases(&name), name);
        let error = source.open(&source.server.conninfo(&name), true).await.err().unwrap();
        assert!(error.message().contains("exists already"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsuitable_target_is_refused() {
    let source = Source::rich().await;
    let name = source.server.fresh_database("latin");
    source.server.psql(
        "postgres",
        &format!(
            "DROP DATABASE {name}; CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
        ),
    );
    let error = source.open(&source.server.conninfo(&name), false).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("LATIN1") && error.message().contains("CREATE DATABASE"), "{error}");

    let mut newer = source;
    newer.facts.server_major += 1;
    let error = newer.open(&newer.server.conninfo("newer"), true).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Refused);
    let missing = newer.open(&newer.server.conninfo("no_such_database"), false).await.err().unwrap();
    assert!(missing.message().contains("--create"), "{missing}");
    newer.facts.server_major -= 1;
    newer.facts.collate = "xx_XX.UTF-8".into();
    let error = newer.open(&newer.server.conninfo("strange"), true).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("xx_XX"), "{error}");
    assert_eq!(newer.databases("strange"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_bears_the_name_before_the_end_and_leftovers_are_cleared() {
    let source = Source::rich().await;
    let created = format!("{}_new", source.server.fresh_database("killed"));
    let existing = source.server.fresh_database("killed");
    for (name, create) in [(&created, true), (&existing, false)] {
        let into = source.server.conninfo(name);
        for phase in 0..3 {
            let sink = source.open(&into, create).await.unwrap();
            if phase > 0 {
                sink.pre_data().await.unwrap();
            }
            if phase > 1 {
                source.load(&sink, &source.tables[0]).await.unwrap();
                sink.post_data(1, AfterRows::Whole, &HashSet::new()).await.unwrap();
            }
            assert_eq!(source.databases(name), format!("{name}.backwhen-unfinished"));
            let running = source.open(&into, create).await.err().unwrap();
            assert_eq!(running.kind(), Kind::Locked, "{running}");
            // As if killed: sessions end, nothing is taken away.
            drop(sink);
            wait_until_idle(&source, name);
        }
        let sink = source.open(&into, create).await.unwrap();
        assert!(sink.notes().iter().any(|note| note.contains("dropped")), "{:?}", sink.notes());
        source.fill(&sink).await.unwrap();
        sink.make_valid().await.unwrap();
        assert_eq!(&source.databases(name), name);
    }
}

fn wait_until_idle(source: &Source, name: &str) {
    let sql = format!(
        "SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname LIKE '{name}%') \
         + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') = 0"
    );
    source.server.wait_until("postgres", &sql);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_load_leaves_no_row() {
    let source = Source::rich().await;
    let name = format!("{}_new", source.server.fresh_database("failed"));
    let sink = source.open(&source.server.conninfo(&name), true).await.unwrap();
    sink.pre_data().await.unwrap();
    let table = source.tables.iter().find(|table| table.name == "we ird;name").unwrap();
    for end in
        [Some(Err(Error::damaged("a block is damaged"))), Some(Ok(Bytes::from_static(b"x\ty\n"))), None]
    {
        let (sender, receiver) = mpsc::channel(8);
        sender.send(Ok(Bytes::from_static(b"1\tone\n2\ttwo\n"))).await.unwrap();
        let cut = end.is_none();
        if let Some(end) = end {
            sender.send(end).await.unwrap();
            drop(sender);
            let error = sink.load(table, receiver).await.unwrap_err();
            assert!(!error.to_string().contains("one"), "{error}");
        } else {
            // The future is dropped while the rows still flow.
            let load = sink.load(table, receiver);
            assert!(tokio::time::timeout(std::time::Duration::from_millis(300), load).await.is_err());
            drop(sender);
        }
        assert_eq!(sink.read_back(table, 2).await.unwrap().unwrap().rows, 0, "cut: {cut}");
    }
    source.load(&sink, table).await.unwrap();
    sink.abandon().await.unwrap();
    assert_eq!(source.databases(&name), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_fail_say_why() {
    let source = Source::rich().await;
    let name = format!("{}_new", source.server.fresh_database("fails"));
    let sink = source.open(&source.server.conninfo(&name), true).await.unwrap();
    // Without the tables there is nothing to index.
    let error = sink.post_data(2, AfterRows::Whole, &HashSet::new()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.message().contains("does not exist"), "{error}");
    sink.abandon().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_roles_owners_and_privileges_are_left_out_and_said() {
    let source = Source::rich().await;
    let other = Server::start(None);
    let into = other.conninfo("copy");
    let sink = source.open(&into, true).await.unwrap();
    let notes = sink.notes().join("\n");
    assert!(
        notes.contains("sink_owner") && notes.contains("POLICY") && notes.contains("sink_reader"),
        "{notes}"
    );
    source.fill(&sink).await.unwrap();
    sink.make_valid().await.unwrap();
    assert_eq!(
        other.psql("copy", "SELECT tableowner FROM pg_tables WHERE tablename = 'customer'"),
        "backwhen_owner_of_copy",
        "a role without rights, not the superuser"
    );
    assert!(notes.contains("backwhen_owner_of_copy"), "{notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_rename_gets_a_marked_database() {
    let source = Source::rich().await;
    let server = Server::start(None);
    server.psql("postgres", "CREATE ROLE app LOGIN; CREATE DATABASE mine TEMPLATE template0 OWNER app");
    let into = format!("{} user=app", server.conninfo("mine").replace("user=postgres", ""));
    let archive = source.archive();
    let mut selection = EntrySelection::tables(&archive.toc, |_, name| name == "we ird;name");
    // Extensions that are not trusted, foreign data wrappers: an ordinary user makes none.
    let ids: Vec<_> = archive
        .toc
        .entries
        .iter()
        .filter(|entry| entry.kind == "FOREIGN DATA WRAPPER")
        .map(|e| e.id)
        .collect();
    ids.into_iter().for_each(|id| selection.leave_out(&archive.toc, id));
    let sink = source.open_with(&into, false, archive, selection).await.unwrap();
    sink.pre_data().await.unwrap();
    let table = source.tables.iter().find(|table| table.name == "we ird;name").unwrap();
    source.load(&sink, table).await.unwrap();
    sink.post_data(2, AfterRows::Whole, &HashSet::new()).await.unwrap();
    let marker = "SELECT count(*) FROM pg_namespace WHERE nspname = 'backwhen_unfinished'";
    assert_eq!(server.psql("mine", marker), "1");
    assert!(server.try_psql("mine", "CREATE TABLE x()").unwrap_err().contains("read-only"));
    sink.make_valid().await.unwrap();
    assert_eq!(server.psql("mine", marker), "0");
    server.psql("mine", "CREATE TABLE x()");
}

#[tokio::test(flavor = "multi_thread")]
async fn some_tables_come_with_what_hangs_on_them_and_the_rest_is_named() {
    let source = Source::rich().await;
    let archive = source.archive();
    let selection = EntrySelection::tables(&archive.toc, |schema, name| schema == "shop" && name == "orders");
    let left_out = selection.left_out.join("\n");
    assert!(left_out.contains("orders_customer_fkey") && left_out.contains("shop.joined"), "{left_out}");
    let name = format!("{}_new", source.server.fresh_database("some"));
    let sink = source.open_with(&source.server.conninfo(&name), true, archive, selection).await.unwrap();
    sink.pre_data().await.unwrap();
    let table = source.tables.iter().find(|table| table.name == "orders").unwrap();
    source.load(&sink, table).await.unwrap();
    sink.large_objects().await.unwrap();
    sink.post_data(2, AfterRows::Whole, &HashSet::new()).await.unwrap();
    sink.make_valid().await.unwrap();
    let relations = "SELECT string_agg(relkind::text || ':' || relname, ' ' ORDER BY relname) FROM pg_class \
                     WHERE oid >= 16384 AND relnamespace IN ('public'::regnamespace, 'shop'::regnamespace)";
    assert_eq!(
        source.server.psql(&name, relations),
        "m:mv m:mv2 i:mv_customer_idx r:orders S:orders_id_seq i:orders_pkey v:v"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlite_file_holds_the_rows_once_it_is_valid() {
    let source = Source::rich().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.db");
    let into = format!("sqlite:{}", path.display());
    let sink = source.open(&into, false).await.unwrap();
    source.fill(&sink).await.unwrap();
    assert!(!path.exists());
    sink.make_valid().await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let file = rusqlite::Connection::open(&path).unwrap();
    let count = |sql: &str| file.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM \"shop.customer\""), 2);
    assert_eq!(count("SELECT count(*) FROM \"we ird;name\" WHERE \"c;d\" = 'tab' || char(9) || 'here'"), 1);
    assert_eq!(
        count("SELECT count(*) FROM \"shop.orders\" WHERE typeof(amount) = 'text' AND amount = '10.50'"),
        1
    );
    assert_eq!(count("SELECT count(*) FROM nocols"), 1);
    assert_eq!(count("SELECT count(*) FROM backwhen_recovery WHERE lsn = '0/1'"), 1);
    assert_eq!(source.open(&into, false).await.err().unwrap().kind(), Kind::Refused);

    let unfinished = folder.path().join("other.db");
    let sink = source.open(&format!("sqlite:{}", unfinished.display()), false).await.unwrap();
    source.fill(&sink).await.unwrap();
    sink.abandon().await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_applies_whole_or_not_at_all() {
    let source = Source::rich().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.sql");
    let sink = source.open(&format!("sql:{}", path.display()), false).await.unwrap();
    source.fill(&sink).await.unwrap();
    assert!(!path.exists());
    sink.make_valid().await.unwrap();
    let script = std::fs::read_to_string(&path).unwrap();
    let name = source.server.fresh_database("script");
    for part in [script.len() - 10, script.len() / 2, script.find("COPY ").unwrap() + 60] {
        let _ = apply(&source.server, &name, &script[..part]);
        let sql = "SELECT count(*) FROM pg_class WHERE oid >= 16384 AND relkind = 'r'";
        assert_eq!(source.server.psql(&name, sql), "0", "a script cut at {part} left something");
    }
    let output = apply(&source.server, &name, &script);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_same(&Dump::of(&source.server, &source.database), &Dump::of(&source.server, &name));
    assert_eq!(source.server.psql(&name, "SELECT convert_from(lo_get(4242), 'UTF8')"), "hello large");
}

fn apply(server: &Server, database: &str, script: &str) -> std::process::Output {
    server.client("psql", database, &["-Xq", "-v", "ON_ERROR_STOP=1", "-f", "-"], script)
}

#[tokio::test(flavor = "multi_thread")]
async fn other_encodings_pass_unconverted() {
    for (encoding, byte) in [("LATIN1", "e9"), ("SQL_ASCII", "ff")] {
        let server = Server::shared(None);
        let admin = format!("enc_{}", encoding.to_lowercase());
        server.psql(
            "postgres",
            &format!("CREATE DATABASE {admin} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"),
        );
        server.psql(&admin, "SET client_encoding TO 'UTF8'; CREATE TABLE \"n\u{e4}me\" (\"\u{e9}\" text)");
        let value = format!("convert_from('\\x61{byte}'::bytea, '{encoding}')");
        server.psql(
            &admin,
            &format!("SET client_encoding TO 'UTF8'; INSERT INTO \"n\u{e4}me\" SELECT {value}"),
        );
        let tools = Tools::find(server.bin()).unwrap();
        let info = Conninfo::parse(&server.conninfo(&admin)).unwrap();
        let session = Session::connect_utf8(&info, "test").await.unwrap();
        let facts = DatabaseFacts::read(&session).await.unwrap();
        let tables = read_tables(&session).await;
        let folder = tempfile::tempdir().unwrap();
        let tool = tools.for_dump(facts.server_major).unwrap();
        dump_schema(tool, &info, None, "pg_dump", &folder.path().join("schema.dump")).await.unwrap();
        let source = Source { server: server.clone(), database: admin.clone(), folder, facts, tables, tools };
        let copy = format!("{admin}_copy");
        let sink = source.open(&server.conninfo(&copy), true).await.unwrap();
        sink.pre_data().await.unwrap();
        let (sender, receiver) = mpsc::channel(1);
        let byte = u8::from_str_radix(byte, 16).unwrap();
        sender.send(Ok(vec![b'a', byte, b'\n'].into())).await.unwrap();
        drop(sender);
        sink.load(&source.tables[0], receiver).await.unwrap();
        assert_eq!(sink.read_back(&source.tables[0], 1).await.unwrap().unwrap().rows, 1);
        sink.post_data(1, AfterRows::Whole, &HashSet::new()).await.unwrap();
        sink.make_valid().await.unwrap();
        assert_same(&Dump::of(&server, &admin), &Dump::of(&server, &copy));
    }
}

/// An old server with only new client programs, recovered into itself and into a new server.
#[tokio::test(flavor = "multi_thread")]
async fn versions_mix() {
    let versions = crate::support::versions();
    let (Some(oldest), Some(newest)) = (versions.first(), versions.last()) else { return };
    let (old, new) = (Server::shared(Some(*oldest)), Server::shared(Some(*newest)));
    let tools = Tools::find(new.bin()).unwrap();
    let source = Source::new(old.clone(), tools, SCHEMA).await;
    for target in [&old, &new] {
        let sink = source.open(&target.conninfo("mixed"), true).await.unwrap();
        source.fill(&sink).await.unwrap();
        sink.make_valid().await.unwrap();
        let (truth, found) = (Dump::of(&old, &source.database), Dump::of(target, "mixed"));
        assert_eq!(truth.rows, found.rows);
        if target.major() == old.major() {
            assert_same(&truth, &found);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_dumped_without_passwords() {
    let source = Source::rich().await;
    let info = Conninfo::parse(&source.server.conninfo(&source.database)).unwrap();
    let path = source.folder.path().join("globals.sql");
    dump_globals(source.tools.for_dump(source.facts.server_major).unwrap(), &info, &path).await.unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("CREATE ROLE sink_owner") && !text.contains("PASSWORD"), "{text}");
}
