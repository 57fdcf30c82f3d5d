use backwhen::connect::{Conninfo, connect};
use backwhen::error::{Kind, Result};
use backwhen::source::stream::ReplicationClient;

use crate::connect::server::{Server, make_certificates};

const HBA: &str = "hostssl all secret 127.0.0.1/32 scram-sha-256
    hostssl all certified 127.0.0.1/32 cert
    hostnossl all open 127.0.0.1/32 trust
";

const ROLES: &str = "CREATE ROLE secret LOGIN REPLICATION PASSWORD 'sesame';
    CREATE ROLE certified LOGIN REPLICATION; CREATE ROLE open LOGIN REPLICATION;";

async fn start(certificate: &str) -> Server {
    start_with(certificate, "TLSv1.3").await
}

async fn start_with(certificate: &str, newest: &str) -> Server {
    let newest = format!("ssl_max_protocol_version='{newest}'");
    let files = ["ssl=on", "ssl_cert_file='server.crt'", "ssl_key_file='server.key'", "ssl_ca_file='ca.crt'"];
    let server = Server::start(HBA, &[&files[..], &[&newest]].concat());
    make_certificates(server.folder());
    for (from, to) in
        [(format!("{certificate}.crt"), "server.crt"), (format!("{certificate}.key"), "server.key")]
    {
        server.put(to, &server.folder().join(from));
    }
    server.put("ca.crt", &server.folder().join("ca.crt"));
    let server = server.up();
    server.run_sql("postgres", ROLES).await;
    server
}

/// Whether both kinds of connection are encrypted.
async fn encrypted(info: &Conninfo) -> Result<bool> {
    const QUESTION: &str =
        "SELECT ssl::text FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()";
    let session = connect(info, "test").await;
    let client = ReplicationClient::connect(info, "test").await;
    let (session, mut client) = match (session, client) {
        (Ok(session), Ok(client)) => (session, client),
        (Err(error), Err(other)) => {
            assert_eq!(error.kind(), other.kind(), "{error} / {other}");
            return Err(error);
        }
        (session, client) => panic!("one of two: {:?} {:?}", session.err(), client.err()),
    };
    let of_session = session.query_one(QUESTION, &[]).await.unwrap().get::<_, String>(0) == "true";
    let of_client = client.query(QUESTION).await.unwrap()[0][0].as_deref() == Some("true");
    assert_eq!(of_session, of_client);
    Ok(of_session)
}

#[tokio::test]
async fn every_mode() {
    let server = start("server").await;
    let file = |name: &str| server.folder().join(name).display().to_string();
    let (ca, other) = (file("ca.crt"), file("other.crt"));
    let at = "dbname=postgres password=sesame";
    let by_name = format!("host=localhost hostaddr=127.0.0.1 {at}");
    let by_number = format!("host=127.0.0.1 {at}");
    let client = format!("sslcert={} sslkey={}", file("client.crt"), file("client.key"));
    for (text, expected) in [
        (format!("{by_number} user=open sslmode=disable"), Ok(false)),
        (format!("{by_number} user=open sslmode=allow"), Ok(false)),
        (format!("{by_number} user=open sslmode=prefer"), Ok(false)),
        (format!("{by_number} user=open sslmode=require"), Err(Kind::Refused)),
        (format!("{by_number} user=secret sslmode=disable"), Err(Kind::Refused)),
        (format!("{by_number} user=secret sslmode=allow"), Ok(true)),
        (format!("{by_number} user=secret sslmode=prefer"), Ok(true)),
        (format!("{by_number} user=secret sslmode=require"), Ok(true)),
        (format!("{by_number} user=secret sslmode=require sslrootcert={ca}"), Ok(true)),
        (format!("{by_number} user=secret sslmode=require sslrootcert={other}"), Err(Kind::Refused)),
        (format!("{by_number} user=secret sslmode=verify-ca sslrootcert={ca}"), Ok(true)),
        (format!("{by_number} user=secret sslmode=verify-ca sslrootcert={other}"), Err(Kind::Refused)),
        (format!("{by_number} user=secret sslmode=verify-ca"), Err(Kind::Usage)),
        (format!("{by_number} user=secret sslmode=verify-full sslrootcert={ca}"), Err(Kind::Refused)),
        (format!("{by_name} user=secret sslmode=verify-full sslrootcert={ca}"), Ok(true)),
        (format!("{by_name} user=secret sslmode=verify-full sslrootcert=/nonexistent"), Err(Kind::Usage)),
        (format!("{by_name} user=secret sslmode=require channel_binding=require"), Ok(true)),
        (format!("{by_name} user=secret sslmode=require channel_binding=disable"), Ok(true)),
        (format!("{by_name} user=open sslmode=disable channel_binding=require"), Err(Kind::Refused)),
        (format!("{by_name} user=secret sslmode=require ssl_min_protocol_version=TLSv1.3"), Ok(true)),
        (format!("{by_name} user=certified sslmode=require {client}"), Ok(true)),
        (format!("{by_name} user=certified sslmode=require"), Err(Kind::Refused)),
    ] {
        let outcome = encrypted(&server.info(&text)).await;
        assert_eq!(
            outcome.as_ref().map_err(|error| error.kind()),
            expected.as_ref().map_err(|kind| *kind),
            "{text}: {outcome:?}"
        );
    }
}

