//! The rules that hold for every credential, whatever was revoked.

use std::collections::HashMap;
use std::time::Duration;

use super::credential::{Claim, Claims, Credential};
use super::time::Timestamp;
use super::verdict::{Denial, Effect};

/// Times and claims that every credential is held to.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// How far clocks of issuers and verifiers may differ from ours.
    pub(crate) leeway: Duration,
    /// How far in the future an epoch may lie.
    pub(crate) skew: Duration,
    /// How much longer than needed an entry is kept.
    pub(crate) grace: Duration,
    /// The maximum credential age, store-wide.
    pub(crate) max_age: Option<Duration>,
    /// The maximum credential age in some tenants.
    pub(crate) tenant_max_age: HashMap<Box<str>, Duration>,
    /// Claims without which no credential is `Clear`.
    pub(crate) required: Claims,
}

impl Policy {
    /// The maximum age that binds in a tenant: the store's or the tenant's, whichever is shorter.
    pub(crate) fn max_age_in(&self, tenant: Option<&str>) -> Option<Duration> {
        if self.tenant_max_age.is_empty() {
            return self.max_age;
        }
        let tenants = tenant.and_then(|tenant| self.tenant_max_age.get(tenant).copied());
        match (self.max_age, tenants) {
            (Some(store), Some(tenant)) => Some(store.min(tenant)),
            (store, tenant) => store.or(tenant),
        }
    }

    /// Denies what is dead whatever was revoked: a credential from the future, an expired one, one that is too old.
    ///
    /// An expired or too old credential is denied here so that forgetting an entry never changes a verdict: once an
    /// entry may be forgotten, every credential that it denied is denied by these rules.
    ///
    /// Credentials that expire at or before `expired` are dead whatever the leeway: what denied them may be forgotten.
    pub(crate) fn denies(
        &self,
        credential: &Credential<'_>,
        tenant: Option<&str>,
        now: Timestamp,
        expired: Timestamp,
    ) -> Option<Denial> {
        let horizon = now.saturating_add(self.leeway);
        for claim in [credential.issued_at, credential.auth_time, credential.session_start] {
            if claim.time().is_some_and(|time| time > horizon) {
                return Some(Denial::of_policy(Effect::FromTheFuture));
            }
        }
        let is_expired = |exp: Timestamp| exp.saturating_add(self.leeway) < now || exp <= expired;
        if credential.expires_at.time().is_some_and(is_expired) {
            return Some(Denial::of_policy(Effect::Expired));
        }
        let limit = self.max_age_in(tenant)?;
        let is_too_old = now.saturating_since(credential.oldest_time()) > limit;
        let missing = credential.missing_issuance();
        is_too_old.then(|| Denial { missing, ..Denial::of_policy(Effect::TooOld { limit }) })
    }

    /// Whether a quick look settles that no rule [denies](Self::denies) the credential.
    #[inline]
    pub(crate) fn surely_admits(&self, credential: &Credential<'_>, now: Timestamp, expired: Timestamp) -> bool {
        let (latest, end) = (credential.latest(), credential.earliest_end());
        let is_timely = latest <= now.saturating_add(self.leeway) && end.saturating_add(self.leeway) >= now;
        is_timely && end > expired && !self.limits_age()
    }

    /// Whether the age of a credential counts anywhere.
    #[inline]
    pub(crate) fn limits_age(&self) -> bool {
        self.max_age.is_some() || !self.tenant_max_age.is_empty()
    }

    /// The first required claim that a credential lacks. The tenant may come from the handle of a tenant.
    pub(crate) fn missing_claim(&self, credential: &Credential<'_>, has_tenant: bool) -> Option<Claim> {
        let mut brought = credential.claims();
        if has_tenant {
            brought.insert(Claim::Tenant);
        }
        self.required.without(brought).first()
    }

    /// How long an entry is kept beyond its retention: the grace, and never less than a clock may step back unnoticed.
    pub(crate) fn kept_beyond(&self) -> Duration {
        self.grace.max(self.skew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(leeway: u64, max_age: Option<u64>) -> Policy {
        Policy {
            leeway: Duration::from_secs(leeway),
            skew: Duration::from_secs(1),
            grace: Duration::ZERO,
            max_age: max_age.map(Duration::from_secs),
            tenant_max_age: HashMap::new(),
            required: Claims::default(),
        }
    }

    /// The short way and the long one agree, for every small number there is: what the one lets in, the other does not
    /// deny; and where age counts for nothing, the short way settles whatever can be settled.
    #[test]
    fn a_quick_look_lets_in_what_no_rule_denies() {
        let (mut admitted, mut denied) = (0, 0);
        for (leeway, expired, age) in [(0, 0, None), (2, 0, None), (0, 3, None), (2, 3, None), (2, 0, Some(2))] {
            let (policy, expired) = (policy(leeway, age), Timestamp::from_secs(expired));
            for now in 0..8 {
                for (iat, exp) in (0..10).flat_map(|iat| (0..10).map(move |exp| (iat, exp))) {
                    let now = Timestamp::from_secs(now);
                    for credential in [
                        Credential::new().issued_at_secs(iat).expires_at_secs(exp),
                        Credential::new().expires_at_secs(exp),
                        Credential::new().issued_at_secs(iat).auth_time_secs(iat),
                        Credential::new(),
                    ] {
                        let denies = policy.denies(&credential, None, now, expired).is_some();
                        let admits = policy.surely_admits(&credential, now, expired);
                        assert!(!(admits && denies), "{credential:?} at {now}, {policy:?}");
                        assert!(admits || denies || age.is_some(), "{credential:?} at {now}, {policy:?}");
                        admitted += u32::from(admits);
                        denied += u32::from(denies);
                    }
                }
            }
        }
        assert!(admitted > 1_000 && denied > 1_000, "{admitted} {denied}");
    }

    #[test]
    fn age_counts_only_where_it_is_limited() {
        assert!(!policy(0, None).limits_age());
        assert!(policy(0, Some(1)).limits_age());
        let mut policy = policy(0, None);
        policy.tenant_max_age.insert("acme".into(), Duration::from_secs(1));
        assert!(policy.limits_age());
    }
}
