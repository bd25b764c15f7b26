//! A certificate authority for tests and first steps.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::super::WireError;
use super::Credentials;

/// An authority that lives in memory, and issues certificates that a test needs. For production use your own: the key of this
/// one is as safe as the process that made it, and its certificates hardly ever expire.
///
/// ```
/// use rescind::wire::gossip::TestAuthority;
///
/// let authority = TestAuthority::new()?;
/// let credentials = authority.issue("node-1.acme.internal")?;
/// assert_eq!(credentials.name(), "node-1.acme.internal");
/// # Ok::<(), rescind::wire::WireError>(())
/// ```
#[derive(Debug)]
pub struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The key: a secret.
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl TestAuthority {
    /// A new authority, with a key of its own.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new() -> Result<Self, WireError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "rescind test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().map_err(failed)?;
        let pem = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Its certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The credentials of a replica with this name.
    ///
    /// # Errors
    /// When the name is no DNS name.
    pub fn issue(&self, name: &str) -> Result<Credentials, WireError> {
        let Issued { certificate, key } = self.issue_pem(name)?;
        Credentials::from_pem(&certificate, &key, &self.pem)
    }

    /// The same in PEM, to be written into files.
    ///
    /// # Errors
    /// When the name is no DNS name.
    pub fn issue_pem(&self, name: &str) -> Result<Issued, WireError> {
        let mut params = CertificateParams::new([name.to_owned()]).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }
}

fn failed(error: rcgen::Error) -> WireError {
    WireError::Credentials { what: "the test authority".to_owned(), why: error.to_string() }
}
