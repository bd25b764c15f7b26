//! What a verified request presents.

use std::borrow::Cow;
use std::fmt;

use super::identity::IdRef;
use super::subject::{ID_BYTES_MAX, Kind, OpaqueId};
use super::time::{NumericDate, TimeClaim, Timestamp};

/// A claim that a credential can bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Claim {
    /// The token id.
    Token,
    /// The session id.
    Session,
    /// The refresh-token family.
    Family,
    /// The user.
    User,
    /// The OAuth client.
    Client,
    /// The device.
    Device,
    /// A group.
    Group,
    /// The tenant.
    Tenant,
    /// The issuer.
    Issuer,
    /// `iat`, RFC 7519 section 4.1.6.
    IssuedAt,
    /// `auth_time`, OpenID Connect Core section 2.
    AuthTime,
    /// When the session began.
    SessionStart,
    /// `exp`, RFC 7519 section 4.1.4.
    ExpiresAt,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "token",
            Self::Session => "session",
            Self::Family => "family",
            Self::User => "user",
            Self::Client => "client",
            Self::Device => "device",
            Self::Group => "group",
            Self::Tenant => "tenant",
            Self::Issuer => "issuer",
            Self::IssuedAt => "iat",
            Self::AuthTime => "auth_time",
            Self::SessionStart => "session start",
            Self::ExpiresAt => "exp",
        })
    }
}

/// What a *verified* request presents: any subset of the claims below.
///
/// rescind never parses a token: fill this from claims whose signature, issuer and audience have been checked. It
/// borrows what it can; building and checking it allocates nothing when it is given `&str`s.
///
/// ```
/// use rescind::Credential;
///
/// let groups = vec!["contractors".to_owned()];
/// let credential = Credential::new()
///     .issuer("https://id.example")
///     .tenant("acme")
///     .user("alice")
///     .session("s1")
///     .token("jti-1")
///     .groups(&groups)
///     .issued_at_secs(1_700_000_000)
///     .auth_time_secs(1_699_999_000)
///     .expires_at_secs(1_700_000_900);
/// assert!(format!("{credential:?}").contains("token: <redacted>"));
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Credential<'a> {
    pub(crate) token: Option<TokenId<'a>>,
    pub(crate) session: Option<Cow<'a, str>>,
    pub(crate) family: Option<Cow<'a, str>>,
    pub(crate) user: Option<Cow<'a, str>>,
    pub(crate) client: Option<Cow<'a, str>>,
    pub(crate) device: Option<Cow<'a, str>>,
    pub(crate) groups: Groups<'a>,
    pub(crate) tenant: Option<Cow<'a, str>>,
    pub(crate) issuer: Option<Cow<'a, str>>,
    pub(crate) issued_at: TimeClaim,
    pub(crate) auth_time: TimeClaim,
    pub(crate) session_start: TimeClaim,
    pub(crate) expires_at: TimeClaim,
}

#[derive(Clone)]
pub(crate) enum TokenId<'a> {
    Name(Cow<'a, str>),
    Opaque(OpaqueId),
}

/// The groups or roles of a credential: any slice of `&str` or `String`.
#[derive(Clone, Copy, Default)]
pub struct Groups<'a>(GroupsKind<'a>);

#[derive(Clone, Copy, Default)]
enum GroupsKind<'a> {
    #[default]
    None,
    Borrowed(&'a [&'a str]),
    Owned(&'a [String]),
}

impl<'a> Groups<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        match self.0 {
            GroupsKind::None => 0,
            GroupsKind::Borrowed(groups) => groups.len(),
            GroupsKind::Owned(groups) => groups.len(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let groups = self.0;
        (0..self.len()).filter_map(move |index| match groups {
            GroupsKind::None => None,
            GroupsKind::Borrowed(groups) => groups.get(index).copied(),
            GroupsKind::Owned(groups) => groups.get(index).map(String::as_str),
        })
    }
}

impl<'a> From<&'a [&'a str]> for Groups<'a> {
    fn from(groups: &'a [&'a str]) -> Self {
        Self(GroupsKind::Borrowed(groups))
    }
}

impl<'a, const N: usize> From<&'a [&'a str; N]> for Groups<'a> {
    fn from(groups: &'a [&'a str; N]) -> Self {
        Self(GroupsKind::Borrowed(groups))
    }
}

