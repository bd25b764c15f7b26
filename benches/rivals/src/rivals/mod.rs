//! What a revocation is looked up in elsewhere.

mod maps;
#[cfg(feature = "basil")]
mod published_basil;
mod published_tokenkit;
mod redis;

use std::time::Duration;

#[cfg(feature = "basil")]
pub use self::published_basil::Basil;
pub use self::published_tokenkit::Tokenkit;
pub use self::redis::Redis;
pub use maps::{ByHand, Locked, Moka, Papaya, Peer, QuickCache, SccIndex};

/// How long an entry is to be kept, by those that keep a time.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// Something that can say whether an id was revoked.
pub trait Rival: Sized {
    /// As it is called in figures.
    const NAME: &'static str;

    /// The largest size at which it ends within reason.
    const SIZE_MAX: u64 = u64::MAX;

    /// Holds `count` ids. Fails with the reason for which it cannot be measured here.
    fn build(ids: impl Iterator<Item = String>, count: usize) -> Result<Self, String>;

    fn contains(&self, id: &str) -> bool;

    /// Whether any of several ids was revoked, asked for in the cheapest way there is.
    fn contains_any<const N: usize>(&self, ids: &[&str; N]) -> bool {
        ids.iter().any(|id| self.contains(id))
    }
}
