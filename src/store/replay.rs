//! What may be presented once: proofs and assertions that are not to be replayed.

use crate::model::{InvalidSubject, Revocation, Subject, Timestamp};

use super::write::Command;
use super::{PendingAnswer, Store, WriteError};

/// The issuer under which such ids are kept, so that no credential names them: nobody has a verified token of it.
const ISSUER: &str = "urn:rescind:replay:";

/// How often an id has been presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a replay is to be refused"]
pub enum Use {
    /// For the first time: go on.
    First,
    /// It was presented before: refuse it.
    Replay,
}

/// The ids of one sort that have been presented, each for a short life: `jti` of DPoP proofs (RFC 9449 section 11.1), of
/// client assertions (RFC 7523 section 3), of logout and security event tokens.
///
/// They are kept as durably as revocations, and shared with the same peers. Until a peer has heard of one, it takes it for
/// new: a proof is replayed at another replica within that time, or not at all.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use rescind::{Store, Use};
///
/// let store = Store::in_memory();
/// let proofs = store.replay_set("dpop")?;
/// // Once a proof is verified, and known to be younger than a minute:
/// let until = SystemTime::now() + Duration::from_secs(60);
/// assert_eq!(proofs.insert("https://api.example/orders", "jti-1", until)?, Use::First);
/// assert_eq!(proofs.insert("https://api.example/orders", "jti-1", until)?, Use::Replay);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ReplaySet {
    store: Store,
    issuer: Box<str>,
}

impl Store {
    /// The ids of one sort, `"dpop"` say, that may be presented once. Sets of different names share nothing.
    ///
    /// # Errors
    /// When the name is too long.
    pub fn replay_set(&self, name: &str) -> Result<ReplaySet, InvalidSubject> {
        let issuer = format!("{ISSUER}{name}");
        Subject::token("any").at_issuer(issuer.as_str()).validate()?;
        Ok(ReplaySet { store: self.clone(), issuer: issuer.into() })
    }
}

impl ReplaySet {
    /// Notes an id, and says whether it is new: of several who present it at once, one is the first. It waits until that is
    /// acknowledged.
    ///
    /// `scope` is within what the id must be unique: the `htu` of a DPoP proof, the `iss` of an assertion. After `until`
    /// whoever presents it is refused for its age; then it may be forgotten.
    ///
    /// # Errors
    /// See [`WriteError`]; refuse then, too. [`WriteError::RetentionInPast`] says that it is too old in any case. After
    /// [`WriteError::NotDurable`] the id counts as presented in this process; after any other error nothing has changed.
    pub fn insert(&self, scope: &str, id: &str, until: impl Into<Timestamp>) -> Result<Use, WriteError> {
        self.submit(scope, id, until)?.wait()
    }

    /// The same, with the acknowledgement to come.
    ///
    /// # Errors
    /// As [`ReplaySet::insert`], except that [`WriteError::NotDurable`] comes with the acknowledgement.
    pub fn submit(&self, scope: &str, id: &str, until: impl Into<Timestamp>) -> Result<PendingAnswer<Use>, WriteError> {
        // An empty id is refused as such, and one of any length is hashed.
        let name = if id.is_empty() { String::new() } else { format!("{}:{scope}{id}", scope.len()) };
        let subject = Subject::opaque_token(&name).at_issuer(&*self.issuer);
        let revocation = Revocation::of(subject).until(until);
        let (is_first, pending) = self.store.engine.submit_counted(Command::Once(revocation))?;
        Ok(PendingAnswer::new(if is_first { Use::First } else { Use::Replay }, Some(pending)))
    }
}
