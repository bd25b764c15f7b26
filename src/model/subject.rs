//! What a revocation names.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest id, tenant or issuer in bytes. A revocation that names a longer one is refused, and a credential that
/// brings one is never [`Clear`](crate::Verdict::Clear).
pub const ID_BYTES_MAX: usize = 1024;

/// The sort of thing that a revocation names, from narrow to wide.
///
/// The names follow the complex-subject members of OpenID Shared Signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// One token: a `jti` (RFC 7519 section 4.1.7), an API-key id, or the hash of an opaque token.
    Token = 0,
    /// One session: a `sid` (OpenID Connect Back-Channel Logout 1.0).
    Session = 1,
    /// One refresh-token family or grant (RFC 9700 section 4.14).
    Family = 2,
    /// One person or account: a `sub` (RFC 7519 section 4.1.2).
    User = 3,
    /// One OAuth client: a `client_id` (RFC 9068 section 2.2).
    Client = 4,
    /// One device.
    Device = 5,
    /// The members of a group or the bearers of a role.
    Group = 6,
    /// Everyone in one tenant.
    Tenant = 7,
    /// Every credential there is, or every one of an issuer.
    Everyone = 8,
}

impl Kind {
    /// Every kind, from narrow to wide.
    pub const ALL: [Self; 9] = [
        Self::Token,
        Self::Session,
        Self::Family,
        Self::User,
        Self::Client,
        Self::Device,
        Self::Group,
        Self::Tenant,
        Self::Everyone,
    ];

    /// Whether the kind names one thing that dies once: it is denied outright, where wide kinds carry epochs and flags.
    #[must_use]
    pub const fn is_narrow(self) -> bool {
        matches!(self, Self::Token | Self::Session | Self::Family)
    }

    /// Whether the kind can be disabled and enabled.
    #[must_use]
    pub const fn can_be_disabled(self) -> bool {
        matches!(self, Self::User | Self::Client | Self::Device | Self::Tenant)
    }

    /// One bit per shape of this kind, at the shape's index.
    pub(crate) const fn shapes(self) -> u64 {
        0b1111 << (self as u32 * 4)
    }

    /// The name in lower case, as logs and the audit record spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Session => "session",
            Self::Family => "family",
            Self::User => "user",
            Self::Client => "client",
            Self::Device => "device",
            Self::Group => "group",
            Self::Tenant => "tenant",
            Self::Everyone => "everyone",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kind of a subject and which scopes it names: nine kinds by {tenant or not} by {issuer or not}.
///
/// A denylist keeps a mask of the shapes in use, so that a credential pays only for shapes that somebody revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// The kind.
    pub kind: Kind,
    /// Whether the subject names a tenant.
    pub in_tenant: bool,
    /// Whether the subject names an issuer.
    pub at_issuer: bool,
}

impl Shape {
    /// How many shapes there are.
    pub(crate) const COUNT: usize = Kind::ALL.len() * 4;

    /// A number below [`Shape::COUNT`].
    pub(crate) const fn index(self) -> usize {
        self.kind as usize * 4 + self.in_tenant as usize + self.at_issuer as usize * 2
    }

    /// The indices of all shapes that name a tenant, and of those that name an issuer.
    pub(crate) const IN_TENANT: u64 = 0xa_aaaa_aaaa;
    pub(crate) const AT_ISSUER: u64 = 0xc_cccc_cccc;
    /// The indices of all shapes of the kinds of which a credential names one at most, by a text as a rule.
    pub(crate) const NAMED_BY_ONE_TEXT: u64 = 0xf0ff_ffff;
    /// Those of them that name neither tenant nor issuer.
    pub(crate) const PLAIN: u64 = Self::NAMED_BY_ONE_TEXT & !(Self::IN_TENANT | Self::AT_ISSUER);

    /// Those of wide kinds that name neither tenant nor issuer.
    pub(crate) const PLAIN_AND_WIDE: u64 = 0x1_1111_1000;

    /// The shape with an index.
    pub(crate) fn from_index(index: usize) -> Option<Self> {
        Kind::ALL.get(index / 4).map(|kind| Self::of(*kind, index & 0b11))
    }

    /// The shape of a kind in one of the four scopes: none, tenant, issuer, both.
    #[inline]
    pub(crate) const fn of(kind: Kind, scope: usize) -> Self {
        Self { kind, in_tenant: scope & 1 != 0, at_issuer: scope & 2 != 0 }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if self.in_tenant {
            f.write_str(" in tenant")?;
        }
        if self.at_issuer {
            f.write_str(" at issuer")?;
        }
        Ok(())
    }
}

