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
    /// This replica cannot say. The default answer is 503 with `Retry-After`: not 401, and no cookie is cleared.
    Unknown(Cause),
}

/// Why a credential is dead: which subject, which effect, since when, and for what reason.
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
    /// It was authenticated at or before this epoch, or does not say when: the person must log in again.
    Reauthenticate {
        /// The epoch.
        epoch: Timestamp,
    },
    /// It was issued at or before this epoch, or does not say when: a refreshed token will do.
    Reissue {
        /// The epoch.
        epoch: Timestamp,
    },
    /// A revocation was made while the time was in doubt: until that is settled, every credential of the subject is dead.
    Pending,
    /// It is older than the maximum credential age, or does not say how old it is.
    TooOld {
        /// The maximum age.
        limit: Duration,
    },
    /// Its own `exp` has passed, leeway included.
    Expired,
    /// Its `iat`, `auth_time` or session start lies in the future, beyond the leeway.
    FromTheFuture,
}

/// Why a replica cannot say.
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
        Self { subject: None, effect, since: None, reason: Reason::Policy }
    }
}

impl NarrowEntry {
    /// The denial of whatever names this subject.
    pub(crate) fn verdict(&self, subject: Shape) -> Option<Denial> {
        let (at, cause) = self.denials.latest_standing()?;
        Some(Denial { subject: Some(subject), effect: Effect::Revoked, since: Some(*at), reason: cause.reason })
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
            return Some(Denial { subject, effect: Effect::Disabled, since: Some(*at), reason: cause.reason });
        }
        let bound = |epochs: &Epochs, time: Option<Timestamp>, effect: fn(Timestamp) -> Effect| {
            let mark = denying(epochs, time, claimant)?;
            let effect = if mark.is_pending() { Effect::Pending } else { effect(mark.epoch) };
            Some(Denial { subject, effect, since: Some(mark.at), reason: mark.cause.reason })
        };
        bound(&self.reauthenticate, credential.authenticated_at(), |epoch| Effect::Reauthenticate { epoch })
            .or_else(|| bound(&self.reissue, credential.issued_at.time(), |epoch| Effect::Reissue { epoch }))
            .or_else(|| {
                let is_below = self.floor > Timestamp::MIN && credential.oldest_time() <= self.floor;
                let effect = Effect::Reauthenticate { epoch: self.floor };
                is_below.then_some(Denial { subject, effect, since: None, reason: Reason::Policy })
            })
            .or_else(|| {
                let limit = Duration::from_nanos(self.age()?);
                let age = claimant.now().saturating_since(credential.oldest_time());
                let effect = Effect::TooOld { limit };
                (age > limit).then_some(Denial { subject, effect, since: None, reason: Reason::Policy })
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
        write!(f, "{}", self.effect)?;
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
        let denial = |effect, since| Denial { subject, effect, since, reason: Reason::Offboarding };
        let read = [
            (Verdict::Clear.to_string(), "clear"),
            (Verdict::Unknown(Cause::Closed).to_string(), "unknown: the store is closed"),
            (
                Verdict::Revoked(denial(Effect::Disabled, Some(at))).to_string(),
                "revoked: user in tenant disabled since 2023-11-14T22:13:20.123Z (offboarding)",
            ),
            (denial(Effect::Revoked, None).to_string(), "user in tenant revoked"),
            (Denial::of_policy(Effect::Expired).to_string(), "expired"),
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
