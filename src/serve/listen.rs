//! The address at which clients reach the past.
//!
//! All clients go through this process, over TCP or over a socket in a private folder, and none reaches the server by itself.
//! If the process dies, the connections of the clients die with the sessions that hold the gates, so no client can see a
//! table whose gate has fallen, and which is empty. And the server needs no way to the network.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::error::{Context, Error, Kind, Result};

/// The port of the clients' socket, and the name that libpq gives to it. The server has 5432 in the same folder.
pub const SOCKET_PORT: u16 = 5433;
const SOCKET: &str = ".s.PGSQL.5433";

/// A client that has not said within this time who it is has gone away.
const PATIENCE: Duration = Duration::from_secs(60);

/// The longest first packet that PostgreSQL takes, in bytes.
const LONGEST_STARTUP: usize = 10_000;

/// The numbers with which a client's first packet begins.
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
const CANCEL: u32 = 80_877_102;

/// The place where clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// The folder of the socket, whose port is [`SOCKET_PORT`].
    Socket(PathBuf),
}

/// Listens for clients, and leads them to the server.
pub struct Listener {
    socket: Socket,
    server: Arc<PathBuf>,
    client: Arc<str>,
}

enum Socket {
    Tcp(TcpListener),
    /// The socket is in the server's folder, which goes with the server.
    Unix(UnixListener),
}

impl Listener {
    /// Listens at `address`, as `HOST:PORT`; without one, at a socket that only this user can reach. `server` is the socket
    /// of the server, and `client` the only role that may log in.
    ///
    /// # Errors
    /// `Usage` if the address is none; `Unavailable` if the system does not let us listen there.
    pub async fn open(address: Option<&str>, server: PathBuf, client: &str) -> Result<Listener> {
        let socket = match address {
            Some(address) => Socket::Tcp(bind(address).await?),
            None => {
                let path = server.with_file_name(SOCKET);
                let failed = || format!("cannot listen at {}", path.display());
                Socket::Unix(UnixListener::bind(&path).context(Kind::Unavailable, failed)?)
            }
        };
        Ok(Listener { socket, server: Arc::new(server), client: client.into() })
    }

    /// # Errors
    /// `Internal` if the system does not tell the port.
    pub fn address(&self) -> Result<Address> {
        match &self.socket {
            Socket::Tcp(listener) => listener
                .local_addr()
                .map(Address::Tcp)
                .context(Kind::Internal, || "the port is not known".into()),
            Socket::Unix(_) => {
                Ok(Address::Socket(self.server.parent().map(Path::to_owned).unwrap_or_default()))
            }
        }
    }

    /// Serves clients for as long as the future is polled; then all of them are cut off.
    ///
    /// # Errors
    /// `Unavailable` if no more clients can be taken.
    pub async fn run(&self) -> Result<()> {
        let failed = || "cannot take a client's connection".to_owned();
        let mut clients = JoinSet::new();
        loop {
            let (server, role) = (Arc::clone(&self.server), Arc::clone(&self.client));
            match &self.socket {
                Socket::Tcp(listener) => {
                    let (client, _) = listener.accept().await.context(Kind::Unavailable, failed)?;
                    // Small messages go back and forth, so nothing is gained by waiting for more of them.
                    let _ = client.set_nodelay(true);
                    clients.spawn(lead(client, server, role));
                }
                Socket::Unix(listener) => {
                    let (client, _) = listener.accept().await.context(Kind::Unavailable, failed)?;
                    clients.spawn(lead(client, server, role));
                }
            }
            while clients.try_join_next().is_some() {}
        }
    }
}

async fn bind(address: &str) -> Result<TcpListener> {
    let is_address = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !is_address {
        return Err(Error::usage(format!("--listen {address}: write HOST:PORT, such as 127.0.0.1:5433")));
    }
    let failed = || format!("cannot listen at {address}; choose another port with --listen");
    TcpListener::bind(address).await.context(Kind::Unavailable, failed)
}

