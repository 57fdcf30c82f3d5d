//! The keywords of libpq's connection strings, and the values given for them.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Looks up an environment variable. All look-ups go through this type, so that a test needs no global state.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// How a keyword is handled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handling {
    Used,
    /// The keyword has no effect that matters here.
    Ignored,
    /// Ignoring the keyword could weaken the user's demand; only this value demands nothing.
    Refused(&'static str),
}

use Handling::{Ignored, Refused, Used};

/// The keywords with their environment variables and handling, from libpq's own table (PostgreSQL 18, "Parameter Key
/// Words").
const KEYWORDS: &[(&str, &str, Handling)] = &[
    ("application_name", "PGAPPNAME", Ignored),
    ("channel_binding", "PGCHANNELBINDING", Used),
    ("client_encoding", "PGCLIENTENCODING", Ignored),
    ("connect_timeout", "PGCONNECT_TIMEOUT", Used),
    ("dbname", "PGDATABASE", Used),
    ("fallback_application_name", "", Ignored),
    ("gssdelegation", "PGGSSDELEGATION", Ignored),
    ("gssencmode", "PGGSSENCMODE", Refused("prefer")),
    ("gsslib", "PGGSSLIB", Ignored),
    ("host", "PGHOST", Used),
    ("hostaddr", "PGHOSTADDR", Used),
    ("keepalives", "", Used),
    ("keepalives_count", "", Used),
    ("keepalives_idle", "", Used),
    ("keepalives_interval", "", Used),
    ("krbsrvname", "PGKRBSRVNAME", Ignored),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS", Ignored),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION", Ignored),
    ("min_protocol_version", "PGMINPROTOCOLVERSION", Refused("3.0")),
    ("options", "PGOPTIONS", Used),
    ("passfile", "PGPASSFILE", Used),
    ("password", "PGPASSWORD", Used),
    ("port", "PGPORT", Used),
    ("replication", "", Refused("false")),
    ("require_auth", "PGREQUIREAUTH", Used),
    ("requirepeer", "PGREQUIREPEER", Refused("")),
    ("service", "PGSERVICE", Used),
    ("servicefile", "PGSERVICEFILE", Used),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Ignored),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Used),
    ("sslcert", "PGSSLCERT", Used),
    ("sslcertmode", "PGSSLCERTMODE", Ignored),
    ("sslcompression", "PGSSLCOMPRESSION", Ignored),
    ("sslcrl", "PGSSLCRL", Refused("")),
    ("sslcrldir", "PGSSLCRLDIR", Refused("")),
    ("sslkey", "PGSSLKEY", Used),
    ("sslmode", "PGSSLMODE", Used),
    ("sslnegotiation", "PGSSLNEGOTIATION", Refused("postgres")),
    ("sslpassword", "", Refused("")),
    ("sslrootcert", "PGSSLROOTCERT", Used),
    ("sslsni", "PGSSLSNI", Ignored),
    ("target_session_attrs", "PGTARGETSESSIONATTRS", Used),
    ("tcp_user_timeout", "", Used),
    ("user", "PGUSER", Used),
];

/// Returns every variable that could make libpq differ from a [`Settings`].
pub fn variables() -> impl Iterator<Item = &'static str> {
    let extra = ["PGSYSCONFDIR", "PGSERVICEFILE", "PGDATESTYLE", "PGTZ", "PGGEQO", "PGSSLKEYLOGFILE"];
    KEYWORDS.iter().map(|(_, variable, _)| *variable).filter(|variable| !variable.is_empty()).chain(extra)
}

/// Values by keyword. The first value of a keyword stays, so sources are added strongest first.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<&'static str, String>,
}

impl Settings {
    /// Sets a value from the connection string itself, where the last value of a keyword counts.
    ///
    /// # Errors
    /// Fails with usage if libpq has no such keyword, or if backwhen cannot honour it.
    pub fn set(&mut self, keyword: &str, value: &str) -> Result<()> {
        if let Some(keyword) = accept(keyword, value)? {
            self.values.insert(keyword, value.to_owned());
        }
        Ok(())
    }

    /// Sets a value from a weaker source: it counts only if the keyword has no value yet.
    ///
    /// # Errors
    /// Fails when [`Settings::set`] does.
    pub fn fill(&mut self, keyword: &str, value: &str) -> Result<()> {
        match accept(keyword, value)? {
            Some(keyword) if !self.values.contains_key(keyword) => {
                self.values.insert(keyword, value.to_owned());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Adds the values from the environment.
    ///
    /// # Errors
    /// Fails when [`Settings::set`] does.
    pub fn fill_from_environment(&mut self, lookup: Lookup<'_>) -> Result<()> {
        for (keyword, variable, _) in KEYWORDS {
            match lookup(variable) {
                Some(value) if !variable.is_empty() => self.fill(keyword, &value)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns a value that is not empty; an empty value counts as missing, as in libpq.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.values.get(keyword).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the settings with their environment variables.
    pub fn with_variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        KEYWORDS
            .iter()
            .filter(|(_, variable, _)| !variable.is_empty())
            .filter_map(|(keyword, variable, _)| self.get(keyword).map(|value| (*variable, value)))
    }

    /// Returns keywords and values in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(keyword, value)| (*keyword, value.as_str()))
    }

    /// Sets a value that is known to be valid.
    pub fn replace(&mut self, keyword: &'static str, value: impl Into<String>) {
        self.values.insert(keyword, value.into());
    }

    pub fn remove(&mut self, keyword: &str) {
        self.values.remove(keyword);
    }
}

/// Returns the keyword's permanent name, or `None` if the keyword can be ignored.
fn accept(keyword: &str, value: &str) -> Result<Option<&'static str>> {
    let Some((keyword, _, handling)) = KEYWORDS.iter().find(|(known, _, _)| *known == keyword) else {
        return Err(Error::usage(format!(
            "the connection string has an unknown keyword {keyword:?}; known are host, port, dbname, user, \
             password, service, sslmode and the others of libpq (a value with spaces needs 'single quotes')"
        )));
    };
    match handling {
        Used => Ok(Some(keyword)),
        Ignored => Ok(None),
        Refused(harmless) if value.is_empty() || value == *harmless => Ok(None),
        Refused(_) if *keyword == "gssencmode" && value == "disable" => Ok(None),
        Refused(_) => Err(refusal(keyword)),
    }
}

fn refusal(keyword: &str) -> Error {
    if keyword == "sslpassword" {
        return Error::usage(
            "backwhen cannot read an encrypted client key (sslpassword); decrypt it with `openssl pkey` and name \
             the result in sslkey",
        );
    }
    Error::usage(format!(
        "backwhen cannot honour the connection setting {keyword}; take it out of the connection string, the \
         service file or the environment"
    ))
}
