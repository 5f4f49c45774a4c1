//! Decisions, and nothing but decisions: no input or output, clock, thread, log or global. The
//! time and a seed are arguments, what to do is the return value. Each module stands alone;
//! putting them together is left to `edge` and `supervisor`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod balance;
pub mod breaker;
pub mod budget;
pub mod bulkhead;
pub mod gradient;
pub mod health;
pub mod leader;
pub mod lifecycle;
pub mod next_upstream;
pub mod outlier;
pub mod recycle;
pub mod relief;
pub mod restart;
pub mod retry;
pub mod rollout;
pub mod shed;
pub mod stall;

#[cfg(test)]
mod testing;
