use backwhen::connect::{Session, connect};
use backwhen::source::stream::{ReplicationClient, StreamMessage};
use futures_util::StreamExt;

use crate::connect::server::Server;
use crate::connect::streams::{OPTIONS, WAIT};

/// Bytes pass as the database holds them, through COPY and through the stream.
#[tokio::test]
async fn bytes_pass_unconverted() {
    let server = Server::start("", &[]).up();
    for (encoding, bytes) in [("SQL_ASCII", &b"\xff\xfe"[..]), ("LATIN1", b"\xe9"), ("UTF8", "é".as_bytes())]
    {
        let dbname = format!("db_{}", encoding.to_lowercase());
        let create = format!("CREATE DATABASE {dbname} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        server.run_sql("postgres", &create).await;
        let info = server.admin(&dbname);
        server
            .run_sql(&dbname, "CREATE TABLE public.t (x text); CREATE PUBLICATION p FOR TABLE public.t")
            .await;

        let mut client = ReplicationClient::connect(&info, "test").await.unwrap();
        let slot = format!("s_{dbname}");
        client.create_temporary_slot(&slot, WAIT).await.unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let insert = format!("INSERT INTO public.t SELECT convert_from('\\x{hex}', '{encoding}')");
        server.run_sql(&dbname, &insert).await;

        let session = connect(&info, "copy").await.unwrap();
        assert_eq!(session.server_encoding(), encoding);
        let copied = session.copy_out("COPY public.t TO STDOUT").await.unwrap();
        let copied: Vec<_> = Box::pin(copied).map(|chunk| chunk.unwrap().to_vec()).collect().await;
        assert_eq!(copied.concat(), [bytes, b"\n"].concat(), "{encoding}");

        let mut stream = client.start(&slot, backwhen::model::Lsn::ZERO, OPTIONS).await.unwrap();
        let mut found = false;
        while !found {
            match stream.next().unwrap() {
                Some(StreamMessage::Data { bytes: data, .. }) => {
                    found = data.first() == Some(&b'I') && data.ends_with(bytes);
                }
                Some(_) => {}
                None => tokio::time::timeout(WAIT, stream.fill()).await.expect("no insert came").unwrap(),
            }
        }

        let session = Session::connect_utf8(&info, "catalog").await.unwrap();
        let name: String = session.query_one("SELECT current_database()::text", &[]).await.unwrap().get(0);
        assert_eq!(name, dbname);
    }
}
