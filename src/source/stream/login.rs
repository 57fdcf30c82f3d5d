//! Startup and authentication of a replication connection.

use std::io;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::client::{Backend, ReplicationClient};
use super::fault::StreamFault;
use super::wire::{Answer, Wire};
use crate::connect::choices::{ChannelBinding, SessionAttrs};
use crate::connect::hosts::Host;
use crate::connect::login::{Login, LoginFailure, log_in};
use crate::connect::require_auth::Method;
use crate::connect::session::{NO_PASSWORD, suits};
use crate::connect::transport::Transport;
use crate::connect::{Conninfo, NEWER_TIMERS, PINNED_SETTINGS, ServerFault, quoted};

/// How long either side bears the other's silence, unless the connection's `options` set another timeout. The value is
/// far above the interval of the feedback, so that a busy machine does not end the stream. A server that decodes a huge
/// transaction without a change for this slot answers after half of it.
const SILENCE: Duration = Duration::from_secs(120);
const TIMEOUT: &str = "wal_sender_timeout";

/// Asks which server process serves the connection, and after how many milliseconds of silence it ends the connection.
pub(in crate::source) const SERVING_PROCESS: &str = "SELECT a.pid, a.backend_start, s.setting \
     FROM pg_catalog.pg_stat_activity a, pg_catalog.pg_settings s \
     WHERE a.pid = pg_catalog.pg_backend_pid() AND s.name = 'wal_sender_timeout'";

pub struct ReplicationLogin<'a> {
    pub purpose: &'a str,
}

impl ReplicationClient {
    /// Opens a replication connection. `purpose` shows in `pg_stat_activity`, see [`Conninfo::application`].
    ///
    /// # Errors
    /// Fails as [`crate::connect::connect`] does; refused also if the role lacks REPLICATION.
    pub async fn connect(info: &Conninfo, purpose: &str) -> crate::error::Result<ReplicationClient> {
        log_in(info, &ReplicationLogin { purpose }).await
    }
}

impl Login for ReplicationLogin<'_> {
    type Session = ReplicationClient;

    async fn login(
        &self,
        info: &Conninfo,
        host: &Host,
        transport: Transport,
    ) -> Result<ReplicationClient, LoginFailure> {
        let mut wire = Wire::new(transport);
        self.startup(info, &mut wire).await.map_err(LoginFailure::Unreachable)?;
        authenticate(info, info.password(host).as_deref(), &mut wire).await?;
        let (version, encoding) = until_ready(&mut wire).await?;
        let mut client = ReplicationClient::new(wire, version, format!("{host}/{}", info.dbname()));
        let mut ask = async |sql: &str| client.ask(sql).await.map_err(login_failure);
        // Bytes must arrive as the database stores them.
        ask(&format!("SET client_encoding = {}", quoted(&encoding, '\''))).await?;
        ask(NEWER_TIMERS).await?;
        let served = ask(SERVING_PROCESS).await?;
        let served = served.first().and_then(|row| parse_serving_process(row.iter().map(Option::as_deref)));
        let untold =
            || LoginFailure::Login("the server does not say which of its processes serves us".to_owned());
        let (backend, silence) = served.ok_or_else(untold)?;
        if info.session_attrs() != SessionAttrs::Any {
            let question =
                "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')";
            let rows = ask(question).await?;
            let is = |column: usize, word: &str| {
                rows.first()
                    .and_then(|row| row.get(column))
                    .is_some_and(|value| value.as_deref() == Some(word))
            };
            suits(info.session_attrs(), is(0, "t"), is(1, "on"))?;
        }
        client.served_by(backend, silence);
        Ok(client)
    }
}

impl ReplicationLogin<'_> {
    async fn startup(&self, info: &Conninfo, wire: &mut Wire) -> io::Result<()> {
        let application = info.application(self.purpose);
        let mut parameters = vec![
            ("user", info.user()),
            ("database", info.dbname()),
            ("replication", "database"),
            ("application_name", application.as_str()),
            // Warnings of the stream matter; see `ReplicationStream::next`.
            ("client_min_messages", "warning"),
        ];
        let options = info.setting("options");
        let timeout = format!("{}s", SILENCE.as_secs());
        if !options.is_some_and(|options| options.contains(TIMEOUT)) {
            // A startup parameter would override the connection's own options.
            parameters.push((TIMEOUT, &timeout));
        }
        parameters.extend(options.map(|options| ("options", options)));
        parameters.extend(PINNED_SETTINGS);
        wire.queue(|out| frontend::startup_message(parameters, out))?;
        wire.flush().await
    }
}

