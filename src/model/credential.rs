//! What a verified request presents.

use std::borrow::Cow;
use std::fmt;

use super::identity::IdRef;
use super::subject::{ID_BYTES_MAX, Id, Kind, OpaqueId, Subject};
use super::time::{NumericDate, TimeClaim, Timestamp};

/// A claim that a credential can bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
#[repr(u8)]
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

impl Claim {
    /// Every claim, in the order of its number.
    const ALL: [Self; 13] = [
        Self::Token,
        Self::Session,
        Self::Family,
        Self::User,
        Self::Client,
        Self::Device,
        Self::Group,
        Self::Tenant,
        Self::Issuer,
        Self::IssuedAt,
        Self::AuthTime,
        Self::SessionStart,
        Self::ExpiresAt,
    ];

    /// Returns the name of the claim: that of the standard where it registers one for a time, the name of the kind of
    /// subject otherwise.
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
            Self::Issuer => "issuer",
            Self::IssuedAt => "iat",
            Self::AuthTime => "auth_time",
            Self::SessionStart => "session_start",
            Self::ExpiresAt => "exp",
        }
    }

    /// Returns the claims of which any one satisfies an epoch or an age that [requires](crate::Denial::requires) this claim,
    /// in order of precedence.
    ///
    /// A re-authenticate epoch requires `auth_time`, and compares the session start or `iat` where a credential has none. Any
    /// other claim is alone. [`Options::require_claim`](crate::Options::require_claim) always means the claim itself.
    ///
    /// ```
    /// use rescind::Claim;
    ///
    /// assert_eq!(Claim::AuthTime.any_of(), [Claim::AuthTime, Claim::SessionStart, Claim::IssuedAt]);
    /// assert_eq!(Claim::IssuedAt.any_of(), [Claim::IssuedAt]);
    /// ```
    #[must_use]
    pub const fn any_of(self) -> &'static [Self] {
        match self {
            Self::Token => &[Self::Token],
            Self::Session => &[Self::Session],
            Self::Family => &[Self::Family],
            Self::User => &[Self::User],
            Self::Client => &[Self::Client],
            Self::Device => &[Self::Device],
            Self::Group => &[Self::Group],
            Self::Tenant => &[Self::Tenant],
            Self::Issuer => &[Self::Issuer],
            Self::IssuedAt => &[Self::IssuedAt],
            Self::AuthTime => &[Self::AuthTime, Self::SessionStart, Self::IssuedAt],
            Self::SessionStart => &[Self::SessionStart],
            Self::ExpiresAt => &[Self::ExpiresAt],
        }
    }

    /// Returns [`any_of`](Self::any_of) for people: "auth_time, session_start or iat".
    pub(crate) fn alternatives(self) -> String {
        let names: Vec<&str> = self.any_of().iter().map(|claim| claim.as_str()).collect();
        match names.split_last() {
            Some((last, others @ [_, ..])) => format!("{} or {last}", others.join(", ")),
            _ => names.concat(),
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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
#[derive(Clone)]
#[must_use]
// In this order, so that what every check reads is together.
#[repr(C)]
pub struct Credential<'a> {
    /// Every shape that it can match: one bit each, at the shape's index.
    shapes: u64,
    /// What it brings, and what of that is malformed: kept up to date, so that a check asks with one instruction.
    present: Claims,
    malformed: Claims,
    /// No later than this are `iat`, `auth_time` and session start; no earlier is `exp`. Bounds, for a quick look: what
    /// they do not settle, the claims themselves do.
    latest: Timestamp,
    earliest_end: Timestamp,
    /// By the number of the kind. There is none of `Group` and `Everyone`, nor of an opaque token.
    ids: [Option<Cow<'a, str>>; IDS],
    /// The kinds that it names an id of: for each, the bit of the shape without tenant and issuer.
    kinds: u64,
    pub(crate) issued_at: TimeClaim,
    pub(crate) auth_time: TimeClaim,
    pub(crate) session_start: TimeClaim,
    pub(crate) expires_at: TimeClaim,
    pub(crate) issuer: Option<Cow<'a, str>>,
    pub(crate) groups: Groups<'a>,
    opaque: Option<OpaqueId>,
}

/// The kinds from `Token` to `Tenant`.
const IDS: usize = 8;
/// The bit of the shape of `Everyone`, whom every credential is one of.
const EVERYONE: u64 = 1 << (Kind::Everyone as u64 * 4);

impl Default for Credential<'_> {
    #[inline]
    fn default() -> Self {
        Self {
            shapes: EVERYONE,
            present: Claims::default(),
            malformed: Claims::default(),
            latest: Timestamp::MIN,
            earliest_end: Timestamp::MAX,
            ids: [None, None, None, None, None, None, None, None],
            kinds: EVERYONE,
            issued_at: TimeClaim::Missing,
            auth_time: TimeClaim::Missing,
            session_start: TimeClaim::Missing,
            expires_at: TimeClaim::Missing,
            issuer: None,
            groups: Groups::default(),
            opaque: None,
        }
    }
}

/// A set of claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claims(u16);

impl Claims {
    const TIMES: Self = Self(
        1 << Claim::IssuedAt as u16
            | 1 << Claim::AuthTime as u16
            | 1 << Claim::SessionStart as u16
            | 1 << Claim::ExpiresAt as u16,
    );

    pub(crate) fn insert(&mut self, claim: Claim) {
        self.0 |= 1 << claim as u16;
    }

    fn set(&mut self, claim: Claim, is_in: bool) {
        self.0 = self.0 & !(1 << claim as u16) | u16::from(is_in) << claim as u16;
    }

    /// The claims of this set that the other lacks.
    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The first claim of the set.
    pub(crate) fn first(self) -> Option<Claim> {
        Claim::ALL.get(self.0.trailing_zeros() as usize).copied()
    }
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

/// A credential that borrows nothing.
#[derive(Debug)]
pub(crate) struct OwnedCredential {
    credential: Credential<'static>,
    groups: Vec<String>,
}

impl OwnedCredential {
    pub(crate) fn of(credential: &Credential<'_>) -> Self {
        let groups = credential.groups.iter().map(str::to_owned).collect();
        Self { credential: credential.rebuilt(|text| Cow::Owned(text.to_owned()), Groups::default()), groups }
    }

    pub(crate) fn borrowed(&self) -> Credential<'_> {
        self.credential.rebuilt(Cow::Borrowed, Groups::from(&self.groups))
    }
}

impl Credential<'_> {
    /// The same credential, with texts that are kept in another way.
    fn rebuilt<'b, 's>(&'s self, text: impl Fn(&'s str) -> Cow<'b, str>, groups: Groups<'b>) -> Credential<'b> {
        let text = |kept: &'s Option<Cow<'_, str>>| kept.as_deref().map(&text);
        Credential {
            shapes: self.shapes,
            present: self.present,
            malformed: self.malformed,
            latest: self.latest,
            earliest_end: self.earliest_end,
            ids: self.ids.each_ref().map(text),
            kinds: self.kinds,
            issued_at: self.issued_at,
            auth_time: self.auth_time,
            session_start: self.session_start,
            expires_at: self.expires_at,
            issuer: text(&self.issuer),
            groups,
            opaque: self.opaque,
        }
    }
}

