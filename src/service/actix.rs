//! The middleware for actix-web.

use std::fmt;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::http::StatusCode;
use actix_web::{Error, HttpMessage, HttpResponse};

use super::{Answer, Claims, Guard};

/// A middleware that refuses requests whose verified claims, which are in the extensions as a `C`, are revoked.
///
/// What verifies tokens must have run: `wrap` it *after* this one, for the middleware that is wrapped last runs first. See
/// `manual::actix`.
pub struct RevocationMiddleware<C> {
    guard: Guard,
    claims: PhantomData<fn() -> C>,
}

impl<C> RevocationMiddleware<C> {
    /// The middleware by which a guard stands before a service.
    #[must_use]
    pub fn new(guard: Guard) -> Self {
        Self { guard, claims: PhantomData }
    }
}

impl<C> Clone for RevocationMiddleware<C> {
    fn clone(&self) -> Self {
        Self::new(self.guard.clone())
    }
}

impl<C> fmt::Debug for RevocationMiddleware<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationMiddleware").field("guard", &self.guard).finish()
    }
}

impl<S, C, B> Transform<S, ServiceRequest> for RevocationMiddleware<C>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    S::Future: 'static,
    C: Claims + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Transform = RevocationService<S, C>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        ready(Ok(RevocationService { inner, guard: self.guard.clone(), claims: PhantomData }))
    }
}

/// The service that [`RevocationMiddleware`] makes.
pub struct RevocationService<S, C> {
    inner: S,
    guard: Guard,
    claims: PhantomData<fn() -> C>,
}

impl<S, C> fmt::Debug for RevocationService<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationService").field("guard", &self.guard).finish_non_exhaustive()
    }
}

impl<S, C, B> Service<ServiceRequest> for RevocationService<S, C>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    S::Future: 'static,
    C: Claims + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>>>>;

    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let admitted = self.guard.admit(request.extensions().get::<C>());
        match admitted {
            Ok(()) => {
                let served = self.inner.call(request);
                Box::pin(async move { Ok(served.await?.map_into_left_body()) })
            }
            Err(refusal) => {
                let response = response(self.guard.answer(&refusal));
                Box::pin(ready(Ok(request.into_response(response).map_into_right_body())))
            }
        }
    }
}

fn response(answer: Answer) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = HttpResponse::build(status);
    for header in answer.headers {
        response.insert_header(header);
    }
    response.body(answer.body)
}
