//! The keywords of libpq's connection strings, and the values given for them.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Looks up an environment variable. The only way in, so that a test needs no global state.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What becomes of a keyword.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handling {
    Used,
    /// Changes nothing that matters here.
    Ignored,
    /// Ignoring it could weaken what the user asked for; only this value means nothing.
    Refused(&'static str),
}

use Handling::{Ignored, Refused, Used};

/// Keyword, environment variable, handling: libpq's own table (PostgreSQL 18, "Parameter Key Words").
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

/// Every variable that could tell libpq something else than a [`Settings`] does.
pub fn variables() -> impl Iterator<Item = &'static str> {
    let extra = ["PGSYSCONFDIR", "PGSERVICEFILE", "PGDATESTYLE", "PGTZ", "PGGEQO", "PGSSLKEYLOGFILE"];
    KEYWORDS.iter().map(|(_, variable, _)| *variable).filter(|variable| !variable.is_empty()).chain(extra)
}

/// Values by keyword. What was set first stays, so sources are added strongest first.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<&'static str, String>,
}

impl Settings {
    /// Takes a value from the connection string itself, where the last one of a keyword counts.
    ///
    /// # Errors
    /// Usage, if libpq has no such keyword, or backwhen cannot honour it.
    pub fn set(&mut self, keyword: &str, value: &str) -> Result<()> {
        if let Some(keyword) = accept(keyword, value)? {
            self.values.insert(keyword, value.to_owned());
        }
        Ok(())
    }

    /// Takes a value from a weaker source: it counts only where nothing was said before.
    ///
    /// # Errors
    /// As [`Settings::set`].
    pub fn fill(&mut self, keyword: &str, value: &str) -> Result<()> {
        match accept(keyword, value)? {
            Some(keyword) if !self.values.contains_key(keyword) => {
                self.values.insert(keyword, value.to_owned());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes what the environment says.
    ///
    /// # Errors
    /// As [`Settings::set`].
    pub fn fill_from_environment(&mut self, lookup: Lookup<'_>) -> Result<()> {
        for (keyword, variable, _) in KEYWORDS {
            match lookup(variable) {
                Some(value) if !variable.is_empty() => self.fill(keyword, &value)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// A value that says something; an empty one counts as not given, as in libpq.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.values.get(keyword).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The settings with their environment variables.
    pub fn with_variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        KEYWORDS
            .iter()
            .filter(|(_, variable, _)| !variable.is_empty())
            .filter_map(|(keyword, variable, _)| self.get(keyword).map(|value| (*variable, value)))
    }

    /// Keywords and values in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(keyword, value)| (*keyword, value.as_str()))
    }

    /// Puts in a value that is known to be right.
    pub fn replace(&mut self, keyword: &'static str, value: impl Into<String>) {
        self.values.insert(keyword, value.into());
    }

    pub fn remove(&mut self, keyword: &str) {
        self.values.remove(keyword);
    }
}

/// The keyword in its lasting form, or nothing if it can be passed over.
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
