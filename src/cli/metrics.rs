//! `capture --metrics-listen`: answers GET /metrics, and nothing else.
//!
//! The server has a thread of its own, so that neither a slow client nor the work of collecting the figures delays
//! the stream.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::status::{self, Expected, prometheus};
use crate::ambient;
use crate::connect::Conninfo;
use crate::error::{Context, Error, Kind, Result};
use crate::history::History;

/// The time limits for a request to arrive, and for request and answer together; the source may take its time.
const REQUEST: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(20);
/// The greatest length of a request's head, in bytes; a longer one is refused.
const LONGEST: usize = 8 << 10;
/// The greatest number of concurrent connections; further ones are closed at once.
const CONNECTIONS: usize = 16;
/// The greatest age of the figures. However often clients ask, the source is queried no more often than this.
const FRESH: Duration = Duration::from_secs(1);

/// Parses `PORT`, which is reachable only from this machine, or `ADDR:PORT`.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let port = || text.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    let address = text.parse().ok().or_else(port);
    address.ok_or_else(|| "write a port such as 9187, or 10.0.0.5:9187, or [::1]:9187".to_owned())
}

/// The subject of the figures.
pub(super) struct Subject {
    pub history: History,
    pub source: Conninfo,
    pub expected: Expected,
}

/// Starts to listen, until the process ends.
///
/// # Errors
/// Fails with `Unavailable` if the address cannot be used.
pub(super) fn serve(address: SocketAddr, subject: Subject) -> Result<()> {
    let failed = move || format!("cannot listen on {address}; name another with --metrics-listen");
    let listener = std::net::TcpListener::bind(address).context(Kind::Unavailable, failed)?;
    listener.set_nonblocking(true).context(Kind::Unavailable, failed)?;
    let address = listener.local_addr().context(Kind::Unavailable, failed)?;
    tracing::info!("metrics at http://{address}/metrics");
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let served = runtime.context(Kind::Internal, || "cannot start".into()).and_then(|runtime| {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).context(Kind::Internal, failed)?;
                answer_all(listener, subject).await
            })
        });
        if let Err(error) = served {
            tracing::warn!("no metrics any more: {error}");
        }
    };
    let thread = std::thread::Builder::new().name("metrics".into()).spawn(work);
    thread.map(drop).context(Kind::Internal, || "cannot start a thread".into())
}

/// This answer leaves out the reason, which may name servers, roles and paths; the log of the capture has it.
const UNAVAILABLE: &str = "no figures now; see the log of capture\n";

/// The figures could not be collected; the log has the reason.
#[derive(Clone, Copy)]
struct NoFigures;

type Figures = Result<Arc<str>, NoFigures>;

/// The channel on which one client's answer is sent.
type FiguresRequest = oneshot::Sender<Figures>;

async fn answer_all(listener: TcpListener, subject: Subject) -> Result<()> {
    let (ask, mut asked) = mpsc::channel::<FiguresRequest>(CONNECTIONS);
    tokio::spawn(accept(listener, ask));
    let mut known: Option<(Instant, Figures)> = None;
    let mut said = String::new();
    while let Some(asked) = asked.recv().await {
        let text = match &known {
            Some((at, text)) if at.elapsed() < FRESH => text.clone(),
            _ => figures(&subject).await.map_err(|error| {
                log_once(&mut said, error.to_string());
                NoFigures
            }),
        };
        if known.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            known = Some((ambient::instant(), text.clone()));
        }
        // The caller may have stopped waiting.
        let _ = asked.send(text);
    }
    Err(Error::internal("nobody listens"))
}

/// Logs a reason unless it is the same as the last one, as clients ask every few seconds.
fn log_once(said: &mut String, why: String) {
    if *said != why {
        tracing::warn!("no figures for metrics: {why}");
        *said = why;
    }
}

async fn figures(subject: &Subject) -> Result<Arc<str>> {
    let shown = status::gather(&subject.history, Some(&subject.source), &subject.expected).await?;
    Ok(prometheus::exposition(&shown).into())
}

async fn accept(listener: TcpListener, ask: mpsc::Sender<FiguresRequest>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(place) = Arc::clone(&free).try_acquire_owned() else { continue };
                let ask = ask.clone();
                tokio::spawn(async move {
                    let _place = place;
                    // A request of any other form gets no further answer.
                    let _ = tokio::time::timeout(PATIENCE, answer(stream, ask)).await;
                });
            }
            // The process may have run out of descriptors, for example: that passes, or the log of the capture tells.
            Err(error) => {
                tracing::debug!("no connection for metrics: {error}");
                tokio::time::sleep(FRESH).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, ask: mpsc::Sender<FiguresRequest>) -> std::io::Result<()> {
    let head =
        tokio::time::timeout(REQUEST, read_head(&mut stream)).await.map_err(std::io::Error::other)??;
    let response = match judge(&head) {
        Err((status, more)) => response(status, more, "text/plain; charset=utf-8", status),
        Ok(()) => {
            let (asked, text) = oneshot::channel();
            let _ = ask.send(asked).await;
            match text.await {
                Ok(Ok(text)) => response("200 OK", "", prometheus::CONTENT_TYPE, &text),
                Ok(Err(NoFigures)) => {
                    response("503 Service Unavailable", "", "text/plain; charset=utf-8", UNAVAILABLE)
                }
                Err(_) => return Ok(()),
            }
        }
    };
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

/// Returns the part of a request up to the empty line, or as much of the request as is read at all.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while head.len() < LONGEST && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece).await? {
            0 => break,
            length => head.extend_from_slice(&piece[..length]),
        }
    }
    Ok(head)
}

/// Checks a request; the error holds the answer's status and a line for the answer's head.
fn judge(head: &[u8]) -> Result<(), (&'static str, &'static str)> {
    if !head.windows(4).any(|end| end == b"\r\n\r\n") {
        return Err(("400 Bad Request", ""));
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.0" | b"HTTP/1.1"] = words[..] else { return Err(("400 Bad Request", "")) };
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    match (path, method) {
        (b"/metrics", b"GET") => Ok(()),
        (b"/metrics", _) => Err(("405 Method Not Allowed", "Allow: GET\r\n")),
        _ => Err(("404 Not Found", "")),
    }
}

fn response(status: &str, more: &str, content_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{more}Connection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_this_machines() {
        assert_eq!(parse_address("9187").unwrap().to_string(), "127.0.0.1:9187");
        assert_eq!(parse_address("0.0.0.0:1").unwrap().to_string(), "0.0.0.0:1");
        assert_eq!(parse_address("[::1]:9187").unwrap().to_string(), "[::1]:9187");
        for wrong in ["", "99999", "localhost:9187", "1.2.3.4", ":9187"] {
            assert!(parse_address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_request_is_answered_and_no_other() {
        let status = |request: &str| judge(request.as_bytes()).err().map(|(status, _)| &status[..3]);
        assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), None);
        assert_eq!(status("GET /metrics?name=x HTTP/1.0\r\n\r\n"), None);
        assert_eq!(status("POST /metrics HTTP/1.1\r\n\r\n"), Some("405"));
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), Some("404"));
        assert_eq!(status("GET /../metrics HTTP/1.1\r\n\r\n"), Some("404"));
        for nonsense in [
            "",
            "\r\n\r\n",
            "GET /metrics HTTP/1.1",
            "GET  /metrics HTTP/1.1\r\n\r\n",
            "GET /metrics HTTP/2\r\n\r\n",
        ] {
            assert_eq!(status(nonsense), Some("400"), "{nonsense:?}");
        }
    }
}
