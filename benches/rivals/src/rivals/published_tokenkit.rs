//! The revocation store of `tokenkit`.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokenkit::revocation::{InMemoryRevocationStore, TokenRevocationStore};

use super::Rival;

/// By default it evicts the oldest revocations beyond 100,000; here it gets the room that it needs. Without a TTL: with
/// one, each insert walks all entries.
pub struct Tokenkit(InMemoryRevocationStore);

/// Polls once, without a runtime: nothing here ever waits, and a runtime would only add its own cost.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nobody else holds the lock"),
    }
}

impl Rival for Tokenkit {
    const NAME: &'static str = "tokenkit";

    fn build(ids: impl Iterator<Item = String>, count: usize) -> Result<Self, String> {
        let store = InMemoryRevocationStore::with_limits(count + 1, None);
        for id in ids {
            ready(store.revoke(&id)).map_err(|error| error.to_string())?;
        }
        Ok(Self(store))
    }

    fn contains(&self, id: &str) -> bool {
        // Its service, too, takes an error for a revocation.
        ready(self.0.is_revoked(id)).unwrap_or(true)
    }
}