/// `openssl x509 -req` without extensions makes certificates that rustls does not read by itself.
#[tokio::test]
async fn certificates_made_by_hand() {
    let server = start("old").await;
    let at = "host=localhost hostaddr=127.0.0.1 dbname=postgres password=sesame user=secret";
    for text in ["sslmode=require", "sslmode=require channel_binding=require"] {
        assert!(encrypted(&server.info(&format!("{at} {text}"))).await.unwrap(), "{text}");
    }
    // The server's own certificate as the root: trusted as it is, its common name being the host's.
    let own = server.folder().join("old.crt").display().to_string();
    assert!(encrypted(&server.info(&format!("{at} sslmode=verify-full sslrootcert={own}"))).await.unwrap());
}

/// Certificates that libpq takes, with what they prove. A key on P-521 needs TLS 1.3, see `connect::curve`.
#[tokio::test]
async fn certificates_of_version_1_and_keys_on_large_curves() {
    for (certificate, authority, newest) in
        [("old", "ca", "TLSv1.3"), ("old", "ca", "TLSv1.2"), ("curve", "curve-ca", "TLSv1.3")]
    {
        let server = start_with(certificate, newest).await;
        let file = |name: &str| server.folder().join(format!("{name}.crt")).display().to_string();
        let at = "hostaddr=127.0.0.1 dbname=postgres password=sesame user=secret";
        let outcome = async |host: &str, mode: &str, root: &str| {
            let text = format!("host={host} {at} sslmode={mode} sslrootcert={}", file(root));
            encrypted(&server.info(&text)).await.map_err(|error| error.kind())
        };
        let what = format!("{certificate} by {newest}");
        for mode in ["require", "verify-ca", "verify-full"] {
            assert_eq!(outcome("localhost", mode, authority).await, Ok(true), "{mode}, {what}");
            // Another authority, and a certificate of the right one that is no authority itself.
            assert_eq!(outcome("localhost", mode, "other").await, Err(Kind::Refused), "{mode}, {what}");
            assert_eq!(outcome("localhost", mode, "client").await, Err(Kind::Refused), "{mode}, {what}");
        }
        assert_eq!(outcome("127.0.0.1", "verify-ca", authority).await, Ok(true), "{what}");
        assert_eq!(outcome("127.0.0.1", "verify-full", authority).await, Err(Kind::Refused), "{what}");
    }
}

#[tokio::test]
async fn a_server_without_tls() {
    let server = Server::start("host all all 127.0.0.1/32 trust\n", &[]).up();
    let info = |mode: &str| server.info(&format!("user=admin dbname=postgres sslmode={mode}"));
    assert!(!encrypted(&info("prefer")).await.unwrap());
    let error = encrypted(&info("require")).await.unwrap_err();
    assert!(error.kind() == Kind::Refused && error.to_string().contains("offers no TLS"), "{error}");
}