/// Sorts a fault during login. A server that ends the connection in good order has not refused the login.
fn login_failure(fault: StreamFault) -> LoginFailure {
    match fault {
        StreamFault::Server(server) => LoginFailure::Server(server),
        StreamFault::Broken(error) => LoginFailure::Unreachable(error),
        other => LoginFailure::Login(other.to_string()),
    }
}

/// Parses the row that answers [`SERVING_PROCESS`]: the process, and how long either side may be silent.
pub(in crate::source) fn parse_serving_process<'a>(
    row: impl IntoIterator<Item = Option<&'a str>>,
) -> Option<(Backend, Duration)> {
    let mut texts = row.into_iter().flatten();
    let (pid, started, timeout) = (texts.next()?, texts.next()?, texts.next()?);
    let backend = Backend { pid: pid.parse().ok()?, started: started.to_owned() };
    let silence = match timeout.parse().ok()? {
        0 => SILENCE,
        milliseconds => Duration::from_millis(milliseconds),
    };
    Some((backend, silence))
}

/// Waits for the next message; an error of the server becomes a failure.
async fn expect(wire: &mut Wire) -> Result<Message, LoginFailure> {
    loop {
        match wire.answer().await.map_err(LoginFailure::of_io)? {
            Answer::Message(Message::ErrorResponse(body)) => {
                return Err(LoginFailure::Server(ServerFault::from_fields(body.fields())));
            }
            Answer::Message(Message::NoticeResponse(_)) => {}
            Answer::Message(message) => return Ok(message),
            Answer::CopyBoth => return Err(out_of_order()),
        }
    }
}

async fn authenticate(info: &Conninfo, password: Option<&str>, wire: &mut Wire) -> Result<(), LoginFailure> {
    let password = || password.ok_or_else(|| LoginFailure::Login(NO_PASSWORD.to_owned()));
    let request = expect(wire).await?;
    if let Some(method) = method(&request) {
        info.require_auth().allow(method).map_err(LoginFailure::Login)?;
    }
    match request {
        Message::AuthenticationOk => return without_binding(info),
        Message::AuthenticationCleartextPassword => {
            without_binding(info)?;
            send(wire, |out| {
                frontend::password_message(password()?.as_bytes(), out).map_err(LoginFailure::Unreachable)
            })
            .await?;
        }
        Message::AuthenticationMd5Password(body) => {
            without_binding(info)?;
            let hash = md5_hash(info.user().as_bytes(), password()?.as_bytes(), body.salt());
            send(wire, |out| {
                frontend::password_message(hash.as_bytes(), out).map_err(LoginFailure::Unreachable)
            })
            .await?;
        }
        Message::AuthenticationSasl(body) => scram(info, password()?, &body, wire).await?,
        _ => {
            return Err(LoginFailure::Login(
                "the server asks for a kind of login that backwhen does not know (GSSAPI, SSPI, OAuth); let it in by \
                 scram-sha-256 or a certificate in pg_hba.conf"
                    .to_owned(),
            ));
        }
    }
    match expect(wire).await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(out_of_order()),
    }
}

fn method(request: &Message) -> Option<Method> {
    match request {
        Message::AuthenticationOk => Some(Method::None),
        Message::AuthenticationCleartextPassword => Some(Method::Password),
        Message::AuthenticationMd5Password(_) => Some(Method::Md5),
        Message::AuthenticationSasl(_) => Some(Method::Scram),
        Message::AuthenticationGss => Some(Method::Gss),
        Message::AuthenticationSspi => Some(Method::Sspi),
        _ => None,
    }
}

async fn send(
    wire: &mut Wire,
    write: impl FnOnce(&mut bytes::BytesMut) -> Result<(), LoginFailure>,
) -> Result<(), LoginFailure> {
    let mut failure = None;
    let queued = wire.queue(|out| {
        write(out).map_err(|error| {
            failure = Some(error);
            io::Error::other("not written")
        })
    });
    match (queued, failure) {
        (Ok(()), _) => wire.flush().await.map_err(LoginFailure::Unreachable),
        (Err(_), Some(failure)) => Err(failure),
        (Err(error), None) => Err(LoginFailure::Unreachable(error)),
    }
}

