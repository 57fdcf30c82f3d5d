//! Signatures of keys on the curve P-521, which libpq takes and ring does not know.
//!
//! Only signatures: with TLS 1.2, a server that has such a key also wants the curve for the exchange of keys, and breaks
//! off. PostgreSQL speaks TLS 1.3 with every OpenSSL since 1.1.1.

use std::sync::LazyLock;

use p521::ecdsa::signature::hazmat::PrehashVerifier;
use p521::ecdsa::{Signature, VerifyingKey};
use rustls::SignatureScheme;
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};
use sha2::{Digest, Sha256, Sha384, Sha512};

/// Bytes of a number of the curve's field.
const FIELD: usize = 66;

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// The algorithms of ring, and P-521 with the hash functions that certificates are signed with.
pub static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> = LazyLock::new(|| {
    let ring = ring::default_provider().signature_verification_algorithms;
    let ours: [Algorithm; 3] = [
        &P521 { hash: alg_id::ECDSA_SHA512, digest: |message| Sha512::digest(message).to_vec() },
        &P521 { hash: alg_id::ECDSA_SHA384, digest: |message| Sha384::digest(message).to_vec() },
        &P521 { hash: alg_id::ECDSA_SHA256, digest: |message| Sha256::digest(message).to_vec() },
    ];
    let mut mapping = ring.mapping.to_vec();
    mapping.push((SignatureScheme::ECDSA_NISTP521_SHA512, Vec::from(&ours[..1]).leak()));
    WebPkiSupportedAlgorithms { all: [ring.all, &ours].concat().leak(), mapping: mapping.leak() }
});

/// ECDSA on P-521 with one hash function.
#[derive(Debug)]
struct P521 {
    hash: AlgorithmIdentifier,
    digest: fn(&[u8]) -> Vec<u8>,
}

impl SignatureVerificationAlgorithm for P521 {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(key).map_err(|_| InvalidSignature)?;
        let signature = Signature::from_der(signature).map_err(|_| InvalidSignature)?;
        // A digest is a number, and shorter ones are refused unless they are written with all digits of the field.
        let digest = (self.digest)(message);
        let mut number = [0; FIELD];
        number[FIELD - digest.len()..].copy_from_slice(&digest);
        key.verify_prehash(&number, &signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.hash
    }
}
