//! The maximum ages of credentials that were set: of everyone, and of single tenants.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::{Digest, Identity, Kind, Timestamp, WideEntry};

/// Whose credentials an age limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Everyone,
    Tenant(Digest),
}

impl Scope {
    /// The scope that the entry of a subject may limit.
    pub(super) fn of(subject: Identity) -> Option<Self> {
        let Identity { shape, digest, .. } = subject;
        match shape.kind {
            _ if shape.at_issuer || shape.in_tenant => None,
            Kind::Everyone => Some(Self::Everyone),
            Kind::Tenant => Some(Self::Tenant(digest)),
            _ => None,
        }
    }

    /// Whether what is in a tenant, or in none, is in this scope.
    pub(super) fn holds(self, tenant: Option<Digest>) -> bool {
        self == Self::Everyone || tenant.map(Self::Tenant) == Some(self)
    }
}

/// The ages that bind now, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ages {
    everyone: Option<u64>,
    tenants: HashMap<Digest, u64>,
}

impl Ages {
    /// The age that binds in a tenant: everyone's or the tenant's, whichever is shorter.
    pub(crate) fn age_in(&self, tenant: Option<Digest>) -> Option<u64> {
        let of_tenant = tenant.and_then(|tenant| self.tenants.get(&tenant).copied());
        self.everyone.into_iter().chain(of_tenant).min()
    }

    /// When a replica may forget an entry by these ages, but for the time that is added to all.
    pub(crate) fn end_of(&self, entry: &WideEntry, tenant: Option<Digest>) -> Timestamp {
        end_of(entry, self.age_in(tenant), true)
    }

    pub(super) fn get(&self, scope: Scope) -> Option<u64> {
        match scope {
            Scope::Everyone => self.everyone,
            Scope::Tenant(tenant) => self.tenants.get(&tenant).copied(),
        }
    }

    pub(super) fn set(&mut self, scope: Scope, age: Option<u64>) {
        match (scope, age) {
            (Scope::Everyone, age) => self.everyone = age,
            (Scope::Tenant(tenant), Some(age)) => _ = self.tenants.insert(tenant, age),
            (Scope::Tenant(tenant), None) => _ = self.tenants.remove(&tenant),
        }
    }
}

/// When an entry may be forgotten whose credentials live no longer than an age, but for the time that is added to all.
pub(crate) fn end_of(entry: &WideEntry, age: Option<u64>, has_peers: bool) -> Timestamp {
    let end = age.zip(entry.latest(has_peers)).map(|(age, latest)| latest.saturating_add(Duration::from_nanos(age)));
    end.unwrap_or(Timestamp::MAX)
}
