//! The answer to a check.

use std::fmt;
use std::time::Duration;

use super::credential::{Claim, Credential};
use super::entry::{NarrowEntry, WideEntry};
use super::epochs::{Epochs, Mark};
use super::identity::Digest;
use super::provenance::Reason;
use super::subject::Shape;
use super::time::Timestamp;

/// The answer to "is this credential revoked?". Only [`Verdict::Clear`] lets in.
///
/// It does not convert to a `bool`, has no default and is never inside a `Result`, so that no slip of the pen lets
/// anyone in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[must_use = "only Verdict::Clear lets in"]
pub enum Verdict {
    /// Nothing that was revoked names this credential, and this replica is fit to say so.
    Clear,
    /// It is dead. Answer 401 with `invalid_token` (RFC 6750 section 3.1).
    Revoked(Denial),
    /// There is no verdict; no cookie is cleared. If the [cause lies with the credential](Cause::lies_with_credential), the
    /// default answer is 401 with `invalid_token`, because no retry helps; otherwise 503 with `Retry-After`, not 401.
    Unknown(Cause),
}

/// Why a credential is dead: which subject, which effect, since when, and for what reason; and which claim it lacks, if it
/// is dead for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Denial {
    /// The kind and scope of the subject that matched; none for a rule that holds for every credential.
    pub subject: Option<Shape>,
    /// What holds the credential dead.
    pub effect: Effect,
    /// When that was decided.
    pub since: Option<Timestamp>,
    /// Why.
    pub reason: Reason,
    /// The claim whose absence made the denial: the epoch or the age [requires](Denial::requires) it, and the credential
    /// has no valid one, nor any [that serves instead](Claim::any_of).
    ///
    /// If it is set, logging in again does not help: the issuer must send the claim, or the service must pass it on.
    pub missing: Option<Claim>,
}

/// What holds a credential dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Effect {
    /// The token, session or family was revoked.
    Revoked,
    /// The user, client, device or tenant is disabled until enabled again.
    Disabled,
    /// It was authenticated at or before this epoch: the person must log in again. Or it does not say when, and
    /// [`Denial::missing`] names the claim.
    Reauthenticate {
        /// The epoch.
        epoch: Timestamp,
    },
    /// It was issued at or before this epoch: a refreshed token will do. Or it does not say when, and [`Denial::missing`]
    /// names the claim.
    Reissue {
        /// The epoch.
        epoch: Timestamp,
    },
    /// A revocation was made while the time was in doubt: until that is settled, every credential of the subject is dead.
    Pending,
    /// It is older than the maximum credential age. Or it does not say how old it is, and [`Denial::missing`] names the
    /// claim.
    TooOld {
        /// The maximum age.
        limit: Duration,
    },
    /// Its own `exp` has passed, leeway included.
    Expired,
    /// Its `iat`, `auth_time` or session start lies in the future, beyond the leeway.
    FromTheFuture,
}

/// Why there is no verdict. It [lies with the credential](Cause::lies_with_credential), or with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Cause {
    /// The credential lacks a claim that the options require.
    MissingClaim(Claim),
    /// The credential brings a claim that no revocation could name: an empty or oversized text, a number that is no
    /// time.
    MalformedClaim(Claim),
    /// The credential was presented to the handle of one tenant and names another.
    ForeignTenant,
    /// The wall clock is behind a time that this store has already seen, so ages cannot be judged.
    Clock,
    /// This replica has not held all that its peers hold since it was started.
    Bootstrapping,
    /// This replica has not heard for too long whether anything was revoked elsewhere.
    Stale,
    /// The store was closed.
    Closed,
}

impl Denial {
    pub(crate) const fn of_policy(effect: Effect) -> Self {
        Self { subject: None, effect, since: None, reason: Reason::Policy, missing: None }
    }

    /// Returns the claim that the epoch or the age behind this denial requires of every credential, whether this one has it
    /// or not; none if nothing is compared. Of some claims, [others serve](Claim::any_of) as well.
    #[must_use]
    pub const fn requires(&self) -> Option<Claim> {
        if self.is_by_age() { Some(Claim::IssuedAt) } else { self.effect.requires() }
    }

    /// Whether a maximum age denies, or did before it was made longer. The latter is an epoch that nobody decided on.
    pub(crate) const fn is_by_age(&self) -> bool {
        let is_floor = matches!(self.effect, Effect::Reauthenticate { .. }) && self.since.is_none();
        matches!(self.effect, Effect::TooOld { .. }) || is_floor
    }
}

impl Effect {
    /// The claim that is compared.
    pub(crate) const fn requires(&self) -> Option<Claim> {
        match self {
            Self::Reauthenticate { .. } => Some(Claim::AuthTime),
            Self::Reissue { .. } | Self::TooOld { .. } => Some(Claim::IssuedAt),
            Self::Revoked | Self::Disabled | Self::Pending | Self::Expired | Self::FromTheFuture => None,
        }
    }
}

