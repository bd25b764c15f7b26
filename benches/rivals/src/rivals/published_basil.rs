//! The deny-list of `basil-core`.

use std::time::SystemTime;

use basil_core::core::revocation::JwtRevocationStore;

use super::{Rival, TTL};

pub struct Basil {
    store: JwtRevocationStore,
}

const TRUST_DOMAIN: &str = "example.org";

impl Rival for Basil {
    const NAME: &'static str = "basil-core";

    /// Each check walks all entries to drop those that have expired.
    const SIZE_MAX: u64 = 1_000_000;

    fn build(ids: impl Iterator<Item = String>, _: usize) -> Result<Self, String> {
        let store = JwtRevocationStore::default();
        let now = SystemTime::UNIX_EPOCH.elapsed().map_err(|error| error.to_string())?;
        for id in ids {
            store.insert(TRUST_DOMAIN, &id, (now + TTL).as_secs()).map_err(|error| error.to_string())?;
        }
        Ok(Self { store })
    }

    fn contains(&self, id: &str) -> bool {
        self.store.is_revoked(TRUST_DOMAIN, id)
    }
}
