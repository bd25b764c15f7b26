//! Instant revocation of tokens, sessions and users: a durable, in-process denylist that answers in nanoseconds.
pub mod audit;
mod clock;
#[doc(hidden)]
pub mod codec;
mod denylist;
mod journal;
mod model;
pub mod storage;
mod store;

pub use clock::{Clock, ManualClock, SystemClock};
pub use journal::{FileError, RecoveryError, RecoveryReport};
pub use model::{
    ACTOR_BYTES_MAX, Actor, ActorKind, Cause, Change, Channel, Claim, Credential, Denial, Digest, Effect, Groups,
    ID_BYTES_MAX, InitiatingEntity, InvalidRevocation, InvalidSubject, Key, KeyId, Kind, LocalSubject, NOTE_BYTES_MAX,
    NumericDate, Reason, Revocation, SPARED_SESSIONS_MAX, Shape, Subject, Timestamp, Verdict,
};
pub use store::{
    Acknowledgement, CloseError, Durability, Explanation, Fact, MaintenanceReport, OpenError, Options, Pending,
    Receipt, SnapshotError, SnapshotReport, Stats, Store, TenantStore, WriteError,
};
