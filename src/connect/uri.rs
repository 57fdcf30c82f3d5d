//! Connection URIs: `postgresql://user:password@host:port,host2/dbname?keyword=value`.

use super::settings::Settings;
use crate::error::{Error, Result};

/// Returns the part after `postgresql://` or `postgres://`, if the text is such a URI.
pub fn body(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
}

/// Reads the part after the scheme.
///
/// # Errors
/// Fails with usage if the URI is malformed. The message shows only the URI's keywords, for the rest may be a
/// password.
pub fn parse(body: &str, settings: &mut Settings) -> Result<()> {
    let (place, query) = body.split_once('?').unwrap_or((body, ""));
    let (authority, dbname) = place.split_once('/').unwrap_or((place, ""));
    let hosts = match authority.split_once('@') {
        Some((user, hosts)) => {
            take_user(user, settings)?;
            hosts
        }
        None => authority,
    };
    take_hosts(hosts, settings)?;
    if !dbname.is_empty() {
        settings.set("dbname", &decode("the database name", dbname)?)?;
    }
    query.split('&').filter(|pair| !pair.is_empty()).try_for_each(|pair| take_pair(pair, settings))
}

fn take_user(text: &str, settings: &mut Settings) -> Result<()> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    if !user.is_empty() {
        settings.set("user", &decode("the user name", user)?)?;
    }
    if !password.is_empty() {
        settings.set("password", &decode("the password", password)?)?;
    }
    Ok(())
}

fn take_hosts(text: &str, settings: &mut Settings) -> Result<()> {
    let parts = text.split(',').map(split_host).collect::<Result<Vec<_>>>()?;
    let list = |of: fn(&(String, String)) -> &str| parts.iter().map(of).collect::<Vec<_>>().join(",");
    if parts.iter().any(|(host, _)| !host.is_empty()) {
        settings.set("host", &list(|(host, _)| host))?;
    }
    if parts.iter().any(|(_, port)| !port.is_empty()) {
        settings.set("port", &list(|(_, port)| port))?;
    }
    Ok(())
}

/// `host`, `host:port`, `[v6]:port`, or a socket folder with its slashes encoded.
fn split_host(text: &str) -> Result<(String, String)> {
    if let Some(rest) = text.strip_prefix('[') {
        let broken = || Error::usage("an IPv6 address in the connection URI has no closing ]");
        let (address, rest) = rest.split_once(']').ok_or_else(broken)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => port,
            None if rest.is_empty() => "",
            None => return Err(Error::usage("after the ] of an IPv6 address only :port may follow")),
        };
        return Ok((address.to_owned(), port.to_owned()));
    }
    let (host, port) = text.split_once(':').unwrap_or((text, ""));
    Ok((decode("a host", host)?, decode("a port", port)?))
}

fn take_pair(pair: &str, settings: &mut Settings) -> Result<()> {
    let (keyword, value) = pair.split_once('=').ok_or_else(|| {
        Error::usage("after the ? of the connection URI there is a word without =; write keyword=value")
    })?;
    let keyword = decode("a keyword", keyword)?;
    let value = decode(&keyword, value)?;
    // JDBC uses this form, and libpq accepts it too.
    match (keyword.as_str(), value.as_str()) {
        ("ssl", "true") => settings.set("sslmode", "require"),
        _ => settings.set(&keyword, &value),
    }
}

fn decode(what: &str, text: &str) -> Result<String> {
    let broken = || {
        Error::usage(format!(
            "{what} in the connection URI is not well encoded; write % as %25, and other special characters as \
             % and two hexadecimal digits of their UTF-8 bytes"
        ))
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or_else(broken);
        let decoded = digit()? << 4 | digit()?;
        match u8::try_from(decoded) {
            Ok(byte) if byte != 0 => bytes.push(byte),
            _ => return Err(broken()),
        }
    }
    String::from_utf8(bytes).map_err(|_| broken())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(&'static str, String)>> {
        let mut settings = Settings::default();
        parse(body(text).expect("a URI"), &mut settings)?;
        Ok(settings.iter().map(|(keyword, value)| (keyword, value.to_owned())).collect())
    }

    fn check(text: &str, expected: &[(&'static str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        assert_eq!(read(text).unwrap(), expected, "{text}");
    }

    #[test]
    fn reads_every_shape() {
        check("postgresql://", &[]);
        check("postgres://db", &[("host", "db")]);
        check("postgres://u@db/x", &[("dbname", "x"), ("host", "db"), ("user", "u")]);
        check(
            "postgresql://u%40x:p%2Fw%25@h1:1,h2,[::1]:3/d%20b?connect_timeout=5&ssl=true",
            &[
                ("connect_timeout", "5"),
                ("dbname", "d b"),
                ("host", "h1,h2,::1"),
                ("password", "p/w%"),
                ("port", "1,,3"),
                ("sslmode", "require"),
                ("user", "u@x"),
            ],
        );
        check("postgresql://%2Fvar%2Frun:77/x", &[("dbname", "x"), ("host", "/var/run"), ("port", "77")]);
        check("postgresql:///x?host=/tmp&port=9", &[("dbname", "x"), ("host", "/tmp"), ("port", "9")]);
    }

    #[test]
    fn refuses_without_showing_a_secret() {
        for text in [
            "postgres://u:secret%zz@h/x",
            "postgres://u:secret%0@h/x",
            "postgres://u:secret%00@h/x",
            "postgres://u:secret%ff@h/x",
            "postgres://u:secret@[::1/x",
            "postgres://u:secret@h/x?secret",
            "postgres://u:secret@h/x?nonsense=1",
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
