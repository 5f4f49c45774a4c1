//! Whether a request goes to the next endpoint, by nginx's `proxy_next_upstream` rules
//! (`src/http/ngx_http_upstream.c`), what it says about the endpoint it comes from, and which
//! status ends it. Who the next one is is left to `balance`, and Evener's own, stricter promise,
//! that nothing runs twice, to `retry`.

use core::time::Duration;

/// Why an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// No connection, or it broke.
    Error,
    /// The connection, or something to read or write, took too long.
    Timeout,
    /// What came was not a response, or an empty one.
    InvalidHeader,
    /// It answered with this status.
    Status(u16),
}

/// What moves a request on (`proxy_next_upstream`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions(u16);

impl Conditions {
    /// Nothing (`off`).
    pub const OFF: Conditions = Conditions(0);
    /// `error`
    pub const ERROR: Conditions = Conditions(1);
    /// `timeout`
    pub const TIMEOUT: Conditions = Conditions(1 << 1);
    /// `invalid_header`
    pub const INVALID_HEADER: Conditions = Conditions(1 << 2);
    /// `http_500`
    pub const HTTP_500: Conditions = Conditions(1 << 3);
    /// `http_502`
    pub const HTTP_502: Conditions = Conditions(1 << 4);
    /// `http_503`
    pub const HTTP_503: Conditions = Conditions(1 << 5);
    /// `http_504`
    pub const HTTP_504: Conditions = Conditions(1 << 6);
    /// `http_403`
    pub const HTTP_403: Conditions = Conditions(1 << 7);
    /// `http_404`
    pub const HTTP_404: Conditions = Conditions(1 << 8);
    /// `http_429`
    pub const HTTP_429: Conditions = Conditions(1 << 9);
    /// `non_idempotent`: requests that were sent move on whatever their method.
    pub const NON_IDEMPOTENT: Conditions = Conditions(1 << 10);

    /// Every condition by the name that nginx has for it.
    pub const NAMES: [(&'static str, Conditions); 12] = [
        ("error", Conditions::ERROR),
        ("timeout", Conditions::TIMEOUT),
        ("invalid_header", Conditions::INVALID_HEADER),
        ("http_500", Conditions::HTTP_500),
        ("http_502", Conditions::HTTP_502),
        ("http_503", Conditions::HTTP_503),
        ("http_504", Conditions::HTTP_504),
        ("http_403", Conditions::HTTP_403),
        ("http_404", Conditions::HTTP_404),
        ("http_429", Conditions::HTTP_429),
        ("non_idempotent", Conditions::NON_IDEMPOTENT),
        ("off", Conditions::OFF),
    ];

    /// The condition of this name.
    pub fn named(name: &str) -> Option<Conditions> {
        let mut names = Conditions::NAMES.iter();
        names.find(|(known, _)| *known == name).map(|(_, it)| *it)
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Conditions) -> Conditions {
        Conditions(self.0 | other.0)
    }

    fn hold(self, wanted: Conditions) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// The condition that an answer of this status meets, if there is one.
    fn of_status(status: u16) -> Option<Conditions> {
        Some(match status {
            500 => Conditions::HTTP_500,
            502 => Conditions::HTTP_502,
            503 => Conditions::HTTP_503,
            504 => Conditions::HTTP_504,
            403 => Conditions::HTTP_403,
            404 => Conditions::HTTP_404,
            429 => Conditions::HTTP_429,
            _ => return None,
        })
    }
}

impl Default for Conditions {
    /// nginx's: `error timeout`.
    fn default() -> Self {
        Conditions::ERROR.and(Conditions::TIMEOUT)
    }
}

/// The settings of one route or cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// What moves a request on.
    pub conditions: Conditions,
    /// The most tries (`proxy_next_upstream_tries`); 0 is as many as there are endpoints.
    pub tries: u32,
    /// Time in which a request may move on, from its first try (`proxy_next_upstream_timeout`);
    /// zero is no limit.
    pub timeout: Duration,
}

impl Rules {
    /// How many tries a request has, with this many endpoints that are not `down`, backups
    /// included.
    pub fn tries_of(&self, endpoints: u32) -> u32 {
        match self.tries {
            0 => endpoints,
            limit => endpoints.min(limit),
        }
    }
}