impl<'a> Credential<'a> {
    /// A credential without claims.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// The token by its id: a `jti` (RFC 7519 section 4.1.7), or an API-key id.
    #[inline]
    pub fn token(mut self, jti: impl Into<Cow<'a, str>>) -> Self {
        self.opaque = None;
        self.name(Kind::Token, Claim::Token, jti.into());
        self
    }

    /// An opaque token by the secret itself, which is hashed at once and not kept; see
    /// [`Subject::opaque_token`](crate::Subject::opaque_token).
    pub fn opaque_token(self, secret: &str) -> Self {
        // An empty secret is malformed, as an empty id is; a long one is not.
        let mut out = self.token(if secret.is_empty() { "" } else { "opaque" });
        if !secret.is_empty() {
            out.opaque = Some(OpaqueId::of(secret));
            let [token, ..] = &mut out.ids;
            *token = None;
        }
        out
    }

    /// The session: a `sid` (OpenID Connect Back-Channel Logout 1.0).
    #[inline]
    pub fn session(mut self, sid: impl Into<Cow<'a, str>>) -> Self {
        self.name(Kind::Session, Claim::Session, sid.into());
        self
    }

    /// The refresh-token family, or grant.
    #[inline]
    pub fn family(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.name(Kind::Family, Claim::Family, id.into());
        self
    }

