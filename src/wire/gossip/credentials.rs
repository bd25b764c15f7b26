//! Who a replica is: a certificate that names it, the key to that, and the authority that all replicas of a cluster share.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use tokio::sync::watch;

use crate::NodeId;

use super::super::WireError;

/// The certificate, key and authority of a replica, which can be replaced while it runs. Cheap to clone; clones share what
/// they hold.
///
/// The name of a replica is the first DNS name in its certificate (`subjectAltName`, RFC 5280 section 4.2.1.6), and its id is
/// [`NodeId::named`] of that. Whoever has a certificate of the authority is let in, so it should be an authority of the
/// cluster's own. Where extended key usage is limited, both `serverAuth` and `clientAuth` are needed.
#[derive(Clone)]
pub struct Credentials {
    shared: Arc<Shared>,
}

struct Shared {
    held: Mutex<Held>,
    files: Option<[PathBuf; 3]>,
    changed: watch::Sender<u64>,
}

#[derive(Clone)]
struct Held {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    /// None: anybody is believed to be who they say they are.
    roots: Option<Arc<RootCertStore>>,
    name: String,
}

impl Credentials {
    /// Those in PEM files: the certificate (and what is between it and the authority), its key, the authority.
    ///
    /// # Errors
    /// When a file cannot be read or is not usable.
    pub fn from_files(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        authority: impl Into<PathBuf>,
    ) -> Result<Self, WireError> {
        let files = [certificate.into(), key.into(), authority.into()];
        Ok(Self::holding(Held::read(&files)?, Some(files)))
    }

    /// Those in PEM texts.
    ///
    /// # Errors
    /// When one is not usable.
    pub fn from_pem(certificate: &str, key: &str, authority: &str) -> Result<Self, WireError> {
        let pem = [certificate, key, authority].map(|text| text.as_bytes().to_vec());
        Ok(Self::holding(Held::parse(&pem, &["the certificate", "the key", "the authority"])?, None))
    }

    /// A replica that is believed to be who it says it is, and believes others: for engines that only listen on, and talk
    /// to, loopback.
    pub(super) fn unauthenticated(name: &str) -> Result<Self, WireError> {
        let made =
            rcgen::generate_simple_self_signed([name.to_owned()]).map_err(|error| unusable("the name", error))?;
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes());
        let key = key.map_err(|error| unusable("the key", error))?;
        let chain = vec![made.cert.der().clone()];
        Ok(Self::holding(Held { chain, key: Arc::new(key), roots: None, name: name.to_owned() }, None))
    }

    fn holding(held: Held, files: Option<[PathBuf; 3]>) -> Self {
        Self { shared: Arc::new(Shared { held: Mutex::new(held), files, changed: watch::Sender::new(0) }) }
    }

    /// Reads the files again. Engines that use these credentials make all their connections anew, with those.
    ///
    /// # Errors
    /// When a file cannot be read or is not usable, or names another replica. The old ones stay in use.
    pub fn reload(&self) -> Result<(), WireError> {
        let Some(files) = &self.shared.files else {
            return Err(WireError::Options("credentials that are no files cannot be read again: use replace".into()));
        };
        self.put(Held::read(files)?)
    }

    /// Puts others in their place. Engines that use these credentials make all their connections anew, with those.
    ///
    /// # Errors
    /// When one is not usable, or names another replica. The old ones stay in use.
    pub fn replace(&self, certificate: &str, key: &str, authority: &str) -> Result<(), WireError> {
        let pem = [certificate, key, authority].map(|text| text.as_bytes().to_vec());
        self.put(Held::parse(&pem, &["the certificate", "the key", "the authority"])?)
    }

    fn put(&self, new: Held) -> Result<(), WireError> {
        let mut held = self.shared.held.lock();
        if new.name != held.name {
            let why = format!("it is for {}, and this replica is {}", new.name, held.name);
            return Err(unusable("the certificate", why));
        }
        *held = new;
        drop(held);
        self.shared.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    /// The name of the replica.
    #[must_use]
    pub fn name(&self) -> String {
        self.shared.held.lock().name.clone()
    }

    /// Tells of each change from here on.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// What both ends of a connection are configured with, to speak one of these protocols.
    pub(super) fn configs(&self, protocols: &[Vec<u8>]) -> Result<(ServerConfig, ClientConfig), WireError> {
        let Held { chain, key, roots, .. } = self.shared.held.lock().clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let refused = |error: rustls::Error| unusable("the certificate", error);
        let verifier = Arc::new(Verifier { roots: roots.clone(), provider: Arc::clone(&provider) });
        let clients: Arc<dyn ClientCertVerifier> = match roots {
            None => Arc::clone(&verifier) as _,
            Some(roots) => WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|error| unusable("the authority", error))?,
        };
        let tls13 = &[&rustls::version::TLS13];
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(tls13)
            .map_err(refused)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(refused)?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(tls13)
            .map_err(refused)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key.clone_key())
            .map_err(refused)?;
        server.alpn_protocols = protocols.to_vec();
        client.alpn_protocols = protocols.to_vec();
        // A resumed session is not verified again, whatever was replaced in between.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        client.resumption = Resumption::disabled();
        Ok((server, client))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl Held {
    fn read(files: &[PathBuf; 3]) -> Result<Self, WireError> {
        let [certificate, key, authority] = files;
        let pem = [read(certificate)?, read(key)?, read(authority)?];
        let names = [certificate, key, authority].map(|file| file.display().to_string());
        let [certificate, key, authority] = &names;
        Self::parse(&pem, &[certificate, key, authority])
    }

    fn parse([certificate, key, authority]: &[Vec<u8>; 3], names: &[&str; 3]) -> Result<Self, WireError> {
        let [of_certificate, of_key, of_authority] = names;
        let chain = certificates(certificate, of_certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unusable(of_key, error))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(authority, of_authority)? {
            roots.add(root).map_err(|error| unusable(of_authority, error))?;
        }
        let name = chain.first().and_then(name_in).ok_or_else(|| {
            unusable(of_certificate, "it has no DNS name among its subject alternative names to call the replica by")
        })?;
        let held = Self { chain, key: Arc::new(key), roots: Some(Arc::new(roots)), name };
        // Whether the key is that of the certificate is found out here, and not at the first connection.
        Credentials::holding(held.clone(), None).configs(&[])?;
        Ok(held)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, WireError> {
    std::fs::read(file).map_err(|error| unusable(&file.display().to_string(), error))
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, WireError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(unusable(what, "there is no certificate in it")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable(what, error)),
    }
}

fn unusable(what: &str, why: impl fmt::Display) -> WireError {
    WireError::Credentials { what: what.to_owned(), why: why.to_string() }
}

/// The name that a certificate gives to a replica.
fn name_in(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_dns_names().next().map(str::to_owned)
}

/// The name of whoever is at the other end of a connection, and its id.
pub(super) fn name_of(connection: &quinn::Connection) -> Option<(String, NodeId)> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let name = name_in(chain.first()?)?;
    let id = NodeId::named(&name);
    Some((name, id))
}

/// Believes whom the authority vouches for, whatever their name: who it is that was reached is asked afterwards.
#[derive(Debug)]
struct Verifier {
    roots: Option<Arc<RootCertStore>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Used where anybody is believed only; others are verified as usual.
impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.roots {
            None => Ok(ClientCertVerified::assertion()),
            Some(_) => Err(rustls::Error::General("whoever has an authority asks it".to_owned())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
