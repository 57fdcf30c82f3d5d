//! An S3 server that a test can spoil: an HTTP proxy before the server, with faults that a seed chooses, and with counters.
//!
//! The program under test is led here by [`FaultyS3::variables`]. Nothing goes wrong until [`FaultyS3::trouble`] or
//! [`FaultyS3::go_away`] is called.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{sleep, spawn};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::stores::http::Message;
use super::stores::s3::S3Server;

/// A request that has failed this often in a row is let through, so that no test fails by bad luck alone.
const MOST_IN_A_ROW: u32 = 3;

/// The ways in which a request can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum S3Fault {
    /// The answer comes late.
    Slow,
    /// The server answers that there are too many requests, with 503, and does nothing.
    Throttle,
    /// The server answers 500, and does nothing.
    Fail,
    /// The connection ends while the request is being sent.
    CutRequest,
    /// The server does what it was asked, and the connection ends before the answer.
    LoseAnswer,
    /// The same, but the connection is reset, which a client takes for another error.
    ResetAnswer,
    /// The connection ends in the middle of the answer.
    CutAnswer,
}

const FAULTS: [S3Fault; 7] = [
    S3Fault::Slow,
    S3Fault::Throttle,
    S3Fault::Fail,
    S3Fault::CutRequest,
    S3Fault::LoseAnswer,
    S3Fault::ResetAnswer,
    S3Fault::CutAnswer,
];

/// The traffic that has gone through the proxy since it was last asked.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// The requests: `LIST`, `GET`, `HEAD`, `PUT`, `POST` or `DELETE`, a space, and the path without the bucket and the first
    /// folder. Requests that were spoiled count too.
    pub requests: Vec<String>,
    /// The bytes of the bodies that clients were sent.
    pub received: u64,
    /// How often each fault happened.
    pub faults: BTreeMap<S3Fault, u32>,
}

impl Traffic {
    /// How many requests there were of a verb whose paths begin like this.
    pub fn count(&self, verb: &str, path: &str) -> usize {
        let begins = format!("{verb} {path}");
        self.requests.iter().filter(|request| request.starts_with(&begins)).count()
    }
}

struct State {
    server: u16,
    /// The number of requests among a thousand that go wrong.
    share: AtomicU32,
    /// The only fault that happens; without one, any of them.
    only: Mutex<Option<S3Fault>>,
    is_away: AtomicBool,
    /// Every connection that asks for something under this bucket and prefix is reset.
    lost: Mutex<Option<String>>,
    /// A request that begins like this is the first one that the server does not answer.
    leaves_at: Mutex<Option<String>>,
    is_over: AtomicBool,
    dice: Mutex<StdRng>,
    /// How often each request has failed in a row.
    failed: Mutex<BTreeMap<String, u32>>,
    traffic: Mutex<Traffic>,
}

/// The proxy. It ends with the value.
pub struct FaultyS3 {
    port: u16,
    state: Arc<State>,
}

impl FaultyS3 {
    /// Starts a proxy before the server. The test prints `seed`, from which the faults are drawn in the order of the requests.
    pub fn before(server: &S3Server, seed: u64) -> FaultyS3 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            server: server.port(),
            share: AtomicU32::new(0),
            only: Mutex::default(),
            is_away: AtomicBool::new(false),
            lost: Mutex::default(),
            leaves_at: Mutex::default(),
            is_over: AtomicBool::new(false),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            failed: Mutex::default(),
            traffic: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&shared);
                spawn(move || state.serve(client));
            }
        });
        FaultyS3 { port, state }
    }

    /// The variables that lead a program here as `user`, as those of [`S3Server::variables`] lead to the server.
    pub fn variables(&self, user: &str) -> [(String, String); 4] {
        S3Server::variables_at(self.port, user)
    }

    /// From now on, this many of a thousand requests go wrong.
    pub fn trouble(&self, share: u32) {
        self.state.share.store(share, Ordering::SeqCst);
    }

    /// Lets only this fault occur from now on.
    pub fn only(&self, fault: S3Fault) {
        *lock(&self.state.only) = Some(fault);
    }

    /// From now on, every connection is reset.
    pub fn go_away(&self) {
        self.state.is_away.store(true, Ordering::SeqCst);
    }

    /// From the first request on that begins like this, such as `GET packs/`, every connection is reset.
    pub fn go_away_at(&self, request: &str) {
        *lock(&self.state.leaves_at) = Some(request.to_owned());
    }

    /// From now on, every connection that asks for something under `path`, a bucket and a prefix, is reset.
    pub fn lose(&self, path: &str) {
        *lock(&self.state.lost) = Some(path.to_owned());
    }

    pub fn come_back(&self) {
        *lock(&self.state.leaves_at) = None;
        *lock(&self.state.lost) = None;
        self.state.is_away.store(false, Ordering::SeqCst);
    }

    /// Tells what has gone through since this was last called.
    pub fn take_traffic(&self) -> Traffic {
        std::mem::take(&mut lock(&self.state.traffic))
    }
}

