//! Accepts connections and speaks HTTP/1.1 on them, within bounds: so many connections, so long
//! a head, so much time for it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

use crate::access::Access;
use crate::route::{Api, Order, Source};

/// Connections at a time; further ones wait.
const CONNECTIONS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A connection is closed after this, however busy it is.
const CONNECTION_TIME: Duration = Duration::from_secs(300);
/// Pause after a failed accept, which mostly means that descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is behind the API.
#[derive(Clone)]
pub struct Server {
    source: Arc<dyn Source>,
    orders: mpsc::Sender<Order>,
}

impl Server {
    /// Answers from `source`; commands go to `orders`.
    pub fn new(source: Arc<dyn Source>, orders: mpsc::Sender<Order>) -> Server {
        Server { source, orders }
    }

    fn api(self, access: Access, dashboard: bool) -> Arc<Api> {
        Arc::new(Api {
            source: self.source,
            orders: self.orders,
            access,
            dashboard,
        })
    }
}

/// What both kinds of listener can do.
trait Listener: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn take(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn take(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn take(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves the API on a unix socket until the task is dropped.
pub async fn serve_unix(server: Server, listener: UnixListener) {
    accept_all(server.api(Access::owner(), false), listener).await;
}

/// Serves the API and the dashboard on a TCP address until the task is dropped.
pub async fn serve_tcp(server: Server, listener: TcpListener, access: Access) {
    accept_all(server.api(access, true), listener).await;
}

async fn accept_all(api: Arc<Api>, listener: impl Listener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.take().await {
            Ok(stream) => {
                let api = Arc::clone(&api);
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(CONNECTION_TIME, serve(api, stream)).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve<Stream>(api: Arc<Api>, stream: Stream)
where
    Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.answer(request).await) }
    });
    // A connection that breaks is the client's business.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
