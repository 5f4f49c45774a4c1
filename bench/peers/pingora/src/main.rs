//! The least balancer on Pingora: `bench-pingora LISTEN ENDPOINT…`, one thread.
//!
//! Round robin, because its least-connections selection does not exist; upstream connections are
//! kept; the same forwarding fields as Evener sets. Uploads and responses are streamed by default.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::lb::LoadBalancer;
use pingora::lb::selection::RoundRobin;
use pingora::prelude::{HttpPeer, RequestHeader, http_proxy_service};
use pingora::proxy::{ProxyHttp, Session};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::{Error, ErrorType, Result};

/// Longer than any window, so that no connection is closed inside one.
const KEPT: Duration = Duration::from_secs(3600);

struct Balancer(Arc<LoadBalancer<RoundRobin>>);

#[async_trait]
impl ProxyHttp for Balancer {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn early_request_filter(&self, session: &mut Session, _: &mut ()) -> Result<()> {
        session.set_keepalive(Some(KEPT.as_secs()));
        Ok(())
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let endpoint = self.0.select(b"", 256);
        let endpoint = endpoint.ok_or_else(|| Error::new(ErrorType::ConnectNoRoute))?;
        let mut peer = HttpPeer::new(endpoint, false, String::new());
        peer.options.idle_timeout = Some(KEPT);
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> Result<()> {
        let client = session.client_addr().and_then(|address| address.as_inet());
        if let Some(client) = client {
            let client = client.ip().to_string();
            request.insert_header("X-Forwarded-For", &client)?;
            request.insert_header("X-Real-IP", &client)?;
        }
        if let Some(host) = request.headers.get("Host").cloned() {
            request.insert_header("X-Forwarded-Host", host)?;
        }
        request.insert_header("X-Forwarded-Proto", "http")
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments
        .next()
        .ok_or("usage: bench-pingora LISTEN ENDPOINT…")?;
    let configuration = ServerConf {
        threads: 1,
        work_stealing: false,
        upstream_keepalive_pool_size: 1024,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, configuration);
    let balancer = Arc::new(LoadBalancer::try_from_iter(arguments)?);
    let mut service = http_proxy_service(&server.configuration, Balancer(balancer));
    service.add_tcp(&listen);
    server.add_service(service);
    server.run_forever()
}
