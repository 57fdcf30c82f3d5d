//! TLS as libpq understands it: the modes of `sslmode`, root and client certificates.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, version};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate;
use super::choices::SslMode;
use super::conninfo::Conninfo;
use super::curve::ALGORITHMS;
use super::verifier::{CertificateProof, Verifier};
use crate::error::{Context, Error, Kind, Result};

/// Performs TLS handshakes for one connection string. The certificates are read once.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
}

impl Tls {
    /// # Errors
    /// Fails with usage if a certificate file is missing or unreadable, or if a verifying mode has no authorities to
    /// verify with.
    pub fn new(info: &Conninfo) -> Result<Tls> {
        let algorithms = *ALGORITHMS;
        let provider = Arc::new(CryptoProvider {
            signature_verification_algorithms: algorithms,
            ..ring::default_provider()
        });
        let versions: &[_] = match info.setting("ssl_min_protocol_version") {
            Some("TLSv1.3") => &[&version::TLS13],
            _ => &[&version::TLS13, &version::TLS12],
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .context(Kind::Internal, || "could not set up TLS".to_owned())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::new(proof(info)?, algorithms)));
        let config = match client_certificate(info)? {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
            None => builder.with_no_client_auth(),
        };
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Performs the handshake; also returns the data for channel binding.
    ///
    /// # Errors
    /// Fails if the server's certificate does not satisfy the `sslmode`, or if the server breaks off.
    pub async fn handshake(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Option<Vec<u8>>)> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = self.connector.connect(name, stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let binding = certificates.and_then(<[_]>::first).and_then(certificate::end_point_digest);
        Ok((stream, binding))
    }
}

/// Decides which facts the server's certificate must prove. As in libpq, `require` verifies the authority if there is
/// a root file.
fn proof(info: &Conninfo) -> Result<CertificateProof> {
    let mode = info.ssl_mode();
    if info.setting("sslrootcert") == Some("system") {
        return Ok(CertificateProof::AuthorityAndName(system_roots()?, Vec::new()));
    }
    let file = info.setting("sslrootcert").map(PathBuf::from).or_else(|| info.home_file("root.crt"));
    let file = file.filter(|file| file.exists());
    match (mode, file) {
        (SslMode::Disable | SslMode::Allow | SslMode::Prefer, _) | (SslMode::Require, None) => {
            Ok(CertificateProof::Nothing)
        }
        (SslMode::VerifyCa | SslMode::VerifyFull, None) => Err(Error::usage(format!(
            "sslmode={} needs the certificate of an authority; put it into ~/.postgresql/root.crt, name it in \
             sslrootcert, or give sslrootcert=system to trust what this machine trusts",
            if mode == SslMode::VerifyCa { "verify-ca" } else { "verify-full" }
        ))),
        (mode, Some(file)) => {
            let certificates = certificates(&file, "sslrootcert")?;
            let mut roots = RootCertStore::empty();
            // A certificate that belongs to a server is no authority, but may be trusted in itself.
            roots.add_parsable_certificates(certificates.iter().cloned());
            Ok(match mode {
                SslMode::VerifyFull => CertificateProof::AuthorityAndName(roots, certificates),
                _ => CertificateProof::Authority(roots, certificates),
            })
        }
    }
}

fn system_roots() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::usage(
            "sslrootcert=system: this machine has no trusted authorities; install its ca-certificates package",
        ));
    }
    Ok(roots)
}

fn client_certificate(info: &Conninfo) -> Result<Option<CertifiedKey>> {
    let named = info.setting("sslcert").map(PathBuf::from);
    let default = || info.home_file("postgresql.crt").filter(|file| file.exists());
    let Some(file) = named.or_else(default) else { return Ok(None) };
    let key = info.setting("sslkey").map(PathBuf::from).or_else(|| info.home_file("postgresql.key"));
    let key =
        key.ok_or_else(|| Error::usage("the client certificate in sslcert has no key; name it in sslkey"))?;
    let chain = certificates(&file, "sslcert")?;
    let problem = || format!("could not read an unencrypted PEM key from {} (sslkey)", key.display());
    let secret = PrivateKeyDer::from_pem_file(&key).context(Kind::Usage, problem)?;
    let secret =
        ring::default_provider().key_provider.load_private_key(secret).context(Kind::Usage, problem)?;
    let own = CertifiedKey::new(chain, secret);
    // Other errors only say that rustls cannot read the certificate, which the server may be able to read.
    if matches!(own.keys_match(), Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch))) {
        return Err(Error::usage(format!("the key {} does not belong to {}", key.display(), file.display())));
    }
    Ok(Some(own))
}

fn certificates(file: &PathBuf, keyword: &str) -> Result<Vec<CertificateDer<'static>>> {
    let problem = || format!("could not read PEM certificates from {} ({keyword})", file.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).context(Kind::Usage, problem)?;
    if found.is_empty() { Err(Error::usage(problem())) } else { Ok(found) }
}