    /// The user: a `sub` (RFC 7519 section 4.1.2).
    #[inline]
    pub fn user(mut self, sub: impl Into<Cow<'a, str>>) -> Self {
        self.name(Kind::User, Claim::User, sub.into());
        self
    }

    /// The OAuth client: a `client_id` (RFC 9068 section 2.2).
    #[inline]
    pub fn client(mut self, client_id: impl Into<Cow<'a, str>>) -> Self {
        self.name(Kind::Client, Claim::Client, client_id.into());
        self
    }

    /// The device.
    #[inline]
    pub fn device(mut self, id: impl Into<Cow<'a, str>>) -> Self {
        self.name(Kind::Device, Claim::Device, id.into());
        self
    }

    /// The groups and roles: `&["a", "b"]`, `&Vec<String>` and the like.
    pub fn groups(mut self, groups: impl Into<Groups<'a>>) -> Self {
        self.groups = groups.into();
        self.malformed.set(Claim::Group, self.groups.iter().any(is_malformed));
        let is_member = !self.groups.is_empty();
        self.present.set(Claim::Group, is_member);
        self.kinds &= !Kind::Group.shapes();
        if is_member {
            self.kinds |= 1 << (Kind::Group as u64 * 4);
        }
        self.reshape();
        self
    }

    /// The tenant.
    #[inline]
    pub fn tenant(mut self, tenant: impl Into<Cow<'a, str>>) -> Self {
        self.name(Kind::Tenant, Claim::Tenant, tenant.into());
        self
    }

    /// The issuer: an `iss` (RFC 7519 section 4.1.1).
    #[inline]
    pub fn issuer(mut self, issuer: impl Into<Cow<'a, str>>) -> Self {
        let issuer = issuer.into();
        self.note(Claim::Issuer, is_malformed(&issuer));
        self.issuer = Some(issuer);
        self.reshape();
        self
    }

    /// When it was issued: `iat` (RFC 7519 section 4.1.6), as a time.
    #[inline]
    pub fn issued_at(self, time: impl Into<Timestamp>) -> Self {
        self.issued_at_secs(time.into())
    }

    /// When it was issued: `iat`, as a `NumericDate` in seconds.
    #[inline]
    pub fn issued_at_secs(mut self, secs: impl Into<NumericDate>) -> Self {
        self.issued_at = secs.into().0;
        self.latest = self.latest.max(self.issued_at.time().unwrap_or_default());
        self.note(Claim::IssuedAt, self.issued_at == TimeClaim::Malformed);
        self
    }

    /// When the person last authenticated: `auth_time` (OpenID Connect Core section 2), as a time.
    #[inline]
    pub fn auth_time(self, time: impl Into<Timestamp>) -> Self {
        self.auth_time_secs(time.into())
    }

    /// When the person last authenticated: `auth_time`, as a `NumericDate` in seconds.
    #[inline]
    pub fn auth_time_secs(mut self, secs: impl Into<NumericDate>) -> Self {
        self.auth_time = secs.into().0;
        self.latest = self.latest.max(self.auth_time.time().unwrap_or_default());
        self.note(Claim::AuthTime, self.auth_time == TimeClaim::Malformed);
        self
    }

    /// When the session began, for issuers that send no `auth_time`.
    #[inline]
    pub fn session_started_at(self, time: impl Into<Timestamp>) -> Self {
        self.session_started_at_secs(time.into())
    }

    /// When the session began, as a `NumericDate` in seconds.
    #[inline]
    pub fn session_started_at_secs(mut self, secs: impl Into<NumericDate>) -> Self {
        self.session_start = secs.into().0;
        self.latest = self.latest.max(self.session_start.time().unwrap_or_default());
        self.note(Claim::SessionStart, self.session_start == TimeClaim::Malformed);
        self
    }

    /// When it expires: `exp` (RFC 7519 section 4.1.4), as a time.
    #[inline]
    pub fn expires_at(self, time: impl Into<Timestamp>) -> Self {
        self.expires_at_secs(time.into())
    }

    /// When it expires: `exp`, as a `NumericDate` in seconds.
    #[inline]
    pub fn expires_at_secs(mut self, secs: impl Into<NumericDate>) -> Self {
        self.expires_at = secs.into().0;
        self.earliest_end = self.earliest_end.min(self.expires_at.time().unwrap_or(Timestamp::MAX));
        self.note(Claim::ExpiresAt, self.expires_at == TimeClaim::Malformed);
        self
    }