impl Cause {
    /// Returns true if the cause lies with the credential: it lacks a required claim, brings a malformed one, or names
    /// another tenant. No retry helps then; the same credential gets the same answer until somebody changes it. Any other
    /// cause lies with the store, and passes.
    ///
    /// ```
    /// use rescind::{Credential, Store, Verdict};
    ///
    /// let store = Store::in_memory();
    /// let Verdict::Unknown(cause) = store.check(&Credential::new().user("")) else { panic!() };
    /// assert!(cause.lies_with_credential()); // 401
    /// store.close()?;
    /// let Verdict::Unknown(cause) = store.check(&Credential::new().user("alice")) else { panic!() };
    /// assert!(!cause.lies_with_credential()); // 503
    /// # Ok::<(), rescind::CloseError>(())
    /// ```
    #[must_use]
    pub const fn lies_with_credential(self) -> bool {
        self.claim().is_some()
    }

    /// Returns the claim at fault where the [cause lies with the credential](Self::lies_with_credential).
    #[must_use]
    pub const fn claim(self) -> Option<Claim> {
        match self {
            Self::MissingClaim(claim) | Self::MalformedClaim(claim) => Some(claim),
            Self::ForeignTenant => Some(Claim::Tenant),
            Self::Clock | Self::Bootstrapping | Self::Stale | Self::Closed => None,
        }
    }
}

impl NarrowEntry {
    /// The denial of whatever names this subject.
    pub(crate) fn verdict(&self, subject: Shape) -> Option<Denial> {
        let (at, cause) = self.denials.latest_standing()?;
        let (subject, since) = (Some(subject), Some(*at));
        Some(Denial { subject, effect: Effect::Revoked, since, reason: cause.reason, missing: None })
    }
}

/// What an entry asks of a credential, beyond its times: only by rare marks.
pub(crate) trait Claimant {
    /// Whether its session, in the scope of the subject, is the one with a digest.
    fn is_of_session(&self, session: &Digest) -> bool;

    /// Whether its issuer is the one with a digest.
    fn is_of_issuer(&self, issuer: &Digest) -> bool;

    /// The time at which it is presented.
    fn now(&self) -> Timestamp;
}

impl WideEntry {
    /// The denial of a credential that names this subject, if it is dead by it.
    pub(crate) fn verdict(
        &self,
        subject: Shape,
        credential: &Credential<'_>,
        claimant: &impl Claimant,
    ) -> Option<Denial> {
        let subject = Some(subject);
        if let Some((at, cause)) = self.blocks.latest_standing() {
            let since = Some(*at);
            return Some(Denial { subject, effect: Effect::Disabled, since, reason: cause.reason, missing: None });
        }
        let bound = |epochs: &Epochs, time: Option<Timestamp>, missing, effect: fn(Timestamp) -> Effect| {
            let mark = denying(epochs, time, claimant)?;
            // While it waits for its time it binds every credential, whatever that brings.
            let (effect, missing) =
                if mark.is_pending() { (Effect::Pending, None) } else { (effect(mark.epoch), missing) };
            Some(Denial { subject, effect, since: Some(mark.at), reason: mark.cause.reason, missing })
        };
        let (authenticated, no_authentication) = (credential.authenticated_at(), credential.missing_authentication());
        let (issued, no_issuance) = (credential.issued_at.time(), credential.missing_issuance());
        let by_age = |effect| Denial { subject, missing: no_issuance, ..Denial::of_policy(effect) };
        bound(&self.reauthenticate, authenticated, no_authentication, |epoch| Effect::Reauthenticate { epoch })
            .or_else(|| bound(&self.reissue, issued, no_issuance, |epoch| Effect::Reissue { epoch }))
            .or_else(|| {
                let is_below = self.floor > Timestamp::MIN && credential.oldest_time() <= self.floor;
                is_below.then(|| by_age(Effect::Reauthenticate { epoch: self.floor }))
            })
            .or_else(|| {
                let limit = Duration::from_nanos(self.age()?);
                let age = claimant.now().saturating_since(credential.oldest_time());
                (age > limit).then(|| by_age(Effect::TooOld { limit }))
            })
    }

    /// The latest epoch that binds a credential.
    pub(crate) fn binding_epoch(&self, claimant: &impl Claimant) -> Option<Timestamp> {
        let epochs = [&self.reauthenticate, &self.reissue];
        let latest =
            epochs.into_iter().filter_map(|epochs| denying(epochs, None, claimant)).map(|mark| mark.epoch).max();
        latest.max((self.floor > Timestamp::MIN).then_some(self.floor))
    }
}

