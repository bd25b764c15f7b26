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
/// wants it: 200, with `grpc-status` 16 (UNAUTHENTICATED) or 14 (UNAVAILABLE). So are those of gRPC-Web.
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
                let grpc = request.headers().get(CONTENT_TYPE).filter(|kind| is_grpc(kind.as_bytes())).cloned();
                ResponseFuture { served: None, refused: Some((self.guard.clone(), refusal, grpc)) }
            }
        }
    }
}

/// Whether a media type is one of gRPC: itself, one of its encodings of messages, or gRPC-Web.
fn is_grpc(kind: &[u8]) -> bool {
    kind.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b'-' | b';')))
}

/// What refused requests are answered; those of gRPC in the media type in which they asked.
fn refused<R>(guard: &Guard, refusal: &Refusal, grpc: Option<HeaderValue>) -> Response<ResponseBody<R>> {
    let (status, headers, body) = if grpc.is_some() {
        let (code, mut headers) = guard.grpc(refusal);
        headers.push(("grpc-status", code.to_string()));
        headers.push(("grpc-message", refusal.description().into_owned()));
        (StatusCode::OK, headers, String::new())
    } else {
        let answer = guard.answer(refusal);
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        (status, answer.headers, answer.body)
    };
    let body = ResponseBody { served: None, refused: Some(Bytes::from(body)).filter(|body| !body.is_empty()) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().extend(grpc.map(|kind| (CONTENT_TYPE, kind)));
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
        refused: Option<(Guard, Refusal, Option<HeaderValue>)>,
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
            Some((guard, refusal, grpc)) => Poll::Ready(Ok(refused(&guard, &refusal, grpc))),
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Waker;

    use super::*;
    use crate::service::{Page, RegisteredClaims};
    use crate::{Revocation, Store, Subject};

    /// A body of one piece.
    #[derive(Debug, Default)]
    struct Text(Option<Bytes>);

    impl Body for Text {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.take().map(|text| Ok(Frame::data(text))))
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_none()
        }
    }

    /// Says hello.
    struct Hello;

    impl Service<Request<()>> for Hello {
        type Response = Response<Text>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Text>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            std::future::ready(Ok(Response::new(Text(Some(Bytes::from_static(b"hello"))))))
        }
    }

    /// What somebody is answered, and the whole body.
    fn ask(guard: &Guard, user: &str, kind: Option<&str>) -> (Response<()>, String) {
        let mut service = RevocationLayer::<RegisteredClaims>::new(guard.clone()).layer(Hello);
        let claims = RegisteredClaims { sub: Some(user.to_owned()), ..RegisteredClaims::default() };
        let mut request = Request::new(());
        request.extensions_mut().insert(claims);
        if let Some(kind) = kind {
            request.headers_mut().insert(CONTENT_TYPE, kind.parse().unwrap());
        }
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(response)) = Box::pin(service.call(request)).as_mut().poll(&mut context) else {
            panic!("nothing is waited for")
        };
        let (parts, body) = response.into_parts();
        let (mut body, mut text) = (Box::pin(body), Vec::new());
        while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut context) {
            text.extend(frame.unwrap().into_data().unwrap());
        }
        assert!(body.is_end_stream());
        (Response::from_parts(parts, ()), String::from_utf8(text).unwrap())
    }

    fn guard() -> Guard {
        let store = Store::in_memory();
        store.revoke(Revocation::of(Subject::user("mallory"))).unwrap();
        Guard::new(&store)
    }

    fn header<'a>(response: &'a Response<()>, name: &str) -> Option<&'a str> {
        response.headers().get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn what_is_let_in_is_left_alone() {
        let (response, body) = ask(&guard(), "alice", None);
        assert_eq!((response.status(), &*body), (StatusCode::OK, "hello"));
        assert!(response.headers().is_empty());
    }

    #[test]
    fn who_is_refused_gets_the_page() {
        let guard = guard().page(|_| Page { content_type: "text/html", body: "<p>Log in</p>".to_owned() });
        let (response, body) = ask(&guard, "mallory", Some("application/json"));
        assert_eq!((response.status(), &*body), (StatusCode::UNAUTHORIZED, "<p>Log in</p>"));
        assert_eq!(header(&response, "content-type"), Some("text/html"));
    }

    #[test]
    fn grpc_is_answered_in_the_kind_that_was_asked_in() {
        for kind in
            ["application/grpc", "application/grpc+proto", "application/grpc-web+proto", "application/grpc-web-text"]
        {
            let (response, body) = ask(&guard(), "mallory", Some(kind));
            assert_eq!((response.status(), &*body), (StatusCode::OK, ""));
            assert_eq!((header(&response, "content-type"), header(&response, "grpc-status")), (Some(kind), Some("16")));
        }
        let (response, _) = ask(&guard(), "mallory", Some("application/grpcish"));
        assert_eq!((response.status(), header(&response, "grpc-status")), (StatusCode::UNAUTHORIZED, None));
    }
}
