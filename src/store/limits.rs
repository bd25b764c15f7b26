//! The limits by which a store denies and forgets, for whoever looks at it.

use std::time::Duration;

use crate::codec::Limits;
use crate::model::{Digest, Timestamp};

use super::Store;

/// The limits by which a store denies and forgets; see [`Store::limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct StoreLimits {
    /// By how much the clocks of issuers and verifiers may differ; see [`Options::leeway`](crate::Options::leeway).
    pub leeway: Duration,
    /// How much longer than necessary entries are kept: the [grace](crate::Options::retention_grace), or the
    /// [clock skew](crate::Options::max_clock_skew) where that is longer.
    pub kept_beyond: Duration,
    /// The maximum age in the [options](crate::Options::max_credential_age). One that was
    /// [set](crate::Store::set_max_credential_age) is a [`Fact`](crate::Fact) about its subject.
    pub max_credential_age: Option<Duration>,
    /// The maximum ages of single tenants in the [options](crate::Options::tenant_max_credential_age), by the tenant's
    /// [digest](crate::Explanation::digest): their names are not recorded.
    pub tenant_max_credential_ages: Vec<(Digest, Duration)>,
    /// Credentials that expire at or before this are dead whatever the leeway, because this store or a peer may have forgotten
    /// what denied them.
    pub expired: Option<Timestamp>,
    /// Whether the store is or was a replica: then nothing is forgotten by the ages in the options.
    pub is_replica: bool,
}

impl StoreLimits {
    pub(super) fn of(limits: &Limits) -> Self {
        Self {
            leeway: Duration::from_nanos(limits.leeway),
            kept_beyond: Duration::from_nanos(limits.kept),
            max_credential_age: limits.max_age.map(Duration::from_nanos),
            tenant_max_credential_ages: (limits.tenants.iter())
                .map(|(tenant, _, age)| (*tenant, Duration::from_nanos(*age)))
                .collect(),
            expired: Some(limits.expired).filter(|expired| *expired > Timestamp::MIN),
            is_replica: limits.is_replica,
        }
    }
}

impl Store {
    /// The limits by which this store denies and forgets. Of a store that was
    /// [opened read-only](Store::open_read_only), those that its writer has recorded.
    #[must_use]
    pub fn limits(&self) -> StoreLimits {
        match &self.engine.following {
            Some(following) => StoreLimits::of(&following.limits()),
            None => StoreLimits::of(&self.shared.limits()),
        }
    }
}
