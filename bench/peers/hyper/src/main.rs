//! The least reverse proxy on hyper: `bench-hyper LISTEN ENDPOINT…`, one thread.
//!
//! hyper's server, hyper-util's pooled client, round robin; the same forwarding fields as Evener
//! sets. Bodies are streamed both ways; an upgrade becomes a tunnel.

use std::cell::Cell;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, combinators::BoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;

type Body = BoxBody<Bytes, hyper::Error>;

struct Proxy {
    client: Client<HttpConnector, Incoming>,
    endpoints: Vec<String>,
    turn: Cell<usize>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen: SocketAddr = arguments
        .next()
        .ok_or("usage: bench-hyper LISTEN ENDPOINT…")?
        .parse()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(1024)
        .pool_idle_timeout(Duration::from_secs(3600))
        .pool_timer(TokioTimer::new())
        .build(connector);
    let proxy = Rc::new(Proxy {
        client,
        endpoints: arguments.collect(),
        turn: Cell::new(0),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, accept(listen, proxy))
}

async fn accept(listen: SocketAddr, proxy: Rc<Proxy>) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::from_std(listener(listen)?)?;
    loop {
        let (socket, client) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let proxy = Rc::clone(&proxy);
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| forward(Rc::clone(&proxy), client, request));
            // A broken connection is its client's affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .with_upgrades()
                .await;
        });
    }
}

fn listener(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn forward(
    proxy: Rc<Proxy>,
    client: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, hyper::Error> {
    let turn = proxy.turn.get();
    proxy.turn.set(turn.wrapping_add(1));
    let endpoint = &proxy.endpoints[turn % proxy.endpoints.len()];
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
    let Ok(uri) = format!("http://{endpoint}{path}").parse::<Uri>() else {
        return Ok(answer(StatusCode::BAD_REQUEST));
    };
    *request.uri_mut() = uri;
    rewrite(&mut request, client);
    let downstream = hyper::upgrade::on(&mut request);
    match proxy.client.request(request).await {
        Ok(mut response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            let upstream = hyper::upgrade::on(&mut response);
            tokio::task::spawn_local(async move {
                if let (Ok(down), Ok(up)) = (downstream.await, upstream.await) {
                    let (mut down, mut up) = (TokioIo::new(down), TokioIo::new(up));
                    // Either end may go at any time; that ends the tunnel.
                    let _ = copy_bidirectional(&mut down, &mut up).await;
                }
            });
            Ok(response.map(|_| Empty::new().map_err(|never| match never {}).boxed()))
        }
        Ok(response) => Ok(response.map(BodyExt::boxed)),
        Err(_) => Ok(answer(StatusCode::BAD_GATEWAY)),
    }
}

/// Hop-by-hop fields out unless they ask for an upgrade, forwarding fields in.
fn rewrite(request: &mut Request<Incoming>, client: SocketAddr) {
    let fields = request.headers_mut();
    if !fields.contains_key(UPGRADE) {
        fields.remove(CONNECTION);
    }
    if let Ok(address) = HeaderValue::try_from(client.ip().to_string()) {
        fields.insert(HeaderName::from_static("x-forwarded-for"), address.clone());
        fields.insert(HeaderName::from_static("x-real-ip"), address);
    }
    if let Some(host) = fields.get(HOST).cloned() {
        fields.insert(HeaderName::from_static("x-forwarded-host"), host);
    }
    fields.insert(
        HeaderName::from_static("x-forwarded-proto"),
        HeaderValue::from_static("http"),
    );
}

fn answer(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
}
