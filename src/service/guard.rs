//! What all stacks share: who is let in, and what the others are told.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Claims;
use crate::{Cause, Credential, Denial, Effect, Store, Verdict};

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Its credential is dead.
    Revoked(Denial),
    /// There is no verdict, and the [cause lies with the credential](Cause::lies_with_credential). No retry helps. Nothing
    /// says that the session has ended: keep its cookies.
    Invalid(Cause),
    /// The store cannot say whether it is. A retry helps; keep the cookies.
    Unknown(Cause),
    /// The request has no verified claims: nobody has authenticated, or what verifies tokens does not stand before this.
    NoClaims,
}

impl Refusal {
    /// The HTTP status: 401 or 503.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Revoked(_) | Self::Invalid(_) | Self::NoClaims => 401,
            Self::Unknown(_) => 503,
        }
    }

    /// The error code of RFC 6750 section 3.1 or RFC 9470 section 3; none without claims, where RFC 6750 wants none.
    #[must_use]
    pub const fn error(&self) -> Option<&'static str> {
        match self {
            Self::Revoked(denial) if too_old(denial).is_some() => Some("insufficient_user_authentication"),
            Self::Revoked(_) | Self::Invalid(_) => Some("invalid_token"),
            Self::Unknown(_) => Some("temporarily_unavailable"),
            Self::NoClaims => None,
        }
    }

    /// Returns the `error_description`, for people. It is the same for all subjects: it may name a claim, and never what the
    /// credential says in it.
    #[must_use]
    pub fn description(&self) -> Cow<'static, str> {
        let text = match self {
            Self::Revoked(denial) => match (denial.missing, denial.effect) {
                (Some(claim), _) => {
                    let rule = if denial.is_by_age() { "a maximum age" } else { "an epoch" };
                    let claims = claim.alternatives();
                    return format!("the token lacks a valid {claims}, which {rule} requires").into();
                }
                (None, Effect::TooOld { .. }) => "authenticated too long ago: log in again",
                (None, Effect::Expired) => "the token has expired",
                (None, Effect::FromTheFuture) => "the token was issued in the future",
                (None, Effect::Reissue { .. }) => "the token was revoked: refresh it",
                (None, Effect::Reauthenticate { .. }) => "the token was revoked: log in again",
                (None, _) => "the token was revoked",
            },
            Self::Invalid(Cause::MissingClaim(claim)) => {
                return format!("the token lacks the required claim {claim}").into();
            }
            Self::Invalid(Cause::MalformedClaim(claim)) => {
                return format!("the claim {claim} of the token is malformed").into();
            }
            Self::Invalid(Cause::ForeignTenant) => "the token is of another tenant",
            Self::Invalid(_) => "the token cannot be judged",
            Self::Unknown(_) => "it is not known whether the token was revoked: try again",
            Self::NoClaims => "a token is needed",
        };
        text.into()
    }

    fn challenge(&self, realm: Option<&str>) -> Option<String> {
        if let Self::Unknown(_) = self {
            return None;
        }
        let mut parts: Vec<String> = realm.map(|realm| format!("realm=\"{realm}\"")).into_iter().collect();
        if let Some(error) = self.error() {
            parts.push(format!("error=\"{error}\""));
            parts.push(format!("error_description=\"{}\"", self.description()));
        }
        if let Self::Revoked(denial) = self
            && let Some(limit) = too_old(denial)
        {
            parts.push(format!("max_age=\"{}\"", limit.as_secs()));
        }
        Some(if parts.is_empty() { "Bearer".to_owned() } else { format!("Bearer {}", parts.join(", ")) })
    }
}

/// The maximum age that a new login satisfies. RFC 9470 has the client ask for one; that does not help where a claim is
/// missing, and would be asked for again and again.
const fn too_old(denial: &Denial) -> Option<Duration> {
    match (denial.effect, denial.missing) {
        (Effect::TooOld { limit }, None) => Some(limit),
        _ => None,
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoked(denial) => write!(f, "revoked: {denial}"),
            Self::Invalid(cause) => write!(f, "invalid: {cause}"),
            Self::Unknown(cause) => write!(f, "unknown: {cause}"),
            Self::NoClaims => f.write_str("no verified claims"),
        }
    }
}

impl std::error::Error for Refusal {}

/// The body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its media type: `text/html; charset=utf-8`, say.
    pub content_type: &'static str,
    /// What it says.
    pub body: String,
}

/// What a refused request is answered, for any framework.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers but for the length: names in lower case, and values of visible ASCII characters and spaces.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

