//! Reads the parts of a server's certificate that rustls does not give.

use std::net::IpAddr;

use rustls::pki_types::{
    CertificateDer, ServerName, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime,
};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::der::asn1::{AnyRef, PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::{rfc4519, rfc5912};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName};
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::{Certificate, Version};

/// Returns the digest of RFC 5929 `tls-server-end-point`. It uses the hash function of the certificate's own
/// signature, and SHA-256 instead of weaker ones. `None` if the signature has no such hash function (Ed25519).
pub fn end_point_digest(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let certificate = Certificate::from_der(der).ok()?;
    match certificate.signature_algorithm.oid {
        rfc5912::MD_5_WITH_RSA_ENCRYPTION
        | rfc5912::SHA_1_WITH_RSA_ENCRYPTION
        | rfc5912::SHA_256_WITH_RSA_ENCRYPTION
        | rfc5912::ECDSA_WITH_SHA_256 => Some(Sha256::digest(der).to_vec()),
        rfc5912::SHA_384_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_384 => {
            Some(Sha384::digest(der).to_vec())
        }
        rfc5912::SHA_512_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_512 => {
            Some(Sha512::digest(der).to_vec())
        }
        _ => None,
    }
}

/// Returns the public key, also of a certificate of version 1, which rustls does not read.
pub fn public_key(der: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    let certificate = Certificate::from_der(der).ok()?;
    Some(SubjectPublicKeyInfoDer::from(certificate.tbs_certificate.subject_public_key_info.to_der().ok()?))
}

/// Whether the certificate is of X.509 version 1, which rustls does not read.
pub fn is_of_version_1(der: &CertificateDer<'_>) -> bool {
    Certificate::from_der(der).is_ok_and(|it| it.tbs_certificate.version == Version::V1)
}

/// Whether one of the authorities, all of them valid at `now`, signed the certificate itself, without another
/// certificate in between.
pub fn is_signed_by(
    der: &CertificateDer<'_>,
    authorities: &[CertificateDer<'_>],
    now: UnixTime,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> bool {
    let Ok(certificate) = Certificate::from_der(der) else { return false };
    let (Ok(body), Some(signature)) =
        (certificate.tbs_certificate.to_der(), certificate.signature.as_bytes())
    else {
        return false;
    };
    let how = identifier(&certificate.signature_algorithm);
    let fitting: Vec<_> = algorithms
        .iter()
        .filter(|it| how.as_deref() == Some(it.signature_alg_id().as_ref()))
        .copied()
        .collect();
    let valid = authorities.iter().filter(|authority| is_in_its_time(authority, now));
    let mut issuers =
        valid.filter_map(|authority| Certificate::from_der(authority).ok()).filter(|authority| {
            authority.tbs_certificate.subject == certificate.tbs_certificate.issuer && may_sign(authority)
        });
    issuers.any(|issuer| is_signature_of(&issuer, &fitting, &body, signature))
}

/// Whether the certificate's key made the signature of the message, by one of the algorithms.
pub fn has_signed(
    der: &CertificateDer<'_>,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    message: &[u8],
    signature: &[u8],
) -> bool {
    Certificate::from_der(der).is_ok_and(|it| is_signature_of(&it, algorithms, message, signature))
}

fn is_signature_of(
    signer: &Certificate,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let key = &signer.tbs_certificate.subject_public_key_info;
    let (kind, bits) = (identifier(&key.algorithm), key.subject_public_key.raw_bytes());
    let mut fitting = algorithms.iter().filter(|it| kind.as_deref() == Some(it.public_key_alg_id().as_ref()));
    fitting.any(|algorithm| algorithm.verify_signature(bits, message, signature).is_ok())
}

/// The bytes of an algorithm's identifier without the header of its sequence, as rustls compares them.
fn identifier(algorithm: &AlgorithmIdentifierOwned) -> Option<Vec<u8>> {
    let der = algorithm.to_der().ok()?;
    AnyRef::from_der(&der).ok().map(|sequence| sequence.value().to_vec())
}

/// Whether a certificate in the root file is an authority. One of version 1 cannot say so, and is taken for an authority
/// if it signed itself, as OpenSSL does.
fn may_sign(certificate: &Certificate) -> bool {
    let body = &certificate.tbs_certificate;
    if body.version == Version::V1 {
        return body.subject == body.issuer;
    }
    let is_authority = matches!(body.get::<BasicConstraints>(), Ok(Some((_, constraints))) if constraints.ca);
    let may_sign = match body.get::<KeyUsage>() {
        Ok(usage) => usage.is_none_or(|(_, usage)| usage.key_cert_sign()),
        Err(_) => false,
    };
    is_authority && may_sign
}

/// Whether `now` lies in the certificate's period of validity.
pub fn is_in_its_time(der: &CertificateDer<'_>, now: UnixTime) -> bool {
    let Ok(certificate) = Certificate::from_der(der) else { return false };
    let validity = certificate.tbs_certificate.validity;
    let seconds = now.as_secs();
    let from = validity.not_before.to_unix_duration().as_secs();
    let until = validity.not_after.to_unix_duration().as_secs();
    (from..=until).contains(&seconds)
}

/// Whether the common name of a certificate without alternative names matches this host. Many certificates made by
/// hand have only a common name, and libpq accepts these too.
pub fn common_name_matches(der: &CertificateDer<'_>, host: &ServerName<'_>) -> bool {
    let Ok(certificate) = Certificate::from_der(der) else { return false };
    let body = &certificate.tbs_certificate;
    if body.get::<SubjectAltName>().map_or(true, |names| names.is_some()) {
        return false;
    }
    let wanted = match host {
        ServerName::DnsName(name) => name.as_ref().to_owned(),
        ServerName::IpAddress(address) => IpAddr::from(*address).to_string(),
        _ => return false,
    };
    let attributes = body.subject.0.iter().flat_map(|set| set.0.iter());
    attributes.filter(|attribute| attribute.oid == common_name_oid()).any(|attribute| {
        let text = attribute
            .value
            .decode_as::<Utf8StringRef<'_>>()
            .map(|text| text.as_str())
            .or_else(|_| attribute.value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str()));
        text.is_ok_and(|name| name_matches(name, &wanted))
    })
}

fn common_name_oid() -> ObjectIdentifier {
    rfc4519::COMMON_NAME
}

/// Compares names without regard to letter case; `*.` at the front stands for one label of a name.
fn name_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) if host.parse::<IpAddr>().is_err() => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain)),
        Some(_) => false,
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label() {
        assert!(name_matches("DB.example.org", "db.example.org"));
        assert!(name_matches("*.example.org", "db.example.org"));
        assert!(!name_matches("*.example.org", "a.db.example.org"));
        assert!(!name_matches("*.example.org", "example.org"));
        assert!(!name_matches("*.0.0.1", "127.0.0.1"));
        assert!(name_matches("127.0.0.1", "127.0.0.1"));
    }
}
