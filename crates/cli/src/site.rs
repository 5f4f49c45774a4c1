//! The clusters of a running program: made of a configuration, and brought in line with another
//! one when it is read again. Endpoints that stay keep what is known about them.

mod by_hand;
mod conduct;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use evener_admin::{EndpointChange, EndpointOrder};
use evener_config::values::Target;
use evener_config::{Config, Endpoint, HealthCheck, Speech, nearest};
use evener_discovery::{Address, Found};
use evener_edge::{
    Cluster, ClusterSnapshot, Conduct, EdgeConfig, EndpointAddress, EndpointId, EndpointSpec,
    ListenerSpec, Share, SpillSpace,
};
use evener_health::{Checked, Place, Wanted};

use crate::speech::Speeches;
use crate::spill;
use by_hand::{new_endpoint, unknown_endpoint};
use conduct::{conduct, of_workers};

/// The name of the cluster of the local application.
pub(crate) const APP: &str = "app";
/// Numbers of endpoints begin here; those below are numbers of workers.
const FIRST_ENDPOINT: u64 = 1 << 32;

/// The clusters. Shared by those who report on them and the one who changes them.
#[derive(Default)]
pub(crate) struct Site {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    groups: Vec<Group>,
    /// What names stand for, as far as it is known.
    found: HashMap<Target, Vec<Address>>,
    next_endpoint: u64,
    leaving: Vec<Leaving>,
    speeches: Speeches,
    /// Requests that hold a worker's event loop leave one worker free for the others.
    bulkhead: bool,
    /// Where bodies lie that are kept; the same as long as its terms are.
    spill: Arc<SpillSpace>,
}

/// A cluster and what the configuration says about it.
struct Group {
    cluster: Arc<Cluster>,
    /// How its endpoints are checked.
    health: Option<Arc<HealthCheck>>,
    /// Empty for the local application, whose workers come and go by themselves.
    members: Vec<Member>,
}

/// An endpoint of the configuration.
struct Member {
    endpoint: Endpoint,
    /// Where it is: one address, or as many as its name has.
    seats: Vec<Seat>,
    /// Its addresses get no requests before their first check.
    hold: bool,
}

/// One address of an endpoint.
#[derive(Clone)]
struct Seat {
    address: EndpointAddress,
    rank: u32,
    weight: u32,
    id: EndpointId,
}

/// What is no longer configured and still has requests.
enum Leaving {
    Endpoint(Arc<Cluster>, EndpointId),
    Cluster(Arc<Cluster>, Vec<EndpointId>),
}

/// What a configuration asks for, ready to be taken on; dropped, it has changed nothing.
pub(crate) struct Plan {
    wanted: Vec<evener_config::Cluster>,
    /// How the workers of `[app]` share its requests, and how many of these may wait.
    app: Option<(Conduct, usize)>,
    /// Clusters that were not there before, with their endpoints.
    new: Vec<Group>,
    spill: Arc<SpillSpace>,
}

impl Site {
    /// Whether requests that hold a worker's event loop leave one worker of `[app]` free for the
    /// others; from the next configuration on.
    pub(crate) fn set_bulkhead(&self, bulkhead: bool) {
        self.lock().bulkhead = bulkhead;
    }

    /// Prepares for a configuration: what the data plane is to work by, and what is to be done
    /// here once it does.
    pub(crate) fn plan(
        &self,
        config: &Config,
        listeners: Vec<ListenerSpec>,
        shards: usize,
    ) -> Result<(EdgeConfig, Plan), String> {
        let mut state = self.lock();
        state.speeches.read(&config.clusters)?;
        let spill = spill::space(&state.spill, config)?;
        let mut clusters = Vec::new();
        let mut new = Vec::new();
        for wanted in &config.clusters {
            if config.app.is_some() && wanted.name == APP {
                continue;
            }
            if let Some(group) = state.find(&wanted.name) {
                clusters.push(group.cluster.clone());
                continue;
            }
            let mut group = Group::new(&wanted.name, wanted.queue_length);
            group.cluster.set_conduct(conduct(wanted));
            group.health = wanted.health.clone().map(Arc::new);
            state.settle(&mut group, &wanted.endpoints);
            clusters.push(group.cluster.clone());
            new.push(group);
        }
        let app = config.app.as_ref().map(|_| {
            let about = config.clusters.iter().find(|one| one.name == APP);
            let queue = about.map_or(config.limits.queue_length, |one| one.queue_length);
            (of_workers(about, state.bulkhead), queue)
        });
        if let Some((conduct, queue_length)) = app {
            if let Some(group) = state.find(APP) {
                clusters.push(group.cluster.clone());
            } else {
                let group = Group::new(APP, queue_length);
                group.cluster.set_conduct(conduct);
                clusters.push(group.cluster.clone());
                new.push(group);
            }
        }
        let edge = EdgeConfig {
            listeners,
            shards,
            backlog: config.backlog,
            routes: config.routes.clone(),
            clusters,
            limits: config.limits.clone(),
            timeouts: config.timeouts.clone(),
            trusted: config.trusted.clone(),
            response_fields: config.response_fields.clone(),
            spill: spill.clone(),
            health: config.health.clone(),
        };
        let wanted = config.clusters.clone();
        let plan = Plan {
            wanted,
            app,
            new,
            spill,
        };
        Ok((edge, plan))
    }

