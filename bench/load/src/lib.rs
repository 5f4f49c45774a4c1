//! A load generator whose numbers can be believed, and the origin that proxies are measured with.
//!
//! `plan` says what to do, `drive` does it over the connections of `connection`, `reply` checks
//! every byte that comes back, `record` counts; `events` receives server-sent events, `hold` keeps
//! connections idle. Who is measured, on which CPU, and what the numbers mean is the Python
//! driver's affair.

pub mod body;
pub mod clock;
pub mod connection;
pub mod drive;
pub mod events;
pub mod frame;
pub mod hold;
pub mod plan;
pub mod poll;
pub mod record;
pub mod reply;
pub mod schedule;
