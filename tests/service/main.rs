//! Services in each stack, started as processes of their own and asked by real clients.
//!
//! The services are the examples `axum_service`, `actix_service` and `tonic_service`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a failed test panics; these live in real time"
)]

mod causes;
mod grpc;
mod http;
mod process;
#[path = "../../examples/text_codec/mod.rs"]
mod text_codec;
mod websocket;
