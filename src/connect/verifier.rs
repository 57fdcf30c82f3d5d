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
pub enum CertificateProof {
    Nothing,
    Authority(RootCertStore, Vec<CertificateDer<'static>>),
    AuthorityAndName(RootCertStore, Vec<CertificateDer<'static>>),
}

/// Verifies the chain and the name as far as the mode demands, and always that the server holds the certificate's
/// key: without the key, channel binding would prove nothing.
#[derive(Debug)]
pub struct Verifier {
    proof: CertificateProof,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub fn new(proof: CertificateProof, algorithms: WebPkiSupportedAlgorithms) -> Verifier {
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
        if certificate::is_of_version_1(end_entity) {
            return self.verify_version_1(trusted, end_entity, now);
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, self.algorithms.all)
    }
}

impl Verifier {
    /// Verifies a certificate of version 1, as `openssl x509 -req` makes them without extensions: an authority of the
    /// root file must have signed it.
    fn verify_version_1(
        &self,
        authorities: &[CertificateDer<'static>],
        end_entity: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        if !certificate::is_in_its_time(end_entity, now) {
            return Err(CertificateError::Expired.into());
        }
        if certificate::is_signed_by(end_entity, authorities, now, self.algorithms.all) {
            return Ok(());
        }
        Err(CertificateError::UnknownIssuer.into())
    }

    /// Verifies that the certificate, which rustls does not read, belongs to the key that signed the handshake.
    fn verify_handshake_of_version_1(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let fitting = self.algorithms.mapping.iter().filter(|(scheme, _)| *scheme == dss.scheme);
        let algorithms: Vec<_> = fitting.flat_map(|(_, algorithms)| *algorithms).copied().collect();
        if certificate::has_signed(cert, &algorithms, message, dss.signature()) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        Err(CertificateError::BadSignature.into())
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
            CertificateProof::Nothing => {}
            CertificateProof::Authority(roots, trusted) => {
                self.verify_authority((roots, trusted), end_entity, intermediates, now)?;
            }
            CertificateProof::AuthorityAndName(roots, trusted) => {
                self.verify_authority((roots, trusted), end_entity, intermediates, now)?;
                verify_name(end_entity, server_name)?;
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
        if certificate::is_of_version_1(cert) {
            return self.verify_handshake_of_version_1(message, cert, dss);
        }
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

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

fn verify_name(end_entity: &CertificateDer<'_>, server_name: &ServerName<'_>) -> Result<(), Error> {
    if certificate::common_name_matches(end_entity, server_name) {
        return Ok(());
    }
    // A certificate of version 1 has no other names.
    if certificate::is_of_version_1(end_entity) {
        return Err(CertificateError::NotValidForName.into());
    }
    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)
}