    /// Takes on what the data plane works by now: endpoints join and leave, clusters that are gone
    /// empty themselves.
    pub(crate) fn take_on(&self, plan: Plan) {
        let mut state = self.lock();
        state.spill = plan.spill.clone();
        let mut groups = std::mem::take(&mut state.groups);
        groups.retain_mut(|group| {
            let name = group.cluster.name();
            if let (APP, Some((conduct, queue_length))) = (name, plan.app) {
                group.cluster.set_conduct(conduct);
                group.cluster.set_queue_length(queue_length);
                return true;
            }
            match plan.wanted.iter().find(|cluster| cluster.name == name) {
                Some(cluster) => {
                    group.cluster.set_queue_length(cluster.queue_length);
                    group.cluster.set_conduct(conduct(cluster));
                    group.set_health(cluster.health.as_ref());
                    state.settle(group, &cluster.endpoints);
                    true
                }
                None => {
                    let seats = group.members.iter().flat_map(|member| &member.seats);
                    let ids = seats.map(|seat| seat.id).collect();
                    state
                        .leaving
                        .push(Leaving::Cluster(group.cluster.clone(), ids));
                    false
                }
            }
        });
        groups.extend(plan.new);
        state.groups = groups;
    }

    /// Changes an endpoint by hand, until the configuration is read again. Says what is done.
    pub(crate) fn change(&self, order: &EndpointOrder) -> Result<String, String> {
        let mut state = self.lock();
        let EndpointOrder {
            cluster, endpoint, ..
        } = order;
        let names = state.groups.iter().map(|group| group.cluster.name());
        let Some(index) = names.clone().position(|name| name == cluster) else {
            let help = match nearest(cluster, names.clone()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("there is {}", names.collect::<Vec<_>>().join(", ")),
            };
            return Err(format!("there is no cluster `{cluster}`; {help}"));
        };
        if cluster == APP {
            return Err(
                "the workers of `[app]` come and go by `evener scale` and `evener reload`"
                    .to_owned(),
            );
        }
        let mut group = state.groups.swap_remove(index);
        let done = state.change(&mut group, endpoint, &order.change);
        state.groups.push(group);
        state
            .groups
            .sort_by(|one, other| one.cluster.name().cmp(other.cluster.name()));
        done
    }

    /// A name has been looked up: endpoints join and leave.
    pub(crate) fn take_found(&self, found: Found) {
        let mut state = self.lock();
        let mut groups = std::mem::take(&mut state.groups);
        for group in &mut groups {
            state.reseat(group, &found);
        }
        state.groups = groups;
        state.found.insert(found.target, found.addresses);
    }

    /// The names that have to be looked up.
    pub(crate) fn names(&self) -> Vec<Target> {
        let mut state = self.lock();
        let members = state.groups.iter().flat_map(|group| &group.members);
        let targets = members.map(|member| member.endpoint.target.clone());
        let names: Vec<Target> = targets.filter(|target| address(target).is_none()).collect();
        state.found.retain(|target, _| names.contains(target));
        names
    }

    /// The endpoints that are to be checked.
    pub(crate) fn checks(&self) -> Vec<Wanted> {
        let state = self.lock();
        let mut wanted = Vec::new();
        for group in &state.groups {
            let Some(check) = &group.health else { continue };
            for member in &group.members {
                wanted.extend(member.seats.iter().map(|seat| Wanted {
                    id: seat.id.0,
                    name: format!("{}/{}", group.cluster.name(), member.endpoint.name),
                    place: match &seat.address {
                        EndpointAddress::Tcp(address) => Place::Tcp(*address),
                        EndpointAddress::Unix(path) => Place::Unix(path.clone()),
                    },
                    check: Arc::clone(check),
                    speech: state.speeches.of_checks(&member.endpoint, &seat.address),
                }));
            }
        }
        wanted
    }

    /// Checks have found something out about an endpoint.
    pub(crate) fn take_checked(&self, checked: Checked) {
        let state = self.lock();
        let is_meant = |group: &&Group| {
            let mut seats = group.members.iter().flat_map(|member| &member.seats);
            group.health.is_some() && seats.any(|seat| seat.id.0 == checked.id)
        };
        if let Some(group) = state.groups.iter().find(is_meant) {
            let id = EndpointId(checked.id);
            group.cluster.set_healthy(id, checked.usable);
            let resends = group.health.as_ref().is_some_and(|check| check.resend);
            if !checked.usable && resends {
                group.cluster.pass_on(id);
            }
        }
    }

