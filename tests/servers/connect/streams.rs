use std::time::Duration;

use backwhen::connect::Session;
use backwhen::error::Kind;
use backwhen::history::journal::{BlockBuilder, Confirmable, Journal, Received, Seam, Writer};
use backwhen::history::key::Authorship;
use backwhen::model::Lsn;
use backwhen::source::stream::{ReplicationClient, ReplicationStream, StreamFault, StreamMessage};

use crate::connect::server::Server;

pub const OPTIONS: &[(&str, &str)] = &[("proto_version", "1"), ("publication_names", "\"p\"")];
pub const WAIT: Duration = Duration::from_secs(20);

const SETTINGS: &[&str] = &["max_replication_slots=8", "max_wal_senders=8"];

/// The end positions of the next `count` commits, and how many rows came with them.
async fn commits(stream: &mut ReplicationStream, count: usize) -> (Vec<Lsn>, usize) {
    let (mut ends, mut rows) = (Vec::new(), 0);
    while ends.len() < count {
        match stream.next().unwrap() {
            Some(StreamMessage::Data { bytes, .. }) => match bytes[0] {
                // 'C', flags, commit LSN, end LSN.
                b'C' => ends.push(Lsn(u64::from_be_bytes(bytes[10..18].try_into().unwrap()))),
                b'I' => rows += 1,
                _ => {}
            },
            Some(StreamMessage::Keepalive { .. }) => {}
            None => tokio::time::timeout(WAIT, stream.fill()).await.expect("nothing came").unwrap(),
        }
    }
    (ends, rows)
}

/// The position that a journal which ends at `durable` lets us confirm to a slot that stands there, with more received.
fn positions(received: Lsn, durable: Lsn) -> (Received, Confirmable) {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::in_folder(folder.path(), &Authorship::Unkeyed);
    let (_writer, recovered) = Writer::open(&journal, [7; 16], 1, durable).unwrap();
    let seam = Seam::new(&journal, 1, recovered.durable, durable).unwrap();
    (BlockBuilder::new(received).received(), seam.confirmable(recovered.durable))
}

async fn connect(server: &Server) -> ReplicationClient {
    ReplicationClient::connect(&server.admin("postgres"), "test").await.unwrap()
}

async fn start() -> (Server, Session) {
    let server = Server::start("", SETTINGS).up();
    let session = server
        .run_sql("postgres", "CREATE TABLE public.t (x text); CREATE PUBLICATION p FOR TABLE public.t")
        .await;
    (server, session)
}

#[tokio::test]
async fn a_slot_is_made_streamed_acknowledged_and_resumed() {
    let (server, session) = start().await;
    session.batch_execute("INSERT INTO public.t VALUES ('before')").await.unwrap();
    let mut client = connect(&server).await;
    let identity = client.identify_system().await.unwrap();
    assert!(identity.system_identifier.parse::<u64>().is_ok() && identity.flushed > Lsn::ZERO);
    let slot = client.create_slot("s1", true, WAIT).await.unwrap();
    assert!(slot.consistent_point >= identity.flushed);
    session.batch_execute("INSERT INTO public.t VALUES ('after')").await.unwrap();

    // The snapshot shows the state just before the slot.
    let reader = Session::connect_utf8(&server.admin("postgres"), "image").await.unwrap();
    reader
        .batch_execute(&format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{}'",
            slot.snapshot
        ))
        .await
        .unwrap();
    let rows: i64 = reader.query_one("SELECT count(*) FROM public.t", &[]).await.unwrap().get(0);
    assert_eq!(rows, 1);

    // A value far larger than one read, and many small messages.
    session.batch_execute("INSERT INTO public.t SELECT repeat('x', 5000000)").await.unwrap();
    session
        .batch_execute("INSERT INTO public.t SELECT n::text FROM generate_series(1, 20000) n")
        .await
        .unwrap();
    let mut stream = client.start("s1", Lsn::ZERO, OPTIONS).await.unwrap();
    let (ends, rows) = commits(&mut stream, 3).await;
    assert_eq!(rows, 1 + 1 + 20000);
    assert!(ends.is_sorted());
    let (received, confirmable) = positions(ends[2], ends[1]);
    stream.send_status(received, confirmable, false).await.unwrap();
    stream.stop().await.unwrap();

    let confirmed = "SELECT confirmed_flush_lsn::text FROM pg_catalog.pg_replication_slots WHERE NOT active";
    let confirmed: String = session.query_one(confirmed, &[]).await.unwrap().get(0);
    assert_eq!(confirmed, ends[1].to_string());
    let mut stream = connect(&server).await.start("s1", Lsn::ZERO, OPTIONS).await.unwrap();
    let (again, rows) = commits(&mut stream, 1).await;
    assert_eq!((again[0], rows), (ends[2], 20000));
    stream.stop().await.unwrap();

    connect(&server).await.drop_slot("s1").await.unwrap();
}

