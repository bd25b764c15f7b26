//! From verified claims to a credential.

use std::sync::Arc;

use crate::Credential;

/// Claims that have been verified: what a credential is made of.
///
/// ```
/// use rescind::Credential;
/// use rescind::service::{Claims, RegisteredClaims};
///
/// /// What the tokens of one issuer hold.
/// struct OurClaims {
///     registered: RegisteredClaims,
///     tenant: String,
///     groups: Vec<String>,
/// }
///
/// impl Claims for OurClaims {
///     fn credential(&self) -> Credential<'_> {
///         self.registered.credential().tenant(&*self.tenant).groups(&self.groups)
///     }
/// }
/// ```
pub trait Claims {
    /// The credential: every claim by which anything may be revoked. What is left out here cannot be revoked by.
    fn credential(&self) -> Credential<'_>;
}

impl<C: Claims + ?Sized> Claims for &C {
    fn credential(&self) -> Credential<'_> {
        (**self).credential()
    }
}

impl<C: Claims + ?Sized> Claims for Arc<C> {
    fn credential(&self) -> Credential<'_> {
        (**self).credential()
    }
}

#[cfg(feature = "jsonwebtoken")]
impl<C: Claims> Claims for jsonwebtoken::TokenData<C> {
    fn credential(&self) -> Credential<'_> {
        self.claims.credential()
    }
}

/// The claims that RFC 7519, RFC 9068 and OpenID Connect register, as far as something can be revoked by them. Others in the
/// token are passed over: to revoke by tenant, group, device or family, have claims of your own with this in them, by
/// `#[serde(flatten)]`.
///
/// Times are `NumericDate`s in seconds, with or without a fraction.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RegisteredClaims {
    /// The token's id: `jti`, RFC 7519 section 4.1.7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The user: `sub`, RFC 7519 section 4.1.2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The session: `sid`, OpenID Connect Front-Channel Logout 1.0 section 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// The issuer: `iss`, RFC 7519 section 4.1.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// The client: `client_id`, RFC 9068 section 2.2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// When it was issued: `iat`, RFC 7519 section 4.1.6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iat: Option<f64>,
    /// When the person authenticated: `auth_time`, OpenID Connect Core section 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<f64>,
    /// When it expires: `exp`, RFC 7519 section 4.1.4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<f64>,
}

impl Claims for RegisteredClaims {
    fn credential(&self) -> Credential<'_> {
        let mut credential = Credential::new();
        if let Some(jti) = &self.jti {
            credential = credential.token(&**jti);
        }
        if let Some(sub) = &self.sub {
            credential = credential.user(&**sub);
        }
        if let Some(sid) = &self.sid {
            credential = credential.session(&**sid);
        }
        if let Some(iss) = &self.iss {
            credential = credential.issuer(&**iss);
        }
        if let Some(client_id) = &self.client_id {
            credential = credential.client(&**client_id);
        }
        if let Some(iat) = self.iat {
            credential = credential.issued_at_secs(iat);
        }
        if let Some(auth_time) = self.auth_time {
            credential = credential.auth_time_secs(auth_time);
        }
        if let Some(exp) = self.exp {
            credential = credential.expires_at_secs(exp);
        }
        credential
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_registered_claim_is_one_of_the_credential() {
        let claims: RegisteredClaims = serde_json::from_str(
            r#"{"jti":"t","sub":"u","sid":"s","iss":"i","client_id":"c","iat":100.5,"auth_time":90,"exp":200,"aud":["x"]}"#,
        )
        .unwrap();
        let expected = Credential::new()
            .token("t")
            .user("u")
            .session("s")
            .issuer("i")
            .client("c")
            .issued_at_secs(100.5)
            .auth_time_secs(90)
            .expires_at_secs(200);
        assert_eq!(format!("{:?}", Arc::new(&claims).credential()), format!("{expected:?}"));
        let none: RegisteredClaims = serde_json::from_str("{}").unwrap();
        assert_eq!(format!("{:?}", none.credential()), format!("{:?}", Credential::new()));
        assert_eq!(serde_json::to_string(&none).unwrap(), "{}");
    }

    #[test]
    fn a_number_that_is_no_time_is_not_lost() {
        let store = crate::Store::in_memory();
        for (claim, expected) in
            [("iat", crate::Claim::IssuedAt), ("auth_time", crate::Claim::AuthTime), ("exp", crate::Claim::ExpiresAt)]
        {
            let claims: RegisteredClaims = serde_json::from_str(&format!(r#"{{"sub":"u","{claim}":-1}}"#)).unwrap();
            let verdict = store.check(&claims.credential());
            assert_eq!(verdict, crate::Verdict::Unknown(crate::Cause::MalformedClaim(expected)), "{claim}");
            let text = format!(r#"{{"sub":"u","{claim}":"soon"}}"#);
            assert!(serde_json::from_str::<RegisteredClaims>(&text).is_err(), "{claim}");
        }
    }
}
