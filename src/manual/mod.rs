//! The manual: what the words mean, why it is built so, what is on disk, what is promised and what is not.
//!
//! - [`semantics`]: subjects, epochs, flags, undoing, and why forgetting is safe
//! - [`causality`]: what a revocation kills when clocks, limits or names disagree, as a table of situations
//! - [`identity`]: the two hashes, and what somebody without the key can and cannot do
//! - [`format`](mod@format): the files, byte by byte, and what recovery makes of them
//! - [`operations`]: running it: durability, errors, clocks, audit, backups
//! - [`command_line`]: the program `rescind`
//! - `axum`, `actix`, `tonic`: a service in each, with the feature `examples`
//! - [`migrating_from_redis`], [`migrating_from_a_map`]: from what is there today
//! - [`observability`]: figures, logs, what to alarm on
//! - [`faults`]: what may go wrong, what then happens, which test backs it, and what is not promised
//! - [`followers`]: a second process on the same host, which reads the log along
//! - [`refresh_tokens`]: families of refresh tokens whose theft is noticed, and proofs that are not to be replayed
//! - [`replication`](mod@replication): how replicas agree, how they know that they do, and the messages byte by byte
//! - [`wires`]: the engines that carry their messages: gossip, Redis, NATS
//! - [`performance`]: where the time and the memory go
//! - [`threats`]: the threat model by boundary
//! - [`decisions`]: where the design could have gone another way, and why it did not

#[doc = include_str!("semantics.md")]
pub mod semantics {}

#[doc = include_str!("causality.md")]
pub mod causality {}

#[doc = include_str!("identity.md")]
pub mod identity {}

#[doc = include_str!("format.md")]
pub mod format {}

#[doc = include_str!("operations.md")]
pub mod operations {}

#[doc = include_str!("command_line.md")]
pub mod command_line {}

// Their snippets are tests, and need what the examples need.
#[cfg(feature = "examples")]
#[doc = include_str!("axum.md")]
pub mod axum {}

#[cfg(feature = "examples")]
#[doc = include_str!("actix.md")]
pub mod actix {}

#[cfg(feature = "examples")]
#[doc = include_str!("tonic.md")]
pub mod tonic {}

#[doc = include_str!("migrating_from_redis.md")]
pub mod migrating_from_redis {}

#[doc = include_str!("migrating_from_a_map.md")]
pub mod migrating_from_a_map {}

#[doc = include_str!("observability.md")]
pub mod observability {}

#[doc = include_str!("faults.md")]
pub mod faults {}

#[doc = include_str!("followers.md")]
pub mod followers {}

#[doc = include_str!("refresh_tokens.md")]
pub mod refresh_tokens {}

#[doc = include_str!("replication.md")]
pub mod replication {}

#[doc = include_str!("wires.md")]
pub mod wires {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("threats.md")]
pub mod threats {}

#[doc = include_str!("decisions.md")]
pub mod decisions {}