#[tokio::test]
async fn faults_of_slots_are_told_apart() {
    let (server, session) = start().await;
    let mut client = connect(&server).await;
    client.create_slot("s1", false, WAIT).await.unwrap();

    let error = client.create_slot("s1", false, WAIT).await.unwrap_err();
    assert!(matches!(StreamFault::of(&error), Some(StreamFault::SlotExists(_))), "{error}");
    assert_eq!(StreamFault::of(&error).unwrap().sqlstate(), Some("42710"));
    let error = client.drop_slot("absent").await.unwrap_err();
    assert!(matches!(StreamFault::of(&error), Some(StreamFault::SlotMissing(_))), "{error}");

    let error = connect(&server).await.start("absent", Lsn::ZERO, OPTIONS).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(matches!(StreamFault::of(&error), Some(StreamFault::SlotMissing(_))), "{error}");

    let holder = client.start("s1", Lsn::ZERO, OPTIONS).await.unwrap();
    let pid: i32 = session
        .query_one("SELECT active_pid FROM pg_catalog.pg_replication_slots WHERE slot_name = 's1'", &[])
        .await
        .unwrap()
        .get(0);
    let error = connect(&server).await.start("s1", Lsn::ZERO, OPTIONS).await.err().unwrap();
    assert!(error.kind() == Kind::Locked && error.message().contains(&pid.to_string()), "{error}");
    let Some(StreamFault::SlotActive { pid: Some(found), .. }) = StreamFault::of(&error) else {
        panic!("{error:?}")
    };
    assert_eq!(i64::from(*found), i64::from(pid));
    let error = connect(&server).await.drop_slot("s1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Locked);
    holder.stop().await.unwrap();

    let other = "SELECT pg_create_logical_replication_slot('s2', 'pgoutput')";
    server.run_sql("template1", other).await;
    let error = connect(&server).await.start("s2", Lsn::ZERO, OPTIONS).await.err().unwrap();
    assert!(matches!(StreamFault::of(&error), Some(StreamFault::SlotUnusable(_))), "{error}");
}

#[tokio::test]
async fn a_long_transaction_does_not_hold_a_slot_up_for_ever() {
    let (server, session) = start().await;
    session.batch_execute("BEGIN; INSERT INTO public.t VALUES ('open')").await.unwrap();
    let error =
        connect(&server).await.create_slot("s1", false, Duration::from_millis(300)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(matches!(StreamFault::of(&error), Some(StreamFault::LockTimeout(_))), "{error}");
    session.batch_execute("COMMIT").await.unwrap();
    let left: i64 =
        session.query_one("SELECT count(*) FROM pg_catalog.pg_replication_slots", &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
    connect(&server).await.create_temporary_slot("s1", WAIT).await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_stream_is_told() {
    let (server, session) = start().await;
    let mut client = connect(&server).await;
    client.create_slot("s1", false, WAIT).await.unwrap();
    let wrong = [("proto_version", "1"), ("publication_names", "\"absent\"")];
    let mut stream = client.start("s1", Lsn::ZERO, &wrong).await.unwrap();
    session.batch_execute("INSERT INTO public.t VALUES ('x')").await.unwrap();
    let error = until_error(&mut stream).await;
    assert!(matches!(StreamFault::of(&error), Some(StreamFault::PublicationMissing(_))), "{error}");
    drop(stream);

    let mut stream = started_when_free(&server).await;
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
    session.batch_execute(end).await.unwrap();
    let error = until_error(&mut stream).await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert_eq!(StreamFault::of(&error).unwrap().sqlstate(), Some("57P01"), "{error}");
    assert!(error.to_string().contains("terminating"), "{error}");
}

async fn started_when_free(server: &Server) -> ReplicationStream {
    for _ in 0..500 {
        match connect(server).await.start("s1", Lsn::ZERO, OPTIONS).await {
            Ok(stream) => return stream,
            Err(error) if error.kind() == Kind::Locked => {
                // The interval of the question.
                tokio::time::sleep(Duration::from_millis(20)).await
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the slot never became free");
}

async fn until_error(stream: &mut ReplicationStream) -> backwhen::error::Error {
    loop {
        match stream.next() {
            Err(error) => return error,
            Ok(Some(_)) => {}
            Ok(None) => {
                if let Err(error) = tokio::time::timeout(WAIT, stream.fill()).await.expect("no end came") {
                    return error;
                }
            }
        }
    }
}
