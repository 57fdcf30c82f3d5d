//! STUB until the branch `connect` is merged.

use crate::error::{Context, Error, Kind, Result};
use std::ops::Deref;

#[derive(Clone, Debug)]
pub struct Conninfo {
    host: String,
    port: u16,
    user: String,
    dbname: String,
}

impl Conninfo {
    pub fn parse(text: &str) -> Result<Conninfo> {
        let mut c = Conninfo {
            host: "localhost".into(),
            port: 5432,
            user: "postgres".into(),
            dbname: "postgres".into(),
        };
        for pair in text.split_whitespace() {
            let (k, v) = pair.split_once('=').ok_or_else(|| Error::usage("stub"))?;
            match k {
                "host" => c.host = v.into(),
                "port" => c.port = v.parse().unwrap_or(0),
                "user" => c.user = v.into(),
                "dbname" => c.dbname = v.into(),
                _ => return Err(Error::usage("stub")),
            }
        }
        Ok(c)
    }
    pub fn with_dbname(&self, name: &str) -> Conninfo {
        Conninfo { dbname: name.into(), ..self.clone() }
    }
    pub fn dbname(&self) -> &str {
        &self.dbname
    }
    pub fn user(&self) -> &str {
        &self.user
    }
    pub fn child_environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("PGHOST", self.host.clone()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", self.user.clone()),
            ("PGDATABASE", self.dbname.clone()),
        ]
    }
}

impl std::fmt::Display for Conninfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{} as {}", self.host, self.port, self.dbname, self.user)
    }
}

pub struct Session {
    client: tokio_postgres::Client,
}

impl Deref for Session {
    type Target = tokio_postgres::Client;
    fn deref(&self) -> &tokio_postgres::Client {
        &self.client
    }
}

async fn open(info: &Conninfo, utf8: bool) -> Result<Session> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&info.host)
        .port(info.port)
        .user(&info.user)
        .dbname(&info.dbname)
        .application_name("backwhen");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(|e| {
        let kind = if e.as_db_error().is_some() { Kind::Refused } else { Kind::Unavailable };
        let fault = e.as_db_error().map(ServerFault::from_db);
        let error = Error::new(kind, format!("cannot connect to {info}"));
        match fault {
            Some(f) => error.caused_by(f),
            None => error.caused_by(e),
        }
    })?;
    tokio::spawn(connection);
    client
        .batch_execute("SET datestyle=ISO; SET intervalstyle=postgres; SET extra_float_digits=3; SET timezone='UTC'; SET bytea_output=hex; SET lc_monetary='C'; SET search_path=''; SET row_security=off")
        .await
        .context(Kind::Unavailable, || "settings".into())?;
    if !utf8 {
        client
            .batch_execute("SELECT pg_catalog.set_config('client_encoding', pg_catalog.current_setting('server_encoding'), false)")
            .await
            .context(Kind::Unavailable, || "settings".into())?;
    }
    Ok(Session { client })
}

pub async fn connect(info: &Conninfo, _purpose: &str) -> Result<Session> {
    open(info, false).await
}

impl Session {
    pub async fn connect_utf8(info: &Conninfo, _purpose: &str) -> Result<Session> {
        open(info, true).await
    }
}

#[derive(Debug)]
pub struct ServerFault {
    pub sqlstate: String,
    pub message: String,
}
impl ServerFault {
    pub fn of(error: &Error) -> Option<&ServerFault> {
        std::error::Error::source(error)?.downcast_ref()
    }
    fn from_db(db: &tokio_postgres::error::DbError) -> ServerFault {
        ServerFault { sqlstate: db.code().code().into(), message: db.message().into() }
    }
}
impl std::fmt::Display for ServerFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the server says: {} ({})", self.message, self.sqlstate)
    }
}
impl std::error::Error for ServerFault {}
pub fn server_error(context: impl Into<String>, error: tokio_postgres::Error) -> Error {
    match error.as_db_error() {
        Some(db) => Error::new(Kind::Refused, context).caused_by(ServerFault::from_db(db)),
        None => Error::new(Kind::Unavailable, context.into()).caused_by(error),
    }
}
