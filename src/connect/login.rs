//! Logs in to the servers of a connection string, in order, until one accepts.

use std::future::Future;
use std::io;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::choices::{ChannelBinding, SslMode};
use super::conninfo::Conninfo;
use super::fault::ServerFault;
use super::guard::LoginRefusal;
use super::hosts::Host;
use super::tls::Tls;
use super::transport::{Address, Transport};
use crate::error::{Error, Result};

/// The reason why one attempt to log in failed.
#[derive(Debug)]
pub enum LoginFailure {
    /// No server answered, or the connection broke off.
    Unreachable(io::Error),
    /// The encryption that the settings demand was not available.
    Tls(String),
    /// The server rejected the login.
    Server(ServerFault),
    /// The client rejected the server's request or offer.
    Login(String),
}

impl LoginFailure {
    /// Classifies an error of the transport, or of the guard on it.
    pub fn of_io(error: io::Error) -> LoginFailure {
        match LoginRefusal::of(&error) {
            Some(LoginRefusal(text)) => LoginFailure::Login(text.clone()),
            None => LoginFailure::Unreachable(error),
        }
    }
}

/// Logs in over an open transport: an ordinary session, or a replication connection.
pub trait Login: Sync {
    type Session: Send;

    fn login(
        &self,
        info: &Conninfo,
        host: &Host,
        transport: Transport,
    ) -> impl Future<Output = Result<Self::Session, LoginFailure>> + Send;
}

/// Tries each address of each host, and for each address the encryption modes that the `sslmode` allows.
///
/// # Errors
/// Fails with the error of the last host that was reached, or else of the last one tried: unavailable or refused, or
/// usage if the TLS settings are wrong.
pub async fn log_in<L: Login>(info: &Conninfo, login: &L) -> Result<L::Session> {
    let mut told: Option<Error> = None;
    for host in info.hosts() {
        let encryption = if host.socket().is_some() { SslMode::Disable } else { info.ssl_mode() };
        let tls = if encryption == SslMode::Disable { None } else { Some(Tls::new(info)?) };
        let addresses = match Address::find(host).await {
            Ok(addresses) => addresses,
            Err(error) => {
                told.get_or_insert(explain(info, host, LoginFailure::Unreachable(error)));
                continue;
            }
        };
        for address in &addresses {
            match try_address(info, login, host, address, encryption, tls.as_ref()).await {
                Ok(session) => return Ok(session),
                Err(failure) => {
                    let reached = !matches!(failure, LoginFailure::Unreachable(_));
                    if reached || told.is_none() {
                        told = Some(explain(info, host, failure));
                    }
                }
            }
        }
    }
    Err(told.unwrap_or_else(|| Error::unavailable(format!("no address is known for {info}"))))
}

async fn try_address<L: Login>(
    info: &Conninfo,
    login: &L,
    host: &Host,
    address: &Address,
    encryption: SslMode,
    tls: Option<&Tls>,
) -> Result<L::Session, LoginFailure> {
    let (first, second) = match encryption {
        SslMode::Disable => (None, None),
        SslMode::Allow => (None, tls),
        _ => (tls, None),
    };
    match try_once(info, login, host, address, first, encryption).await {
        // libpq's rule: the other mode is tried if the server has no entry for this one.
        Err(failure) if encryption == SslMode::Allow && no_entry(&failure) => {
            try_once(info, login, host, address, second, encryption).await.map_err(|_| failure)
        }
        Err(failure)
            if encryption == SslMode::Prefer
                && (no_entry(&failure) || matches!(failure, LoginFailure::Tls(_))) =>
        {
            try_once(info, login, host, address, None, encryption).await.map_err(|_| failure)
        }
        outcome => outcome,
    }
}

/// Whether the error is SQLSTATE 28000 before any request for a password: `pg_hba.conf` has no entry.
fn no_entry(failure: &LoginFailure) -> bool {
    matches!(failure, LoginFailure::Server(fault) if fault.sqlstate == "28000")
}