/// An attempt that has ended, or is about to end with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Why.
    pub ended: Ended,
    /// Tries left, this one included.
    pub tries: u32,
    /// The cluster has one endpoint and no backup: nginx neither counts its failures nor asks it
    /// twice.
    pub alone: bool,
    /// The connection had served requests before: that it breaks says nothing about the endpoint's
    /// being there.
    pub reused: bool,
    /// Something of the request was sent.
    pub sent: bool,
    /// The method is POST, LOCK or PATCH.
    pub non_idempotent: bool,
    /// What was sent of the request is kept, so that it can be sent again.
    pub held: bool,
    /// Something of a response was sent to the client.
    pub answered: bool,
    /// Time since the first try.
    pub elapsed: Duration,
}

/// What the attempt says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// It did its part.
    Succeeded,
    /// It counts towards `max_fails`.
    Failed,
}

/// What becomes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is sent to another endpoint, with so many tries left. If there is none, it ends with 502.
    Again {
        /// The next one included.
        tries: u32,
    },
    /// The endpoint's own answer is passed on.
    PassOn,
    /// It ends with this status. If something of a response was sent, the connection is cut.
    End {
        /// 502 or 504.
        status: u16,
    },
}

impl Rules {
    /// What becomes of a request, and whom the attempt is held against.
    pub fn decide(&self, attempt: &Attempt) -> (Next, Blame) {
        match attempt.ended {
            Ended::Status(status) => self.decide_answer(attempt, status),
            Ended::Error => self.decide_failure(attempt, Conditions::ERROR, 502),
            Ended::Timeout => self.decide_failure(attempt, Conditions::TIMEOUT, 504),
            Ended::InvalidHeader => self.decide_failure(attempt, Conditions::INVALID_HEADER, 502),
        }
    }

    /// An answer moves on only if there is another try; the last one is the client's.
    fn decide_answer(&self, attempt: &Attempt, status: u16) -> (Next, Blame) {
        let moves_on = Conditions::of_status(status)
            .is_some_and(|condition| attempt.tries > 1 && self.may_move(attempt, condition));
        if !moves_on {
            return (Next::PassOn, Blame::Succeeded);
        }
        let blame = match status {
            403 | 404 => Blame::Succeeded,
            _ => Blame::Failed,
        };
        let tries = attempt.tries - 1;
        (Next::Again { tries }, blame)
    }

    fn decide_failure(
        &self,
        attempt: &Attempt,
        condition: Conditions,
        status: u16,
    ) -> (Next, Blame) {
        let mut tries = if attempt.alone {
            0
        } else {
            attempt.tries.saturating_sub(1)
        };
        if attempt.reused && attempt.ended == Ended::Error {
            tries += 1;
        }
        let next = if tries > 0 && self.may_move(attempt, condition) {
            Next::Again { tries }
        } else {
            Next::End { status }
        };
        (next, Blame::Failed)
    }

    fn may_move(&self, attempt: &Attempt, condition: Conditions) -> bool {
        let wanted = if attempt.sent && attempt.non_idempotent {
            condition.and(Conditions::NON_IDEMPOTENT)
        } else {
            condition
        };
        let late = !self.timeout.is_zero() && attempt.elapsed >= self.timeout;
        self.conditions.hold(wanted)
            && (attempt.held || !attempt.sent)
            && !attempt.answered
            && !late
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Generator, seed};

    const REFUSED: Attempt = Attempt {
        ended: Ended::Error,
        tries: 3,
        alone: false,
        reused: false,
        sent: false,
        non_idempotent: false,
        held: true,
        answered: false,
        elapsed: Duration::ZERO,
    };

    fn rules(names: &str) -> Rules {
        let all = names
            .split(' ')
            .map(|name| Conditions::named(name).unwrap());
        Rules {
            conditions: all.fold(Conditions::OFF, Conditions::and),
            ..Rules::default()
        }
    }

