//! The address of a database and the way to log in there, determined as libpq determines them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::choices::{self, ChannelBinding, SessionAttrs, SslMode, choose};
use super::hosts::{self, Host};
use super::passfile::Passfile;
use super::require_auth::RequireAuth;
use super::settings::{self, Lookup, Settings};
use super::{keyword, service, uri};
use crate::error::{Error, Result};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest timeout, in seconds; a shorter setting is raised to it. libpq has the same limit, since the time
/// includes the look-up of the name.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection string with everything that libpq would add to it. `Debug` and `Display` omit the password.
#[derive(Clone)]
pub struct Conninfo {
    settings: Settings,
    hosts: Vec<Host>,
    user: String,
    dbname: String,
    passfile_path: Option<PathBuf>,
    home: Option<PathBuf>,
    ssl_mode: SslMode,
    channel_binding: ChannelBinding,
    session_attrs: SessionAttrs,
    require_auth: Arc<RequireAuth>,
    timeout: Duration,
    /// The slot of the history that sessions work for.
    history: Option<Arc<str>>,
    /// Whether the history's record named the server, and not the person.
    recorded: bool,
}

impl Conninfo {
    /// Reads a URI, a keyword string or a bare database name, then adds values from a service file, the `PG*`
    /// variables, the defaults and the password file.
    ///
    /// # Errors
    /// Fails with usage if a part of the text is malformed, unknown or cannot be honoured.
    pub fn parse(text: &str) -> Result<Conninfo> {
        Conninfo::parse_in(text, &|name| std::env::var(name).ok())
    }

    /// Does the same as [`Conninfo::parse`], with the environment as an argument.
    ///
    /// # Errors
    /// Fails when [`Conninfo::parse`] does.
    pub fn parse_in(text: &str, lookup: Lookup<'_>) -> Result<Conninfo> {
        let mut settings = Settings::default();
        match uri::body(text.trim()) {
            Some(body) => uri::parse(body, &mut settings)?,
            None if text.contains('=') => keyword::parse(text, &mut settings)?,
            // An empty text leaves the name to PGDATABASE, which an empty name would override.
            None if text.trim().is_empty() => {}
            None => settings.set("dbname", text.trim())?,
        }
        service::fill(&mut settings, lookup)?;
        settings.fill_from_environment(lookup)?;
        Conninfo::resolve(settings, lookup)
    }