async fn try_once<L: Login>(
    info: &Conninfo,
    login: &L,
    host: &Host,
    address: &Address,
    tls: Option<&Tls>,
    encryption: SslMode,
) -> Result<L::Session, LoginFailure> {
    let whole = async {
        let transport = Transport::open(address, info).await.map_err(LoginFailure::Unreachable)?;
        let transport = match tls {
            Some(tls) => encrypt(transport, tls, host, encryption).await?,
            None => transport,
        };
        if info.channel_binding() == ChannelBinding::Require && transport.channel_binding().is_none() {
            return Err(LoginFailure::Login(
                "channel_binding=require needs TLS and a certificate whose signature has a digest".to_owned(),
            ));
        }
        login.login(info, host, transport).await
    };
    match tokio::time::timeout(info.timeout(), whole).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let seconds = info.timeout().as_secs();
            let text = format!("no answer for {seconds} seconds (connect_timeout)");
            Err(LoginFailure::Unreachable(io::Error::new(io::ErrorKind::TimedOut, text)))
        }
    }
}

async fn encrypt(
    transport: Transport,
    tls: &Tls,
    host: &Host,
    encryption: SslMode,
) -> Result<Transport, LoginFailure> {
    let Transport::Tcp(mut stream) = transport else { return Ok(transport) };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(LoginFailure::Unreachable)?;
    // Exactly one byte is read: bytes that a man in the middle appended would be taken for encrypted ones.
    match stream.read_u8().await.map_err(LoginFailure::Unreachable)? {
        b'S' => {}
        b'N' if encryption < SslMode::Require => return Ok(Transport::Tcp(stream)),
        b'N' => {
            return Err(LoginFailure::Tls(
                "the server offers no TLS; set ssl=on there or lower sslmode".to_owned(),
            ));
        }
        _ => {
            return Err(LoginFailure::Login(
                "what answers there is not PostgreSQL; look at host and port".to_owned(),
            ));
        }
    }
    let (stream, binding) =
        tls.handshake(&host.name, stream).await.map_err(|error| LoginFailure::Tls(error.to_string()))?;
    Ok(Transport::Tls(Box::new(stream), binding))
}

/// Returns the failure as an error that names the server and the next thing to try.
fn explain(info: &Conninfo, host: &Host, failure: LoginFailure) -> Error {
    let place = format!("database {:?} at {host} as user {:?}", info.dbname(), info.user());
    match failure {
        LoginFailure::Unreachable(error) => Error::unavailable(format!(
            "could not reach {place}; see that the server runs and listens there, and look at host and port{}",
            info.elsewhere()
        ))
        .caused_by(error),
        LoginFailure::Tls(problem) => Error::refused(format!(
            "could not encrypt the connection to {place}; look at sslmode, sslrootcert and the server's certificate"
        ))
        .caused_by(problem),
        LoginFailure::Login(problem) => Error::refused(format!("could not log in to {place}")).caused_by(problem),
        LoginFailure::Server(fault) => {
            let kind = fault.kind();
            Error::new(kind, format!("could not log in to {place}; {}", advice(&fault))).caused_by(fault)
        }
    }
}

fn advice(fault: &ServerFault) -> &'static str {
    match fault.sqlstate.as_str() {
        "28P01" => "give the right password in PGPASSWORD or ~/.pgpass",
        "28000" => "the role must exist and pg_hba.conf on the server must let it in from here",
        "3D000" => "create the database, or name another with dbname",
        "42501" => "the role needs the right to do this: ALTER ROLE … REPLICATION, or GRANT CONNECT",
        "53300" if fault.message.contains(" for role ") => {
            "the role has all the sessions that it may have: ALTER ROLE … CONNECTION LIMIT, or try again later"
        }
        "53300" if fault.message.contains(" for database ") => {
            "the database has all the sessions that it may have: ALTER DATABASE … CONNECTION LIMIT, or try again later"
        }
        "53300" => "all connections are taken: raise max_connections or max_wal_senders, or try again later",
        "57P03" => "the server is starting, stopping or recovering: try again",
        _ => "see the server's log",
    }
}
