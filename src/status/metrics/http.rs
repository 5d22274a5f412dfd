//! Serves metrics over HTTP: `GET /metrics`, and nothing else.

use core::convert::Infallible;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::host::{Eviction, Places, source_of};
use crate::limits::{ACCEPT_PAUSE, CONTROL_CONNECTIONS, CONTROL_TIMEOUT, SCRAPES_PER_ADDRESS};

/// The media type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The rank of a connection without a request yet: below that of the others.
const IDLE: bool = false;

/// The rank of a connection with a request.
const ASKED: bool = true;

/// Answers requests on `listener` with `text` until dropped. Connections are few and short. If no place is
/// free, a new connection evicts the oldest one without a request.
pub async fn serve_metrics(listener: TcpListener, text: impl Fn() -> String + Clone + Send + Sync + 'static) {
    let places = Places::new(CONTROL_CONNECTIONS, SCRAPES_PER_ADDRESS, Eviction::Oldest);
    let mut is_failing = false;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => {
                is_failing = false;
                accepted
            }
            Err(error) => {
                if !core::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "cannot accept connections for metrics: {error}");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let mut place = places.enter(source_of(peer.ip()), IDLE);
        let has_asked = place.rank();
        let text = text.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                has_asked.update(|rank| *rank = ASKED);
                let response = answer(&request, &text);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let is_answered = tokio::select! {
                outcome = timeout(CONTROL_TIMEOUT, connection) => matches!(outcome, Ok(Ok(()))),
                () = place.evicted() => false,
            };
            if !is_answered {
                tracing::debug!("a request for metrics was not answered");
            }
        });
    }
}

fn answer<B>(request: &Request<B>, text: &impl Fn() -> String) -> Response<Full<Bytes>> {
    let is_asked = request.method() == Method::GET && request.uri().path() == "/metrics";
    let (status, kind, body) = if is_asked {
        (StatusCode::OK, OPEN_METRICS, text())
    } else {
        (StatusCode::NOT_FOUND, "text/plain", "not found: use GET /metrics\n".to_owned())
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn asked(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve_metrics(listener, || "nf_up 1\n# EOF\n".to_owned()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        serving.abort();
        answer
    }

    #[tokio::test]
    async fn only_get_metrics_is_answered() {
        let answer = asked("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("nf_up 1\n# EOF\n"), "{answer}");
        assert!(answer.contains("application/openmetrics-text"), "{answer}");
        for request in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n"] {
            assert!(asked(request).await.starts_with("HTTP/1.1 404"), "{request}");
        }
    }
}
