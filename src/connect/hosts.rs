//! The servers that a connection string names, in the order they are tried.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::settings::Settings;
use crate::error::{Error, Result};

const DEFAULT_PORT: u16 = 5432;
/// Where Debian's and PostgreSQL's own builds put their sockets.
const SOCKET_FOLDERS: &[&str] = &["/var/run/postgresql", "/tmp"];

/// One server.
#[derive(Clone, PartialEq, Eq)]
pub struct Host {
    /// A name, an address or a socket folder.
    pub name: String,
    /// Spares the look-up of the name, which then serves only the certificate and the password file.
    pub address: Option<IpAddr>,
    pub port: u16,
}

impl Host {
    /// The socket to connect to, where the server is reached through the file system.
    pub fn socket(&self) -> Option<PathBuf> {
        let local = self.address.is_none() && self.name.starts_with(['/', '@']);
        local.then(|| Path::new(&self.name).join(format!(".s.PGSQL.{}", self.port)))
    }

    /// Whether the way there does not leave this machine, as far as the name or address tells.
    pub fn is_this_machine(&self) -> bool {
        let address = self.address.or_else(|| self.name.parse().ok());
        match address {
            Some(address) => address.is_loopback(),
            None => self.name == "localhost" || self.name.ends_with(".localhost"),
        }
    }

    /// The name under which the password file knows this server.
    pub fn passfile_name(&self) -> &str {
        if SOCKET_FOLDERS.contains(&self.name.as_str()) { "localhost" } else { &self.name }
    }
}

/// `host:port`.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// Pairs the lists of hosts, addresses and ports.
///
/// # Errors
/// Usage, if the lists do not fit together or an address or port is none.
pub fn from_settings(settings: &Settings) -> Result<Vec<Host>> {
    let list = |keyword| -> Vec<&str> {
        settings.get(keyword).map(|list| list.split(',').collect()).unwrap_or_default()
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = names.len().max(addresses.len()).max(1);
    let fits = |list: &[&str]| list.is_empty() || list.len() == count;
    if !fits(&names) || !fits(&addresses) || !(fits(&ports) || ports.len() == 1) {
        return Err(Error::usage(format!(
            "the connection string names {} hosts, {} addresses and {} ports; give one port, or one for each host",
            names.len(),
            addresses.len(),
            ports.len()
        )));
    }
    let at =
        |list: &[&str], index: usize| list.get(index).map(|item| item.trim().to_owned()).unwrap_or_default();
    (0..count)
        .map(|index| {
            let port = if ports.len() == 1 { at(&ports, 0) } else { at(&ports, index) };
            host(at(&names, index), &at(&addresses, index), &port)
        })
        .collect()
}

fn host(name: String, address: &str, port: &str) -> Result<Host> {
    let port = match port {
        "" => DEFAULT_PORT,
        text => text.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
            Error::usage("a port in the connection string is not a number from 1 to 65535; mend port=")
        })?,
    };
    let address = match address {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| {
            Error::usage(format!("hostaddr={text} is not an address; give numbers there, or a name in host="))
        })?),
    };
    let name = match (name.is_empty(), address) {
        (false, _) => name,
        (true, Some(address)) => address.to_string(),
        (true, None) => default_host(port),
    };
    Ok(Host { name, address, port })
}

/// The folder that holds this port's socket, else the loopback.
fn default_host(port: u16) -> String {
    let holds_socket = |folder: &&&str| Path::new(folder).join(format!(".s.PGSQL.{port}")).exists();
    SOCKET_FOLDERS.iter().find(holds_socket).map_or("localhost", |folder| folder).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, &str)]) -> Result<Vec<String>> {
        let mut settings = Settings::default();
        for (keyword, value) in values {
            settings.set(keyword, value).unwrap();
        }
        let hosts = from_settings(&settings)?;
        Ok(hosts.iter().map(Host::to_string).collect())
    }

    #[test]
    fn pairs_the_lists() {
        assert_eq!(read(&[("host", "a,b"), ("port", "1")]).unwrap(), ["a:1", "b:1"]);
        assert_eq!(read(&[("host", "a,b,::1"), ("port", "1,,3")]).unwrap(), ["a:1", "b:5432", "[::1]:3"]);
        assert_eq!(read(&[("hostaddr", "127.0.0.1"), ("port", "9")]).unwrap(), ["127.0.0.1:9"]);
        assert_eq!(read(&[("port", "9")]).unwrap(), ["localhost:9"]);
    }

    #[test]
    fn refuses_lists_that_do_not_fit() {
        for values in [
            [("host", "a,b"), ("port", "1,2,3")],
            [("host", "a,b"), ("hostaddr", "127.0.0.1")],
            [("host", "a"), ("port", "70000")],
            [("host", "a"), ("port", "0")],
            [("host", "a"), ("hostaddr", "name")],
        ] {
            assert!(read(&values).is_err(), "{values:?}");
        }
    }

    #[test]
    fn finds_the_socket() {
        let host = |name: &str| Host { name: name.into(), address: None, port: 7 };
        assert_eq!(host("/run/x").socket(), Some(PathBuf::from("/run/x/.s.PGSQL.7")));
        assert_eq!(host("db").socket(), None);
        assert_eq!(host("/tmp").passfile_name(), "localhost");
        assert_eq!(host("/run/x").passfile_name(), "/run/x");
    }
}
