//! Who may ask: tools send a token, browsers log in with one.

use std::time::{Duration, Instant};

use axum::extract::{FromRequest, Request, State};
use axum::http::header::{
    AUTHORIZATION, COOKIE, HOST, ORIGIN, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Form};
use serde::Deserialize;
use tokio::time::timeout;
use tracing::warn;

use super::Peer;
use super::shared::Admin;
use crate::security::{
    Denied, RequestSource, SEC_FETCH_SITE, SESSION_COOKIES, SESSION_MAX, is_of_own_page,
};

/// How long a token may take to arrive.
const FORM_MAX: Duration = Duration::from_secs(5);

/// How a request has shown that it may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    /// With a token.
    Token,
    /// With the cookie of a session.
    Session,
}

#[derive(Deserialize)]
pub(super) struct Given {
    token: String,
}

pub(super) async fn need_token(
    State(admin): State<Admin>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(tokens) = &admin.tokens {
        let tokens = tokens.borrow().clone();
        let headers = request.headers();
        let login = if tokens.allow(headers.get(AUTHORIZATION)) {
            Login::Token
        } else if (request.method().is_safe() || is_of_own_page(source_of(headers)))
            && admin
                .sessions_of(headers)
                .any(|id| admin.kept.sessions.has(&tokens, id, Instant::now()))
        {
            Login::Session
        } else {
            return no_token();
        };
        request.extensions_mut().insert(login);
    }
    next.run(request).await
}

fn no_token() -> Response {
    let text = "send `Authorization: Bearer TOKEN` with one of the node's token file (--token-file), or log in at `/`\n";
    (
        StatusCode::UNAUTHORIZED,
        [(WWW_AUTHENTICATE, "Bearer")],
        text,
    )
        .into_response()
}

/// Opens a session.
pub(super) async fn log_in(
    State(admin): State<Admin>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
) -> Response {
    let Some(tokens) = &admin.tokens else {
        return (
            StatusCode::NOT_FOUND,
            "the node has no tokens: nobody needs to log in\n",
        )
            .into_response();
    };
    let headers = request.headers().clone();
    // Whoever has no token yet shall not hold a connection for long.
    let given = timeout(FORM_MAX, Form::<Given>::from_request(request, &())).await;
    let given = match given {
        Ok(Ok(Form(given))) => given,
        Ok(Err(rejection)) => {
            let text =
                "send the token as a form: `token=TOKEN` (application/x-www-form-urlencoded)\n";
            return (rejection.status(), text).into_response();
        }
        Err(_) => {
            let text = "the token did not come in time\n";
            return (StatusCode::REQUEST_TIMEOUT, text).into_response();
        }
    };
    let tokens = tokens.borrow().clone();
    match admin
        .kept
        .sessions
        .open(&tokens, &given.token, peer.ip(), Instant::now())
    {
        Ok(id) => {
            let cookie = admin.cookie(&headers, &id, SESSION_MAX.as_secs());
            (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response()
        }
        Err(Denied::WrongToken) => {
            if let Some(times) = admin.kept.wrong_tokens.note(peer.ip(), Instant::now()) {
                warn!(event = "login-refused", address = %peer.ip(), times, "somebody tried to log in with a wrong token");
            }
            let text = "that is none of the node's tokens (--token-file)\n";
            (StatusCode::UNAUTHORIZED, text).into_response()
        }
        Err(Denied::TooManyTries(left)) => {
            let seconds = left.as_secs() + 1;
            let text = format!("too many wrong tokens: try again in {seconds} s\n");
            let after = [(RETRY_AFTER, seconds.to_string())];
            (StatusCode::TOO_MANY_REQUESTS, after, text).into_response()
        }
    }
}

/// Ends the session of a request, if it has one.
pub(super) async fn log_out(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    for id in admin.sessions_of(&headers) {
        admin.kept.sessions.close(id);
    }
    let cookie = admin.cookie(&headers, "", 0);
    (StatusCode::NO_CONTENT, [(SET_COOKIE, cookie)]).into_response()
}

impl Admin {
    /// Browsers send a cookie to all ports of a host: each node has one of its own, by the port that the
    /// browser knows it by, which may be that of a tunnel.
    fn cookie_name(&self, headers: &HeaderMap) -> String {
        let host = source_of(headers).host.and_then(|host| host.parse().ok());
        let port = host.and_then(|host: Authority| host.port_u16());
        format!("{SESSION_COOKIES}{}", port.unwrap_or(self.port))
    }

    fn cookie(&self, headers: &HeaderMap, id: &str, seconds: u64) -> String {
        let name = self.cookie_name(headers);
        let is_https = source_of(headers)
            .origin
            .is_some_and(|origin| origin.starts_with("https://"));
        let secure = if is_https { "; Secure" } else { "" };
        format!("{name}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}")
    }

    /// The ids that a request has in cookies of this node. Others on the same host may have set one of
    /// that name, too, and any that are no UTF-8.
    fn sessions_of<'h>(&self, headers: &'h HeaderMap) -> impl Iterator<Item = &'h str> {
        let name = self.cookie_name(headers);
        let lines = headers.get_all(COOKIE).iter();
        let cookies = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        cookies.filter_map(move |cookie| {
            let cookie = str::from_utf8(cookie).ok()?;
            let (own, id) = cookie.trim().split_once('=')?;
            (own == name).then_some(id)
        })
    }
}

/// Where a request comes from, as a browser says.
pub(super) fn source_of(headers: &HeaderMap) -> RequestSource<'_> {
    let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    RequestSource {
        host: header(HOST),
        origin: header(ORIGIN),
        fetch_site: header(SEC_FETCH_SITE),
    }
}