async fn scram(
    info: &Conninfo,
    password: &str,
    offer: &AuthenticationSaslBody,
    wire: &mut Wire,
) -> Result<(), LoginFailure> {
    let mechanisms: Vec<String> =
        offer.mechanisms().map(|name| Ok(name.to_owned())).collect().map_err(LoginFailure::Unreachable)?;
    let offers = |name: &str| mechanisms.iter().any(|offered| offered == name);
    let wanted = info.channel_binding() != ChannelBinding::Disable;
    let data = wire.transport().channel_binding().filter(|_| wanted).map(<[u8]>::to_vec);
    let (binding, mechanism) = match data {
        Some(data) if offers(sasl::SCRAM_SHA_256_PLUS) => {
            (sasl::ChannelBinding::tls_server_end_point(data), sasl::SCRAM_SHA_256_PLUS)
        }
        // This tells a server that can bind channels that the client could too, so that the server notices somebody
        // between the two who hid the offer.
        Some(_) => (sasl::ChannelBinding::unrequested(), sasl::SCRAM_SHA_256),
        None => (sasl::ChannelBinding::unsupported(), sasl::SCRAM_SHA_256),
    };
    if !offers(mechanism) {
        return Err(LoginFailure::Login("the server offers no SCRAM-SHA-256 login".to_owned()));
    }
    if mechanism != sasl::SCRAM_SHA_256_PLUS {
        without_binding(info)?;
    }
    exchange(sasl::ScramSha256::new(password.as_bytes(), binding), mechanism, wire).await
}

async fn exchange(
    mut scram: sasl::ScramSha256,
    mechanism: &str,
    wire: &mut Wire,
) -> Result<(), LoginFailure> {
    let wrong = |error: io::Error| LoginFailure::Login(format!("the SCRAM login failed: {error}"));
    wire.queue(|out| frontend::sasl_initial_response(mechanism, scram.message(), out)).map_err(wrong)?;
    wire.flush().await.map_err(LoginFailure::Unreachable)?;
    let Message::AuthenticationSaslContinue(body) = expect(wire).await? else { return Err(out_of_order()) };
    scram.update(body.data()).map_err(wrong)?;
    wire.queue(|out| frontend::sasl_response(scram.message(), out)).map_err(wrong)?;
    wire.flush().await.map_err(LoginFailure::Unreachable)?;
    let Message::AuthenticationSaslFinal(body) = expect(wire).await? else { return Err(out_of_order()) };
    scram.finish(body.data()).map_err(wrong)
}

fn without_binding(info: &Conninfo) -> Result<(), LoginFailure> {
    match info.channel_binding() {
        ChannelBinding::Require => Err(LoginFailure::Login(
            "channel_binding=require, and the server asked for a login without; set scram-sha-256 in its pg_hba.conf"
                .to_owned(),
        )),
        ChannelBinding::Disable | ChannelBinding::Prefer => Ok(()),
    }
}

/// Waits until the server is ready; returns its major version and the database's encoding.
async fn until_ready(wire: &mut Wire) -> Result<(u32, String), LoginFailure> {
    let (mut version, mut encoding) = (0, "UTF8".to_owned());
    loop {
        match expect(wire).await? {
            Message::ParameterStatus(body) => {
                let (name, value) = (body.name().map_err(LoginFailure::Unreachable)?, body.value());
                match (name, value) {
                    ("server_version", Ok(value)) => version = major(value),
                    ("server_encoding", Ok(value)) => value.clone_into(&mut encoding),
                    _ => {}
                }
            }
            Message::ReadyForQuery(_) => {
                wire.logged_in();
                return Ok((version, encoding));
            }
            Message::BackendKeyData(_) => {}
            _ => return Err(out_of_order()),
        }
    }
}

/// Parses the major version out of `15.14 (Debian …)` or `18beta1`.
fn major(version: &str) -> u32 {
    let digits = version.bytes().take_while(u8::is_ascii_digit).count();
    version[..digits].parse().unwrap_or(0)
}

fn out_of_order() -> LoginFailure {
    LoginFailure::Login("the server sent a message that does not belong into a login".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_major_version() {
        for (text, expected) in [("15.14 (Debian 15.14-0)", 15), ("18beta1", 18), ("", 0), ("x", 0)] {
            assert_eq!(major(text), expected);
        }
    }
}
