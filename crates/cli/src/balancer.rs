//! Where the supervisor's workers become the data plane's endpoints: the two crates do not know
//! each other.

use std::sync::Arc;

use evener_edge::{Cluster, EndpointAddress, EndpointId, EndpointSnapshot, EndpointSpec, Share};
use evener_supervisor::{Balancer, ReadyWorker, WorkerId};

/// A cluster whose endpoints are workers.
pub(crate) struct ClusterBalancer {
    pub(crate) cluster: Arc<Cluster>,
    /// The most requests one worker has in flight.
    pub(crate) in_flight_max: u32,
}

impl ClusterBalancer {
    fn endpoint(&self, id: WorkerId) -> Option<EndpointSnapshot> {
        let endpoints = self.cluster.snapshot().endpoints;
        endpoints
            .into_iter()
            .find(|endpoint| endpoint.id == EndpointId(id.0))
    }
}

impl Balancer for ClusterBalancer {
    fn add(&self, worker: &ReadyWorker) {
        self.cluster.add(EndpointSpec {
            id: EndpointId(worker.id.0),
            name: worker.name.clone(),
            address: EndpointAddress::Unix(worker.socket.clone()),
            in_flight_max: self.in_flight_max,
            connections_max: None,
            share: Share::default(),
            page: worker.page.clone(),
            terms: evener_edge::UpstreamTerms::default(),
            process: worker.pid,
        });
    }

    fn drain(&self, id: WorkerId) {
        self.cluster.drain(EndpointId(id.0));
    }

    fn in_flight(&self, id: WorkerId) -> u32 {
        self.cluster.in_flight(EndpointId(id.0)).unwrap_or(0)
    }

    fn requests(&self, id: WorkerId) -> u64 {
        self.endpoint(id).map_or(0, |endpoint| endpoint.requests)
    }

    fn remove(&self, id: WorkerId) {
        self.cluster.remove(EndpointId(id.0));
    }

    fn stalled(&self) -> Vec<WorkerId> {
        let stalled = self.cluster.stalled().into_iter();
        stalled.map(|id| WorkerId(id.0)).collect()
    }

    fn is_pressed(&self) -> bool {
        self.cluster.is_pressed()
    }
}
