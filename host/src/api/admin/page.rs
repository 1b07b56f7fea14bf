//! The dashboard: one page, its style and its module, in the binary. What it shows it fetches from the routes beside it.

use axum::Router;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::shared::Admin;

/// Nothing comes from elsewhere, and no other site has the page in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // A node that is replaced by another version has another page.
    (header::CACHE_CONTROL, "no-store"),
];

const FILES: [(&str, &str, &str); 3] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("dashboard/index.html"),
    ),
    (
        "/dashboard.css",
        "text/css; charset=utf-8",
        include_str!("dashboard/style.css"),
    ),
    (
        "/dashboard.js",
        "text/javascript; charset=utf-8",
        include_str!("dashboard/app.js"),
    ),
];

/// The routes of the page. They tell nothing of the mesh.
pub(super) fn routes() -> Router<Admin> {
    let add = |router: Router<Admin>, (path, kind, content)| {
        let answer = move || async move {
            (HEADERS, [(header::CONTENT_TYPE, kind)], content).into_response()
        };
        router.route(path, get(answer))
    };
    FILES.into_iter().fold(Router::new(), add)
}
