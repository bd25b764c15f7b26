//! Pure values and laws: what can be revoked, what a request presents, what is stored, and what follows from it.
//!
//! Nothing here reads a clock or a file, takes a lock or starts a thread: time is an argument.

mod content;
mod credential;
mod entry;
#[cfg(test)]
mod entry_laws;
mod epochs;
mod identity;
mod marks;
mod policy;
mod provenance;
mod revocation;
mod row;
mod subject;
mod time;
mod verdict;

pub(crate) use content::{Bin, ContentHasher, Fingerprint, Node, Sum};
pub use credential::{Claim, Credential, Groups};
pub(crate) use credential::{Claims, OwnedCredential};
pub(crate) use entry::{Age, Cause as EntryCause, Entry, Item, NarrowEntry, WideEntry};
pub(crate) use epochs::{Epochs, Mark};
pub use identity::{Digest, Key, KeyId};
pub use provenance::{ACTOR_BYTES_MAX, Actor, ActorKind, Channel, InitiatingEntity, NOTE_BYTES_MAX, Reason};
pub use revocation::{Change, InvalidRevocation, Revocation, SPARED_SESSIONS_MAX};
pub use subject::{ID_BYTES_MAX, InvalidSubject, Kind, LocalSubject, Shape, Subject};
pub use time::{NumericDate, Timestamp};
pub(crate) use verdict::Claimant;
pub use verdict::{Cause, Denial, Effect, Verdict};

pub(crate) use identity::{IdRef, Identity, Keyring, Locator, Part};
pub(crate) use marks::{Life, Marks};
pub(crate) use policy::Policy;
pub(crate) use provenance::Provenance;
pub(crate) use revocation::EpochKind;
pub(crate) use row::{Author, Row, Rows};
pub(crate) use time::Retention;