    fn resolve(settings: Settings, lookup: Lookup<'_>) -> Result<Conninfo> {
        let user = match settings.get("user") {
            Some(user) => user.to_owned(),
            None => whoami::username().map_err(|_| {
                Error::usage("the name of the user at the database is not known; give user= or PGUSER")
            })?,
        };
        let home = lookup("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let passfile_path = settings
            .get("passfile")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".pgpass")));
        Ok(Conninfo {
            hosts: hosts::from_settings(&settings)?,
            dbname: settings.get("dbname").unwrap_or(&user).to_owned(),
            user,
            passfile_path,
            ssl_mode: ssl_mode(&settings)?,
            channel_binding: choice(
                &settings,
                "channel_binding",
                choices::CHANNEL_BINDINGS,
                ChannelBinding::Prefer,
            )?,
            session_attrs: choice(
                &settings,
                "target_session_attrs",
                choices::SESSION_ATTRS,
                SessionAttrs::Any,
            )?,
            require_auth: Arc::new(RequireAuth::parse(settings.get("require_auth"))?),
            timeout: timeout(&settings)?,
            history: None,
            recorded: false,
            home,
            settings,
        })
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// Returns the same servers and user with another database.
    pub fn with_dbname(&self, dbname: &str) -> Conninfo {
        let mut other = self.clone();
        other.settings.replace("dbname", dbname);
        dbname.clone_into(&mut other.dbname);
        other
    }

    /// Returns the same servers and database with another user, who needs no password.
    pub fn as_user(&self, user: &str) -> Conninfo {
        let mut other = self.clone();
        other.settings.replace("user", user);
        other.settings.remove("password");
        user.clone_into(&mut other.user);
        other
    }

    /// Returns the same database for sessions that work for the history with this slot. Their names end in the slot, so
    /// that a later command finds those that an interrupted one has left at work.
    pub fn for_history(&self, slot: &str) -> Conninfo {
        Conninfo { history: Some(slot.into()), ..self.clone() }
    }

    /// Returns the same database, of which a failure says that `--source` can name another: the history's record was
    /// used, since no source was named.
    #[must_use]
    pub fn as_recorded(self) -> Conninfo {
        Conninfo { recorded: true, ..self }
    }

    /// The option to try if the server is not where it was looked for; empty if a person named the server.
    pub(super) fn elsewhere(&self) -> &'static str {
        if self.recorded { "; if the source is elsewhere by now, name it with --source" } else { "" }
    }

    /// Returns the `application_name` of a session: `backwhen PURPOSE`, and the slot of the history that it works for.
    pub fn application(&self, purpose: &str) -> String {
        let slot = self.history.as_deref().map_or_else(String::new, |slot| format!(" {slot}"));
        format!("backwhen {purpose}{slot}")
    }

    /// Returns a keyword string without the password, for storing: [`Conninfo::parse`] reads the string back, and
    /// finds the password again if a password file, a service file or the environment has it.
    pub fn without_password(&self) -> String {
        let mut settings = self.settings.clone();
        settings.remove("password");
        settings.replace("user", &self.user);
        settings.replace("dbname", &self.dbname);
        for (keyword, list) in self.places() {
            settings.replace(keyword, list);
        }
        let pairs: Vec<_> =
            settings.iter().map(|(keyword, value)| format!("{keyword}={}", keyword::quote(value))).collect();
        pairs.join(" ")
    }

    /// Returns the variables that make a child such as `pg_dump` connect as backwhen does. They contain no secret:
    /// see [`Conninfo::password_line`]. A child that inherits the environment must first lose
    /// [`Conninfo::variables_to_remove`]: an inherited `PGSERVICE` would override these variables.
    pub fn child_environment(&self) -> Vec<(&'static str, String)> {
        let mut settings = self.settings.clone();
        for keyword in ["service", "servicefile", "passfile", "password"] {
            settings.remove(keyword);
        }
        settings.replace("user", &self.user);
        settings.replace("dbname", &self.dbname);
        for (keyword, list) in self.places() {
            settings.replace(keyword, list);
        }
        let mut variables: Vec<_> =
            settings.with_variables().map(|(variable, value)| (variable, value.to_owned())).collect();
        if let Some(path) = &self.passfile_path {
            variables.push(("PGPASSFILE", path.display().to_string()));
        }
        variables.push(("PGAPPNAME", self.application("dump")));
        variables.push(("PGGSSENCMODE", "disable".to_owned()));
        variables
    }

    /// Returns the value of `PGOPTIONS` for a child whose sessions shall have some settings beside those that the user gave.
    pub fn child_options(&self, settings: &[(&str, &str)]) -> String {
        let given = self.child_environment().into_iter().find(|(name, _)| *name == "PGOPTIONS");
        let given = given.map(|(_, options)| options);
        let ours = settings.iter().map(|(name, value)| format!("-c {name}={value}"));
        given.into_iter().chain(ours).collect::<Vec<_>>().join(" ")
    }

    /// Returns the variables that a child must not inherit beside [`Conninfo::child_environment`].
    pub fn variables_to_remove() -> impl Iterator<Item = &'static str> {
        settings::variables()
    }

    /// Returns the line of a password file for a child, if the password is in no file yet: other users could read an
    /// environment.
    ///
    /// # Errors
    /// Fails with usage if no password file can hold the password.
    pub fn password_line(&self) -> Result<Option<String>> {
        let Some(password) = self.settings.get("password") else { return Ok(None) };
        if password.contains(['\n', '\r', '\0']) {
            return Err(Error::usage(
                "the password has a line end in it, which no password file can hold, so that pg_dump and pg_restore \
                 cannot be given it; give the role another password",
            ));
        }
        let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
        Ok(Some(format!("*:*:*:*:{escaped}\n")))
    }

    /// Returns the lists of hosts and ports, with the defaults written out.
    fn places(&self) -> [(&'static str, String); 2] {
        let list = |of: fn(&Host) -> String| self.hosts.iter().map(of).collect::<Vec<_>>().join(",");
        [("host", list(|host| host.name.clone())), ("port", list(|host| host.port.to_string()))]
    }

    pub(crate) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Returns the password for a login. The password file is read each time, since a capture runs for months and
    /// passwords change.
    pub(crate) fn password(&self, host: &Host) -> Option<String> {
        let from_file = || {
            let file = Passfile::read(self.passfile_path.as_deref()?);
            file.password(host.passfile_name(), host.port, &self.dbname, &self.user).map(str::to_owned)
        };
        self.settings.get("password").map(str::to_owned).or_else(from_file)
    }

    pub(crate) fn ssl_mode(&self) -> SslMode {
        self.ssl_mode
    }

    pub(crate) fn channel_binding(&self) -> ChannelBinding {
        self.channel_binding
    }

    pub(crate) fn session_attrs(&self) -> SessionAttrs {
        self.session_attrs
    }

    pub(crate) fn require_auth(&self) -> &RequireAuth {
        &self.require_auth
    }

    /// Returns a server on another machine that need not prove its identity, and the `sslmode` that permits this.
    pub fn unproven_server(&self) -> Option<(String, &'static str)> {
        let mode =
            choices::SSL_MODES.iter().find(|(_, mode)| *mode == self.ssl_mode).map_or("", |(word, _)| word);
        let remote = self.hosts.iter().find(|host| host.socket().is_none() && !host.is_this_machine())?;
        (self.ssl_mode < SslMode::VerifyFull).then(|| (remote.to_string(), mode))
    }

    /// The time that one address may take until the login has succeeded.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn setting(&self, keyword: &str) -> Option<&str> {
        self.settings.get(keyword)
    }

    /// Returns the path of the file in `~/.postgresql`, if there is a home folder.
    pub(crate) fn home_file(&self, name: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(".postgresql").join(name))
    }
}

