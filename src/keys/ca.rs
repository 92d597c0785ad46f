//! The cluster's certificate authority, which every node derives for itself, and the certificates
//! it signs.
//!
//! The CA's P-256 key is an HKDF output; its certificate has a fixed subject, serial number and
//! validity. So the CAs of two nodes differ in nothing but the (random) self-signature, which is
//! not checked on a trust anchor.
//!
//! A certificate names its holder twice: for the tools of the world (CN, DNS name, IP addresses)
//! and for us, exactly, by a URI `scx-mosix://node/NAME` or `scx-mosix://client/NAME`. Only node
//! certificates may act as TLS servers.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    agreement::{self, PrivateKey},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
    SigningKey,
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{ClusterKey, KeyError, NodeName};

/// Scheme of the URI by which a certificate says what its holder is.
pub(super) const URI_SCHEME: &str = "scx-mosix://";

/// How long a minted certificate is good for. Nodes mint at every start; client certificates are
/// made again when they end.
const VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Certificates begin this long ago, so that a node whose clock is behind accepts them.
const CLOCK_SKEW: Duration = Duration::from_secs(2 * 86_400);
/// Candidates for the CA's scalar; one is out of range once in 2^32.
const SCALAR_TRIES: u8 = 8;

/// What the holder of a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Node,
    Client,
}

impl Role {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Role::Node => "node",
            Role::Client => "client",
        }
    }
}

/// A certificate with its private key (PKCS #8) and the CA it chains to, all as PEM. Wiped when
/// dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(super) struct Minted {
    pub(super) ca_pem: String,
    pub(super) cert_pem: String,
    pub(super) key_pem: String,
}

/// The authority of one cluster.
pub(super) struct ClusterCa {
    issuer: Issuer<'static, CaKey>,
    cert: Certificate,
}

impl ClusterCa {
    /// Derives the CA from the cluster key.
    pub(super) fn derive(key: &ClusterKey) -> Result<Self, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "scx_mosix");
        params.distinguished_name.push(DnType::CommonName, format!("scx_mosix cluster {}", key.id()?));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&key.id()?.0));
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2125, 1, 1);
        let ca_key = CaKey::derive(key)?;
        let cert = params.self_signed(&ca_key)?;
        Ok(Self { issuer: Issuer::new(params, ca_key), cert })
    }

    /// A fresh key pair and a certificate for it.
    pub(super) fn mint(&self, role: Role, name: &NodeName, addresses: &[IpAddr]) -> Result<Minted, KeyError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "scx_mosix");
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.subject_alt_names.push(SanType::URI(format!("{URI_SCHEME}{}/{name}", role.as_str()).try_into()?));
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        if role == Role::Node {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
            // Loopback belongs to every node: clients on the node itself, and through a forwarded
            // port, get no name error.
            params.subject_alt_names.push(SanType::DnsName("localhost".try_into()?));
            let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            let mut all: Vec<IpAddr> = addresses.iter().copied().chain(loopback).collect();
            all.sort_unstable();
            all.dedup();
            params.subject_alt_names.extend(all.into_iter().map(SanType::IpAddress));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let now = SystemTime::now();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + VALIDITY).into();
        let cert_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Minted { ca_pem: self.cert.pem(), cert_pem, key_pem: key.serialize_pem() })
    }
}

/// The CA's key pair as aws-lc holds it; it is never serialised.
struct CaKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl CaKey {
    fn derive(key: &ClusterKey) -> Result<Self, KeyError> {
        let failed = || KeyError::Crypto("deriving the cluster's certificate authority");
        for attempt in 0..SCALAR_TRIES {
            let scalar = key.derive(&[b"ca", &[attempt]])?;
            // Fails only for zero and for values not below the order of the curve.
            let Ok(private) = PrivateKey::from_private_key(&agreement::ECDH_P256, scalar.as_slice()) else { continue };
            let public = private.compute_public_key().map_err(|_| failed())?;
            let pair = EcdsaKeyPair::from_private_key_and_public_key(
                &ECDSA_P256_SHA256_ASN1_SIGNING,
                scalar.as_slice(),
                public.as_ref(),
            )
            .map_err(|_| failed())?;
            return Ok(Self { pair, random: SystemRandom::new() });
        }
        Err(failed())
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&self.random, message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    use x509_parser::parse_x509_certificate;

    use super::*;

    #[test]
    fn every_node_derives_the_same_authority() {
        let key = ClusterKey::generate().unwrap();
        let [a, b] = [(); 2].map(|()| ClusterCa::derive(&key).unwrap());
        let (_, a) = parse_x509_certificate(a.cert.der()).unwrap();
        let (_, b) = parse_x509_certificate(b.cert.der()).unwrap();
        // Everything that is signed is equal, to the byte.
        assert_eq!(a.tbs_certificate.as_ref(), b.tbs_certificate.as_ref());
        let other = ClusterCa::derive(&ClusterKey::generate().unwrap()).unwrap();
        let (_, other) = parse_x509_certificate(other.cert.der()).unwrap();
        assert_ne!(a.public_key().raw, other.public_key().raw);
        assert_ne!(a.subject().to_string(), other.subject().to_string());
    }

    #[test]
    fn a_certificate_minted_by_one_node_verifies_at_another() {
        let key = ClusterKey::generate().unwrap();
        let here = ClusterCa::derive(&key).unwrap();
        let there = ClusterCa::derive(&key).unwrap();
        let minted = here.mint(Role::Node, &"n1".parse().unwrap(), &["10.1.2.3".parse().unwrap()]).unwrap();
        let (_, ca) = parse_x509_certificate(there.cert.der()).unwrap();
        let der = CertificateDer::from_pem_slice(minted.cert_pem.as_bytes()).unwrap();
        let (_, cert) = parse_x509_certificate(&der).unwrap();
        cert.verify_signature(Some(ca.public_key())).unwrap();
        assert!(cert.validity().is_valid());
        let valid_days = cert.validity().time_to_expiration().unwrap().whole_days();
        assert!((3600..3660).contains(&valid_days), "{valid_days}");
    }
}
