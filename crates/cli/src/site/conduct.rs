//! How a cluster shares its requests: the file's words as the data plane takes them.

use evener_edge::Conduct;
use evener_policy::balance;

/// How a configured cluster shares its requests.
pub(super) fn conduct(cluster: &evener_config::Cluster) -> Conduct {
    let others = Conduct {
        balance: balance::Settings::default(),
        bulkhead: false,
        waits: false,
        ..Conduct::WORKERS
    };
    laid_over(others, cluster)
}

/// How the workers of `[app]` share its requests, by what the file says about it, if anything.
pub(super) fn of_workers(cluster: Option<&evener_config::Cluster>, bulkhead: bool) -> Conduct {
    let workers = Conduct {
        bulkhead,
        ..Conduct::WORKERS
    };
    cluster.map_or(workers, |cluster| laid_over(workers, cluster))
}

fn laid_over(below: Conduct, cluster: &evener_config::Cluster) -> Conduct {
    let sharing = &cluster.sharing;
    Conduct {
        balance: balance::Settings {
            method: cluster.method,
            slow_start: sharing.slow_start.map(|window| balance::SlowStart {
                window,
                ..balance::SlowStart::default()
            }),
            panic_percent: sharing.panic_percent,
            ..below.balance
        },
        outlier: sharing.outlier,
        budget: sharing.budget,
        hedge: sharing.hedge,
        guard: sharing.guard,
        ..below
    }
}