/// Lets in who is not revoked, and knows what to tell the others. Cheap to clone.
///
/// ```
/// use std::time::Duration;
/// use rescind::service::{Guard, Page, Refusal};
/// use rescind::Store;
///
/// let guard = Guard::new(&Store::in_memory())
///     .realm("orders")
///     .retry_after(Duration::from_secs(2))
///     .page(|refusal| match refusal {
///         Refusal::Revoked(_) => Page {
///             content_type: "text/html; charset=utf-8",
///             body: "<p>Your session has ended. <a href=\"/login\">Log in</a></p>".to_owned(),
///         },
///         other => Page { content_type: "text/plain", body: other.description().into_owned() },
///     });
/// ```
#[derive(Clone)]
pub struct Guard(Arc<Inner>);

type PageFn = dyn Fn(&Refusal) -> Page + Send + Sync;

#[derive(Clone)]
struct Inner {
    store: Store,
    realm: Option<String>,
    retry_after: Duration,
    admits_unknown: fn(Cause) -> bool,
    admits_anonymous: bool,
    page: Option<Arc<PageFn>>,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { realm, retry_after, admits_anonymous, .. } = &*self.0;
        let mut out = f.debug_struct("Guard");
        out.field("realm", realm).field("retry_after", retry_after).field("admits_anonymous", admits_anonymous);
        out.finish_non_exhaustive()
    }
}

impl Guard {
    /// A guard that asks a store, and refuses whatever that does not call clear.
    #[must_use]
    pub fn new(store: &Store) -> Self {
        Self(Arc::new(Inner {
            store: store.clone(),
            realm: None,
            retry_after: Duration::from_secs(1),
            admits_unknown: |_| false,
            admits_anonymous: false,
            page: None,
        }))
    }

    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// The `realm` of challenges (RFC 9110 section 11.5). Characters that a quoted string cannot hold as they are become `_`.
    /// Default: none.
    #[must_use]
    pub fn realm(self, realm: &str) -> Self {
        let is_plain = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
        let realm = realm.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        self.with(|inner| inner.realm = Some(realm))
    }

    /// After how long a client is told to try again where the store cannot say, in whole seconds, rounded up. Default: 1 s, in
    /// which a replica that was cut off is fresh again.
    #[must_use]
    pub fn retry_after(self, pause: Duration) -> Self {
        self.with(|inner| inner.retry_after = pause)
    }

    /// Lets in requests without verified claims: for routes that are public as well. Default: they are refused, for as a rule
    /// it means that what verifies tokens does not stand before this.
    #[must_use]
    pub fn admit_anonymous(self) -> Self {
        self.with(|inner| inner.admits_anonymous = true)
    }

    /// Lets in credentials of which the store cannot say whether they are revoked, for some causes. Whoever was revoked and
    /// not heard of is let in, too: say for which causes you will answer for that. Default: none.
    ///
    /// A credential with which the [cause lies](Cause::lies_with_credential) is refused all the same, and `admits` is not
    /// asked: to let in what lacks a claim, do not [require](crate::Options::require_claim) it.
    #[must_use]
    pub fn dangerously_admit_unknown(self, admits: fn(Cause) -> bool) -> Self {
        self.with(|inner| inner.admits_unknown = admits)
    }

    /// What refused requests are told: a page that says that the session has ended, say. Default: a JSON object with `error`
    /// and `error_description`.
    #[must_use]
    pub fn page(self, page: impl Fn(&Refusal) -> Page + Send + Sync + 'static) -> Self {
        self.with(|inner| inner.page = Some(Arc::new(page)))
    }

