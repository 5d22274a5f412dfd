//! Mutual TLS 1.3 (RFC 8446) as an alternative to shared keys, for sites with a PKI.
//!
//! The module creates the TLS configuration of either side from PEM texts (RFC 7468). Invariants: only TLS
//! 1.3 is used, both sides present a certificate, and there is neither resumption nor early data, so that
//! every connection verifies the certificates again.
//!
//! The name in its certificate identifies a sender: the first DNS name that is a valid sender id, or the
//! common name if the certificate has no alternative names. The application protocol (ALPN, RFC 7301) is
//! `nf-transport/1`.

use core::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, CommonState, RootCertStore, ServerConfig, ServerConnection};
use x509_parser::prelude::{CertificateRevocationList, FromDer, GeneralName, X509Certificate};

use crate::sequence::SenderId;

/// Application protocol that both sides must offer.
const PROTOCOL: &[u8] = b"nf-transport/1";

/// PEM texts of one side.
#[derive(Clone, Copy, Debug)]
pub struct Pem<'a> {
    /// Certificates of the authorities that sign the other side's certificate.
    pub authority: &'a [u8],
    /// Certificate of this side, followed by intermediate certificates.
    pub certificate: &'a [u8],
    /// Private key of this side.
    pub key: &'a [u8],
}

/// Reason why PEM texts or names cannot be used for TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The text contains no PEM block of this kind.
    #[error("{0}: it contains no PEM block of this kind")]
    Missing(&'static str),
    /// The text is invalid.
    #[error("{0}: {1}")]
    Unusable(&'static str, String),
    /// The certificate has no name that is a valid sender id.
    #[error("certificate: it has no name (DNS name or common name) that is 1 to 64 of A-Z a-z 0-9 . _ -")]
    NoName,
    /// The receiver's name cannot be in a certificate.
    #[error("{0} is not a valid name for a certificate: set server-name in [tls]")]
    ServerName(String),
}

/// The relevant properties of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Name of the holder; `None` if it is not a valid sender id.
    pub name: Option<SenderId>,
    /// End of the validity, in seconds since 1970-01-01.
    pub not_after: i64,
}

impl Certificate {
    fn read(der: &[u8]) -> Result<Self, TlsError> {
        let unusable = |error: x509_parser::nom::Err<_>| TlsError::Unusable("certificate", error.to_string());
        let (_, certificate) = X509Certificate::from_der(der).map_err(unusable)?;
        let not_after = certificate.validity().not_after.timestamp();
        Ok(Self { name: name_of(&certificate), not_after })
    }
}

/// A file with lists of revoked certificates (CRL, RFC 5280).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Content of the file (PEM).
    pub text: Vec<u8>,
}

/// File and age of a list of revoked certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// Path of its file.
    pub path: PathBuf,
    /// Time at which the authority issued it, in seconds since 1970-01-01.
    pub this_update: i64,
    /// Time by which the authority issues the next one, in seconds since 1970-01-01; `None` if not stated.
    pub next_update: Option<i64>,
}

impl RevocationList {
    fn read(path: PathBuf, der: &[u8]) -> Result<Self, TlsError> {
        let (_, list) = CertificateRevocationList::from_der(der)
            .map_err(|error| TlsError::Unusable("revoked", error.to_string()))?;
        let next_update = list.next_update().map(|time| time.timestamp());
        Ok(Self { path, this_update: list.last_update().timestamp(), next_update })
    }
}

/// End of the validity of the certificates of a connection, in seconds since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// Certificate of this side.
    pub own: i64,
    /// Certificate of the other side.
    pub peer: i64,
}

impl CertificateExpiry {
    /// Reads them from `connection` after its handshake; `None` if the other side presented no certificate.
    pub(super) fn read(own: &Certificate, connection: &CommonState) -> Option<Self> {
        let leaf = connection.peer_certificates().and_then(|chain| chain.first())?;
        Some(Self { own: own.not_after, peer: Certificate::read(leaf).ok()?.not_after })
    }
}

fn name_of(certificate: &X509Certificate<'_>) -> Option<SenderId> {
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let mut names = alternatives.iter().flat_map(|names| &names.value.general_names);
    let by_dns = names.find_map(|name| match name {
        GeneralName::DNSName(name) => name.parse().ok(),
        _ => None,
    });
    let common =
        || certificate.subject().iter_common_name().find_map(|name| name.as_str().ok()?.parse().ok());
    if alternatives.is_some() { by_dns } else { common() }
}

/// TLS configuration of a sender.
#[derive(Clone)]
pub struct SenderTls {
    config: Arc<ClientConfig>,
    /// Required name in the receiver's certificate; `None` for the host to which the sender connects.
    server_name: Option<ServerName<'static>>,
    /// Certificate of the sender.
    pub certificate: Certificate,
    /// Digest of all inputs, to detect changes.
    digest: [u8; 32],
}