    /// Lets go of what has finished its last request; called now and then.
    pub(crate) fn tidy(&self) {
        let mut state = self.lock();
        let mut more = Vec::new();
        state.leaving.retain(|leaving| match leaving {
            Leaving::Endpoint(cluster, id) => {
                let done = cluster.in_flight(*id).unwrap_or(0) == 0;
                if done {
                    cluster.remove(*id);
                }
                !done
            }
            Leaving::Cluster(cluster, ids) => {
                let waits = cluster.snapshot().queued > 0;
                if !waits {
                    for id in ids {
                        cluster.drain(*id);
                        more.push(Leaving::Endpoint(cluster.clone(), *id));
                    }
                }
                waits
            }
        });
        state.leaving.append(&mut more);
    }

    /// The cluster of the local application, if there is one.
    pub(crate) fn app(&self) -> Option<Arc<Cluster>> {
        self.lock().find(APP).map(|group| group.cluster.clone())
    }

    /// All clusters that are configured.
    pub(crate) fn clusters(&self) -> Vec<Arc<Cluster>> {
        let state = self.lock();
        state
            .groups
            .iter()
            .map(|group| group.cluster.clone())
            .collect()
    }

    /// The state of every cluster.
    pub(crate) fn snapshots(&self) -> Vec<ClusterSnapshot> {
        self.clusters()
            .iter()
            .map(|cluster| cluster.snapshot())
            .collect()
    }

