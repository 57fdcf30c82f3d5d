//! HTTP by hand: what tests send to a store, and what their proxies pass on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Sends a request to a server on this machine, with a head that ends with a line's end; `None` if there is no answer.
pub fn ask(port: u16, head: &str, body: &[u8]) -> Option<Message> {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let rest =
        format!("Host: 127.0.0.1:{port}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), rest.as_bytes(), body].concat()).ok()?;
    Message::read(&mut BufReader::new(stream), !head.starts_with("HEAD"))
}

/// A request or an answer.
pub struct Message {
    /// The first line and the headers, with the empty line at its end.
    pub head: String,
    /// The body as it is transferred, in chunks or whole.
    pub body: Vec<u8>,
}

impl Message {
    /// `None` if the connection ends before the message does.
    pub fn read(stream: &mut BufReader<TcpStream>, may_have_body: bool) -> Option<Message> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let lower = head.to_ascii_lowercase();
        let value = |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let mut body = Vec::new();
        if may_have_body && value("transfer-encoding").is_some_and(|it| it.contains("chunked")) {
            while read_chunk(stream, &mut body)? > 0 {}
        } else if may_have_body {
            let len = value("content-length").map_or(Some(0), |it| it.trim().parse().ok())?;
            body.resize(len, 0);
            stream.read_exact(&mut body).ok()?;
        }
        Some(Message { head, body })
    }
}

/// Adds a chunk to the body, with its length before it and the line's end behind it; returns its length.
fn read_chunk(stream: &mut BufReader<TcpStream>, body: &mut Vec<u8>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let len = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
    body.extend_from_slice(line.as_bytes());
    let begin = body.len();
    body.resize(begin + len + 2, 0);
    stream.read_exact(&mut body[begin..]).ok()?;
    Some(len)
}
