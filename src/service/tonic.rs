//! The interceptor for tonic services.

use std::fmt;
use std::marker::PhantomData;

use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Code, Request, Status};

use super::{Claims, Guard, Refusal};

/// An interceptor that refuses calls whose verified claims, which are in the extensions as a `C`, are revoked: with
/// UNAUTHENTICATED, or with UNAVAILABLE where the store cannot say.
///
/// Interceptors run one after the other: it must come after what verifies tokens. See
/// `manual::tonic`.
pub struct RevocationInterceptor<C> {
    guard: Guard,
    claims: PhantomData<fn() -> C>,
}

impl<C> RevocationInterceptor<C> {
    /// The interceptor by which a guard stands before a service.
    #[must_use]
    pub fn new(guard: Guard) -> Self {
        Self { guard, claims: PhantomData }
    }
}

impl<C> Clone for RevocationInterceptor<C> {
    fn clone(&self) -> Self {
        Self::new(self.guard.clone())
    }
}

impl<C> fmt::Debug for RevocationInterceptor<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationInterceptor").field("guard", &self.guard).finish()
    }
}

impl<C: Claims + Send + Sync + 'static> Interceptor for RevocationInterceptor<C> {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match self.guard.admit(request.extensions().get::<C>()) {
            Ok(()) => Ok(request),
            Err(refusal) => Err(self.guard.status(&refusal)),
        }
    }
}

impl Guard {
    /// Returns the status that answers a refused call: UNAVAILABLE (14) with `grpc-retry-pushback-ms` where the store cannot
    /// say, UNAUTHENTICATED (16) with `www-authenticate` otherwise. For a service that asks the guard itself.
    #[must_use]
    pub fn status(&self, refusal: &Refusal) -> Status {
        let (code, metadata) = self.grpc(refusal);
        let mut headers = HeaderMap::new();
        for (name, value) in metadata {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        Status::with_metadata(Code::from_i32(code), refusal.description(), MetadataMap::from_headers(headers))
    }
}