    /// The store that it asks.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Whether a credential is let in.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, credential: &Credential<'_>) -> Result<(), Refusal> {
        self.decide(self.0.store.check(credential))
    }

    /// Decides whether a verdict that was obtained elsewhere lets in: one of a [`TenantStore`](crate::TenantStore), or of
    /// [`Store::check_many`]. With the feature `metrics`, it counts the verdict.
    ///
    /// ```
    /// use rescind::service::{Guard, Refusal};
    /// use rescind::{Cause, Credential, Store};
    ///
    /// let store = Store::in_memory();
    /// let (guard, acme) = (Guard::new(&store), store.tenant("acme")?);
    /// let verdict = acme.check(&Credential::new().user("bob").tenant("beta"));
    /// assert_eq!(guard.decide(verdict), Err(Refusal::Invalid(Cause::ForeignTenant)));
    /// # Ok::<(), rescind::InvalidSubject>(())
    /// ```
    ///
    /// # Errors
    /// Why not.
    pub fn decide(&self, verdict: Verdict) -> Result<(), Refusal> {
        #[cfg(feature = "metrics")]
        crate::telemetry::count(&verdict);
        match verdict {
            Verdict::Clear => Ok(()),
            Verdict::Revoked(denial) => Err(Refusal::Revoked(denial)),
            Verdict::Unknown(cause) if cause.lies_with_credential() => Err(Refusal::Invalid(cause)),
            Verdict::Unknown(cause) if (self.0.admits_unknown)(cause) => Ok(()),
            Verdict::Unknown(cause) => Err(Refusal::Unknown(cause)),
        }
    }

    /// Whether a request with these verified claims, or none, is let in.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, claims: Option<&impl Claims>) -> Result<(), Refusal> {
        match claims {
            Some(claims) => self.check(&claims.credential()),
            None if self.0.admits_anonymous => Ok(()),
            None => Err(Refusal::NoClaims),
        }
    }

    /// What a refused request is answered.
    #[must_use]
    pub fn answer(&self, refusal: &Refusal) -> Answer {
        let page = match &self.0.page {
            Some(page) => page(refusal),
            None => Page { content_type: "application/json", body: json(refusal) },
        };
        // What is refused now may be let in later.
        let mut headers =
            vec![("content-type", page.content_type.to_owned()), ("cache-control", "no-store".to_owned())];
        headers.extend(refusal.challenge(self.0.realm.as_deref()).map(|challenge| ("www-authenticate", challenge)));
        if let Refusal::Unknown(_) = refusal {
            headers.push(("retry-after", self.retry_after_secs().to_string()));
        }
        Answer { status: refusal.status(), headers, body: page.body }
    }

    fn retry_after_secs(&self) -> u64 {
        let pause = self.0.retry_after;
        pause.as_secs().saturating_add(u64::from(pause.subsec_nanos() > 0))
    }

    /// What a refused gRPC request is answered: the status code, and the metadata. UNAUTHENTICATED (16) stands for 401,
    /// UNAVAILABLE (14) for 503, as gRPC maps them. Only the latter tells clients to retry.
    #[cfg(any(feature = "tower", feature = "tonic"))]
    pub(super) fn grpc(&self, refusal: &Refusal) -> (i32, Vec<(&'static str, String)>) {
        let code = if let Refusal::Unknown(_) = refusal { 14 } else { 16 };
        let challenge = refusal.challenge(self.0.realm.as_deref());
        let mut metadata: Vec<_> = challenge.map(|challenge| ("www-authenticate", challenge)).into_iter().collect();
        if let Refusal::Unknown(_) = refusal {
            // What gRPC clients that retry look for: milliseconds, as a signed number of 32 bits. Anything else tells them not
            // to retry at all.
            let pushback = i32::try_from(self.0.retry_after.as_millis()).unwrap_or(i32::MAX);
            metadata.push(("grpc-retry-pushback-ms", pushback.to_string()));
            metadata.push(("retry-after", self.retry_after_secs().to_string()));
        }
        (code, metadata)
    }
}