impl<'a> From<&'a Vec<&'a str>> for Groups<'a> {
    fn from(groups: &'a Vec<&'a str>) -> Self {
        Self(GroupsKind::Borrowed(groups))
    }
}

impl<'a> From<&'a [String]> for Groups<'a> {
    fn from(groups: &'a [String]) -> Self {
        Self(GroupsKind::Owned(groups))
    }
}

impl<'a> From<&'a Vec<String>> for Groups<'a> {
    fn from(groups: &'a Vec<String>) -> Self {
        Self(GroupsKind::Owned(groups))
    }
}

impl<'a> Credential<'a> {
    /// A credential without claims.
    pub fn new() -> Self {
        Self::default()
    }

    /// The token by its id: a `jti` (RFC 7519 section 4.1.7), or an API-key id.
    pub fn token(mut self, jti: impl Into<Cow<'a, str>>) -> Self {
        self.token = Some(TokenId::Name(jti.into()));
        self
    }

    /// An opaque token by the secret itself, which is hashed at once and not kept; see
    /// [`Subject::opaque_token`](crate::Subject::opaque_token).
    pub fn opaque_token(mut self, secret: &str) -> Self {
        self.token = Some(match secret {
            "" => TokenId::Name(Cow::Borrowed("")),
            secret => TokenId::Opaque(OpaqueId::of(secret)),
        });
        self
    }

    /// The session: a `sid` (OpenID Connect Back-Channel Logout 1.0).
    pub fn session(mut self, sid: impl Into<Cow<'a, str>>) -> Self {
        self.session = Some(sid.into());
        self
    }

    /// The refresh-token family, or grant.
    pub fn family(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.family = Some(id.into());
        self
    }

    /// The user: a `sub` (RFC 7519 section 4.1.2).
    pub fn user(mut self, sub: impl Into<Cow<'a, str>>) -> Self {
        self.user = Some(sub.into());
        self
    }

    /// The OAuth client: a `client_id` (RFC 9068 section 2.2).
    pub fn client(mut self, client_id: impl Into<Cow<'a, str>>) -> Self {
        self.client = Some(client_id.into());
        self
    }

    /// The device.
    pub fn device(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.device = Some(id.into());
        self
    }

    /// The groups and roles: `&["a", "b"]`, `&Vec<String>` and the like.
    pub fn groups(mut self, groups: impl Into<Groups<'a>>) -> Self {
        self.groups = groups.into();
        self
    }

