//! Who gets what from the page's server.

use axum::{
    body::{Body, to_bytes},
    http::{Request, StatusCode, header},
};
use tower::ServiceExt as _;

use super::*;
use crate::ui::{
    args::{RunDir, TopArgs},
    top::{Batch, Event},
};

fn site(read_only: bool) -> Arc<Site> {
    let watch = TopArgs { read_only, server: None, credentials: None, run_dir: RunDir { path: "/nonexistent".into() } };
    Arc::new(Site {
        token: "secret".into(),
        read_only,
        daemons: Daemons::new(&watch).unwrap(),
        state: Mutex::default(),
        messages: broadcast::Sender::new(BACKLOG),
    })
}

async fn ask(site: &Arc<Site>, token: Option<&str>, path: &str, body: Option<&str>) -> axum::response::Response {
    let mut request = Request::builder().uri(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.method("POST").header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.body(body.map_or_else(Body::empty, |body| Body::from(body.to_owned()))).unwrap();
    serve::router(site.clone()).oneshot(request).await.unwrap()
}

async fn text(response: axum::response::Response) -> String {
    String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn nothing_is_told_or_done_without_the_token() {
    let site = site(false);
    let command = r#"{"do":"migrate","process":"n1/7","to":"home"}"#;
    for token in [None, Some(""), Some("secreT"), Some("secret "), Some("secret1")] {
        for (path, body) in [("/api/events", None), ("/api/why/n1/7", None), ("/api/do", Some(command))] {
            assert_eq!(ask(&site, token, path, body).await.status(), StatusCode::UNAUTHORIZED, "{token:?} {path}");
        }
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let site = site(false);
    for (path, kind) in [("/", "text/html"), ("/style.css", "text/css"), ("/app.js", "text/javascript")] {
        let response = ask(&site, None, path, None).await;
        assert_eq!(response.status(), StatusCode::OK);
        let header = |name| response.headers()[name].to_str().unwrap();
        assert!(header(header::CONTENT_TYPE).starts_with(kind));
        assert!(header(header::CONTENT_SECURITY_POLICY).starts_with("default-src 'none'; script-src 'self';"));
        let text = text(response).await;
        assert!(!text.contains("https://") && !text.contains("secret"), "{path}");
    }
    assert_eq!(ask(&site, None, "/other", None).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_page_is_told_everything_and_then_what_changes() {
    let site = site(false);
    let (whole, mut messages) = site.subscribe();
    assert!(whole.contains(r#""type":"whole""#));
    let batch = Batch { whole: true, put: Vec::new(), deleted: Vec::new() };
    site.change(|state| state.take(Event::Nodes(batch)));
    assert!(messages.recv().await.unwrap().contains(r#""type":"nodes""#));
    let response = ask(&site, Some("secret"), "/api/events", None).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
}

#[tokio::test]
async fn who_may_only_look_changes_nothing() {
    let command = Some(r#"{"do":"expel","node":"n1"}"#);
    let refused = ask(&site(true), Some("secret"), "/api/do", command).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    // Without --read-only it comes as far as the daemon, which does not answer here.
    let failed = ask(&site(false), Some("secret"), "/api/do", command).await;
    assert_eq!(failed.status(), StatusCode::CONFLICT);
    assert!(text(failed).await.contains("error"));
}

#[tokio::test]
async fn a_command_that_is_not_understood_is_refused() {
    let site = site(false);
    for bad in ["", "{", r#"{"do":"dance"}"#, r#"{"do":"migrate","process":"7","to":"n2"}"#] {
        let status = ask(&site, Some("secret"), "/api/do", Some(bad)).await.status();
        assert!(status.is_client_error(), "{bad}: {status}");
    }
    let long = format!(r#"{{"do":"expel","node":"{}"}}"#, "n".repeat(1 << 20));
    assert_eq!(ask(&site, Some("secret"), "/api/do", Some(&long)).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[test]
fn a_token_that_can_be_guessed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    for bad in ["", "short", &"x ".repeat(32), &"é".repeat(32)] {
        fs::write(&path, bad).unwrap();
        assert!(read_token(&path).is_err(), "{bad}");
    }
    fs::write(&path, "a".repeat(MIN_TOKEN_CHARS) + "\n").unwrap();
    assert_eq!(read_token(&path).unwrap().len(), MIN_TOKEN_CHARS);
}
