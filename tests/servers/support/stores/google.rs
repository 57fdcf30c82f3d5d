//! fake-gcs-server, an emulator of Google Cloud Storage, with a gateway before it.
//!
//! backwhen speaks the XML API, of which the emulator has the reading half alone: it takes objects only by the JSON API. So the
//! gateway turns each put and each copy into a request of the JSON API, with the same condition on the generation, and passes
//! everything else on as it is. What is stored, what is refused, and who wins a race is decided by the emulator.

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Child;
use std::sync::OnceLock;
use std::thread::spawn;

use serde_json::{Value, json};

use super::http::{Message, ask};
use super::kept;

/// Stands between the parts of an upload.
const PARTING: &str = "parting-d1b6f0a5c9e84723";

const BUCKET: &str = "first";

pub struct GoogleEmulator {
    gateway: u16,
    _keeper: Child,
}

impl GoogleEmulator {
    /// The emulator that all tests of this process share; `None` if the program is not here.
    pub fn shared() -> Option<&'static GoogleEmulator> {
        static SHARED: OnceLock<Option<GoogleEmulator>> = OnceLock::new();
        let program =
            || kept::fetched("the emulator of Google Cloud Storage", "fake-gcs-server/fake-gcs-server");
        SHARED.get_or_init(|| program().map(|program| GoogleEmulator::start(&program))).as_ref()
    }

    fn start(program: &Path) -> GoogleEmulator {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let gateway = listener.local_addr().expect("it has an address").port();
        // The emulator knows requests of the XML API by the host that clients name, which is the gateway.
        let arguments = |_: &Path, [port]: [u16; 1]| {
            let (port, host) = (port.to_string(), format!("127.0.0.1:{gateway}"));
            let options =
                ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-log-level", "error"];
            let options = options.into_iter().chain(["-port", &port, "-public-host", &host]);
            options.map(str::to_owned).collect()
        };
        let (keeper, [port]) = kept::start(program, arguments, |[port]| {
            let head = "POST /storage/v1/b HTTP/1.1\r\nContent-Type: application/json\r\n";
            ask(port, head, json!({"name": BUCKET}).to_string().as_bytes())
                .is_some_and(|answer| answer.head.starts_with("HTTP/1.1 200"))
        });
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                spawn(move || serve(client, port));
            }
        });
        GoogleEmulator { gateway, _keeper: keeper }
    }

    /// The URL of a prefix.
    pub fn url(&self, prefix: &str) -> String {
        format!("gs://{BUCKET}/{prefix}")
    }

    /// The variables that lead a program to this emulator.
    pub fn variables(&self) -> Vec<(String, String)> {
        let nobody = json!({"private_key": "none", "private_key_id": "none", "client_email": "none", "disable_oauth": true});
        vec![
            ("GOOGLE_BASE_URL".into(), format!("http://127.0.0.1:{}", self.gateway)),
            ("GOOGLE_SERVICE_ACCOUNT_KEY".into(), nobody.to_string()),
        ]
    }
}

/// Answers the requests of one connection until it ends.
fn serve(client: TcpStream, emulator: u16) -> Option<()> {
    let mut writer = client.try_clone().ok()?;
    let mut reader = BufReader::new(client);
    while let Some(request) = Message::read(&mut reader, true) {
        let is_put = request.head.starts_with("PUT ");
        let answer = match (is_put, value(&request.head, "x-goog-copy-source")) {
            (true, Some(source)) => copy(&request, source, emulator)?,
            (true, None) => put(&request, emulator)?,
            (false, _) => pass_on(&request, emulator)?,
        };
        writer.write_all(answer.head.as_bytes()).ok()?;
        writer.write_all(&answer.body).ok()?;
    }
    Some(())
}

fn pass_on(request: &Message, emulator: u16) -> Option<Message> {
    let mut server = TcpStream::connect(("127.0.0.1", emulator)).ok()?;
    server.write_all(request.head.as_bytes()).ok()?;
    server.write_all(&request.body).ok()?;
    Message::read(&mut BufReader::new(server), !request.head.starts_with("HEAD "))
}

/// The object of a put becomes an upload in two parts: what is known of the object, and its bytes.
fn put(request: &Message, emulator: u16) -> Option<Message> {
    let (bucket, key) = place(&request.head)?;
    let condition = value(&request.head, "x-goog-if-generation-match")
        .map_or(String::new(), |generation| format!("&ifGenerationMatch={generation}"));
    let metadata: serde_json::Map<_, _> = request.head.lines().filter_map(metadata).collect();
    let known = json!({"metadata": metadata});
    let head = format!(
        "POST /upload/storage/v1/b/{bucket}/o?uploadType=multipart&name={key}{condition} HTTP/1.1\r\n\
         Content-Type: multipart/related; boundary={PARTING}\r\n"
    );
    let before = format!(
        "--{PARTING}\r\nContent-Type: application/json\r\n\r\n{known}\r\n\
         --{PARTING}\r\nContent-Type: application/octet-stream\r\n\r\n"
    );
    let after = format!("\r\n--{PARTING}--\r\n");
    let body = [before.as_bytes(), &request.body, after.as_bytes()].concat();
    let answer = ask(emulator, &head, &body)?;
    if !answer.head.starts_with("HTTP/1.1 200") {
        return Some(answer);
    }
    let stored: Value = serde_json::from_slice(&answer.body).ok()?;
    let (tag, generation) = (stored["etag"].as_str()?, stored["generation"].as_str()?);
    let head = format!(
        "HTTP/1.1 200 OK\r\nETag: \"{tag}\"\r\nx-goog-generation: {generation}\r\nContent-Length: 0\r\n\r\n"
    );
    Some(Message { head, body: Vec::new() })
}

fn copy(request: &Message, source: &str, emulator: u16) -> Option<Message> {
    let ((bucket, key), (from, object)) = (place(&request.head)?, source.split_once('/')?);
    let head = format!("POST /storage/v1/b/{from}/o/{object}/copyTo/b/{bucket}/o/{key} HTTP/1.1\r\n");
    ask(emulator, &head, b"")
}

/// The bucket and the key of a request, as they are written in its URL.
fn place(head: &str) -> Option<(&str, &str)> {
    head.split(' ').nth(1)?.strip_prefix('/')?.split_once('/')
}

fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    headers.find_map(|(found, value)| found.eq_ignore_ascii_case(name).then(|| value.trim()))
}

fn metadata(line: &str) -> Option<(String, Value)> {
    let (name, value) = line.split_once(':')?;
    let name = name.to_ascii_lowercase();
    Some((name.strip_prefix("x-goog-meta-")?.to_owned(), value.trim().into()))
}