/// Formats the address as `host:port/dbname as user`.
impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(Host::to_string).collect();
        write!(f, "{}/{} as {}", hosts.join(","), self.dbname, self.user)
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conninfo({self})")
    }
}

fn choice<T: Copy>(settings: &Settings, keyword: &str, words: &[(&str, T)], default: T) -> Result<T> {
    settings.get(keyword).map_or(Ok(default), |value| choose(keyword, value, words))
}

/// The default is `prefer`, but `verify-full` where the system's authorities are trusted: anybody can obtain a
/// certificate from those.
fn ssl_mode(settings: &Settings) -> Result<SslMode> {
    if settings.get("sslrootcert") != Some("system") {
        return choice(settings, "sslmode", choices::SSL_MODES, SslMode::Prefer);
    }
    match choice(settings, "sslmode", choices::SSL_MODES, SslMode::VerifyFull)? {
        SslMode::VerifyFull => Ok(SslMode::VerifyFull),
        _ => Err(Error::usage(
            "sslrootcert=system needs sslmode=verify-full; a weaker mode would prove nothing",
        )),
    }
}

/// Zero and negative numbers mean the default here: a capture that waits for ever would be useless.
fn timeout(settings: &Settings) -> Result<Duration> {
    let Some(text) = settings.get("connect_timeout") else { return Ok(DEFAULT_TIMEOUT) };
    let seconds: i32 = text.trim().parse().map_err(|_| {
        Error::usage(format!("connect_timeout={text} is not a number of seconds; the default is 10"))
    })?;
    match u64::try_from(seconds) {
        Ok(0) | Err(_) => Ok(DEFAULT_TIMEOUT),
        Ok(seconds) => Ok(Duration::from_secs(seconds).max(SHORTEST_TIMEOUT)),
    }
}

#[cfg(test)]
mod tests;