    #[test]
    fn errors_move_on_by_default_and_answers_do_not() {
        let rules = Rules::default();
        assert_eq!(
            rules.decide(&REFUSED),
            (Next::Again { tries: 2 }, Blame::Failed)
        );
        let answered = |status| Attempt {
            ended: Ended::Status(status),
            sent: true,
            ..REFUSED
        };
        for status in [200, 404, 500, 503] {
            let decided = rules.decide(&answered(status));
            assert_eq!(decided, (Next::PassOn, Blame::Succeeded));
        }
        let last = Attempt {
            tries: 1,
            ..REFUSED
        };
        assert_eq!(
            rules.decide(&last),
            (Next::End { status: 502 }, Blame::Failed)
        );
        let late = Attempt {
            ended: Ended::Timeout,
            ..last
        };
        assert_eq!(rules.decide(&late).0, Next::End { status: 504 });
    }

    #[test]
    fn a_listed_status_moves_on_while_tries_are_left() {
        let rules = rules("http_503 http_404");
        let answer = |status, tries| Attempt {
            ended: Ended::Status(status),
            sent: true,
            tries,
            ..REFUSED
        };
        let decided = rules.decide(&answer(503, 2));
        assert_eq!(decided, (Next::Again { tries: 1 }, Blame::Failed));
        let decided = rules.decide(&answer(503, 1));
        assert_eq!(decided, (Next::PassOn, Blame::Succeeded));
        let decided = rules.decide(&answer(404, 2));
        assert_eq!(decided, (Next::Again { tries: 1 }, Blame::Succeeded));
        assert_eq!(rules.decide(&answer(500, 2)).0, Next::PassOn);
    }

    #[test]
    fn a_post_that_was_sent_stays_unless_told_otherwise() {
        let post = Attempt {
            sent: true,
            non_idempotent: true,
            ..REFUSED
        };
        let end = Next::End { status: 502 };
        assert_eq!(rules("error").decide(&post).0, end);
        let again = Next::Again { tries: 2 };
        assert_eq!(rules("error non_idempotent").decide(&post).0, again);
        let unsent = Attempt {
            sent: false,
            ..post
        };
        assert_eq!(rules("error").decide(&unsent).0, again);
    }

    #[test]
    fn a_stale_connection_costs_no_try() {
        let stale = Attempt {
            reused: true,
            sent: true,
            tries: 1,
            ..REFUSED
        };
        let again = (Next::Again { tries: 1 }, Blame::Failed);
        assert_eq!(Rules::default().decide(&stale), again);
        let alone = Attempt {
            alone: true,
            ..stale
        };
        assert_eq!(Rules::default().decide(&alone), again);
        let fresh = Attempt {
            reused: false,
            tries: 5,
            ..alone
        };
        assert_eq!(Rules::default().decide(&fresh).0, Next::End { status: 502 });
    }

    #[test]
    fn time_and_tries_are_limited() {
        let limited = Rules {
            tries: 2,
            timeout: Duration::from_secs(1),
            ..Rules::default()
        };
        assert_eq!(limited.tries_of(5), 2);
        assert_eq!(limited.tries_of(1), 1);
        assert_eq!(Rules::default().tries_of(5), 5);
        let late = Attempt {
            elapsed: Duration::from_secs(1),
            ..REFUSED
        };
        assert_eq!(limited.decide(&late).0, Next::End { status: 502 });
    }

    #[test]
    fn no_request_goes_round_for_ever_or_twice_to_the_client() {
        let mut random = Generator::new(seed("no_request_goes_round_for_ever"));
        let ends = [
            Ended::Error,
            Ended::Timeout,
            Ended::InvalidHeader,
            Ended::Status(503),
        ];
        for _ in 0..20_000 {
            let rules = Rules {
                conditions: Conditions(random.below(2048) as u16),
                ..Rules::default()
            };
            let mut flag = || random.below(2) == 0;
            let mut attempt = Attempt {
                reused: flag(),
                sent: flag(),
                non_idempotent: flag(),
                held: flag(),
                answered: flag(),
                alone: flag(),
                ..REFUSED
            };
            attempt.ended = ends[random.index(ends.len()).unwrap()];
            attempt.tries = 1 + random.below(5) as u32;
            let (next, _) = rules.decide(&attempt);
            if let Next::Again { tries } = next {
                assert!(
                    !attempt.answered && (attempt.held || !attempt.sent),
                    "{attempt:?}"
                );
                assert!(tries < attempt.tries || attempt.reused, "{attempt:?}");
                let repeats = attempt.sent && attempt.non_idempotent;
                assert!(!repeats || rules.conditions.hold(Conditions::NON_IDEMPOTENT));
            }
        }
    }
}
