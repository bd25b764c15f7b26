//! The keys of whoever issues tokens, so that what the examples verify is really signed.

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A key pair, made for this run. A real service has only the public key of its issuer, and reads that from a JWKS, say.
pub(crate) struct Issuer {
    private: EncodingKey,
    public: DecodingKey,
}

impl Issuer {
    pub(crate) fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let pair = SigningKey::from_bytes(&seed);
        Ok(Self {
            private: EncodingKey::from_ed_der(pair.to_pkcs8_der()?.as_bytes()),
            public: DecodingKey::from_ed_der(pair.verifying_key().as_bytes()),
        })
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &impl Serialize) -> jsonwebtoken::errors::Result<String> {
        encode(&Header::new(Algorithm::EdDSA), claims, &self.private)
    }

    /// What a token says, if it was signed here and has not expired.
    pub(crate) fn verify<C: DeserializeOwned + Clone>(
        &self,
        token: &str,
    ) -> jsonwebtoken::errors::Result<jsonwebtoken::TokenData<C>> {
        decode(token, &self.public, &Validation::new(Algorithm::EdDSA))
    }
}
