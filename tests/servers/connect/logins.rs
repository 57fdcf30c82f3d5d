use backwhen::connect::{Conninfo, PINNED_SETTINGS, Session, connect};
use backwhen::error::{Error, Kind};
use backwhen::source::stream::ReplicationClient;

use crate::connect::server::{Server, whoami};

const ROLES: &str = "CREATE ROLE trusting LOGIN REPLICATION;
    CREATE ROLE clear LOGIN REPLICATION PASSWORD 'sesame one';
    SET password_encryption = 'md5';
    CREATE ROLE digest LOGIN REPLICATION PASSWORD 'sesame two';
    SET password_encryption = 'scram-sha-256';
    CREATE ROLE scram LOGIN REPLICATION PASSWORD 'sesame three';
    CREATE ROLE plain LOGIN PASSWORD 'sesame four';";

const HBA: &str = "host all trusting 127.0.0.1/32 trust
    host all clear 127.0.0.1/32 password
    host all digest 127.0.0.1/32 md5
    host all scram,plain 127.0.0.1/32 scram-sha-256
    local all all peer
";

async fn start() -> Server {
    let server = Server::start(HBA, &[]).up();
    let own = whoami();
    server.run_sql("postgres", &format!("{ROLES} CREATE ROLE {own} LOGIN REPLICATION")).await;
    server
}

async fn both(info: &Conninfo) {
    let session = connect(info, "test").await.unwrap();
    let row = session.query_one("SELECT current_user::text", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), info.user());
    let mut client = ReplicationClient::connect(info, "test").await.unwrap();
    assert!(client.identify_system().await.unwrap().timeline >= 1);
}

async fn refusals(info: &Conninfo) -> [Error; 2] {
    let session = connect(info, "test").await.err().expect("a session was let in");
    let client = ReplicationClient::connect(info, "test").await.err().expect("a client was let in");
    [session, client]
}

#[tokio::test]
async fn every_way_to_log_in() {
    let server = start().await;
    for (user, password) in
        [("trusting", ""), ("clear", "sesame one"), ("digest", "sesame two"), ("scram", "sesame three")]
    {
        both(&server.info(&format!("dbname=postgres user={user} password='{password}'"))).await;
    }
    // The system's own word for who we are.
    both(&server.info(&format!("host={} dbname=postgres user={}", server.folder().display(), whoami())))
        .await;
}

#[tokio::test]
async fn refusals_say_what_to_do_and_no_password() {
    let server = start().await;
    for (text, part) in [
        ("user=scram password=wrong", "PGPASSWORD"),
        ("user=clear password=wrong", "PGPASSWORD"),
        ("user=digest password=wrong", "PGPASSWORD"),
        ("user=scram", "PGPASSWORD"),
        ("user=nobody_at_all", "pg_hba.conf"),
        ("user=trusting dbname=absent", "create the database"),
        ("user=clear password='sesame one' channel_binding=require", "channel_binding"),
        ("user=trusting target_session_attrs=standby", "target_session_attrs=standby"),
    ] {
        let dbname = if text.contains("dbname") { "" } else { " dbname=postgres" };
        for error in refusals(&server.info(&format!("{text}{dbname}"))).await {
            assert_eq!(error.kind(), Kind::Refused, "{text}: {error}");
            let message = error.to_string();
            assert!(message.contains(part), "{text}: {message}");
            assert!(message.contains(&server.port.to_string()), "{message}");
            assert!(!message.contains("wrong") && !message.contains("sesame"), "{message}");
        }
    }
    let without = server.info("user=plain dbname=postgres password='sesame four'");
    let error = ReplicationClient::connect(&without, "test").await.err().unwrap();
    assert!(error.kind() == Kind::Refused && error.message().contains("REPLICATION"), "{error}");
}

