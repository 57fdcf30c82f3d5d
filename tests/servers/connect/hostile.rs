//! Servers that are none, or somebody between us and one: what they get out of a login, and what they can make
//! us take.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread::spawn;
use std::time::{Duration, Instant};

use backwhen::connect::{Conninfo, connect};
use backwhen::error::{Error, Kind};
use backwhen::source::stream::ReplicationClient;

const PASSWORD: &str = "HUNTER2";

/// What a client sent after its startup message, and how much it took.
#[derive(Default)]
struct Got {
    sent: Vec<u8>,
    taken: usize,
}

type Behaviour = fn(&mut TcpStream, &mut Got) -> std::io::Result<()>;

/// A server that refuses TLS and then behaves so, for as many connections as come.
struct HostileServer {
    port: u16,
    got: Receiver<Got>,
}

impl HostileServer {
    fn start(behave: Behaviour) -> HostileServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, got) = channel();
        spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), tell) = (stream, tell.clone()) else { return };
                spawn(move || {
                    let mut got = Got::default();
                    // However it ends: what counts is what was got until then.
                    let _ = startup(&mut stream).and_then(|()| behave(&mut stream, &mut got));
                    drop(stream);
                    let _ = tell.send(got);
                });
            }
        });
        HostileServer { port, got }
    }

    /// How a session and a replication connection are told that they cannot log in, and what each gave away.
    async fn attack(&self, more: &str) -> [(Error, Got); 2] {
        let text = format!("host=127.0.0.1 port={} user=u dbname=d password={PASSWORD} {more}", self.port);
        let info = Conninfo::parse_in(&text, &|_| None).unwrap();
        let session = connect(&info, "test").await.err().expect("a session was let in");
        let session = (session, self.last());
        let client = ReplicationClient::connect(&info, "test").await.err().expect("a client was let in");
        [session, (client, self.last())]
    }

    /// What the last connection of a login gave; with `sslmode=prefer` there may be several.
    fn last(&self) -> Got {
        let mut last = self.got.recv_timeout(Duration::from_secs(20)).expect("a connection has ended");
        while let Ok(got) = self.got.recv_timeout(Duration::from_millis(50)) {
            last.sent.extend(got.sent);
            last.taken += got.taken;
        }
        last
    }
}

fn number(stream: &mut TcpStream) -> std::io::Result<i32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(i32::from_be_bytes(bytes))
}

fn startup(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    loop {
        let length = number(stream)? as usize;
        let code = number(stream)?;
        let mut rest = vec![0; length - 8];
        stream.read_exact(&mut rest)?;
        if code != 80_877_103 {
            return Ok(());
        }
        stream.write_all(b"N")?;
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as i32 + 4).to_be_bytes()[..], body].concat()
}

/// Asks for a proof and takes what comes.
fn ask(stream: &mut TcpStream, got: &mut Got, code: i32, more: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(&message(b'R', &[&code.to_be_bytes()[..], more].concat()))?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    let mut body = vec![0; number(stream)? as usize - 4];
    stream.read_exact(&mut body)?;
    got.sent.extend_from_slice(&body);
    Ok(body)
}

fn cleartext(stream: &mut TcpStream, got: &mut Got) -> std::io::Result<()> {
    ask(stream, got, 3, b"").map(drop)
}

fn md5(stream: &mut TcpStream, got: &mut Got) -> std::io::Result<()> {
    ask(stream, got, 5, b"salt").map(drop)
}

fn no_proof(stream: &mut TcpStream, got: &mut Got) -> std::io::Result<()> {
    stream.write_all(&message(b'R', &0_i32.to_be_bytes()))?;
    stream.write_all(&message(b'Z', b"I"))?;
    let mut more = [0; 200];
    let length = stream.read(&mut more)?;
    got.sent.extend_from_slice(&more[..length]);
    Ok(())
}

fn scram(stream: &mut TcpStream, got: &mut Got, iterations: &str) -> std::io::Result<()> {
    let first = ask(stream, got, 10, b"SCRAM-SHA-256\0\0")?;
    let at = first.windows(2).position(|pair| pair == b"r=").unwrap() + 2;
    let nonce = String::from_utf8_lossy(&first[at..]).into_owned();
    let text = format!("r={nonce}xyz,s=MDEyMzQ1Njc4OWFiY2RlZg==,i={iterations}");
    ask(stream, got, 11, text.as_bytes()).map(drop)
}

fn endless_scram(stream: &mut TcpStream, got: &mut Got) -> std::io::Result<()> {
    scram(stream, got, "2000000000")
}

