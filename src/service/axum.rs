//! The extractor for axum handlers.

use axum_core::extract::{FromRef, FromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};

use super::{Answer, Claims, Guard, Refusal};

/// Verified claims, from the request's extensions, that are not revoked. A handler that takes them is not run otherwise.
///
/// The router's state gives the [`Guard`]: it is one, or has one by `FromRef`. See `manual::axum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live<C>(pub C);

/// What a request is answered whose claims are revoked.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// Why.
    pub refusal: Refusal,
    answer: Answer,
}

impl Rejection {
    fn of(guard: &Guard, refusal: Refusal) -> Self {
        Self { refusal, answer: guard.answer(&refusal) }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.answer.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let mut response = (status, self.answer.body).into_response();
        for (name, value) in self.answer.headers {
            // A media type that is none is left out.
            if let Ok(value) = HeaderValue::try_from(value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

impl<S, C> FromRequestParts<S> for Live<C>
where
    S: Send + Sync,
    C: Claims + Clone + Send + Sync + 'static,
    Guard: FromRef<S>,
{
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        let guard = Guard::from_ref(state);
        // There is nothing to extract where there are no claims, whoever else is let in.
        let claims = parts.extensions.get::<C>().ok_or(Refusal::NoClaims);
        let admitted = claims.and_then(|claims| guard.check(&claims.credential()).map(|()| claims));
        admitted.map(|claims| Self(claims.clone())).map_err(|refusal| Rejection::of(&guard, refusal))
    }
}
