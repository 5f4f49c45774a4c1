//! The data plane alone, in front of endpoints that run already: for measurements and profiles.
//!
//! `proxy LISTEN ENDPOINT…`, addresses as `host:port` or `unix:PATH`; one shard.

use std::error::Error;

use evener_edge::{
    Cluster, Edge, EdgeConfig, EndpointAddress, EndpointId, EndpointSpec, ListenAddress, Share,
    TrustedPeers,
};
use evener_telemetry::{Telemetry, TelemetryConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().ok_or("usage: proxy LISTEN ENDPOINT…")?;
    let cluster = Cluster::new("endpoints", 1000);
    for (index, address) in arguments.enumerate() {
        cluster.add(EndpointSpec {
            id: EndpointId(index as u64),
            name: address.clone(),
            address: match address.strip_prefix("unix:") {
                Some(path) => EndpointAddress::Unix(path.into()),
                None => EndpointAddress::Tcp(address.parse()?),
            },
            in_flight_max: 10_000,
            connections_max: None,
            share: Share::default(),
            page: None,
            terms: evener_edge::UpstreamTerms::default(),
            process: 0,
        });
    }
    let address = match listen.strip_prefix("unix:") {
        Some(path) => ListenAddress::Unix(path.into()),
        None => ListenAddress::Tcp(listen.parse()?),
    };
    let config = EdgeConfig {
        trusted: TrustedPeers::parse("127.0.0.1")?,
        ..EdgeConfig::to_one(address, cluster)
    };
    let edge = Edge::start(config, &Telemetry::new(TelemetryConfig::default()))?;
    eprintln!("{}", edge.addresses().join(" "));
    loop {
        std::thread::park();
    }
}
