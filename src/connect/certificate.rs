//! Reads the parts of a server's certificate that rustls does not give.

use std::net::IpAddr;

use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::{rfc4519, rfc5912};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::SubjectAltName;

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
