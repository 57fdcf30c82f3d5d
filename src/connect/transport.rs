//! The connection to a server: TCP or a socket in the file system, with or without TLS.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::tls;
use tokio_rustls::client::TlsStream;

use super::conninfo::Conninfo;
use super::hosts::Host;
use super::tap::TappedTransport;

/// One address to connect to; a host name may have several.
#[derive(Clone, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    Socket(PathBuf),
}

impl Address {
    /// # Errors
    /// Fails if the name cannot be resolved.
    pub async fn find(host: &Host) -> io::Result<Vec<Address>> {
        if let Some(path) = host.socket() {
            return Ok(vec![Address::Socket(path)]);
        }
        if let Some(address) = host.address {
            return Ok(vec![Address::Tcp(SocketAddr::new(address, host.port))]);
        }
        let found = tokio::net::lookup_host((host.name.as_str(), host.port)).await?;
        Ok(found.map(Address::Tcp).collect())
    }
}

/// A stream of bytes to and from a server.
pub enum Transport {
    Tcp(TcpStream),
    Socket(UnixStream),
    /// TLS, with the data that binds a SCRAM exchange to this channel, where the certificate allows it.
    Tls(Box<TlsStream<TcpStream>>, Option<Vec<u8>>),
}

impl Transport {
    /// # Errors
    /// Fails if no server listens there, or if the address cannot be reached.
    pub async fn open(address: &Address, info: &Conninfo) -> io::Result<Transport> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                keep_alive(&stream, info)?;
                Ok(Transport::Tcp(stream))
            }
            Address::Socket(path) => open_socket(path).await.map(Transport::Socket),
        }
    }

    /// Returns the `tls-server-end-point` data of RFC 5929.
    pub fn channel_binding(&self) -> Option<&[u8]> {
        match self {
            Transport::Tls(_, binding) => binding.as_deref(),
            Transport::Tcp(_) | Transport::Socket(_) => None,
        }
    }
}

async fn open_socket(path: &Path) -> io::Result<UnixStream> {
    match path.to_str().and_then(|path| path.strip_prefix('@')) {
        // An abstract socket's name belongs to the kernel and is in no folder.
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
            stream.set_nonblocking(true)?;
            UnixStream::from_std(stream)
        }
        None => UnixStream::connect(path).await,
    }
}

/// With these limits a server that vanished is noticed after about two minutes, not two hours.
fn keep_alive(stream: &TcpStream, info: &Conninfo) -> io::Result<()> {
    let number = |keyword| info.setting(keyword).and_then(|text| text.trim().parse::<u32>().ok());
    let seconds =
        |keyword, default| Duration::from_secs(number(keyword).filter(|n| *n > 0).unwrap_or(default).into());
    let socket = SockRef::from(stream);
    if number("keepalives") != Some(0) {
        let keepalive = TcpKeepalive::new()
            .with_time(seconds("keepalives_idle", 60))
            .with_interval(seconds("keepalives_interval", 10))
            .with_retries(number("keepalives_count").filter(|n| *n > 0).unwrap_or(6));
        socket.set_tcp_keepalive(&keepalive)?;
    }
    match number("tcp_user_timeout") {
        Some(milliseconds) if milliseconds > 0 => {
            socket.set_tcp_user_timeout(Some(Duration::from_millis(milliseconds.into())))
        }
        _ => Ok(()),
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Socket(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream, _) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Socket(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream, _) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Socket(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Socket(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl tls::TlsStream for TappedTransport<Transport> {
    fn channel_binding(&self) -> tls::ChannelBinding {
        match self.inner().channel_binding() {
            Some(data) => tls::ChannelBinding::tls_server_end_point(data.to_vec()),
            None => tls::ChannelBinding::none(),
        }
    }
}

/// Passes a finished [`Transport`] to `tokio_postgres`, which would otherwise perform the TLS handshake itself.
pub struct ReadyTls;

impl tls::TlsConnect<TappedTransport<Transport>> for ReadyTls {
    type Stream = TappedTransport<Transport>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<TappedTransport<Transport>>>;

    fn connect(self, transport: TappedTransport<Transport>) -> Self::Future {
        std::future::ready(Ok(transport))
    }
}
