//! The page's files, and what its script asks for.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use futures_util::{Stream, stream};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, broadcast},
    time::timeout,
};

use super::{Site, wanted::Wanted};
use crate::job::JobId;

/// Pages that may watch at a time.
const MAX_PAGES: usize = 64;
/// The longest command.
const MAX_COMMAND_BYTES: usize = 64 * 1024;
/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// A quiet stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Nothing is loaded from elsewhere, framed or sent elsewhere; no script but ours runs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Sent with every answer.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The page.
const FILES: [(&str, &str, &str); 4] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("page/app.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];

#[derive(Clone)]
struct Context {
    site: Arc<Site>,
    pages: Arc<Semaphore>,
}

/// Serves until an error.
pub async fn serve(listener: TcpListener, site: Arc<Site>) -> io::Result<()> {
    axum::serve(listener, router(site)).await
}

pub fn router(site: Arc<Site>) -> Router {
    let context = Context { site, pages: Arc::new(Semaphore::new(MAX_PAGES)) };
    let api = Router::new()
        .route("/api/events", get(events))
        .route("/api/why/{node}/{pid}", get(why))
        .route("/api/do", post(act))
        .layer(DefaultBodyLimit::max(MAX_COMMAND_BYTES))
        .route_layer(middleware::from_fn_with_state(context.clone(), authorise))
        .with_state(context);
    let page = FILES.into_iter().fold(Router::new(), |page, (path, kind, text)| {
        page.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], text) }))
    });
    page.merge(api).layer(middleware::map_response(with_headers))
}

async fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Lets only those through who know the token.
async fn authorise(State(Context { site, .. }): State<Context>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    // In a time that does not tell how much of it is right.
    let is_right = aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), site.token.as_bytes()).is_ok();
    if is_right {
        return next.run(request).await;
    }
    refuse(StatusCode::UNAUTHORIZED, "the token is wrong: open the address that `scx_mosix web` printed")
}

fn refuse(status: StatusCode, why: impl Into<String>) -> Response {
    (status, Json(serde_json::json!({ "error": why.into() }))).into_response()
}

/// Everything, then each change. A page that cannot follow gets everything again.
async fn events(State(Context { site, pages }): State<Context>) -> Response {
    let Ok(place) = pages.try_acquire_owned() else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, format!("{MAX_PAGES} pages watch already: close one"));
    };
    let changes = follow(site, place);
    Sse::new(changes).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn follow(site: Arc<Site>, place: OwnedSemaphorePermit) -> impl Stream<Item = Result<Event, Infallible>> {
    let messages: Option<broadcast::Receiver<Arc<str>>> = None;
    stream::unfold((site, place, messages), |(site, place, messages)| async move {
        let mut messages = match messages {
            Some(messages) => messages,
            None => {
                let (whole, messages) = site.subscribe();
                return Some((Ok(Event::default().data(&*whole)), (site, place, Some(messages))));
            }
        };
        let message = match messages.recv().await {
            Ok(message) => message,
            Err(broadcast::error::RecvError::Lagged(_)) => {
                let (whole, later) = site.subscribe();
                messages = later;
                whole
            }
            Err(broadcast::error::RecvError::Closed) => return None,
        };
        Some((Ok(Event::default().data(&*message)), (site, place, Some(messages))))
    })
}

async fn why(State(Context { site, .. }): State<Context>, Path((node, pid)): Path<(String, i32)>) -> Response {
    let mut client = site.daemons.watched.clone();
    match client.placement_reasons(&JobId::new(&node, pid)).await {
        Ok(reasons) => Json(reasons).into_response(),
        Err(error) => refuse(StatusCode::CONFLICT, error.to_string()),
    }
}

async fn act(State(Context { site, .. }): State<Context>, Json(wanted): Json<Wanted>) -> Response {
    if site.read_only {
        return refuse(StatusCode::FORBIDDEN, "nothing may be changed from here: it was started with --read-only");
    }
    let action = match wanted.action() {
        Ok(action) => action,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, why),
    };
    match timeout(COMMAND_TIMEOUT, site.daemons.clone().perform(action)).await {
        Ok(Ok(said)) => Json(serde_json::json!({ "said": said })).into_response(),
        Ok(Err(why)) => refuse(StatusCode::CONFLICT, why),
        Err(_) => refuse(StatusCode::GATEWAY_TIMEOUT, "the daemon did not answer in time"),
    }
}
