//! Whether a request that failed may be sent again.
//!
//! The promise is twofold: a request that could be answered is not lost, and none runs twice. So a
//! request goes out again only if its bytes are still held, nothing of a response has reached the
//! client, and either the method is idempotent or the application provably never saw it.

/// How far a request got with the endpoint that failed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// The application never saw it: no connection, nothing written, or the worker had not claimed
    /// it and now cannot.
    Never,
    /// It may have been processed, in part or in whole.
    Perhaps,
}

/// What is known about a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedAttempt {
    /// How far it got.
    pub reached: Reached,
    /// The method is idempotent (RFC 9110, 9.2.2).
    pub idempotent: bool,
    /// All bytes received so far can be sent again.
    pub held: bool,
    /// Part of a response has been sent to the client.
    pub answered: bool,
    /// Attempts made, this one included.
    pub attempts: u32,
    /// The most attempts for one request.
    pub attempts_max: u32,
}

impl FailedAttempt {
    /// Whether to send the request again.
    pub fn may_resend(&self) -> bool {
        self.held
            && !self.answered
            && self.attempts < self.attempts_max
            && (self.idempotent || self.reached == Reached::Never)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_safe_goes_out_again() {
        let base = FailedAttempt {
            reached: Reached::Perhaps,
            idempotent: true,
            held: true,
            answered: false,
            attempts: 1,
            attempts_max: 4,
        };
        assert!(base.may_resend());
        assert!(
            !FailedAttempt {
                idempotent: false,
                ..base
            }
            .may_resend()
        );
        assert!(
            FailedAttempt {
                idempotent: false,
                reached: Reached::Never,
                ..base
            }
            .may_resend(),
            "a POST that nobody saw may go again"
        );
        assert!(
            !FailedAttempt {
                held: false,
                ..base
            }
            .may_resend()
        );
        assert!(
            !FailedAttempt {
                answered: true,
                reached: Reached::Never,
                ..base
            }
            .may_resend()
        );
        assert!(
            !FailedAttempt {
                attempts: 4,
                ..base
            }
            .may_resend()
        );
    }
}