fn long_scram(stream: &mut TcpStream, got: &mut Got) -> std::io::Result<()> {
    scram(stream, got, "99000000")
}

/// Writes until nobody takes it, or it is plainly too much.
fn flood(stream: &mut TcpStream, got: &mut Got, piece: &[u8]) -> std::io::Result<()> {
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    while got.taken < 300 << 20 {
        stream.write_all(piece)?;
        got.taken += piece.len();
    }
    Ok(())
}

fn huge_message(stream: &mut TcpStream, got: &mut Got) -> std::io::Result<()> {
    stream.write_all(&[&b"N"[..], &0x3fff_fff0_i32.to_be_bytes()].concat())?;
    flood(stream, got, &vec![b'x'; 1 << 20])
}

fn notices(stream: &mut TcpStream, got: &mut Got) -> std::io::Result<()> {
    let text = [&b"SNOTICE\0C00000\0M"[..], &vec![b'x'; 60_000], b"\0\0"].concat();
    flood(stream, got, &message(b'N', &text))
}

fn parameters_after_letting_in(stream: &mut TcpStream, got: &mut Got) -> std::io::Result<()> {
    stream.write_all(&message(b'R', &0_i32.to_be_bytes()))?;
    let text = [&b"name\0"[..], &vec![b'x'; 60_000], b"\0"].concat();
    flood(stream, got, &message(b'S', &text))
}

fn false_lines(stream: &mut TcpStream, _: &mut Got) -> std::io::Result<()> {
    let text =
        b"SFATAL\0C28P01\0M\x1b]0;pwned\x07\x1b[2Jcleared\nbackwhen: all is well\0Hfirst\r\nsecond\0\0";
    stream.write_all(&message(b'E', text))
}

#[tokio::test]
async fn a_password_is_not_given_to_a_server_that_asks_for_it_in_a_way_that_is_forbidden() {
    for (behave, settings) in [
        (
            cleartext as Behaviour,
            &["sslmode=require", "channel_binding=require", "require_auth=scram-sha-256"][..],
        ),
        (cleartext, &["require_auth=!password", "require_auth=md5,none"]),
        (md5, &["sslmode=require", "channel_binding=require", "require_auth=scram-sha-256"]),
        (md5, &["require_auth=!md5,!password"]),
        (no_proof, &["sslmode=require", "channel_binding=require", "require_auth=scram-sha-256"]),
        (no_proof, &["require_auth=!none"]),
    ] {
        let server = HostileServer::start(behave);
        for more in settings {
            for (error, got) in server.attack(more).await {
                assert_eq!(error.kind(), Kind::Refused, "{more}: {error}");
                assert!(got.sent.is_empty(), "{more}: it got {:?}", String::from_utf8_lossy(&got.sent));
                assert!(!error.to_string().contains(PASSWORD), "{error}");
                let named = !more.starts_with("require_auth") || error.to_string().contains(more);
                assert!(named, "the setting is named: {error}");
            }
        }
    }
}

/// As libpq does by default: what `check` and `init` advise against.
#[tokio::test]
async fn without_a_setting_the_password_is_given() {
    let server = HostileServer::start(cleartext);
    for (_, got) in server.attack("").await {
        assert!(String::from_utf8_lossy(&got.sent).contains(PASSWORD));
    }
}

#[tokio::test]
async fn a_server_cannot_have_us_reckon_for_hours() {
    for behave in [endless_scram as Behaviour, long_scram] {
        let server = HostileServer::start(behave);
        let begun = Instant::now();
        for (error, _) in server.attack("connect_timeout=30").await {
            assert!(!error.to_string().contains(PASSWORD), "{error}");
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn before_the_login_a_server_cannot_fill_our_memory() {
    for behave in [huge_message as Behaviour, notices, parameters_after_letting_in] {
        let server = HostileServer::start(behave);
        for (error, got) in server.attack("").await {
            assert_eq!(error.kind(), Kind::Refused, "{error}");
            let told = ["more before a login", "unexpected message from server"];
            assert!(told.iter().any(|told| error.to_string().contains(told)), "{error}");
            // What the sockets' buffers hold was sent, and not taken.
            assert!(got.taken < 16 << 20, "{} MiB", got.taken >> 20);
        }
    }
}

#[tokio::test]
async fn what_a_server_says_is_one_line_without_commands() {
    let server = HostileServer::start(false_lines);
    for (error, _) in server.attack("").await {
        let text = error.to_string();
        assert!(text.contains("cleared␊backwhen: all is well") && text.contains("second"), "{text}");
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}
