//! Azurite, the emulator of Azure Blob Storage, which runs on a node of its own.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::OnceLock;

use base64::prelude::{BASE64_STANDARD, Engine};
use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::http::ask;
use super::kept;

/// The account that every Azurite has, and its key, which is no secret: both are printed in its manual.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

const CONTAINER: &str = "first";

pub struct AzureEmulator {
    port: u16,
    _keeper: Child,
}

impl AzureEmulator {
    /// The emulator that all tests of this process share; `None` if the program is not here.
    pub fn shared() -> Option<&'static AzureEmulator> {
        static SHARED: OnceLock<Option<AzureEmulator>> = OnceLock::new();
        let program = || kept::fetched("the emulator of Azure Blob Storage", "azurite/node");
        SHARED.get_or_init(|| program().map(|program| AzureEmulator::start(&program))).as_ref()
    }

    fn start(node: &Path) -> AzureEmulator {
        let script: PathBuf = node.with_file_name("node_modules/azurite/dist/src/blob/main.js");
        let arguments = |_: &Path, [port]: [u16; 1]| {
            let (script, port) = (script.display().to_string(), port.to_string());
            let options =
                ["--silent", "--disableTelemetry", "--inMemoryPersistence", "--blobHost", "127.0.0.1"];
            let options =
                [&script].into_iter().map(String::as_str).chain(options).chain(["--blobPort", &port]);
            options.map(str::to_owned).collect()
        };
        let (keeper, [port]) = kept::start(node, arguments, |[port]| make_container(port));
        AzureEmulator { port, _keeper: keeper }
    }

    /// The URL of a prefix.
    pub fn url(&self, prefix: &str) -> String {
        format!("az://{CONTAINER}/{prefix}")
    }

    /// The variables that lead a program to this emulator.
    pub fn variables(&self) -> Vec<(String, String)> {
        vec![
            ("AZURE_STORAGE_ENDPOINT".into(), format!("http://127.0.0.1:{}/{ACCOUNT}", self.port)),
            ("AZURE_STORAGE_ACCOUNT_NAME".into(), ACCOUNT.into()),
            ("AZURE_STORAGE_ACCOUNT_KEY".into(), KEY.into()),
        ]
    }
}

/// Makes the container that tests use; false if the emulator does not answer yet.
fn make_container(port: u16) -> bool {
    let said = "x-ms-date:Sun, 29 Nov 2026 12:00:00 GMT\nx-ms-version:2021-12-02\n";
    let place = format!("/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container");
    let key = BASE64_STANDARD.decode(KEY).expect("the key is one");
    let mut signer = Hmac::<Sha256>::new_from_slice(&key).expect("a key has any length");
    signer.update(format!("PUT{}{said}{place}", "\n".repeat(12)).as_bytes());
    let signature = BASE64_STANDARD.encode(signer.finalize().into_bytes());
    let head = format!(
        "PUT /{ACCOUNT}/{CONTAINER}?restype=container HTTP/1.1\r\n{}\
         Authorization: SharedKey {ACCOUNT}:{signature}\r\n",
        said.replace('\n', "\r\n")
    );
    ask(port, &head, b"").is_some_and(|answer| answer.head.starts_with("HTTP/1.1 201"))
}
