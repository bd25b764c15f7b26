//! The layer for any tower service.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tower_layer::Layer;
use tower_service::Service;

use super::{Claims, Guard, Refusal};

/// A layer that refuses requests whose verified claims, which are in the extensions as a `C`, are revoked.
///
/// Put it *under* what verifies tokens: that must have run. Requests of gRPC, by their content type, are answered as gRPC
/// wants it: 200, with `grpc-status` 16 (UNAUTHENTICATED) or 14 (UNAVAILABLE).
///
/// See `manual::axum`.
pub struct RevocationLayer<C> {
    guard: Guard,
    claims: PhantomData<fn() -> C>,
}

impl<C> RevocationLayer<C> {
    /// The layer by which a guard stands before a service.
    #[must_use]
    pub fn new(guard: Guard) -> Self {
        Self { guard, claims: PhantomData }
    }
}

impl<C> Clone for RevocationLayer<C> {
    fn clone(&self) -> Self {
        Self::new(self.guard.clone())
    }
}

impl<C> fmt::Debug for RevocationLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationLayer").field("guard", &self.guard).finish()
    }
}

impl<S, C> Layer<S> for RevocationLayer<C> {
    type Service = RevocationService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        RevocationService { inner, guard: self.guard.clone(), claims: PhantomData }
    }
}

/// The service that [`RevocationLayer`] makes.
pub struct RevocationService<S, C> {
    inner: S,
    guard: Guard,
    claims: PhantomData<fn() -> C>,
}

impl<S: Clone, C> Clone for RevocationService<S, C> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), guard: self.guard.clone(), claims: PhantomData }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for RevocationService<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationService").field("inner", &self.inner).field("guard", &self.guard).finish()
    }
}

impl<S, C, B, R> Service<Request<B>> for RevocationService<S, C>
where
    S: Service<Request<B>, Response = Response<R>>,
    C: Claims + Send + Sync + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.guard.admit(request.extensions().get::<C>()) {
            Ok(()) => ResponseFuture { served: Some(self.inner.call(request)), refused: None },
            Err(refusal) => {
                let is_grpc = request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(GRPC));
                ResponseFuture { served: None, refused: Some((self.guard.clone(), refusal, is_grpc)) }
            }
        }
    }
}

const GRPC: &[u8] = b"application/grpc";

/// What refused requests are answered.
fn refused<R>(guard: &Guard, refusal: &Refusal, is_grpc: bool) -> Response<ResponseBody<R>> {
    let (status, headers, body) = if is_grpc {
        let (code, mut headers) = guard.grpc(refusal);
        headers.push(("content-type", "application/grpc".to_owned()));
        headers.push(("grpc-status", code.to_string()));
        headers.push(("grpc-message", refusal.description().to_owned()));
        (StatusCode::OK, headers, String::new())
    } else {
        let answer = guard.answer(refusal);
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        (status, answer.headers, answer.body)
    };
    let body = ResponseBody { served: None, refused: Some(Bytes::from(body)).filter(|body| !body.is_empty()) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        // A media type that is none is left out.
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

pin_project_lite::pin_project! {
    /// The response to come: of the service, or the refusal.
    pub struct ResponseFuture<F> {
        #[pin]
        served: Option<F>,
        refused: Option<(Guard, Refusal, bool)>,
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("refused", &self.refused).finish_non_exhaustive()
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ResponseBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(future) = this.served.as_pin_mut() {
            let response = ready!(future.poll(context))?;
            return Poll::Ready(Ok(response.map(|body| ResponseBody { served: Some(body), refused: None })));
        }
        match this.refused.take() {
            Some((guard, refusal, is_grpc)) => Poll::Ready(Ok(refused(&guard, &refusal, is_grpc))),
            // It was polled after it was ready.
            None => Poll::Pending,
        }
    }
}

pin_project_lite::pin_project! {
    /// The body of the service's response, or of the refusal.
    #[derive(Debug)]
    pub struct ResponseBody<R> {
        #[pin]
        served: Option<R>,
        refused: Option<Bytes>,
    }
}

/// An empty one.
impl<R> Default for ResponseBody<R> {
    fn default() -> Self {
        Self { served: None, refused: None }
    }
}

impl<R: Body<Data = Bytes>> Body for ResponseBody<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        match this.served.as_pin_mut() {
            Some(body) => body.poll_frame(context),
            None => Poll::Ready(this.refused.take().map(|body| Ok(Frame::data(body)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.served.as_ref().map_or(self.refused.is_none(), Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let refused = || SizeHint::with_exact(self.refused.as_ref().map_or(0, |body| body.len() as u64));
        self.served.as_ref().map_or_else(refused, Body::size_hint)
    }
}