    /// No later than this are `iat`, `auth_time` and session start.
    #[inline]
    pub(crate) const fn latest(&self) -> Timestamp {
        self.latest
    }

    /// No earlier than this is `exp`.
    #[inline]
    pub(crate) const fn earliest_end(&self) -> Timestamp {
        self.earliest_end
    }

    /// The time that a re-authenticate epoch compares: `auth_time`, else session start, else `iat`.
    pub(crate) fn authenticated_at(&self) -> Option<Timestamp> {
        self.auth_time.time().or(self.session_start.time()).or(self.issued_at.time())
    }

    /// The time from which age is counted: the earlier of the authentication and of `iat`; the beginning of time without
    /// `iat`, because a reissue epoch could not be compared, and so not be forgotten either.
    pub(crate) fn oldest_time(&self) -> Timestamp {
        match (self.authenticated_at(), self.issued_at.time()) {
            (Some(authenticated), Some(issued)) => authenticated.min(issued),
            (_, None) | (None, _) => Timestamp::MIN,
        }
    }

    /// The claim of which a re-authenticate epoch finds none that serves; none if it finds one.
    pub(crate) fn missing_authentication(&self) -> Option<Claim> {
        self.authenticated_at().is_none().then_some(Claim::AuthTime)
    }

    /// `iat`, if the credential has no valid one: a reissue epoch and an age require it.
    pub(crate) fn missing_issuance(&self) -> Option<Claim> {
        self.issued_at.time().is_none().then_some(Claim::IssuedAt)
    }

    /// The id that the credential names of a kind; of `Group`, none: a credential names several.
    pub(crate) fn id_of(&self, kind: Kind) -> Option<IdRef<'_>> {
        match kind {
            Kind::Token if self.opaque.is_some() => self.opaque.as_ref().map(|hash| IdRef::Opaque(hash.as_bytes())),
            Kind::Everyone => Some(IdRef::Name("")),
            kind => self.text_of(kind as usize).map(IdRef::Name),
        }
    }

    /// What the credential names of a narrow kind, in its own tenant and at its own issuer.
    pub(crate) fn narrow_subject(&self, kind: Kind) -> Option<Subject> {
        let id = match (kind, self.opaque) {
            (Kind::Token, Some(hash)) => Id::Opaque(hash),
            _ => Id::Name(self.text_of(kind as usize)?.into()),
        };
        let owned = |text: Option<&str>| text.map(Into::into);
        Some(Subject { kind, id, tenant: owned(self.tenant_name()), issuer: owned(self.issuer.as_deref()) })
    }

    /// The text that the credential names for a kind, given the kind's number, which is below that of `Everyone`: none of
    /// `Group` and of an opaque token.
    #[inline]
    pub(crate) fn text_of(&self, kind: usize) -> Option<&str> {
        self.ids.get(kind % IDS)?.as_deref()
    }

    /// Whether all that it names of the plain kinds are texts: no opaque token is among them.
    #[inline]
    pub(crate) const fn is_plain(&self) -> bool {
        self.opaque.is_none()
    }

    /// Whether it brings nothing malformed, and all of these claims.
    #[inline]
    pub(crate) const fn is_whole(&self, required: Claims) -> bool {
        self.malformed.0 | required.without(self.present).0 == 0
    }

    /// The tenant.
    #[inline]
    pub(crate) fn tenant_name(&self) -> Option<&str> {
        self.text_of(Kind::Tenant as usize)
    }

    #[inline]
    fn note(&mut self, claim: Claim, is_malformed: bool) {
        self.present.insert(claim);
        self.malformed.set(claim, is_malformed);
    }

    #[inline]
    fn name(&mut self, kind: Kind, claim: Claim, id: Cow<'a, str>) {
        self.note(claim, is_malformed(&id));
        if let Some(place) = self.ids.get_mut(kind as usize) {
            *place = Some(id);
        }
        self.kinds |= 1 << (kind as u64 * 4);
        self.reshape();
    }

    #[inline]
    fn reshape(&mut self) {
        let [.., tenant] = &self.ids;
        self.shapes = self.shapes_of(tenant.is_some(), self.kinds);
    }

    #[inline]
    const fn shapes_of(&self, in_tenant: bool, kinds: u64) -> u64 {
        // The scopes of a kind: none, tenant, issuer, both.
        let scopes: u64 = match (in_tenant, self.issuer.is_some()) {
            (false, false) => 0b0001,
            (true, false) => 0b0011,
            (false, true) => 0b0101,
            (true, true) => 0b1111,
        };
        kinds * scopes
    }

    /// Every shape that it can match: one bit each, at the shape's index.
    #[inline]
    pub(crate) const fn shapes(&self) -> u64 {
        self.shapes
    }

    /// The same, where a tenant is supplied from elsewhere.
    pub(crate) const fn shapes_in_tenant(&self) -> u64 {
        self.shapes_of(true, self.kinds | 1 << (Kind::Tenant as u64 * 4))
    }

    /// The claims that it brings, well-formed or not.
    pub(crate) const fn claims(&self) -> Claims {
        self.present
    }

    /// Whether it brings a time.
    pub(crate) const fn is_dated(&self) -> bool {
        self.present.0 & Claims::TIMES.0 != 0
    }

    /// The first claim that no revocation could name: an empty or oversized text, a number that is no time.
    pub(crate) fn malformed_claim(&self) -> Option<Claim> {
        self.malformed.first()
    }
}