    /// The tenant.
    pub fn tenant(mut self, tenant: impl Into<Cow<'a, str>>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// The issuer: an `iss` (RFC 7519 section 4.1.1).
    pub fn issuer(mut self, issuer: impl Into<Cow<'a, str>>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// When it was issued: `iat` (RFC 7519 section 4.1.6), as a time.
    pub fn issued_at(self, time: impl Into<Timestamp>) -> Self {
        self.issued_at_secs(time.into())
    }

    /// When it was issued: `iat`, as a `NumericDate` in seconds.
    pub fn issued_at_secs(mut self, secs: impl Into<NumericDate>) -> Self {
        self.issued_at = secs.into().0;
        self
    }

    /// When the person last authenticated: `auth_time` (OpenID Connect Core section 2), as a time.
    pub fn auth_time(self, time: impl Into<Timestamp>) -> Self {
        self.auth_time_secs(time.into())
    }

    /// When the person last authenticated: `auth_time`, as a `NumericDate` in seconds.
    pub fn auth_time_secs(mut self, secs: impl Into<NumericDate>) -> Self {
        self.auth_time = secs.into().0;
        self
    }

    /// When the session began, for issuers that send no `auth_time`.
    pub fn session_started_at(self, time: impl Into<Timestamp>) -> Self {
        self.session_started_at_secs(time.into())
    }

    /// When the session began, as a `NumericDate` in seconds.
    pub fn session_started_at_secs(mut self, secs: impl Into<NumericDate>) -> Self {
        self.session_start = secs.into().0;
        self
    }

    /// When it expires: `exp` (RFC 7519 section 4.1.4), as a time.
    pub fn expires_at(self, time: impl Into<Timestamp>) -> Self {
        self.expires_at_secs(time.into())
    }

    /// When it expires: `exp`, as a `NumericDate` in seconds.
    pub fn expires_at_secs(mut self, secs: impl Into<NumericDate>) -> Self {
        self.expires_at = secs.into().0;
        self
    }

    /// The time that a re-authenticate epoch compares: `auth_time`, else session start, else `iat`.
    pub(crate) fn authenticated_at(&self) -> Option<Timestamp> {
        self.auth_time.time().or(self.session_start.time()).or(self.issued_at.time())
    }

    /// The id that the credential names of a kind; of `Group`, none: a credential names several.
    pub(crate) fn id_of(&self, kind: Kind) -> Option<IdRef<'_>> {
        match kind {
            Kind::Token => match &self.token {
                Some(TokenId::Name(name)) => Some(IdRef::Name(name)),
                Some(TokenId::Opaque(hash)) => Some(IdRef::Opaque(hash.as_bytes())),
                None => None,
            },
            Kind::Session => self.session.as_deref().map(IdRef::Name),
            Kind::Family => self.family.as_deref().map(IdRef::Name),
            Kind::User => self.user.as_deref().map(IdRef::Name),
            Kind::Client => self.client.as_deref().map(IdRef::Name),
            Kind::Device => self.device.as_deref().map(IdRef::Name),
            Kind::Group => None,
            Kind::Tenant => self.tenant.as_deref().map(IdRef::Name),
            Kind::Everyone => Some(IdRef::Name("")),
        }
    }

    /// Whether the credential brings a claim, well-formed or not.
    pub(crate) fn brings(&self, claim: Claim) -> bool {
        match claim {
            Claim::Token => self.token.is_some(),
            Claim::Session => self.session.is_some(),
            Claim::Family => self.family.is_some(),
            Claim::User => self.user.is_some(),
            Claim::Client => self.client.is_some(),
            Claim::Device => self.device.is_some(),
            Claim::Group => !self.groups.is_empty(),
            Claim::Tenant => self.tenant.is_some(),
            Claim::Issuer => self.issuer.is_some(),
            Claim::IssuedAt => self.issued_at != TimeClaim::Missing,
            Claim::AuthTime => self.auth_time != TimeClaim::Missing,
            Claim::SessionStart => self.session_start != TimeClaim::Missing,
            Claim::ExpiresAt => self.expires_at != TimeClaim::Missing,
        }
    }

    /// The first claim that no revocation could name: an empty or oversized text, a number that is no time.
    pub(crate) fn malformed_claim(&self) -> Option<Claim> {
        let texts = [
            (Claim::Session, &self.session),
            (Claim::Family, &self.family),
            (Claim::User, &self.user),
            (Claim::Client, &self.client),
            (Claim::Device, &self.device),
            (Claim::Tenant, &self.tenant),
            (Claim::Issuer, &self.issuer),
        ];
        let times = [
            (Claim::IssuedAt, self.issued_at),
            (Claim::AuthTime, self.auth_time),
            (Claim::SessionStart, self.session_start),
            (Claim::ExpiresAt, self.expires_at),
        ];
        if matches!(&self.token, Some(TokenId::Name(name)) if is_malformed(name)) {
            return Some(Claim::Token);
        }
        if self.groups.iter().any(is_malformed) {
            return Some(Claim::Group);
        }
        let text = texts.into_iter().find(|(_, text)| text.as_deref().is_some_and(is_malformed));
        let time = times.into_iter().find(|(_, time)| *time == TimeClaim::Malformed);
        text.map(|(claim, _)| claim).or(time.map(|(claim, _)| claim))
    }
}

fn is_malformed(text: &str) -> bool {
    text.is_empty() || text.len() > ID_BYTES_MAX
}

impl fmt::Debug for Groups<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Credential");
        for (name, present) in
            [("token", self.token.is_some()), ("session", self.session.is_some()), ("family", self.family.is_some())]
        {
            if present {
                out.field(name, &format_args!("<redacted>"));
            }
        }
        for (name, text) in [
            ("user", &self.user),
            ("client", &self.client),
            ("device", &self.device),
            ("tenant", &self.tenant),
            ("issuer", &self.issuer),
        ] {
            if let Some(text) = text {
                out.field(name, text);
            }
        }
        if !self.groups.is_empty() {
            out.field("groups", &self.groups);
        }
        for (name, time) in [
            ("iat", self.issued_at),
            ("auth_time", self.auth_time),
            ("session_start", self.session_start),
            ("exp", self.expires_at),
        ] {
            match time {
                TimeClaim::Missing => {}
                TimeClaim::Malformed => _ = out.field(name, &format_args!("<malformed>")),
                TimeClaim::At(time) => _ = out.field(name, &time),
            }
        }
        out.finish()
    }
}
