//! Families of refresh tokens: each is used once, its successor takes its place, and whoever comes with one that was used
//! gives away that it was stolen (RFC 9700 section 4.14.2).
//!
//! What follows a token is computed from it: whoever presents it a second time within the grace is given the same successor,
//! so that a request that was sent twice, or an answer that was lost, logs nobody out and forks nothing. Nothing is kept but
//! which tokens were used, and when.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroize;

use crate::model::{Cause, Claim, Credential, Entry, Kind, Reason, Revocation, Subject, Timestamp, Verdict};

use super::write::Command;
use super::{PendingAnswer, Store, WriteError};

/// The issuer under which used tokens are kept, so that no credential names them: nobody has a verified token of it.
const ISSUER: &str = "urn:rescind:refreshed";
/// How long a used token may be presented again, if nothing else is said.
const GRACE: Duration = Duration::from_secs(30);
/// And at most.
const GRACE_MAX: Duration = Duration::from_secs(60);

/// What becomes of a refresh token that was presented.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "only who is given a successor is given new tokens"]
pub enum Rotation {
    /// It was used for the first time: issue its successor, and an access token.
    Rotated(Successor),
    /// It was used before, but a moment ago, and its successor was not: a request that was sent twice, or an answer that did
    /// not arrive. Issue the same successor again, and an access token.
    Repeated(Successor),
    /// It was used before: two hold it who should not. The whole family is revoked by now. Answer 400 `invalid_grant`
    /// (RFC 6749 section 5.2), and have the person log in again.
    Reused,
    /// It is revoked, or there is no verdict. Answer 503 with `Retry-After` if the verdict is unknown for a cause that lies
    /// with the store, and 400 `invalid_grant` otherwise; see [`Cause::lies_with_credential`].
    Refused(Verdict),
}

/// What the next refresh token of a family is called: 64 hexadecimal digits that nobody can guess who has not got the
/// store's key. Take it as the `jti` of a signed token, or as the whole of an opaque one: as the one before was presented.
///
/// It is wiped from memory when dropped, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Successor(String);

impl Successor {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Successor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Successor(<redacted>)")
    }
}

/// Families of refresh tokens, whose members are each used once.
///
/// ```
/// use rescind::{Credential, Rotation, Store, Verdict};
///
/// let store = Store::in_memory();
/// let families = store.refresh_families();
///
/// // A verified refresh token is presented:
/// let presented = Credential::new().user("alice").family("f1").token("first");
/// let Rotation::Rotated(second) = families.rotate(&presented)? else { panic!() };
///
/// // Its answer is lost, and it is presented again:
/// assert_eq!(families.rotate(&presented)?, Rotation::Repeated(second.clone()));
///
/// // Its successor is used; and then somebody comes with the first one.
/// let successor = Credential::new().user("alice").family("f1").token(second.as_str());
/// assert!(matches!(families.rotate(&successor)?, Rotation::Rotated(_)));
/// assert_eq!(families.rotate(&presented)?, Rotation::Reused);
///
/// // Whatever names the family is dead, access tokens too.
/// let access = Credential::new().user("alice").family("f1").token("access");
/// assert!(matches!(store.check(&access), Verdict::Revoked(_)));
/// # Ok::<(), rescind::WriteError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RefreshFamilies {
    store: Store,
    grace: Duration,
    lifetime: Option<Duration>,
}

impl Store {
    /// Families of refresh tokens, with a grace of 30 s.
    #[must_use]
    pub fn refresh_families(&self) -> RefreshFamilies {
        RefreshFamilies { store: self.clone(), grace: GRACE, lifetime: None }
    }
}