/// What a revocation names: a kind, an id, and optionally a tenant and an issuer.
///
/// A subject without a tenant binds in every tenant, one without an issuer under every issuer.
///
/// ```
/// use rescind::Subject;
///
/// let token = Subject::token("jti-1").at_issuer("https://id.example");
/// let alice = Subject::user("alice").in_tenant("acme");
/// assert_eq!(format!("{alice:?}"), r#"Subject(user "alice" in tenant "acme")"#);
/// assert_eq!(format!("{:?}", Subject::token("secret")), "Subject(token <redacted>)");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    pub(crate) kind: Kind,
    pub(crate) id: Id,
    pub(crate) tenant: Option<Box<str>>,
    pub(crate) issuer: Option<Box<str>>,
}

/// The id within its kind.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Id {
    Name(Box<str>),
    /// An opaque bearer secret, as its hash: the secret itself is never kept.
    Opaque(OpaqueId),
}

/// The BLAKE3 hash of an opaque bearer secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct OpaqueId([u8; 32]);

impl OpaqueId {
    pub(crate) fn of(secret: &str) -> Self {
        Self(blake3::derive_key("rescind 2026-11 opaque token", secret.as_bytes()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Subject {
    fn new(kind: Kind, id: Id) -> Self {
        Self { kind, id, tenant: None, issuer: None }
    }

    fn named(kind: Kind, id: impl Into<String>) -> Self {
        Self::new(kind, Id::Name(id.into().into_boxed_str()))
    }

    /// One token by its id: a `jti`, or an API-key id. For a token that *is* a secret use [`Subject::opaque_token`].
    #[must_use]
    pub fn token(jti: impl Into<String>) -> Self {
        Self::named(Kind::Token, jti)
    }

    /// One opaque token (a reference token, an API key) by the secret itself, which is hashed at once and not kept.
    ///
    /// It is never the same subject as [`Subject::token`] of the same text.
    #[must_use]
    pub fn opaque_token(secret: &str) -> Self {
        // An empty secret becomes an empty name, so that validation names the mistake.
        if secret.is_empty() {
            return Self::token("");
        }
        Self::new(Kind::Token, Id::Opaque(OpaqueId::of(secret)))
    }

    /// One session by its `sid`.
    #[must_use]
    pub fn session(sid: impl Into<String>) -> Self {
        Self::named(Kind::Session, sid)
    }

    /// One refresh-token family, or grant.
    #[must_use]
    pub fn family(id: impl Into<String>) -> Self {
        Self::named(Kind::Family, id)
    }

    /// One user by the `sub`.
    #[must_use]
    pub fn user(sub: impl Into<String>) -> Self {
        Self::named(Kind::User, sub)
    }

    /// One OAuth client by the `client_id`.
    #[must_use]
    pub fn client(client_id: impl Into<String>) -> Self {
        Self::named(Kind::Client, client_id)
    }

    /// One device.
    #[must_use]
    pub fn device(id: impl Into<String>) -> Self {
        Self::named(Kind::Device, id)
    }

    /// The members of one group, or the bearers of one role.
    #[must_use]
    pub fn group(id: impl Into<String>) -> Self {
        Self::named(Kind::Group, id)
    }

    /// Everyone in one tenant.
    #[must_use]
    pub fn tenant(tenant: impl Into<String>) -> Self {
        Self::named(Kind::Tenant, tenant)
    }

    /// Every credential there is; with [`Subject::at_issuer`], every credential of that issuer.
    #[must_use]
    pub fn everyone() -> Self {
        Self::named(Kind::Everyone, "")
    }

    /// The same subject inside one tenant only.
    #[must_use]
    pub fn in_tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into().into_boxed_str());
        self
    }

    /// The same subject under one issuer only (`iss`, RFC 7519 section 4.1.1).
    #[must_use]
    pub fn at_issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into().into_boxed_str());
        self
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The tenant this subject is limited to, or is.
    #[must_use]
    pub fn tenant_name(&self) -> Option<&str> {
        match (&self.tenant, self.kind, &self.id) {
            (Some(tenant), _, _) => Some(tenant),
            (None, Kind::Tenant, Id::Name(name)) => Some(name),
            _ => None,
        }
    }

    /// The issuer this subject is limited to.
    #[must_use]
    pub fn issuer_name(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// The subject that has another id of the same sort, and is the same otherwise.
    pub(crate) fn renamed(mut self, id: &str) -> Self {
        self.id = match self.id {
            Id::Name(_) => Id::Name(id.into()),
            Id::Opaque(_) => Id::Opaque(OpaqueId::of(id)),
        };
        self
    }

    /// The name of a wide subject. Ids of tokens, sessions and families may be secrets and are not given out.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        match &self.id {
            Id::Name(name) if !self.kind.is_narrow() && self.kind != Kind::Everyone => Some(name),
            _ => None,
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape { kind: self.kind, in_tenant: self.tenant.is_some(), at_issuer: self.issuer.is_some() }
    }

    /// Checks everything that can be wrong with a subject.
    pub(crate) fn validate(&self) -> Result<(), InvalidSubject> {
        if let Id::Name(name) = &self.id {
            match self.kind {
                Kind::Everyone => {}
                kind => validate_part(kind.as_str(), name)?,
            }
        }
        if let Some(tenant) = &self.tenant {
            if matches!(self.kind, Kind::Tenant | Kind::Everyone) {
                return Err(InvalidSubject::TenantOfTenant { kind: self.kind });
            }
            validate_part("tenant", tenant)?;
        }
        if let Some(issuer) = &self.issuer {
            validate_part("issuer", issuer)?;
        }
        Ok(())
    }
}

fn validate_part(part: &'static str, text: &str) -> Result<(), InvalidSubject> {
    match text.len() {
        0 => Err(InvalidSubject::Empty { part }),
        1..=ID_BYTES_MAX => Ok(()),
        bytes => Err(InvalidSubject::TooLong { part, bytes }),
    }
}

/// Why a subject cannot be revoked. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSubject {
    /// An id, tenant or issuer is the empty string.
    #[error("the {part} is empty: name one, or leave it out of the subject")]
    Empty {
        /// Which part.
        part: &'static str,
    },
    /// An id, tenant or issuer is longer than [`ID_BYTES_MAX`].
    #[error("the {part} is {bytes} bytes long, the limit is {ID_BYTES_MAX}: revoke a hash of it instead")]
    TooLong {
        /// Which part.
        part: &'static str,
        /// Its length in bytes.
        bytes: usize,
    },
    /// `in_tenant` was called on a tenant or on everyone.
    #[error("{kind} cannot be inside a tenant: use Subject::tenant(name) for everyone in it")]
    TenantOfTenant {
        /// The kind.
        kind: Kind,
    },
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({}", self.kind)?;
        match self.label() {
            Some(label) => write!(f, " {label:?}")?,
            None if self.kind == Kind::Everyone => {}
            None => f.write_str(" <redacted>")?,
        }
        if let Some(tenant) = &self.tenant {
            write!(f, " in tenant {tenant:?}")?;
        }
        if let Some(issuer) = &self.issuer {
            write!(f, " at issuer {issuer:?}")?;
        }
        f.write_str(")")
    }
}

