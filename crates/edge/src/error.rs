//! Everything that can go wrong with a request, as one type, and the one place that turns it into
//! a status.

use std::fmt;
use std::io;

use evener_http1::{BodyError, HeadError};
use evener_telemetry::ErrorKind;

use crate::spill::is_full;

/// A request that cannot go on as asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProxyError {
    /// The stage that gave up.
    pub stage: Stage,
    /// Whose doing it is.
    pub side: Side,
    /// What happened.
    pub kind: Kind,
}

/// The stages a request crosses, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Stage {
    Decode,
    Route,
    Admit,
    Connect,
    Forward,
    Respond,
}

/// The side of the edge at which something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The client's.
    Downstream,
    /// The endpoint's.
    Upstream,
    /// Our own bounds.
    Edge,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) enum Kind {
    Head(HeadError),
    Body(BodyError),
    BodyTooLarge,
    HeadTimeout,
    BodyTimeout,
    /// The header of the PROXY protocol is missing or malformed.
    NotProxied,
    NoRoute,
    /// A route serves files, and there is none of that name.
    NoFile,
    /// The response could not be compressed.
    Encoding(io::ErrorKind),
    /// A body could not be kept on disk.
    Spill(io::ErrorKind),
    QueueFull,
    QueueTimeout,
    /// No endpoint is there that could serve.
    NobodyAlive,
    /// Too many requests have failed of late.
    BreakerOpen,
    /// Too many wait, and others are more important.
    Shed,
    /// The try took too long; another one may not.
    TryTimeout,
    ConnectFailed(io::ErrorKind),
    ConnectTimeout,
    Closed,
    Broken(io::ErrorKind),
    Garbage,
    /// It answered with this status, and another endpoint is asked instead.
    Declined(u16),
    FirstByteTimeout,
    ResponseGapTimeout,
    RequestTimeout,
    ClientGone,
}

impl ProxyError {
    /// An error by the client's doing.
    pub(crate) fn downstream(stage: Stage, kind: Kind) -> ProxyError {
        ProxyError {
            stage,
            side: Side::Downstream,
            kind,
        }
    }

    /// An error by the endpoint's doing.
    pub(crate) fn upstream(stage: Stage, kind: Kind) -> ProxyError {
        ProxyError {
            stage,
            side: Side::Upstream,
            kind,
        }
    }

    /// An error by our own bounds.
    pub(crate) fn edge(stage: Stage, kind: Kind) -> ProxyError {
        ProxyError {
            stage,
            side: Side::Edge,
            kind,
        }
    }

    /// The status that tells the client.
    pub(crate) fn status(&self) -> u16 {
        match self.kind {
            Kind::Head(error) => error.kind.status(),
            Kind::Body(_) | Kind::NotProxied => 400,
            Kind::BodyTooLarge => 413,
            Kind::HeadTimeout | Kind::BodyTimeout => 408,
            Kind::NoRoute | Kind::NoFile => 404,
            Kind::Encoding(_) => 500,
            // RFC 4918, 11.5.
            Kind::Spill(kind) if is_full(kind) => 507,
            Kind::Spill(_) => 503,
            Kind::QueueFull | Kind::QueueTimeout | Kind::BreakerOpen | Kind::Shed => 503,
            Kind::NobodyAlive
            | Kind::ConnectFailed(_)
            | Kind::Closed
            | Kind::Broken(_)
            | Kind::Garbage
            | Kind::Declined(_) => 502,
            Kind::ConnectTimeout
            | Kind::TryTimeout
            | Kind::FirstByteTimeout
            | Kind::ResponseGapTimeout
            | Kind::RequestTimeout => 504,
            // Nobody is there to read it; nginx logs such requests so.
            Kind::ClientGone => 499,
        }
    }