#[inline]
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
        for kind in Kind::ALL.into_iter().take(IDS).filter(|kind| self.id_of(*kind).is_some()) {
            match self.text_of(kind as usize) {
                Some(text) if !kind.is_narrow() => out.field(kind.as_str(), &text),
                _ => out.field(kind.as_str(), &format_args!("<redacted>")),
            };
        }
        if let Some(issuer) = &self.issuer {
            out.field("issuer", issuer);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_in_many_shapes() {
        let (texts, owned) = (["a", "b"], vec!["a".to_owned(), "b".to_owned()]);
        let many = vec!["a", "b"];
        let groups: [Groups<'_>; 5] =
            [(&texts).into(), texts.as_slice().into(), (&many).into(), (&owned).into(), owned.as_slice().into()];
        for groups in groups {
            assert_eq!(groups.iter().collect::<Vec<_>>(), texts);
            assert_eq!(format!("{groups:?}"), r#"["a", "b"]"#);
        }
    }

    #[test]
    fn a_time_is_the_same_as_a_number_of_seconds() {
        let at = Timestamp::from_secs(7);
        let credential = Credential::new().session_started_at(at);
        assert_eq!(credential.session_start.time(), Some(at));
        assert_eq!((credential.latest, credential.claims().first()), (at, Some(Claim::SessionStart)));
    }

    #[test]
    fn what_is_named_twice_counts_as_it_was_named_last() {
        let malformed = |credential: &Credential<'_>| credential.malformed_claim();
        assert_eq!(malformed(&Credential::new().tenant("")), Some(Claim::Tenant));
        assert_eq!(malformed(&Credential::new().tenant("").tenant("acme")), None);
        assert_eq!(malformed(&Credential::new().tenant("acme").tenant("")), Some(Claim::Tenant));
    }

    #[test]
    fn a_text_may_be_as_long_as_a_subject_and_no_longer() {
        let (longest, longer) = ("u".repeat(ID_BYTES_MAX), "u".repeat(ID_BYTES_MAX + 1));
        assert_eq!(Credential::new().user(longest.as_str()).malformed_claim(), None);
        assert_eq!(Credential::new().user(longer.as_str()).malformed_claim(), Some(Claim::User));
    }

    #[test]
    fn what_is_secret_is_not_shown_and_the_rest_is() {
        let groups = ["admins"];
        let credential = Credential::new()
            .token("secret-1")
            .session("secret-2")
            .family("secret-3")
            .user("alice")
            .issuer("https://issuer.example")
            .groups(&groups)
            .issued_at_secs(f64::NAN)
            .expires_at_secs(1_700_000_000);
        let shown = format!("{credential:?}");
        assert_eq!(
            shown,
            "Credential { token: <redacted>, session: <redacted>, family: <redacted>, user: \"alice\", \
             issuer: \"https://issuer.example\", groups: [\"admins\"], iat: <malformed>, exp: 2023-11-14T22:13:20.000Z }"
        );
        assert_eq!(format!("{:?}", Credential::new().user("u")), "Credential { user: \"u\" }");
    }
}
