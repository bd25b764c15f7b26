//! Maps and caches that hold the ids as they are, and one that holds their hashes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use parking_lot::RwLock;
use xxhash_rust::xxh3::xxh3_128;

use super::{Rival, TTL};

/// What people write by hand. As there, the map grows as entries come.
#[derive(Debug)]
pub struct ByHand(DashMap<String, Instant>);

impl Rival for ByHand {
    const NAME: &'static str = "DashMap<String,Instant>";

    fn build(ids: impl Iterator<Item = String>, _: usize) -> Result<Self, String> {
        let end = Instant::now() + TTL;
        Ok(Self(ids.map(|id| (id, end)).collect()))
    }

    fn contains(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }
}

/// The other thing that people write by hand.
#[derive(Debug)]
pub struct Locked(RwLock<HashMap<String, Instant>>);

impl Rival for Locked {
    const NAME: &'static str = "RwLock<HashMap<String,Instant>>";

    fn build(ids: impl Iterator<Item = String>, _: usize) -> Result<Self, String> {
        let end = Instant::now() + TTL;
        Ok(Self(RwLock::new(ids.map(|id| (id, end)).collect())))
    }

    fn contains(&self, id: &str) -> bool {
        self.0.read().contains_key(id)
    }
}

/// Takes the low half of a hash as it is.
#[derive(Clone, Debug, Default)]
pub struct LowHalf(u64);

impl Hasher for LowHalf {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u128");
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

/// The strong peer: what an expert would write who trusts an unkeyed 128-bit hash with identity.
#[derive(Debug)]
pub struct Peer(DashMap<u128, u64, BuildHasherDefault<LowHalf>>);

impl Rival for Peer {
    const NAME: &'static str = "DashMap<u128,u64>";

    fn build(ids: impl Iterator<Item = String>, _: usize) -> Result<Self, String> {
        Ok(Self(ids.map(|id| (xxh3_128(id.as_bytes()), TTL.as_secs())).collect()))
    }

    fn contains(&self, id: &str) -> bool {
        self.0.contains_key(&xxh3_128(id.as_bytes()))
    }
}

/// Each entry of the cache lives as long as its value says.
#[derive(Debug)]
struct ByValue;

impl moka::Expiry<String, Duration> for ByValue {
    fn expire_after_create(&self, _: &String, ttl: &Duration, _: Instant) -> Option<Duration> {
        Some(*ttl)
    }
}

pub struct Moka(moka::sync::Cache<String, Duration>);

impl Rival for Moka {
    const NAME: &'static str = "moka";

    fn build(ids: impl Iterator<Item = String>, _: usize) -> Result<Self, String> {
        let cache = moka::sync::Cache::builder().expire_after(ByValue).build();
        ids.for_each(|id| cache.insert(id, TTL));
        cache.run_pending_tasks();
        Ok(Self(cache))
    }

    /// Unlike `get`, this records no use, which nothing that never evicts would need.
    fn contains(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }
}

/// It may evict at its capacity, so it is no denylist; it gets twice the room that it needs.
pub struct QuickCache(quick_cache::sync::Cache<String, Instant>);

impl Rival for QuickCache {
    const NAME: &'static str = "quick_cache";

    fn build(ids: impl Iterator<Item = String>, count: usize) -> Result<Self, String> {
        let end = Instant::now() + TTL;
        let cache = quick_cache::sync::Cache::new(2 * count);
        ids.for_each(|id| cache.insert(id, end));
        Ok(Self(cache))
    }

    fn contains(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }
}

#[derive(Debug)]
pub struct Papaya(papaya::HashMap<String, Instant>);

impl Rival for Papaya {
    const NAME: &'static str = "papaya";

    fn build(ids: impl Iterator<Item = String>, _: usize) -> Result<Self, String> {
        let end = Instant::now() + TTL;
        Ok(Self(ids.map(|id| (id, end)).collect()))
    }

    /// Requests come one by one, so each pins for itself.
    fn contains(&self, id: &str) -> bool {
        self.0.pin().contains_key(id)
    }
}

pub struct SccIndex(scc::HashIndex<String, Instant>);

impl Rival for SccIndex {
    const NAME: &'static str = "scc::HashIndex";

    fn build(ids: impl Iterator<Item = String>, _: usize) -> Result<Self, String> {
        let end = Instant::now() + TTL;
        let index = scc::HashIndex::new();
        for id in ids {
            index.insert_sync(id, end).map_err(|(id, _)| format!("{id} came twice"))?;
        }
        Ok(Self(index))
    }

    fn contains(&self, id: &str) -> bool {
        self.0.contains(id)
    }
}