/// Leads one client to the server. Its errors are its own: the client sees that its connection ends.
async fn lead<C>(mut client: C, server: Arc<PathBuf>, role: Arc<str>)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let started = tokio::time::timeout(PATIENCE, startup(&mut client)).await;
    let Ok(Ok(packet)) = started else { return };
    if let Some(refusal) = refusal(&packet, &role) {
        let _ = client.write_all(&refusal).await;
        let _ = client.shutdown().await;
        return;
    }
    let Ok(mut server) = UnixStream::connect(server.as_path()).await else { return };
    if server.write_all(&packet).await.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}

/// Reads the packet that says who the client is. Encryption is declined, as the server has none.
async fn startup<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C) -> std::io::Result<Vec<u8>> {
    loop {
        let length = client.read_u32().await?;
        let body = (length as usize).checked_sub(4).filter(|body| (4..LONGEST_STARTUP).contains(body));
        let body = body.ok_or(std::io::ErrorKind::InvalidData)?;
        let mut packet = length.to_be_bytes().to_vec();
        packet.resize(4 + body, 0);
        client.read_exact(&mut packet[4..]).await?;
        match code(&packet) {
            SSL | GSS => client.write_all(b"N").await?,
            _ => return Ok(packet),
        }
    }
}

fn code(packet: &[u8]) -> u32 {
    packet.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// The server's other roles log in without a password, so no client may be one of them.
fn refusal(packet: &[u8], role: &str) -> Option<Vec<u8>> {
    if code(packet) == CANCEL {
        return None;
    }
    let words: Vec<_> = packet[8..].split(|byte| *byte == 0).collect();
    let mut pairs = words.chunks_exact(2).take_while(|pair| !pair[0].is_empty());
    let is_role = pairs.clone().filter(|pair| pair[0] == b"user").all(|pair| pair[1] == role.as_bytes());
    let is_named = pairs.clone().any(|pair| pair[0] == b"user");
    let is_replication = pairs.any(|pair| pair[0] == b"replication");
    if is_named && is_role && !is_replication {
        return None;
    }
    let text = format!("the past is open to user {role} only; use the connection string that serve printed");
    let mut fields = Vec::new();
    for (field, value) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "28000"), (b'M', text.as_str())] {
        fields.push(field);
        fields.extend_from_slice(value.as_bytes());
        fields.push(0);
    }
    fields.push(0);
    let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
    Some([b"E", &length.to_be_bytes()[..], &fields].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(words: &[&str]) -> Vec<u8> {
        let mut body = 196_608u32.to_be_bytes().to_vec();
        for word in words {
            body.extend_from_slice(word.as_bytes());
            body.push(0);
        }
        body.push(0);
        [&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat()
    }

    #[test]
    fn only_the_role_of_the_clients_is_let_in() {
        let allowed = |words: &[&str]| refusal(&packet(words), "past").is_none();
        assert!(allowed(&["user", "past", "database", "shop"]));
        assert!(!allowed(&["user", "postgres"]));
        assert!(!allowed(&["user", "past", "user", "postgres"]));
        assert!(!allowed(&["user", "postgres", "user", "past"]));
        assert!(!allowed(&["database", "past"]));
        assert!(!allowed(&["user", "past", "replication", "1"]));
        assert!(!allowed(&["", "user", "past"]));
        assert!(!allowed(&[]));
    }

    #[tokio::test]
    async fn a_first_packet_of_any_length_is_survived() {
        for bytes in [&b"\0\0\0\x03"[..], b"\xff\xff\xff\xff", b"\0\0\0\x08\0\0", b"", b"\0\0\0\x04"] {
            let (mut here, mut there) = tokio::io::duplex(64);
            there.write_all(bytes).await.unwrap();
            drop(there);
            assert!(startup(&mut here).await.is_err(), "{bytes:?}");
        }
        let (mut here, mut there) = tokio::io::duplex(1024);
        let wanted = packet(&["user", "past"]);
        there.write_all(&[&8u32.to_be_bytes()[..], &SSL.to_be_bytes()].concat()).await.unwrap();
        there.write_all(&wanted).await.unwrap();
        assert_eq!(startup(&mut here).await.unwrap(), wanted);
        assert_eq!(there.read_u8().await.unwrap(), b'N');
    }
}