    /// One sentence for the response body: what happened and whose turn it is.
    pub(crate) fn detail(&self) -> &'static str {
        match self.kind {
            Kind::Head(error) => error.kind.reason(),
            Kind::Body(BodyError::ChunkSize) => "a chunk size is malformed",
            Kind::Body(BodyError::ChunkExtension) => "a chunk extension is malformed or too long",
            Kind::Body(BodyError::ChunkEnd) => "a chunk does not end in CRLF",
            Kind::Body(_) => "the trailer section is malformed or too long",
            Kind::BodyTooLarge => "the request body is larger than this server takes",
            Kind::HeadTimeout => "the request head did not arrive in time",
            Kind::BodyTimeout => "the request body did not arrive in time",
            Kind::NoFile => "there is no such file",
            Kind::Encoding(_) => "the response could not be compressed",
            Kind::Spill(_) => "the server has no place to keep the body; try again later",
            Kind::NotProxied => "the connection does not begin with a PROXY header",
            Kind::NoRoute => "nothing is served here under this host and path",
            Kind::QueueFull => "too many requests are waiting; try again later",
            Kind::QueueTimeout => "no worker was free in time; try again later",
            Kind::BreakerOpen => "too many requests have failed of late; try again later",
            Kind::Shed => "more important requests are served first; try again later",
            Kind::NobodyAlive => "no endpoint is alive; try again later",
            Kind::Declined(_) => "no endpoint gave a usable answer",
            Kind::ConnectFailed(_) => "no worker could be reached",
            Kind::ConnectTimeout => "no worker took the connection in time",
            Kind::Closed | Kind::Broken(_) => "the worker ended before it had answered",
            Kind::Garbage => "the worker's answer was not valid HTTP",
            Kind::TryTimeout | Kind::FirstByteTimeout => "the worker did not answer in time",
            Kind::ResponseGapTimeout => "the worker stopped in the middle of its answer",
            Kind::RequestTimeout => "the request took longer than it may",
            Kind::ClientGone => "the client has gone",
        }
    }

    /// The counter it goes to.
    pub(crate) fn counter(&self) -> ErrorKind {
        match self.kind {
            Kind::Head(error) => match error.kind.status() {
                414 => ErrorKind::TargetTooLong,
                431 => ErrorKind::HeadTooLarge,
                501 => ErrorKind::NotImplemented,
                _ => ErrorKind::BadRequest,
            },
            Kind::Body(_) | Kind::NotProxied => ErrorKind::BadRequest,
            Kind::BodyTooLarge => ErrorKind::BodyTooLarge,
            Kind::HeadTimeout => ErrorKind::HeaderReadTimeout,
            Kind::BodyTimeout => ErrorKind::BodyGapTimeout,
            Kind::NoRoute | Kind::NoFile => ErrorKind::NoRoute,
            Kind::Encoding(_) => ErrorKind::UpstreamMalformed,
            Kind::Spill(_) => ErrorKind::SpillFailed,
            Kind::QueueFull => ErrorKind::QueueFull,
            Kind::QueueTimeout => ErrorKind::QueueTimeout,
            Kind::NobodyAlive => ErrorKind::NoWorker,
            Kind::BreakerOpen => ErrorKind::BreakerOpen,
            Kind::Shed => ErrorKind::Shed,
            Kind::Declined(_) => ErrorKind::UpstreamDeclined,
            Kind::ConnectFailed(_) => ErrorKind::ConnectFailed,
            Kind::ConnectTimeout => ErrorKind::ConnectTimeout,
            Kind::Closed | Kind::Broken(_) => ErrorKind::UpstreamClosed,
            Kind::Garbage => ErrorKind::UpstreamMalformed,
            Kind::TryTimeout | Kind::FirstByteTimeout => ErrorKind::FirstByteTimeout,
            Kind::ResponseGapTimeout => ErrorKind::ResponseGapTimeout,
            Kind::RequestTimeout => ErrorKind::RequestTimeout,
            Kind::ClientGone => ErrorKind::ClientGone,
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?}: {}", self.side, self.stage, self.detail())?;
        match self.kind {
            Kind::Head(error) => write!(f, " (byte {})", error.offset),
            Kind::ConnectFailed(kind) | Kind::Broken(kind) => write!(f, " ({kind})"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for ProxyError {}