/// No character of these texts is special in JSON.
fn json(refusal: &Refusal) -> String {
    match refusal.error() {
        Some(error) => format!(r#"{{"error":"{error}","error_description":"{}"}}"#, refusal.description()),
        None => format!(r#"{{"error_description":"{}"}}"#, refusal.description()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Claim, ManualClock, Options, Revocation, Subject, Timestamp};

    const NOW: u64 = 1_800_000_000;

    fn store() -> Store {
        let clock = ManualClock::at(Timestamp::from_secs(NOW));
        Options::new().clock(clock).max_credential_age(Duration::from_secs(900)).open_in_memory().unwrap()
    }

    fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
        answer.headers.iter().find(|(header, _)| *header == name).map(|(_, value)| &**value)
    }

    fn credential() -> Credential<'static> {
        Credential::new().user("alice").token("jti").issued_at_secs(NOW)
    }

    #[test]
    fn the_answers_are_those_of_the_rfcs() {
        let store = store();
        let guard = Guard::new(&store).realm("orders \"1\"");
        assert_eq!(guard.check(&credential()), Ok(()));

        store.revoke(Revocation::of(Subject::token("jti"))).unwrap();
        let revoked = guard.answer(&guard.check(&credential()).unwrap_err());
        assert_eq!(revoked.status, 401);
        assert_eq!(
            header(&revoked, "www-authenticate"),
            Some(r#"Bearer realm="orders _1_", error="invalid_token", error_description="the token was revoked""#)
        );
        assert_eq!((header(&revoked, "cache-control"), header(&revoked, "retry-after")), (Some("no-store"), None));
        assert_eq!(revoked.body, r#"{"error":"invalid_token","error_description":"the token was revoked"}"#);

        let old = guard.check(&credential().token("other").issued_at_secs(NOW - 901)).unwrap_err();
        assert_eq!(
            header(&guard.answer(&old), "www-authenticate"),
            Some(
                r#"Bearer realm="orders _1_", error="insufficient_user_authentication", error_description="authenticated too long ago: log in again", max_age="900""#
            )
        );

        let none = guard.answer(&guard.admit(None::<&super::super::RegisteredClaims>).unwrap_err());
        assert_eq!((none.status, header(&none, "www-authenticate")), (401, Some(r#"Bearer realm="orders _1_""#)));

        store.close().unwrap();
        let unknown = guard.check(&credential().token("other")).unwrap_err();
        assert_eq!(unknown, Refusal::Unknown(Cause::Closed));
        let answer = guard.answer(&unknown);
        assert_eq!((answer.status, header(&answer, "retry-after")), (503, Some("1")));
        assert_eq!(header(&answer, "www-authenticate"), None, "nobody is logged out");
        assert_eq!(header(&guard.retry_after(Duration::from_millis(2_001)).answer(&unknown), "retry-after"), Some("3"));
    }

    #[test]
    fn any_pause_is_one_that_clients_can_read() {
        let pauses = [
            (Duration::ZERO, "0"),
            (Duration::from_nanos(1), "1"),
            (Duration::from_millis(1_500), "2"),
            (Duration::MAX, "18446744073709551615"),
        ];
        for (pause, secs) in pauses {
            let guard = Guard::new(&store()).retry_after(pause);
            assert_eq!(header(&guard.answer(&Refusal::Unknown(Cause::Closed)), "retry-after"), Some(secs), "{pause:?}");
        }
    }

    /// A number that is no signed one of 32 bits would tell a client never to retry.
    #[cfg(any(feature = "tower", feature = "tonic"))]
    #[test]
    fn any_pause_is_one_that_grpc_clients_can_read() {
        for (pause, millis) in [(Duration::from_millis(1_500), "1500"), (Duration::from_hours(24 * 365), "2147483647")]
        {
            let (code, metadata) = Guard::new(&store()).retry_after(pause).grpc(&Refusal::Unknown(Cause::Closed));
            assert_eq!(code, 14);
            assert!(metadata.contains(&("grpc-retry-pushback-ms", millis.to_owned())), "{metadata:?}");
        }
    }

    #[test]
    fn a_challenge_without_anything_to_say_is_the_scheme_alone() {
        let answer = Guard::new(&store()).answer(&Refusal::NoClaims);
        assert_eq!(header(&answer, "www-authenticate"), Some("Bearer"));
    }

    #[test]
    fn what_is_let_in_is_what_was_said() {
        let store = store();
        let none = None::<&super::super::RegisteredClaims>;
        assert_eq!(Guard::new(&store).admit_anonymous().admit(none), Ok(()));
        let careless = Guard::new(&store).dangerously_admit_unknown(|cause| cause == Cause::Closed);
        let malformed = careless.check(&credential().user(""));
        assert_eq!(malformed, Err(Refusal::Invalid(Cause::MalformedClaim(Claim::User))));
        let reckless = Guard::new(&store).dangerously_admit_unknown(|_| true);
        assert_eq!(
            reckless.check(&credential().user("")),
            malformed,
            "what is wrong with a credential is never let in"
        );
        store.close().unwrap();
        assert_eq!(careless.check(&credential()), Ok(()));
        assert_eq!(careless.check(&credential().user("")), malformed, "nor where the store is closed as well");
        let other = Guard::new(&store).dangerously_admit_unknown(|cause| cause == Cause::Stale);
        assert_eq!(other.check(&credential()), Err(Refusal::Unknown(Cause::Closed)));
    }

    #[test]
    fn a_page_takes_the_place_of_the_body_alone() {
        let store = store();
        let guard = Guard::new(&store).page(|refusal| Page { content_type: "text/html", body: refusal.to_string() });
        let answer = guard.answer(&Refusal::NoClaims);
        assert_eq!((answer.status, &*answer.body), (401, "no verified claims"));
        assert_eq!(header(&answer, "content-type"), Some("text/html"));
        assert_eq!(header(&answer, "www-authenticate"), Some("Bearer"));
    }
}
