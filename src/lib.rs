//! Instant revocation of tokens, sessions and users: a durable, in-process denylist that answers in nanoseconds.
//!
//! Someone is fired, a token leaks, an admin presses "log everyone out": with rescind linked in, a process knows on its
//! very next request, from its own memory, and still knows after a crash.
//!
//! ```
//! use rescind::{Credential, Reason, Revocation, Store, Subject, Verdict};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("revocations");
//! # let iat = 1_700_000_000;
//! let store = Store::open(path)?;
//!
//! // Once a request's token has been verified, ask:
//! let credential = Credential::new()
//!     .tenant("acme")
//!     .user("alice")
//!     .session("s1")
//!     .token("jti-1")
//!     .issued_at_secs(iat);
//! match store.check(&credential) {
//!     Verdict::Clear => { /* serve it */ }
//!     Verdict::Revoked(denial) => println!("401: {denial}"),
//!     Verdict::Unknown(cause) if cause.lies_with_credential() => println!("401: {cause}"),
//!     Verdict::Unknown(cause) => println!("503, Retry-After: {cause}"),
//! }
//!
//! // When somebody leaves:
//! let alice = Subject::user("alice").in_tenant("acme");
//! store.revoke(Revocation::of(alice).because(Reason::Offboarding).by("hr-system"))?;
//! assert!(matches!(store.check(&credential), Verdict::Revoked(_)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What to call
//!
//! | to | call |
//! |---|---|
//! | open | [`Store::open`], [`Options`] for more, [`Store::in_memory`] for tests |
//! | ask | [`Store::check`] with a [`Credential`]; [`Store::check_many`] |
//! | revoke a token, session, family | [`Store::revoke`] with `Subject::token(..)`; say `.until(exp)` |
//! | make people log in again | [`Store::revoke`] with a user, group, tenant, ...; `.sparing_session(..)` |
//! | have tokens refreshed | the same with [`.reissue()`](Revocation::reissue) |
//! | lock someone out until further notice | [`Store::disable`], [`Store::enable`] |
//! | take something back | [`Store::lift`] |
//! | refuse revoked requests in axum, actix-web, tonic | `service`: features `tower`, `axum`, `actix`, `tonic` |
//! | do it from async code | [`Store::submit`], which gives a `Future` |
//! | close a live connection when it is revoked | [`Store::watch`], which gives a `Future` |
//! | rotate refresh tokens, and notice one that was stolen | [`Store::refresh_families`] |
//! | refuse a proof or assertion that is replayed | [`Store::replay_set`] |
//! | do many at once | [`Store::revoke_many`] |
//! | limit the age of sessions | [`Options::max_credential_age`], per tenant too |
//! | see how it is doing | [`Store::stats`]; `telemetry`: feature `metrics` |
//! | know why | [`Store::explain`], [`Store::list`], [`audit`] |
//! | act for one tenant | [`Store::tenant`] |
//! | check in a second process on the same host | [`Store::open_read_only`] |
//! | share revocations with other hosts | [`Store::replicate`], and an engine of `wire`: features `gossip`, `redis`, `nats` |
//! | know that others hold a revocation | [`Replica::wait_until_held`]; [`Replica::start_canary`] tries the whole way |
//! | keep a copy, or save what a lost disk held | [`Store::backup`] |
//! | look at a store, or save what is readable of a damaged one | [`verify`], [`salvage`] |
//!
//! # What it is not
//!
//! It does not parse or verify tokens, keep sessions, or decide what somebody may do. Without features
//! it brings no network: replicas are state machines, whose messages an engine carries, or a transport of yours.
//!
//! # How it is built
//!
//! Data flows one way; each layer imports only those before it, and a test checks that.
//!
//! | layer | what it is |
//! |---|---|
//! | `model` | pure values and laws: subject, digest, credential, entry, policy, verdict |
//! | `sync` | locks, channels and threads, and their doubles for model checking |
//! | `clock` | wall and boot time, and a clock for tests |
//! | `codec` | bounded encoding of records |
//! | `denylist` | the table in memory behind its lock-free filter |
//! | [`storage`] | the seam to the disk: real files, and memory that models faults |
//! | `journal` | segments, group commit, snapshots, recovery |
//! | `replication` | the protocol between replicas: messages in, messages out |
//! | [`audit`] | records of every change, and sinks for them |
//! | `store` | the one write path, the check, maintenance |
//! | `wire` | engines that carry messages between replicas, each behind a feature |
//! | `service` | middleware for services, each stack behind a feature |
//! | `telemetry` | every figure for whatever collects them, behind the feature `metrics` |
//!
//! The [`manual`] says what the words mean, what is on disk, and why.

pub mod audit;
mod clock;
#[doc(hidden)]
pub mod codec;
mod denylist;
mod journal;
pub mod manual;
mod model;
mod replication;
#[cfg(any(feature = "tower", feature = "axum", feature = "actix", feature = "tonic", feature = "jsonwebtoken"))]
pub mod service;
pub mod storage;
mod store;
mod sync;
#[cfg(feature = "metrics")]
pub mod telemetry;
#[cfg(any(feature = "gossip", feature = "redis", feature = "nats"))]
pub mod wire;

pub use clock::{Clock, ManualClock, SystemClock};
pub use journal::{Damage, FileError, FileSummary, RecoveryError, RecoveryReport};
pub use model::{
    ACTOR_BYTES_MAX, Actor, ActorKind, Cause, Change, Channel, Claim, Credential, Denial, Digest, Effect, Groups,
    ID_BYTES_MAX, InitiatingEntity, InvalidRevocation, InvalidSubject, Key, KeyId, Kind, LocalSubject, NOTE_BYTES_MAX,
    NumericDate, Reason, Revocation, SPARED_SESSIONS_MAX, Shape, Subject, Timestamp, Verdict,
};
pub use replication::{ClusterId, Freshness, NodeId, Rejected, Replication, Transmit};
pub use store::{
    Acknowledgement, Alarm, CanaryAlarm, CanaryReport, CloseError, CopyError, Durability, Explanation, Fact, Following,
    Link, MaintenanceReport, OpenError, Options, PeerStats, Pending, PendingAnswer, Position, Receipt, RefreshFamilies,
    ReplaySet, Replica, ReplicaStats, ReplicateError, Rotation, SalvageError, SalvageReport, SnapshotError,
    SnapshotReport, Stats, Store, StoreLimits, Successor, TenantStore, Use, Verification, VerifyError, Watch,
    WriteError, salvage, salvage_on, verify, verify_on,
};

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;
