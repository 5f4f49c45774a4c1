//! The moments at which requests are due, and of which class each is: fixed by plan and seed,
//! never by what the server does.

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// When the next request is due.
#[derive(Debug)]
pub struct Arrivals {
    gap_nanoseconds: f64,
    due: f64,
    random: Option<Random>,
}

impl Arrivals {
    /// `rate` a second from `start` on; equally spaced, or Poisson if there is a seed.
    pub fn new(start: u64, rate: f64, poisson_seed: Option<u64>) -> Arrivals {
        Arrivals {
            gap_nanoseconds: 1e9 / rate,
            due: start as f64,
            random: poisson_seed.map(Random::new),
        }
    }

    /// The next moment.
    pub fn due(&self) -> u64 {
        self.due as u64
    }

    /// Goes on to the one after.
    pub fn advance(&mut self) {
        self.due += match &mut self.random {
            None => self.gap_nanoseconds,
            Some(random) => -self.gap_nanoseconds * (1.0 - random.unit()).ln(),
        };
    }
}

/// Which class comes next: at random by share, so that rare ones come in no rhythm.
#[derive(Debug)]
pub struct Mix {
    until: Vec<f64>,
    random: Random,
}

impl Mix {
    /// Classes with these shares.
    pub fn new(shares: &[f64], seed: u64) -> Mix {
        let all: f64 = shares.iter().sum();
        let mut sum = 0.0;
        let until = shares
            .iter()
            .map(|share| {
                sum += share / all;
                sum
            })
            .collect();
        Mix {
            until,
            random: Random::new(seed),
        }
    }

    /// The index of the next request's class.
    pub fn pick(&mut self) -> usize {
        if self.until.len() == 1 {
            return 0;
        }
        let at = self.random.unit();
        let found = self.until.iter().position(|until| at < *until);
        found.unwrap_or(self.until.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_poisson() {
        let mut arrivals = Arrivals::new(0, 1000.0, Some(7));
        let mut gaps = Vec::new();
        for _ in 0..100_000 {
            let before = arrivals.due;
            arrivals.advance();
            gaps.push(arrivals.due - before);
        }
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean / 1e6 - 1.0).abs() < 0.01, "mean gap {mean}");
        assert!(
            (variance.sqrt() / mean - 1.0).abs() < 0.02,
            "not exponential"
        );
    }

    #[test]
    fn equally_spaced_arrivals_do_not_drift() {
        let mut arrivals = Arrivals::new(0, 3.0, None);
        for _ in 0..3000 {
            arrivals.advance();
        }
        assert!(arrivals.due().abs_diff(1000 * 1_000_000_000) < 1000);
    }

    #[test]
    fn classes_come_by_their_shares() {
        let mut mix = Mix::new(&[98.0, 2.0], 3);
        let rare = (0..100_000).filter(|_| mix.pick() == 1).count();
        assert!((1900..2100).contains(&rare), "{rare}");
    }
}
