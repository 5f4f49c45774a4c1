//! How a cluster shares its requests: the file's words as the data plane takes them.

use evener_edge::Conduct;
use evener_policy::balance;

/// How a configured cluster shares its requests.
pub(super) fn conduct(cluster: &evener_config::Cluster) -> Conduct {
    let sharing = &cluster.sharing;
    Conduct {
        balance: balance::Settings {
            method: cluster.method,
            slow_start: sharing.slow_start.map(|window| balance::SlowStart {
                window,
                ..balance::SlowStart::default()
            }),
            panic_percent: sharing.panic_percent,
            ..balance::Settings::default()
        },
        outlier: sharing.outlier,
        budget: sharing.budget,
        hedge: sharing.hedge,
        guard: sharing.guard,
        bulkhead: false,
        waits: false,
    }
}