    /// Requests that endpoints have in flight and requests that wait, what leaves included.
    pub(crate) fn busy(&self) -> (usize, usize) {
        let mut clusters = self.clusters();
        for leaving in &self.lock().leaving {
            let (Leaving::Endpoint(cluster, _) | Leaving::Cluster(cluster, _)) = leaving;
            if !clusters.iter().any(|other| Arc::ptr_eq(other, cluster)) {
                clusters.push(cluster.clone());
            }
        }
        let snapshots: Vec<ClusterSnapshot> = clusters.iter().map(|c| c.snapshot()).collect();
        let in_flight = snapshots.iter().flat_map(|cluster| &cluster.endpoints);
        (
            in_flight.map(|endpoint| endpoint.in_flight as usize).sum(),
            snapshots.iter().map(|cluster| cluster.queued).sum(),
        )
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    fn new(name: &str, queue_length: usize) -> Group {
        Group {
            cluster: Cluster::new(name, queue_length),
            health: None,
            members: Vec::new(),
        }
    }

    /// Checks in this way from now on. Without checks, every endpoint counts as healthy.
    fn set_health(&mut self, check: Option<&HealthCheck>) {
        if self.health.as_deref() == check {
            return;
        }
        self.health = check.cloned().map(Arc::new);
        if self.health.is_none() {
            for seat in self.members.iter().flat_map(|member| &member.seats) {
                self.cluster.set_healthy(seat.id, true);
            }
        }
    }

    /// The settings that endpoints join by.
    fn hold(&self) -> bool {
        self.health
            .as_ref()
            .is_some_and(|check| check.settings.hold)
    }
}

impl State {
    fn find(&self, name: &str) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| group.cluster.name() == name)
    }

    /// Brings the endpoints of a cluster in line with `wanted`: those that are new join before
    /// those that are gone leave.
    fn settle(&mut self, group: &mut Group, wanted: &[Endpoint]) {
        let mut gone = std::mem::take(&mut group.members);
        for endpoint in wanted {
            let known = gone.iter().position(|member| member.endpoint == *endpoint);
            let member = match known {
                Some(index) => gone.remove(index),
                None => self.member(&group.cluster, endpoint, group.hold()),
            };
            group.members.push(member);
        }
        for member in gone {
            for seat in member.seats {
                self.leave(&group.cluster, seat.id);
            }
        }
    }

    fn change(
        &mut self,
        group: &mut Group,
        name: &str,
        change: &EndpointChange,
    ) -> Result<String, String> {
        let cluster = group.cluster.clone();
        if let EndpointChange::Add(settings) = change {
            let endpoint = new_endpoint(name, settings)?;
            let taken = |member: &Member| {
                member.endpoint.target == endpoint.target || member.endpoint.name == endpoint.name
            };
            if group.members.iter().any(taken) {
                return Err(format!("`{name}` is in this cluster already"));
            }
            let others = group.members.first();
            let endpoint = Endpoint {
                speech: others.map_or_else(Speech::default, |m| m.endpoint.speech.clone()),
                ..endpoint
            };
            let member = self.member(&cluster, &endpoint, group.hold());
            group.members.push(member);
            return Ok(format!("`{name}` takes requests of `{}`", cluster.name()));
        }
        let is_meant = |member: &Member| {
            member.endpoint.name == name || member.endpoint.target.to_string() == name
        };
        let Some(index) = group.members.iter().position(is_meant) else {
            return Err(unknown_endpoint(group, name));
        };
        let ids = group.members[index].seats.iter().map(|seat| seat.id);
        match change {
            EndpointChange::Remove => {
                if group.members.len() == 1 {
                    return Err(format!(
                        "`{name}` is the last endpoint of `{}`",
                        cluster.name()
                    ));
                }
                for seat in group.members.remove(index).seats {
                    self.leave(&cluster, seat.id);
                }
                Ok(format!("`{name}` leaves after its last request"))
            }
            EndpointChange::Drain => {
                ids.for_each(|id| cluster.drain(id));
                Ok(format!("`{name}` gets no new requests"))
            }
            _ => {
                ids.for_each(|id| cluster.restore(id));
                Ok(format!("`{name}` gets requests again"))
            }
        }
    }

    fn member(&mut self, cluster: &Cluster, endpoint: &Endpoint, hold: bool) -> Member {
        let found = self.found.get(&endpoint.target).cloned();
        let mut member = Member {
            endpoint: endpoint.clone(),
            seats: Vec::new(),
            hold,
        };
        match (address(&endpoint.target), found) {
            (Some(address), _) => self.join(cluster, &mut member, address, 0, 1),
            (None, found) => {
                for one in found.unwrap_or_default() {
                    let address = EndpointAddress::Tcp(one.address);
                    self.join(cluster, &mut member, address, one.rank, one.weight);
                }
            }
        }
        member
    }

    fn join(
        &mut self,
        cluster: &Cluster,
        member: &mut Member,
        address: EndpointAddress,
        rank: u32,
        weight: u32,
    ) {
        let endpoint = &member.endpoint;
        let id = EndpointId(FIRST_ENDPOINT + self.next_endpoint);
        self.next_endpoint += 1;
        // Several addresses of one name are told apart by the address.
        let name = match endpoint.target {
            Target::Tcp(_) | Target::Unix(_) => endpoint.name.clone(),
            Target::Name { .. } | Target::Service(_) => format!("{} {address}", endpoint.name),
        };
        cluster.add(EndpointSpec {
            id,
            name,
            address: address.clone(),
            // Who has no connection has nothing to wait for but a place in the queue.
            in_flight_max: match (endpoint.in_flight_max, endpoint.connections_max) {
                (Some(one), Some(other)) => one.min(other),
                (one, other) => one.or(other).unwrap_or(0),
            },
            connections_max: endpoint.connections_max,
            share: Share {
                weight: endpoint.weight.saturating_mul(weight),
                priority: endpoint.priority.saturating_add(rank),
                backup: endpoint.backup,
                down: endpoint.down || member.hold,
                max_fails: endpoint.max_fails,
                fail_timeout: endpoint.fail_timeout,
                route: endpoint.route.clone(),
            },
            page: None,
            terms: self.speeches.of(endpoint, &address),
            process: 0,
        });
        if member.hold {
            cluster.set_healthy(id, false);
            cluster.set_down(id, endpoint.down);
        }
        member.seats.push(Seat {
            address,
            rank,
            weight,
            id,
        });
    }

    fn leave(&mut self, cluster: &Arc<Cluster>, id: EndpointId) {
        cluster.drain(id);
        self.leaving.push(Leaving::Endpoint(cluster.clone(), id));
    }

    /// A name has these addresses now.
    fn reseat(&mut self, group: &mut Group, found: &Found) {
        let cluster = group.cluster.clone();
        let named = group.members.iter_mut();
        for member in named.filter(|member| member.endpoint.target == found.target) {
            let mut gone = std::mem::take(&mut member.seats);
            for one in &found.addresses {
                let address = EndpointAddress::Tcp(one.address);
                let stays = |seat: &Seat| {
                    (&seat.address, seat.rank, seat.weight) == (&address, one.rank, one.weight)
                };
                match gone.iter().position(stays) {
                    Some(index) => member.seats.push(gone.remove(index)),
                    None => self.join(&cluster, member, address, one.rank, one.weight),
                }
            }
            for seat in gone {
                self.leave(&cluster, seat.id);
            }
        }
    }
}

/// Where an endpoint is, unless that has to be looked up.
fn address(target: &Target) -> Option<EndpointAddress> {
    match target {
        Target::Tcp(address) => Some(EndpointAddress::Tcp(*address)),
        Target::Unix(path) => Some(EndpointAddress::Unix(path.clone())),
        Target::Name { .. } | Target::Service(_) => None,
    }
}
