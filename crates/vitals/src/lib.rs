//! The vitals page: a small shared-memory page between the edge and one worker.
//!
//! The worker writes how it is doing (tick, lag, in flight, …); the edge reads that when it picks
//! an endpoint, without a system call. Next to it lies one *claim word* per request slot: with it
//! the two sides agree, by one compare-and-swap, on whether a request that was sent has been
//! started. Exactly one of "the worker claims" and "the edge takes back" wins.
//!
//! This crate holds the layout ([`Page`]), the mapping, and the claim words ([`claim`]). It
//! decides nothing: when a loop counts as stalled, and what to do with a request taken back, is
//! for the edge and the policy; when to tick is for the worker.
//!
//! # Who writes what
//!
//! | words | written by | read by |
//! |---|---|---|
//! | magic, version, slots, size | `Page::create`, once | both |
//! | vitals | the worker | the edge |
//! | claim words | both, by compare-and-swap | both |
//! | hold words | the worker, before a response ends | the edge, after it |

mod claim;
mod hold;
mod page;
mod preface;
mod vitals;

pub use claim::{CLAIM_SEQUENCE_MAX, ClaimState, ClaimWord};
pub use page::{Page, SLOTS_MAX};
pub use preface::{PREFACE_BYTES_MAX, Preface, PrefaceError};
pub use vitals::{State, Vitals, Writer, monotonic_ns};