fn denying<'a>(epochs: &'a Epochs, time: Option<Timestamp>, claimant: &impl Claimant) -> Option<&'a Mark> {
    epochs.denying(time, |issuer| claimant.is_of_issuer(issuer), |session| claimant.is_of_session(session))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear => f.write_str("clear"),
            Self::Revoked(denial) => write!(f, "revoked: {denial}"),
            Self::Unknown(cause) => write!(f, "unknown: {cause}"),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(subject) = self.subject {
            write!(f, "{subject} ")?;
        }
        match (self.missing, self.effect) {
            (None, effect) => write!(f, "{effect}")?,
            // "Log in again" and "older than" would be wrong: the one does not help, the other is not known.
            (Some(claim), Effect::TooOld { limit }) => {
                let limit = humantime::format_duration(limit);
                write!(
                    f,
                    "denied for lack of a valid {}, which a maximum age of {limit} requires",
                    claim.alternatives()
                )?;
            }
            (Some(claim), _) => {
                let rule = if self.is_by_age() { "a maximum age that was set before" } else { "an epoch" };
                write!(f, "denied for lack of a valid {}, which {rule} requires", claim.alternatives())?;
            }
        }
        if let Some(since) = self.since {
            write!(f, " since {since} ({})", self.reason)?;
        }
        Ok(())
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoked => f.write_str("revoked"),
            Self::Disabled => f.write_str("disabled"),
            Self::Reauthenticate { .. } => f.write_str("must log in again"),
            Self::Reissue { .. } => f.write_str("needs a fresh token"),
            Self::Pending => f.write_str("revoked while the clock was in doubt, and dead until the time is settled,"),
            Self::TooOld { limit } => write!(f, "older than {}", humantime::format_duration(*limit)),
            Self::Expired => f.write_str("expired"),
            Self::FromTheFuture => f.write_str("issued in the future"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingClaim(claim) => write!(f, "the credential lacks the required claim {claim}"),
            Self::MalformedClaim(claim) => write!(f, "the credential's {claim} is malformed"),
            Self::ForeignTenant => f.write_str("the credential names another tenant"),
            Self::Clock => f.write_str("the wall clock is behind a time already seen"),
            Self::Bootstrapping => f.write_str("this replica has not caught up with its peers yet"),
            Self::Stale => f.write_str("this replica has not heard from its peers for too long"),
            Self::Closed => f.write_str("the store is closed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::subject::Kind;
    use super::*;

    #[test]
    fn what_people_read() {
        let at = Timestamp::from_nanos(1_700_000_000_123_000_000);
        let subject = Some(Shape { kind: Kind::User, in_tenant: true, at_issuer: false });
        let denial = |effect, since| Denial { subject, effect, since, reason: Reason::Offboarding, missing: None };
        let lacking = |claim, denial| Denial { missing: Some(claim), ..denial };
        let limit = Duration::from_secs(900);
        let read = [
            (Verdict::Clear.to_string(), "clear"),
            (Verdict::Unknown(Cause::Closed).to_string(), "unknown: the store is closed"),
            (
                Verdict::Revoked(denial(Effect::Disabled, Some(at))).to_string(),
                "revoked: user in tenant disabled since 2023-11-14T22:13:20.123Z (offboarding)",
            ),
            (denial(Effect::Revoked, None).to_string(), "user in tenant revoked"),
            (Denial::of_policy(Effect::Expired).to_string(), "expired"),
            (
                lacking(Claim::AuthTime, denial(Effect::Reauthenticate { epoch: at }, Some(at))).to_string(),
                "user in tenant denied for lack of a valid auth_time, session_start or iat, which an epoch requires since \
                 2023-11-14T22:13:20.123Z (offboarding)",
            ),
            (
                lacking(Claim::IssuedAt, Denial::of_policy(Effect::TooOld { limit })).to_string(),
                "denied for lack of a valid iat, which a maximum age of 15m requires",
            ),
            (
                lacking(Claim::IssuedAt, denial(Effect::Reauthenticate { epoch: at }, None)).to_string(),
                "user in tenant denied for lack of a valid iat, which a maximum age that was set before requires",
            ),
            (Effect::Reauthenticate { epoch: at }.to_string(), "must log in again"),
            (Effect::Reissue { epoch: at }.to_string(), "needs a fresh token"),
            (Effect::TooOld { limit: Duration::from_secs(900) }.to_string(), "older than 15m"),
            (Effect::FromTheFuture.to_string(), "issued in the future"),
            (Cause::MissingClaim(Claim::Tenant).to_string(), "the credential lacks the required claim tenant"),
            (Cause::MalformedClaim(Claim::IssuedAt).to_string(), "the credential's iat is malformed"),
            (Cause::ForeignTenant.to_string(), "the credential names another tenant"),
            (Cause::Bootstrapping.to_string(), "this replica has not caught up with its peers yet"),
            (Cause::Stale.to_string(), "this replica has not heard from its peers for too long"),
            (Cause::Clock.to_string(), "the wall clock is behind a time already seen"),
            (at.to_string(), "2023-11-14T22:13:20.123Z"),
            (format!("{at:?}"), "2023-11-14T22:13:20.123Z"),
            (Timestamp::MAX.to_string(), "for good"),
        ];
        for (said, wanted) in read {
            assert_eq!(said, wanted);
        }
    }
}