impl Drop for FaultyS3 {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
        // Wakes the one that listens.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("no thread has panicked")
}

impl State {
    /// Answers the requests of one connection until it ends.
    fn serve(&self, client: TcpStream) {
        let Ok(mut writer) = client.try_clone() else { return };
        let mut reader = BufReader::new(client);
        while let Some(request) = Message::read(&mut reader, true) {
            if self.is_away.load(Ordering::SeqCst) || self.is_over.load(Ordering::SeqCst) {
                return reset(&writer);
            }
            if self.answer(&request, &mut writer).is_none() {
                return;
            }
        }
    }

    /// Answers a request; `None` if the connection is to end.
    fn answer(&self, request: &Message, client: &mut TcpStream) -> Option<()> {
        let words: Vec<_> = request.head.split(' ').take(2).collect();
        let name = named(words[0], words.get(1)?);
        let is_lost = lock(&self.lost).as_ref().is_some_and(|path| is_under(words[1], path));
        if is_lost {
            reset(client);
            return None;
        }
        if lock(&self.leaves_at).as_ref().is_some_and(|it| name.starts_with(it)) {
            self.is_away.store(true, Ordering::SeqCst);
            reset(client);
            return None;
        }
        let fault = self.draw(&name);
        lock(&self.traffic).requests.push(name);
        match fault {
            // The delay itself is the fault; nothing is waited for.
            Some(S3Fault::Slow) => sleep(Duration::from_millis(100)),
            Some(S3Fault::Throttle) => return refuse(client, "503 Slow Down", "SlowDown"),
            Some(S3Fault::Fail) => return refuse(client, "500 Internal Server Error", "InternalError"),
            Some(S3Fault::CutRequest) => return None,
            _ => {}
        }
        let mut server = TcpStream::connect(("127.0.0.1", self.server)).ok()?;
        server.write_all(request.head.as_bytes()).ok()?;
        server.write_all(&request.body).ok()?;
        let answer = Message::read(&mut BufReader::new(server), words[0] != "HEAD")?;
        match fault {
            Some(S3Fault::LoseAnswer) => return None,
            Some(S3Fault::ResetAnswer) => {
                reset(client);
                return None;
            }
            Some(S3Fault::CutAnswer) => {
                client.write_all(answer.head.as_bytes()).ok()?;
                client.write_all(&answer.body[..answer.body.len() / 2]).ok()?;
                return None;
            }
            _ => {}
        }
        lock(&self.traffic).received += answer.body.len() as u64;
        client.write_all(answer.head.as_bytes()).ok()?;
        client.write_all(&answer.body).ok()
    }

    /// Draws what goes wrong with a request.
    fn draw(&self, request: &str) -> Option<S3Fault> {
        let (is_due, fault) = {
            let mut dice = lock(&self.dice);
            let is_due = dice.random_range(0..1000) < self.share.load(Ordering::SeqCst);
            (is_due, FAULTS[dice.random_range(0..FAULTS.len())])
        };
        let fault = lock(&self.only).unwrap_or(fault);
        let mut failed = lock(&self.failed);
        let in_a_row = failed.entry(request.to_owned()).or_default();
        if !is_due || *in_a_row >= MOST_IN_A_ROW {
            *in_a_row = 0;
            return None;
        }
        *in_a_row += u32::from(fault != S3Fault::Slow);
        *lock(&self.traffic).faults.entry(fault).or_default() += 1;
        Some(fault)
    }
}

fn refuse(client: &mut TcpStream, status: &str, code: &str) -> Option<()> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}", body.len());
    client.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).ok()
}

/// The connection will be reset, and not ended in an orderly way, once its last handle is closed.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// The verb of a request, and its path without the bucket and the first folder, which differ from run to run.
fn named(verb: &str, target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut values = query.split('&');
    if let Some(prefix) = values.find_map(|it| it.strip_prefix("prefix=")) {
        let folder = prefix.replace("%2F", "/");
        return format!("LIST {}", folder.split_once('/').map_or("", |(_, rest)| rest));
    }
    format!("{verb} {}", path.splitn(4, '/').nth(3).unwrap_or_default())
}

/// Whether a request is for something under a bucket and a prefix.
fn is_under(target: &str, path: &str) -> bool {
    let (bucket, prefix) = path.split_once('/').expect("a bucket and a prefix");
    let list = format!("prefix={}%2F", prefix.replace('/', "%2F"));
    let in_bucket = target.strip_prefix('/').and_then(|rest| rest.strip_prefix(bucket));
    in_bucket.is_some_and(|rest| rest.starts_with(&format!("/{prefix}/")) || rest.contains(&list))
}
