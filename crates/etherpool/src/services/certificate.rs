//! What a certificate says of whom it is of. Whether that is to be believed is decided elsewhere, in the handshake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// For which nobody waits: a connection is ended before.
const VALID_MAX: Duration = Duration::from_secs(365 * 86_400);

/// What counts of it here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Common names, and alternative ones that are text: of machines, addresses, mail, URIs.
    pub names: Vec<String>,
    /// The last second in which it counts, since 1970.
    until: u64,
}

impl Certificate {
    /// As it is encoded.
    pub fn read(der: &[u8]) -> Option<Certificate> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let common = certificate.subject().iter_common_name();
        let mut names: Vec<String> =
            common.filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
        let alternative = certificate.subject_alternative_name().ok()?;
        let alternative = alternative.iter().flat_map(|extension| &extension.value.general_names);
        names.extend(alternative.filter_map(text_of));
        let until = certificate.validity().not_after.timestamp();
        Some(Certificate { names, until: u64::try_from(until).ok()? })
    }

    /// How long it counts from now on.
    pub fn valid_for(&self, now: SystemTime) -> Duration {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_secs(self.until).saturating_sub(now).min(VALID_MAX)
    }
}

fn text_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
            Some((*text).to_owned())
        }
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
            let v6 = <[u8; 16]>::try_from(*bytes).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)));
            v4.or(v6).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn all_names_that_are_text_are_read() {
        let mut params =
            CertificateParams::new(vec!["ann.example".to_owned(), "192.0.2.7".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::Rfc822Name("ann@example".try_into().unwrap()));
        params.subject_alt_names.push(SanType::URI("spiffe://example/ann".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress("2001:db8::1".parse().unwrap()));
        params.distinguished_name.push(DnType::CommonName, "Ann");
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let read = Certificate::read(&der).unwrap();
        assert_eq!(
            read.names,
            [
                "Ann",
                "ann.example",
                "192.0.2.7",
                "ann@example",
                "spiffe://example/ann",
                "2001:db8::1"
            ]
        );
        let until = UNIX_EPOCH + Duration::from_secs(4_102_444_800);
        assert_eq!(read.valid_for(until - Duration::from_secs(9)), Duration::from_secs(9));
        assert_eq!(read.valid_for(until + Duration::from_secs(9)), Duration::ZERO);
        assert_eq!(read.valid_for(UNIX_EPOCH), VALID_MAX);
        // Whatever is missing or turned over, nothing panics.
        for at in 0..der.len() {
            assert_eq!(Certificate::read(&der[..at]), None);
            for bit in 0..8 {
                let mut broken = der.clone();
                broken[at] ^= 1 << bit;
                let _ = Certificate::read(&broken);
            }
        }
    }
}
