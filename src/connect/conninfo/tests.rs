use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn read(text: &str, environment: &[(&str, &str)]) -> Result<Conninfo> {
    let environment: HashMap<_, _> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Conninfo::parse_in(text, &|name| environment.get(name).cloned())
}

#[test]
fn shows_where_but_never_the_password() {
    let info = read("postgres://u:hush@db:7/x", &[]).unwrap();
    assert_eq!(info.to_string(), "db:7/x as u");
    assert_eq!(format!("{info:?}"), "Conninfo(db:7/x as u)");
    assert!(!info.without_password().contains("hush"));
    assert_eq!(info.password(&info.hosts()[0]).as_deref(), Some("hush"));
}

#[test]
fn a_bare_word_is_a_database() {
    let info = read("shop", &[("PGHOST", "h"), ("PGUSER", "u"), ("PGPORT", "9")]).unwrap();
    assert_eq!(info.to_string(), "h:9/shop as u");
    let info = read("", &[("PGHOST", "h"), ("PGUSER", "u")]).unwrap();
    assert_eq!(info.to_string(), "h:5432/u as u");
}

#[test]
fn string_beats_service_beats_environment() {
    let folder = tempfile::tempdir().unwrap();
    let services = folder.path().join("services");
    std::fs::write(&services, "[s]\nhost=from-service\nuser=from-service\npassword=hush\n").unwrap();
    let environment = [
        ("PGSERVICEFILE", services.to_str().unwrap()),
        ("PGHOST", "from-environment"),
        ("PGDATABASE", "from-environment"),
    ];
    let info = read("service=s user=from-string", &environment).unwrap();
    assert_eq!(info.to_string(), "from-service:5432/from-environment as from-string");
    let again = read(&info.without_password(), &environment[..1]).unwrap();
    assert_eq!(again.to_string(), info.to_string());
    assert_eq!(
        again.password(&again.hosts()[0]).as_deref(),
        Some("hush"),
        "the service still knows the password"
    );
}

#[test]
fn what_is_kept_can_be_read_again() {
    let text = r"host=a,/tmp,::1 port=1,2,3 dbname='my db' user='o\'x' password=p sslmode=verify-ca sslrootcert='/x y'";
    let info = read(text, &[]).unwrap();
    let again = read(&info.without_password(), &[("PGPASSWORD", "elsewhere"), ("PGHOST", "z")]).unwrap();
    assert_eq!(again.to_string(), info.to_string());
    assert_eq!(again.ssl_mode(), SslMode::VerifyCa);
    assert_eq!(again.setting("sslrootcert"), Some("/x y"));
    assert_eq!(again.password(&again.hosts()[0]).as_deref(), Some("elsewhere"));
}

#[test]
fn the_password_file_is_asked_for_the_database_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".pgpass");
    std::fs::write(&path, "localhost:5:a:u:for-a\n*:5:b:u:for-b\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let home = [("HOME", folder.path().to_str().unwrap())];
    let info = read("host=/tmp port=5 user=u dbname=a", &home).unwrap();
    assert_eq!(info.password(&info.hosts()[0]).as_deref(), Some("for-a"));
    let other = info.with_dbname("b");
    assert_eq!(other.password(&other.hosts()[0]).as_deref(), Some("for-b"));
    assert_eq!(other.dbname(), "b");
    let child: HashMap<_, _> = other.child_environment().into_iter().collect();
    assert_eq!(child["PGPASSFILE"], path.to_str().unwrap());
}

#[test]
fn a_child_is_told_everything() {
    let info = read("postgres://u:hush@h1:1,h2:2/x?sslmode=require&options=-c%20a%3Db", &[]).unwrap();
    let child: HashMap<_, _> = info.child_environment().into_iter().collect();
    for (variable, value) in [
        ("PGHOST", "h1,h2"),
        ("PGPORT", "1,2"),
        ("PGUSER", "u"),
        ("PGDATABASE", "x"),
        ("PGSSLMODE", "require"),
        ("PGOPTIONS", "-c a=b"),
    ] {
        assert_eq!(child[variable], value, "{variable}");
    }
    assert!(child.values().all(|value| !value.contains("hush")), "{child:?}");
    assert_eq!(info.password_line().unwrap().as_deref(), Some("*:*:*:*:hush\n"));
    assert!(Conninfo::variables_to_remove().any(|variable| variable == "PGSERVICE"));
}

#[test]
fn a_password_that_no_file_can_hold_is_refused_for_children() {
    let info = read("postgres://u:a%0Ab@h/x", &[]).unwrap();
    let error = info.password_line().unwrap_err();
    assert!(error.message().contains("line end") && !error.message().contains("a\nb"), "{error}");
}

#[test]
fn a_server_elsewhere_that_proves_nothing_is_known() {
    for (text, unproven) in [
        ("host=db.example", Some("prefer")),
        ("host=db.example sslmode=verify-ca", Some("verify-ca")),
        ("host=db.example sslmode=verify-full", None),
        ("host=localhost,10.1.2.3", Some("prefer")),
        ("host=db.example hostaddr=127.0.0.1", None),
        ("host=127.0.0.2 sslmode=disable", None),
        ("host=::1", None),
        ("host=2001:db8::1 sslmode=require", Some("require")),
        ("host=localhost", None),
        ("host=/tmp", None),
    ] {
        let info = read(text, &[("PGUSER", "u")]).unwrap();
        assert_eq!(info.unproven_server().map(|(_, mode)| mode), unproven, "{text}");
    }
}

#[test]
fn refuses_what_it_cannot_honour() {
    for (text, part) in [
        ("hots=x", "hots"),
        ("sslmode=maybe", "verify-full"),
        ("connect_timeout=soon", "connect_timeout"),
        ("channel_binding=1", "channel_binding"),
        ("gssencmode=require", "gssencmode"),
        ("requirepeer=postgres", "requirepeer"),
        ("sslrootcert=system sslmode=require", "verify-full"),
        ("sslpassword=hush", "openssl"),
        ("replication=database", "replication"),
    ] {
        let error = read(text, &[("PGUSER", "u")]).expect_err(text);
        assert_eq!(error.kind(), crate::error::Kind::Usage);
        assert!(error.message().contains(part), "{text}: {error}");
        assert!(!error.message().contains("hush"), "{error}");
    }
    assert!(read("host=h gssencmode=disable application_name=psql", &[("PGUSER", "u")]).is_ok());
}

#[test]
fn timeouts_have_a_floor() {
    let seconds = |text| read(text, &[("PGUSER", "u")]).unwrap().timeout().as_secs();
    assert_eq!(seconds(""), 10);
    assert_eq!(seconds("connect_timeout=0"), 10);
    assert_eq!(seconds("connect_timeout=1"), 2);
    assert_eq!(seconds("connect_timeout=30"), 30);
}