impl SenderTls {
    /// Creates the configuration from PEM texts. `server_name` is the required name in the receiver's
    /// certificate.
    pub fn new(pem: Pem<'_>, server_name: Option<&str>) -> Result<Self, TlsError> {
        let roots = roots(pem.authority)?;
        let (chain, key, certificate) = own_identity(pem)?;
        certificate.name.as_ref().ok_or(TlsError::NoName)?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable("certificate"))?;
        let mut config = builder
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(unusable("key"))?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            server_name: server_name.map(parse_name).transpose()?,
            certificate,
            digest: digest_of([
                pem.authority,
                pem.certificate,
                pem.key,
                server_name.unwrap_or("").as_bytes(),
            ]),
        })
    }

    /// Starts a connection to the receiver at `host`.
    pub(super) fn connect(&self, host: &str) -> Result<ClientConnection, TlsError> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => parse_name(host)?,
        };
        ClientConnection::new(self.config.clone(), name).map_err(unusable("certificate"))
    }
}

impl PartialEq for SenderTls {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for SenderTls {}

impl fmt::Debug for SenderTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SenderTls({:?})", self.certificate)
    }
}

/// TLS configuration of a receiver.
#[derive(Clone)]
pub struct ReceiverTls {
    config: Arc<ServerConfig>,
    /// Accepted names; empty for all certificates of the authorities.
    pub senders: Vec<SenderId>,
    /// Certificate of the receiver.
    pub certificate: Certificate,
    /// Lists of revoked certificates.
    pub revoked: Vec<RevocationList>,
    /// Digest of authorities, revocation lists and names. A change means that earlier handshakes may be
    /// outdated.
    pub trust: [u8; 32],
}

impl ReceiverTls {
    /// Creates the configuration from PEM texts. It rejects the certificates in the lists `revoked`.
    ///
    /// A list past its next update remains in effect. The caller warns about it.
    pub fn new(pem: Pem<'_>, revoked: &[RevocationFile], senders: Vec<SenderId>) -> Result<Self, TlsError> {
        let (mut lists, mut ages) = (Vec::new(), Vec::new());
        for RevocationFile { path, text } in revoked {
            let found = CertificateRevocationListDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
            let found = found.map_err(|error| TlsError::Unusable("revoked", error.to_string()))?;
            if found.is_empty() {
                return Err(TlsError::Missing("revoked"));
            }
            for list in &found {
                ages.push(RevocationList::read(path.clone(), list)?);
            }
            lists.extend(found);
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pem.authority)?), provider())
                .with_crls(lists)
                .build()
                .map_err(|error| TlsError::Unusable("authority", error.to_string()))?;
        let (chain, key, certificate) = own_identity(pem)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable("certificate"))?;
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(unusable("key"))?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let names: Vec<&str> = senders.iter().map(SenderId::as_str).collect();
        let names = names.join(" ");
        let lists = revoked.iter().map(|file| file.text.as_slice());
        let trust = digest_of([pem.authority, names.as_bytes()].into_iter().chain(lists));
        Ok(Self { config: Arc::new(config), senders, certificate, revoked: ages, trust })
    }

    /// True if a sender of this name is accepted.
    pub fn accepts(&self, sender: &SenderId) -> bool {
        self.senders.is_empty() || self.senders.contains(sender)
    }

    pub(super) fn accept(&self) -> Option<ServerConnection> {
        ServerConnection::new(self.config.clone()).ok()
    }
}

impl fmt::Debug for ReceiverTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiverTls({:?})", self.certificate)
    }
}

/// Name of the sender at the other end, after its certificate was verified.
pub(super) fn peer_name(connection: &ServerConnection) -> Option<SenderId> {
    let leaf = connection.peer_certificates().and_then(|chain| chain.first())?;
    Certificate::read(leaf).ok()?.name
}

/// True if both sides agreed on this application protocol.
pub(super) fn is_protocol_agreed(connection: &ServerConnection) -> bool {
    connection.alpn_protocol() == Some(PROTOCOL)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("authority", pem)? {
        roots.add(certificate).map_err(unusable("authority"))?;
    }
    Ok(roots)
}

type OwnIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Certificate);

fn own_identity(pem: Pem<'_>) -> Result<OwnIdentity, TlsError> {
    let chain = certificates("certificate", pem.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(pem.key).map_err(|_| TlsError::Missing("key"))?;
    let leaf = chain.first().ok_or(TlsError::Missing("certificate"))?;
    let certificate = Certificate::read(leaf)?;
    Ok((chain, key, certificate))
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsError::Missing(what)),
        Ok(found) => Ok(found),
        Err(error) => Err(TlsError::Unusable(what, error.to_string())),
    }
}

fn parse_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
}

fn unusable(what: &'static str) -> impl Fn(rustls::Error) -> TlsError {
    move |error| TlsError::Unusable(what, error.to_string())
}

fn digest_of<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
pub(in crate::secure) mod tests;