impl RefreshFamilies {
    /// How long a used token may be presented again, while its successor was not used yet; 60 s at most. Zero logs out people
    /// whose client sends a request twice. Default: 30 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace.min(GRACE_MAX);
        self
    }

    /// No token of a family, refresh or access, is good for longer than this after it was issued: for so long it is remembered
    /// that a family is revoked, and that a token was used which has no `exp`. Default: for good.
    #[must_use]
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Uses up a verified refresh token, and says what follows it. It waits until that is acknowledged.
    ///
    /// The credential must name the token, as `token` or `opaque_token`, and its family; and all else by which it may be
    /// revoked, for it is checked like any other. It must be called for refresh tokens only: an access token of the family is
    /// checked, and can be used often.
    ///
    /// If it was used before, the family is revoked as far as the credential names it: in its tenant and at its issuer, if
    /// it names these. Access tokens die with it that name the family in the same way.
    ///
    /// # Errors
    /// See [`WriteError`]; issue nothing then. After [`WriteError::NotDurable`] the token counts as used in this process, and
    /// presenting it again gives its successor; or the family is revoked in this process. After any other error nothing has
    /// changed.
    pub fn rotate(&self, presented: &Credential<'_>) -> Result<Rotation, WriteError> {
        self.submit(presented)?.wait()
    }

    /// The same, with the acknowledgement to come.
    ///
    /// # Errors
    /// As [`RefreshFamilies::rotate`], except that [`WriteError::NotDurable`] comes with the acknowledgement.
    pub fn submit(&self, presented: &Credential<'_>) -> Result<PendingAnswer<Rotation>, WriteError> {
        let settled = |rotation| Ok(PendingAnswer::new(rotation, None));
        let verdict = self.store.check(presented);
        if verdict != Verdict::Clear {
            return settled(Rotation::Refused(verdict));
        }
        let named =
            |kind: Kind, claim| presented.narrow_subject(kind).ok_or(Verdict::Unknown(Cause::MissingClaim(claim)));
        let (token, family) = match (named(Kind::Token, Claim::Token), named(Kind::Family, Claim::Family)) {
            (Ok(token), Ok(family)) => (token, family),
            (Err(verdict), _) | (_, Err(verdict)) => return settled(Rotation::Refused(verdict)),
        };
        let end = self.lifetime.map(|lifetime| self.store.shared.clock.wall().saturating_add(lifetime));
        let until = |revocation: Revocation, end: Option<Timestamp>| match end {
            Some(end) => revocation.until(end),
            None => revocation,
        };
        let used = self.used(&token, &family);
        let successor = Successor(self.successor(&token, &family));
        let revocation = until(Revocation::of(used.clone()), presented.expires_at.time().or(end));
        let (is_first, pending) = self.store.engine.submit_counted(Command::Once(revocation))?;
        if is_first {
            return Ok(PendingAnswer::new(Rotation::Rotated(successor), Some(pending)));
        }
        let next = token.renamed(successor.as_str());
        if self.is_recent(&used) && self.used_at(&self.used(&next, &family)).is_none() {
            return settled(Rotation::Repeated(successor));
        }
        let reuse = until(Revocation::of(family).because(Reason::TokenReuse), end);
        Ok(PendingAnswer::new(Rotation::Reused, Some(self.store.submit(reuse)?)))
    }

    /// Under which name it is kept that a token of a family was used.
    fn used(&self, token: &Subject, family: &Subject) -> Subject {
        let keyring = &self.store.shared.keyring;
        Subject::token(format!("{}{}", keyring.digest_of(token), keyring.digest_of(family))).at_issuer(ISSUER)
    }

    fn successor(&self, token: &Subject, family: &Subject) -> String {
        let keyring = &self.store.shared.keyring;
        keyring.successor(keyring.digest_of(token), keyring.digest_of(family))
    }

    fn used_at(&self, used: &Subject) -> Option<Timestamp> {
        let shared = &self.store.shared;
        match shared.denylist.item(shared.keyring.identity_of(used))?.entry {
            Entry::Narrow(entry) if entry.denies() => entry.denials.latest_standing().map(|(at, _)| *at),
            _ => None,
        }
    }

    fn is_recent(&self, used: &Subject) -> bool {
        let now = self.store.shared.clock.wall();
        self.used_at(used).is_some_and(|at| now.saturating_since(at) <= self.grace)
    }
}
