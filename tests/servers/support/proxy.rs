//! A network that a test can spoil: a TCP proxy before a server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::Duration;

use super::server::Server;

const FLOWS: u8 = 0;
/// Nothing moves; what was sent arrives once it flows again.
const STALLS: u8 = 1;
/// Both ends believe in it, and nothing arrives ever again.
const IS_DEAD: u8 = 2;

struct Pair {
    state: Arc<AtomicU8>,
    ends: [TcpStream; 2],
}

/// Ends all that goes through it when it is dropped.
pub struct Proxy {
    port: u16,
    pairs: Arc<Mutex<Vec<Pair>>>,
    barred: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    statements: Arc<Statements>,
}

/// Counts what the clients ask, one for each piece that a client sends, and holds one back.
#[derive(Default)]
struct Statements {
    count: AtomicU64,
    /// The number of the one that is held back, or 0.
    held: AtomicU64,
    is_held: AtomicBool,
}

impl Statements {
    /// Waits if the next statement is the one that is held back.
    fn pass(&self) {
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        if number == self.held.load(Ordering::SeqCst) {
            self.is_held.store(true, Ordering::SeqCst);
            while self.held.load(Ordering::SeqCst) == number {
                // The interval of the question.
                sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Proxy {
    pub fn before(server: &Server) -> Proxy {
        Proxy::before_address(server.tcp_address())
    }

    /// A proxy before any server.
    pub fn before_address(to: (String, u16)) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let proxy = Proxy {
            port: listener.local_addr().unwrap().port(),
            pairs: Arc::default(),
            barred: Arc::default(),
            over: Arc::default(),
            sent: Arc::default(),
            statements: Arc::default(),
        };
        let (pairs, barred, over) = (proxy.pairs.clone(), proxy.barred.clone(), proxy.over.clone());
        let (sent, statements) = (proxy.sent.clone(), proxy.statements.clone());
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                if barred.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect((to.0.as_str(), to.1)) else { continue };
                pairs.lock().unwrap().push(join(client, server, &sent, &statements));
            }
        });
        proxy
    }

    /// What a user would give as `--source`, through here.
    pub fn conninfo(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname={database}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that the server has sent through here.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Holds back the N-th statement that clients send, counted from 1.
    pub fn hold_back(&self, number: u64) {
        self.statements.held.store(number, Ordering::SeqCst);
    }

    /// Whether that statement has come.
    pub fn holds_back(&self) -> bool {
        self.statements.is_held.load(Ordering::SeqCst)
    }

    /// Lets it arrive.
    pub fn release(&self) {
        self.statements.held.store(0, Ordering::SeqCst);
    }

    /// Connections end, and none can be made.
    pub fn cut(&self) {
        self.barred.store(true, Ordering::SeqCst);
        for pair in self.pairs.lock().unwrap().drain(..) {
            pair.close();
        }
    }

    /// Connections stay and are dead, and none can be made.
    pub fn fall_silent(&self) {
        self.barred.store(true, Ordering::SeqCst);
        self.set(IS_DEAD);
    }

    /// What is under way stops, and so does whoever sends, before long.
    pub fn stall(&self) {
        self.set(STALLS);
    }

    /// New connections can be made, and those that stall go on.
    pub fn heal(&self) {
        for pair in self.pairs.lock().unwrap().iter() {
            let _ = pair.state.compare_exchange(STALLS, FLOWS, Ordering::SeqCst, Ordering::SeqCst);
        }
        self.barred.store(false, Ordering::SeqCst);
    }

    fn set(&self, state: u8) {
        for pair in self.pairs.lock().unwrap().iter() {
            pair.state.store(state, Ordering::SeqCst);
        }
    }
}

impl Pair {
    fn close(&self) {
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        self.release();
        for pair in self.pairs.lock().unwrap().drain(..) {
            pair.state.store(FLOWS, Ordering::SeqCst);
            pair.close();
        }
        // Wakes the one that listens.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn join(client: TcpStream, server: TcpStream, sent: &Arc<AtomicU64>, statements: &Arc<Statements>) -> Pair {
    let state = Arc::new(AtomicU8::new(FLOWS));
    let ways = [
        (&client, &server, Arc::default(), Some(statements.clone())),
        (&server, &client, sent.clone(), None),
    ];
    for (from, to, counter, statements) in ways {
        let (from, to, state) = (from.try_clone().unwrap(), to.try_clone().unwrap(), state.clone());
        spawn(move || carry(from, to, &state, &counter, statements.as_deref()));
    }
    Pair { state, ends: [client, server] }
}

fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    state: &AtomicU8,
    counter: &AtomicU64,
    statements: Option<&Statements>,
) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        while state.load(Ordering::SeqCst) == STALLS {
            // The interval of the question.
            sleep(Duration::from_millis(5));
        }
        if state.load(Ordering::SeqCst) == IS_DEAD {
            continue;
        }
        statements.inspect(|statements| statements.pass());
        counter.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // The end of a dead connection does not arrive either.
    while state.load(Ordering::SeqCst) != FLOWS {
        // The same.
        sleep(Duration::from_millis(20));
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
