//! Budgets of connections: what each worker is told of them, and how many workers there may be so
//! that the shares never exceed them.

use evener_config::Budget;

use crate::resolve::Resolved;

/// What budgets mean for the workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Variables that tell each worker its share.
    pub(crate) environment: Vec<(String, String)>,
    /// The most workers that can be asked for.
    pub(crate) count_max: usize,
    /// The most processes at once.
    pub(crate) processes_max: usize,
    /// Why it is not more.
    pub(crate) reason: String,
}

/// The shares of budgets, if there are any; an error has its place in the file.
pub(crate) fn shares(
    budgets: &[Budget],
    resolved: &Resolved,
) -> Result<Option<Shares>, (usize, String)> {
    let Some(first) = budgets.first() else {
        return Ok(None);
    };
    let count_max = resolved.most();
    // Those that drain still hold their connections when their successors serve.
    let processes_max = count_max + resolved.leaving_max;
    let processes = u64::try_from(processes_max).unwrap_or(u64::MAX);
    let mut environment = Vec::new();
    for budget in budgets {
        let share = budget.connections / processes;
        if share == 0 {
            let (name, connections) = (&budget.name, budget.connections);
            let draining = resolved.leaving_max;
            return Err((
                budget.offset,
                format!(
                    "`budget.{name}`: {connections} connections are not enough: there are up to \
                     {processes_max} processes at once, {count_max} workers and {draining} that \
                     drain while others take their place; give it {processes_max} or more, or run \
                     fewer workers"
                ),
            ));
        }
        environment.push((variable(&budget.name), share.to_string()));
    }
    let reason = format!(
        ", because the connections of `budget.{}` are shared out among so many; with a range, as \
         in `workers = \"{}..{}\"`, there is room for more from the next start on",
        first.name,
        resolved.count,
        count_max * 2
    );
    Ok(Some(Shares {
        environment,
        count_max,
        processes_max,
        reason,
    }))
}

/// The variable that tells a worker its share.
fn variable(name: &str) -> String {
    let plain = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    let name: String = name.chars().map(plain).collect();
    format!("EVENER_BUDGET_{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::tests::resolved;

    fn budget(name: &str, connections: u64) -> Budget {
        Budget {
            name: name.to_owned(),
            connections,
            offset: 7,
        }
    }

    #[test]
    fn those_that_drain_count_too() {
        let four = resolved("--workers 4");
        let budgets = [budget("postgres", 100), budget("cache-2", 9)];
        let shares = shares(&budgets, &four).unwrap().unwrap();
        let told = |name: &str, share: &str| (name.to_owned(), share.to_owned());
        assert_eq!(
            shares.environment,
            [
                told("EVENER_BUDGET_POSTGRES", "20"),
                told("EVENER_BUDGET_CACHE_2", "1")
            ]
        );
        assert_eq!((shares.count_max, shares.processes_max), (4, 5));
    }

    #[test]
    fn a_range_is_shared_by_the_most_of_it() {
        let ranged = resolved("--workers 2..8 --preload");
        let shares = shares(&[budget("db", 100)], &ranged).unwrap().unwrap();
        assert_eq!(shares.environment[0].1, "11");
        assert_eq!((shares.count_max, shares.processes_max), (8, 9));
    }

    #[test]
    fn too_small_a_budget_is_refused_where_it_stands() {
        let four = resolved("--workers 4");
        let (offset, message) = shares(&[budget("db", 4)], &four).unwrap_err();
        assert_eq!(offset, 7);
        assert!(message.contains("5 processes"), "{message}");
        assert_eq!(shares(&[], &four), Ok(None));
    }
}
