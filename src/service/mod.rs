//! Middleware: who presents a revoked credential gets the answer that the RFCs ask for, and goes no further.
//!
//! It stands *behind* whatever verifies tokens, and reads the verified claims from the request's extensions through one
//! small trait, [`Claims`]. What it does is decided by a [`Guard`], the same for all stacks:
//!
//! | stack | feature | what to use |
//! |---|---|---|
//! | any tower service: axum, tonic, hyper | `tower` | `RevocationLayer` |
//! | an axum handler | `axum` | the extractor `Live` |
//! | actix-web | `actix` | `RevocationMiddleware` |
//! | a tonic service | `tonic` | `RevocationInterceptor` |
//! | claims as `jsonwebtoken` gives them | `jsonwebtoken` | [`Claims`] of `TokenData` |
//!
//! | verdict | answer |
//! |---|---|
//! | clear | the request goes on |
//! | revoked | 401, `WWW-Authenticate: Bearer error="invalid_token"` (RFC 6750 section 3.1) |
//! | too old | 401, `error="insufficient_user_authentication"` and `max_age` (RFC 9470 section 3) |
//! | revoked for lack of a claim | 401, `error="invalid_token"` and a description that names the claim; another login does not help |
//! | unknown: a claim is missing or malformed, another tenant's | 401, `error="invalid_token"` and a description that names the claim; no `Retry-After` |
//! | unknown: the store cannot say | 503 and `Retry-After`; no challenge, so that nobody is logged out by it |
//! | no claims at all | 401, a challenge without an error |
//!
//! The guides are `manual::axum`, `manual::actix` and
//! `manual::tonic`.

#[cfg(feature = "actix")]
mod actix;
#[cfg(feature = "axum")]
mod axum;
mod claims;
mod guard;
#[cfg(feature = "tonic")]
mod tonic;
#[cfg(feature = "tower")]
mod tower;

#[cfg(feature = "actix")]
pub use actix::{RevocationMiddleware, RevocationService as ActixRevocationService};
#[cfg(feature = "axum")]
pub use axum::{Live, Rejection};
pub use claims::{Claims, RegisteredClaims};
pub use guard::{Answer, Guard, Page, Refusal};
#[cfg(feature = "tonic")]
pub use tonic::RevocationInterceptor;
#[cfg(feature = "tower")]
pub use tower::{ResponseBody, ResponseFuture, RevocationLayer, RevocationService};