/// A subject inside a tenant that a [`TenantStore`](crate::TenantStore) supplies: it has no way to name one itself.
///
/// ```
/// # use rescind::{Store, Revocation, LocalSubject};
/// # let store = Store::in_memory();
/// let acme = store.tenant("acme")?;
/// acme.revoke(Revocation::of(LocalSubject::user("alice")))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalSubject(Subject);

impl LocalSubject {
    /// One token by its id; see [`Subject::token`].
    #[must_use]
    pub fn token(jti: impl Into<String>) -> Self {
        Self(Subject::token(jti))
    }

    /// One opaque token by the secret itself; see [`Subject::opaque_token`].
    #[must_use]
    pub fn opaque_token(secret: &str) -> Self {
        Self(Subject::opaque_token(secret))
    }

    /// One session by its `sid`.
    #[must_use]
    pub fn session(sid: impl Into<String>) -> Self {
        Self(Subject::session(sid))
    }

    /// One refresh-token family, or grant.
    #[must_use]
    pub fn family(id: impl Into<String>) -> Self {
        Self(Subject::family(id))
    }

    /// One user by the `sub`.
    #[must_use]
    pub fn user(sub: impl Into<String>) -> Self {
        Self(Subject::user(sub))
    }

    /// One OAuth client by the `client_id`.
    #[must_use]
    pub fn client(client_id: impl Into<String>) -> Self {
        Self(Subject::client(client_id))
    }

    /// One device.
    #[must_use]
    pub fn device(id: impl Into<String>) -> Self {
        Self(Subject::device(id))
    }

    /// The members of one group, or the bearers of one role.
    #[must_use]
    pub fn group(id: impl Into<String>) -> Self {
        Self(Subject::group(id))
    }

    /// Everyone in the tenant.
    #[must_use]
    pub fn everyone() -> Self {
        Self(Subject::everyone())
    }

    /// The same subject under one issuer only.
    #[must_use]
    pub fn at_issuer(self, issuer: impl Into<String>) -> Self {
        Self(self.0.at_issuer(issuer))
    }

    /// The subject that this is in `tenant`.
    pub(crate) fn within(self, tenant: &str) -> Subject {
        let Self(mut subject) = self;
        if subject.kind == Kind::Everyone {
            subject.kind = Kind::Tenant;
            subject.id = Id::Name(tenant.into());
        } else {
            subject.tenant = Some(tenant.into());
        }
        subject
    }
}
