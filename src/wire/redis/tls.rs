//! TLS to a server: which authorities are trusted, and who one is.
//!
//! The cryptography is named here, and nothing is left to what the process has installed as its default: that may be nothing,
//! and `rustls` panics then, or where two are linked in.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::wire::WireError;

/// How to speak TLS to a server.
pub(super) struct Connector {
    pub(super) config: Arc<ClientConfig>,
    pub(super) server: ServerName<'static>,
}

/// Roots, and a chain with its key, are in PEM.
pub(super) fn connector(
    host: &str,
    roots: Option<&[u8]>,
    client: Option<(&[u8], &[u8])>,
) -> Result<Connector, WireError> {
    let server = ServerName::try_from(host.to_owned())
        .map_err(|_| WireError::Options("the host in the URL is neither a name nor an address".to_owned()))?;
    let roots = match roots {
        Some(pem) => named(pem)?,
        None => of_system()?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused("TLS", error))?
        .with_root_certificates(roots);
    let config = match client {
        None => config.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = certificates("client_certificate", chain)?;
            let key =
                PrivateKeyDer::from_pem_slice(key).map_err(|error| refused("key of client_certificate", error))?;
            config.with_client_auth_cert(chain, key).map_err(|error| refused("client_certificate", error))?
        }
    };
    Ok(Connector { config: Arc::new(config), server })
}

fn refused(what: &str, why: impl ToString) -> WireError {
    WireError::Credentials { what: what.to_owned(), why: why.to_string() }
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, WireError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| refused(what, error))?;
    if found.is_empty() {
        return Err(refused(what, "no certificate in it: it is expected in PEM"));
    }
    Ok(found)
}

fn named(pem: &[u8]) -> Result<RootCertStore, WireError> {
    const WHAT: &str = "root_certificates";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(WHAT, pem)? {
        roots.add(certificate).map_err(|error| refused(WHAT, error))?;
    }
    Ok(roots)
}

/// Those of the system that can be read: one that cannot is trusted by nobody.
fn of_system() -> Result<RootCertStore, WireError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(refused("authorities of the system", "there are none: name some by Redis::root_certificates"));
    }
    Ok(roots)
}
