//! What a shard of the data plane is made of below HTTP: sockets with remembered readiness,
//! pipes that look like sockets, listeners, coarse timers, gathered writes, a buffer store, and a
//! mailbox that wakes the shard.
//!
//! Readiness is edge-triggered `epoll` by way of `mio`. Nothing here knows about requests.

#![forbid(unsafe_code)]

mod buffers;
mod certificates;
mod client_certificate;
mod client_tls;
mod distinguished_name;
mod gather;
mod listen;
mod mailbox;
mod pipe;
mod proxy_protocol;
mod socket;
mod tcp_options;
mod timers;
mod tls;

pub use buffers::BufferStore;
pub use certificates::{CertificateFiles, ServerTls, ServerTlsTerms, TlsError, TlsVersion};
pub use client_tls::{ClientTls, ClientTlsTerms};
pub use gather::Gather;
pub use listen::{Accepted, BoundListener, ListenError, Listener};
pub use mailbox::{Mailbox, Postbox, mailbox};
pub use pipe::{Bells, FarEnd, Outward, PipeEnd, Ring, pipe};
pub use proxy_protocol::{
    BadProxyHeader, PROXY_BYTES_MAX, ProxyHeader, ProxyVersion, begins_proxy_header,
    parse_proxy_header, push_proxy_header,
};
pub use rustls::pki_types::ServerName;
pub use socket::{Peer, Socket, Transfer};
pub use timers::{TimerKey, Timers};
