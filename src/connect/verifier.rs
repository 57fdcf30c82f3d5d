//! Verifies that a server's certificate proves as much as the `sslmode` demands.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate;

/// The facts that a certificate must prove. The certificates of the root file are trusted in themselves, beside the
/// authorities: a server's own self-signed certificate may be among them.
#[derive(Debug)]
pub enum Proof {
    Nothing,
    Authority(RootCertStore, Vec<CertificateDer<'static>>),
    AuthorityAndName(RootCertStore, Vec<CertificateDer<'static>>),
}

/// Verifies the chain and the name as far as the mode demands, and always that the server holds the certificate's
/// key: without the key, channel binding would prove nothing.
#[derive(Debug)]
pub struct Verifier {
    proof: Proof,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub fn new(proof: Proof, algorithms: WebPkiSupportedAlgorithms) -> Verifier {
        Verifier { proof, algorithms }
    }

    fn verify_authority(
        &self,
        (roots, trusted): (&RootCertStore, &[CertificateDer<'static>]),
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if trusted.iter().any(|known| known == end_entity) {
            let in_time = certificate::is_in_its_time(end_entity, now);
            return if in_time { Ok(()) } else { Err(CertificateError::Expired.into()) };
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, self.algorithms.all)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.proof {
            Proof::Nothing => {}
            Proof::Authority(roots, trusted) => {
                self.verify_authority((roots, trusted), end_entity, intermediates, now)?;
            }
            Proof::AuthorityAndName(roots, trusted) => {
                self.verify_authority((roots, trusted), end_entity, intermediates, now)?;
                if !certificate::common_name_matches(end_entity, server_name) {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    /// rustls does not read certificates of version 1, which `openssl x509 -req` produced for years; their key can
    /// still be verified.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match (ParsedCertificate::try_from(cert), certificate::public_key(cert)) {
            (Err(_), Some(key)) => verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms),
            _ => verify_tls13_signature(message, cert, dss, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
