//! Load shedding: which requests are refused when there is too much to do, the least important
//! first, more of them the worse it is; and a lane for those that tell whether Evener is alive.

/// How important a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Importance {
    /// Nobody waits for it.
    Low,
    /// Like most.
    #[default]
    Normal,
    /// Somebody waits and pays.
    High,
    /// Health checks and the like: never shed, and let into slots of their own.
    Critical,
}

/// At which pressure shedding begins, in percent, and at which all are shed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    /// Below this none is.
    pub from_percent: u32,
    /// From here on all are.
    pub to_percent: u32,
}

/// Settings of shedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Low importance.
    pub low: Ramp,
    /// Normal importance.
    pub normal: Ramp,
    /// High importance.
    pub high: Ramp,
    /// Slots beyond the cap that only critical requests may take.
    pub critical_slots: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let ramp = |from_percent, to_percent| Ramp {
            from_percent,
            to_percent,
        };
        Settings {
            low: ramp(70, 90),
            normal: ramp(90, 100),
            high: ramp(98, 100),
            critical_slots: 16,
        }
    }
}

/// How much there is to do. A maximum of 0 is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Requests under way.
    pub in_flight: u32,
    /// The most there may be.
    pub in_flight_max: u32,
    /// Requests that wait.
    pub queued: u32,
    /// The most that may wait.
    pub queued_max: u32,
    /// How long the one that has waited longest has, in milliseconds.
    pub waited_ms: u32,
    /// How long one may wait.
    pub waited_max_ms: u32,
}

impl Load {
    /// The worst of the shares that are used up, in percent.
    pub fn pressure_percent(&self) -> u32 {
        let share = |used: u32, most: u32| {
            let percent = (u64::from(used) * 100).checked_div(u64::from(most));
            u32::try_from(percent.unwrap_or(0)).unwrap_or(u32::MAX)
        };
        // Requests under way alone are no overload as long as others may wait.
        let busy = if self.queued_max == 0 {
            share(self.in_flight, self.in_flight_max)
        } else {
            0
        };
        busy.max(share(self.queued, self.queued_max))
            .max(share(self.waited_ms, self.waited_max_ms))
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is served, or waits like any other.
    Admit,
    /// It is served beyond the cap.
    AdmitBeyondCap,
    /// It is refused, to be tried later.
    Shed,
}

impl Settings {
    /// Decides over a request; `drawn` is a random number.
    pub fn decide(&self, load: &Load, importance: Importance, drawn: u64) -> Decision {
        let ramp = match importance {
            Importance::Low => self.low,
            Importance::Normal => self.normal,
            Importance::High => self.high,
            Importance::Critical => return self.decide_critical(load),
        };
        let pressure = load.pressure_percent();
        if pressure < ramp.from_percent {
            return Decision::Admit;
        }
        let span = ramp.to_percent.saturating_sub(ramp.from_percent);
        let into = pressure - ramp.from_percent;
        let drawn_share = (u128::from(drawn) * u128::from(span.max(1))) >> 64;
        if into >= span || drawn_share < u128::from(into) {
            Decision::Shed
        } else {
            Decision::Admit
        }
    }

    fn decide_critical(&self, load: &Load) -> Decision {
        if load.in_flight_max == 0 || load.in_flight < load.in_flight_max {
            Decision::Admit
        } else if load.in_flight - load.in_flight_max < self.critical_slots {
            Decision::AdmitBeyondCap
        } else {
            Decision::Shed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Generator, seed};

    fn queue(queued: u32) -> Load {
        Load {
            in_flight: 100,
            in_flight_max: 100,
            queued,
            queued_max: 100,
            ..Load::default()
        }
    }

    #[test]
    fn the_least_important_go_first_and_the_more_the_worse_it_is() {
        let mut random = Generator::new(seed("the_least_important_go_first"));
        let settings = Settings::default();
        let mut shed = |load: &Load, importance| {
            (0..4_000)
                .filter(|_| settings.decide(load, importance, random.next()) == Decision::Shed)
                .count() as f64
                / 4_000.0
        };
        let ladder = [Importance::Low, Importance::Normal, Importance::High];
        let mut last = [0.0; 3];
        for queued in [0, 50, 69, 75, 80, 90, 95, 98, 99, 100] {
            let shares = ladder.map(|importance| shed(&queue(queued), importance));
            assert!(
                shares[0] >= shares[1] && shares[1] >= shares[2],
                "{queued}: {shares:?}"
            );
            for (share, last) in shares.iter().zip(last) {
                assert!(share + 0.05 >= last, "{queued}: {shares:?}");
            }
            last = shares;
        }
        assert_eq!(last, [1.0; 3]);
        assert!((shed(&queue(80), Importance::Low) - 0.5).abs() < 0.05);
        assert_eq!(shed(&queue(69), Importance::Low), 0.0);
    }

    #[test]
    fn critical_ones_have_a_lane() {
        let settings = Settings::default();
        let with = |in_flight| Load {
            in_flight,
            ..queue(100)
        };
        let decide = |in_flight| settings.decide(&with(in_flight), Importance::Critical, 0);
        assert_eq!(decide(99), Decision::Admit);
        assert_eq!(decide(100), Decision::AdmitBeyondCap);
        assert_eq!(decide(115), Decision::AdmitBeyondCap);
        assert_eq!(decide(116), Decision::Shed, "even that lane has an end");
    }

    #[test]
    fn waiting_long_is_pressure_too() {
        let load = Load {
            waited_ms: 950,
            waited_max_ms: 1_000,
            ..queue(1)
        };
        assert_eq!(load.pressure_percent(), 95);
        assert_eq!(Load::default().pressure_percent(), 0);
        let no_queue = Load {
            in_flight: 9,
            in_flight_max: 10,
            ..Load::default()
        };
        assert_eq!(no_queue.pressure_percent(), 90);
    }
}