#[tokio::test]
async fn unreachable_servers_are_passed_over() {
    let server = start().await;
    let port = server.port;
    let text = format!("host=/nonexistent,127.0.0.1,127.0.0.1 port=1,1,{port} user=trusting dbname=postgres");
    both(&Conninfo::parse_in(&text, &|_| None).unwrap()).await;

    for place in ["host=127.0.0.1 port=1", "host=/nonexistent port=1", "host=no.such.host.invalid port=1"] {
        let info = Conninfo::parse_in(&format!("{place} user=u dbname=d"), &|_| None).unwrap();
        for error in refusals(&info).await {
            assert_eq!(error.kind(), Kind::Unavailable, "{error}");
            assert!(error.to_string().contains(":1 as user"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let text = format!("host=127.0.0.1 port={port} user=u dbname=d connect_timeout=2");
    let info = Conninfo::parse_in(&text, &|_| None).unwrap();
    let error = connect(&info, "test").await.err().unwrap();
    assert!(error.kind() == Kind::Unavailable && error.to_string().contains("2 seconds"), "{error}");
}

#[tokio::test]
async fn settings_are_pinned_whatever_the_role_says() {
    let server = start().await;
    server
        .run_sql(
            "postgres",
            "ALTER ROLE trusting SET datestyle = 'German'; ALTER ROLE trusting SET search_path = 'public';
             ALTER ROLE trusting SET statement_timeout = '1min'; ALTER ROLE trusting SET bytea_output = 'escape';
             ALTER ROLE trusting SET idle_session_timeout = '1min'; ALTER ROLE trusting SET client_encoding = 'LATIN1';
             ALTER ROLE trusting SET jit = on; ALTER ROLE trusting SET default_transaction_read_only = on",
        )
        .await;
    // The role's own setting must not make a server that takes writes look like one that does not.
    let info = server.info("user=trusting dbname=postgres target_session_attrs=read-write");
    let session = connect(&info, "pins").await.unwrap();
    let mut client = ReplicationClient::connect(&info, "pins").await.unwrap();
    let newer = [
        ("idle_session_timeout", "0"),
        ("client_encoding", "UTF8"),
        ("application_name", "backwhen pins"),
        ("jit", "off"),
    ];
    for (name, expected) in PINNED_SETTINGS.iter().chain(&newer) {
        let sql = format!("SELECT pg_catalog.current_setting('{name}')");
        let session: String = session.query_one(&sql, &[]).await.unwrap().get(0);
        let client = client.query(&sql).await.unwrap()[0][0].clone().unwrap();
        // `SET search_path = ''` makes a list of one empty name, the startup packet an empty list.
        let none = *name == "search_path" && session == "\"\"" && client.is_empty();
        assert!(none || session.eq_ignore_ascii_case(expected), "{name} of the session is {session}");
        assert!(none || client == session, "{name} of the replication connection is {client}");
    }
    assert_eq!(client.query("SHOW wal_sender_timeout").await.unwrap()[0][0].as_deref(), Some("2min"));
    let number: String = session.query_one("SHOW server_version_num", &[]).await.unwrap().get(0);
    assert_eq!(client.server_version(), number.parse::<u32>().unwrap() / 10000);
}

#[tokio::test]
async fn an_error_shows_no_row() {
    let server = start().await;
    let session = server.run_sql("postgres", "CREATE TABLE public.t (id int PRIMARY KEY)").await;
    let error = session.batch_execute("INSERT INTO public.t VALUES (4711), (4711)").await.unwrap_err();
    let error = backwhen::connect::server_error("could not fill it", error);
    let text = format!("{error} {error:?}");
    assert!(text.contains("23505") && text.contains("public.t") && !text.contains("4711"), "{text}");
    let error = session.batch_execute("SELECT 'hush'::int").await.unwrap_err();
    let text = backwhen::connect::server_error("could not read it", error).to_string();
    assert!(text.contains("22P02") && !text.contains("hush"), "{text}");
    drop(Session::connect_utf8(&server.admin("postgres"), "test").await.unwrap());
}
