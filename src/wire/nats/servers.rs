//! Where the broker is, and who we are there.

use std::fmt;
use std::sync::Arc;

use async_nats::rustls::crypto::ring;
use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::rustls::{ClientConfig, RootCertStore};
use async_nats::{ConnectOptions, ServerAddr};

use super::super::WireError;

/// Where the broker is.
#[derive(Debug)]
pub(super) struct Servers {
    /// Without what stood before the host.
    pub(super) addresses: Vec<ServerAddr>,
    pub(super) login: Option<Login>,
}

/// Who we are there.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    User(String, String),
    Token(String),
    Credentials(String),
    Nkey(String),
}

impl Servers {
    /// Errors do not repeat what was given: it may hold a password.
    pub(super) fn parse(urls: &str) -> Result<Self, WireError> {
        let mut logins = Vec::new();
        let mut addresses = Vec::new();
        for (index, url) in urls.split(',').enumerate() {
            let refuse = |why: &str| {
                WireError::Options(format!(
                    "URL {} of NATS {why}: write nats://host:4222 or tls://host:4222",
                    index + 1
                ))
            };
            let parsed: ServerAddr = url.trim().parse().map_err(|_| refuse("cannot be read"))?;
            if !matches!(parsed.scheme(), "nats" | "tls") {
                return Err(refuse("has another scheme"));
            }
            let host = parsed.host();
            if host.is_empty() {
                return Err(refuse("names no host"));
            }
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            let bare = format!("{}://{host}:{}", parsed.scheme(), parsed.port());
            addresses.push(bare.parse().map_err(|_| refuse("cannot be read"))?);
            let login = parsed.username().map(|user| match parsed.password() {
                Some(password) => Login::User(decoded(user), decoded(password)),
                None => Login::Token(decoded(user)),
            });
            logins.push(login);
        }
        logins.dedup();
        match <[Option<Login>; 1]>::try_from(logins) {
            Ok([login]) => Ok(Self { addresses, login }),
            Err(_) => Err(WireError::Options(
                "the URLs of NATS name different users: name the same in all, or use user_and_password".into(),
            )),
        }
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.addresses.iter().map(|address| {
            let host = address.host();
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            format!("{}://{host}:{}", address.scheme(), address.port())
        });
        f.write_str(&told.collect::<Vec<_>>().join(","))
    }
}

impl Login {
    pub(super) fn add_to(self, options: ConnectOptions) -> Result<ConnectOptions, WireError> {
        Ok(match self {
            Self::User(user, password) => options.user_and_password(user, password),
            Self::Token(token) => options.token(token),
            Self::Credentials(text) => options.credentials(&text).map_err(|error| WireError::Credentials {
                what: "the credentials for NATS".into(),
                why: format!("{error}; they are the text of a credentials file, not its path"),
            })?,
            Self::Nkey(seed) if !seed.starts_with("SU") => {
                return Err(WireError::Credentials {
                    what: "the nkey for NATS".into(),
                    why: "it is not the seed of a user, which begins with SU".into(),
                });
            }
            Self::Nkey(seed) => options.nkey(seed),
        })
    }

    /// What may be told of it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::User(..) => "user and password",
            Self::Token(_) => "token",
            Self::Credentials(_) => "credentials",
            Self::Nkey(_) => "nkey",
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// Takes out what a URL has to write as `%xx`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How TLS is spoken, if the server wants it. It names its cryptography itself: the client would take that of the process,
/// and there is none where a program links two.
pub(super) fn tls(roots: Option<&str>, own: Option<&(String, String)>) -> Result<ClientConfig, WireError> {
    let unusable = |what: &str, why: String| WireError::Credentials { what: what.to_owned(), why };
    let mut trusted = RootCertStore::empty();
    match roots {
        Some(pem) => {
            for authority in certificates(pem).map_err(|why| unusable("the root certificates for NATS", why))? {
                trusted
                    .add(authority)
                    .map_err(|error| unusable("the root certificates for NATS", error.to_string()))?;
            }
        }
        // If there are none, the server will not be trusted, and that will be told.
        None => _ = trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs),
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("TLS for NATS", error.to_string()))?
        .with_root_certificates(trusted);
    let Some((certificate, key)) = own else { return Ok(config.with_no_client_auth()) };
    let chain = certificates(certificate).map_err(|why| unusable("the client certificate for NATS", why))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|error| unusable("the key of the client certificate for NATS", error.to_string()))?;
    config
        .with_client_auth_cert(chain, key)
        .map_err(|error| unusable("the client certificate for NATS", error.to_string()))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err("there is no certificate in it, in PEM".into()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(urls: &str) -> Option<Login> {
        Servers::parse(urls).unwrap().login
    }

    #[test]
    fn urls_name_servers_and_who_we_are() {
        let told = |urls: &str| Servers::parse(urls).unwrap().to_string();
        assert_eq!(told("nats://one"), "nats://one:4222");
        assert_eq!(told("one"), "nats://one:4222");
        assert_eq!(told("tls://one:1, nats://[::1]:2"), "tls://one:1,nats://[::1]:2");
        assert_eq!(login("nats://one"), None);
        let user = |user: &str, password: &str| Some(Login::User(user.into(), password.into()));
        assert_eq!(login("nats://user:word@one,tls://user:word@two"), user("user", "word"));
        assert_eq!(login("nats://us%65r:p%40ss%25@one"), user("user", "p@ss%"));
        assert_eq!(login("nats://secret@one"), Some(Login::Token("secret".into())));
    }

    #[test]
    fn urls_that_cannot_be_used_are_not_repeated() {
        let refused = [
            "",
            "nats://",
            "http://user:hunter2@one",
            "ws://user:hunter2@one",
            "nats://user:hunter2@one:port",
            "nats://user:hunter2@one,",
            "nats://user:hunter2@one,nats://two",
            "nats://user:hunter2@one,nats://user:hunter3@two",
        ];
        for urls in refused {
            let error = Servers::parse(urls).unwrap_err();
            assert!(matches!(error, WireError::Options(_)) && !error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_no_credential_is_refused() {
        let refused = [Login::Credentials("hunter2".into()), Login::Nkey("hunter2".into())];
        for login in refused {
            let error = login.add_to(ConnectOptions::new()).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(matches!(tls(Some("hunter2"), None), Err(WireError::Credentials { .. })));
        assert!(matches!(tls(None, Some(&("hunter2".into(), "hunter2".into()))), Err(WireError::Credentials { .. })));
        assert!(tls(None, None).is_ok());
    }
}
