//! `GET /metrics` by HTTP/1.1.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Metrics, text::Format};

/// Connections at a time; a monitoring system needs one.
const MAX_CONNECTIONS: usize = 16;
/// A client has so long to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection ends after this time: who wants more connects again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(600);
/// Until the next attempt where none can be accepted, as all descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`. `renew` is called before metrics are read.
pub async fn serve<F>(listener: TcpListener, metrics: Arc<Metrics>, renew: F, stop: CancellationToken)
where
    F: Fn() + Clone + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = async {
        // It is never closed, so there is a place at some time.
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let connection = answer(stream, metrics.clone(), renew.clone());
                    tokio::spawn(async move {
                        let _place = place;
                        let _ = timeout(CONNECTION_TIMEOUT, connection).await;
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection for metrics cannot be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(connections).await;
}

/// Answers the requests of one connection.
async fn answer(stream: TcpStream, metrics: Arc<Metrics>, renew: impl Fn()) {
    let service = service_fn(move |request| {
        let response = respond(&metrics, &renew, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection for metrics broke");
    }
}

fn respond<B>(metrics: &Metrics, renew: impl Fn(), request: &Request<B>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "metrics can be read only\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::accepted(accept);
    renew();
    let mut response = plain(StatusCode::OK, metrics.text(format));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    response
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, Arc::new(Metrics::new()), || (), stop.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request}\r\nHost: n1\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        stop.cancel();
        server.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_are_read_in_the_format_that_is_asked_for() {
        let older = ask("GET /metrics HTTP/1.1").await;
        assert!(older.starts_with("HTTP/1.1 200 OK\r\n") && older.contains("version=0.0.4"), "{older}");
        let newer = ask("GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0").await;
        assert!(newer.contains("application/openmetrics-text") && newer.ends_with("# EOF\n"), "{newer}");
    }

    #[tokio::test]
    async fn what_is_no_request_for_metrics_is_refused() {
        for (request, status) in [("GET / HTTP/1.1", "404"), ("POST /metrics HTTP/1.1", "405"), ("nonsense", "400")] {
            let answer = ask(request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_connection_waits_while_all_places_are_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, Arc::new(Metrics::new()), || (), stop.clone()));
        let idle: Vec<TcpStream> =
            futures_util::future::try_join_all((0..MAX_CONNECTIONS).map(|_| TcpStream::connect(address)))
                .await
                .unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        drop(idle);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("200 OK"), "{answer}");
        stop.cancel();
    }
}
