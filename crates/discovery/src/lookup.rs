//! One lookup: of addresses, or of SRV records and the addresses of what they name.

use std::net::SocketAddr;
use std::time::Instant;

use evener_config::Dns;
use evener_config::values::Target;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;

use crate::Address;

/// What a lookup came to.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Each once, in order; never empty.
    pub(crate) addresses: Vec<Address>,
    pub(crate) valid_until: Instant,
}

/// Asks name servers.
pub(crate) struct Lookups {
    resolver: TokioResolver,
}

impl Lookups {
    /// With the servers of the settings, or the system's.
    pub(crate) fn new(settings: &Dns) -> Result<Lookups, String> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = if settings.servers.is_empty() {
            TokioResolver::builder(provider)
                .map_err(|error| format!("the system's settings for names: {error}"))?
        } else {
            let servers = settings.servers.iter().map(|address| server(*address));
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            TokioResolver::builder_with_config(config, provider)
        };
        let options = builder.options_mut();
        // When to ask again is decided by the one who watches.
        options.cache_size = 0;
        options.timeout = settings.timeout;
        options.attempts = 2;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        let resolver = builder.build().map_err(|error| error.to_string())?;
        Ok(Lookups { resolver })
    }

    /// Looks a name up.
    pub(crate) async fn find(&self, target: &Target) -> Result<Answer, String> {
        let mut answer = match target {
            Target::Tcp(_) | Target::Unix(_) => return Err("it is no name".to_owned()),
            Target::Name { host, port } => self.addresses(host, *port, 0, 1).await?,
            Target::Service(name) => self.service(name).await?,
        };
        answer.addresses.sort_unstable();
        answer.addresses.dedup_by_key(|one| one.address);
        if answer.addresses.is_empty() {
            return Err("it has no addresses".to_owned());
        }
        Ok(answer)
    }

    async fn addresses(
        &self,
        host: &str,
        port: u16,
        rank: u32,
        weight: u32,
    ) -> Result<Answer, String> {
        let found = self.resolver.lookup_ip(host).await.map_err(|e| said(&e))?;
        let address = |ip| Address {
            rank,
            address: SocketAddr::new(ip, port),
            weight,
        };
        Ok(Answer {
            addresses: found.iter().map(address).collect(),
            valid_until: found.valid_until(),
        })
    }

    async fn service(&self, name: &str) -> Result<Answer, String> {
        let found = self.resolver.srv_lookup(name).await.map_err(|e| said(&e))?;
        let mut records: Vec<(u16, u16, String, u16)> = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                // A target of "." means that the service is decidedly not there (RFC 2782).
                RData::SRV(srv) if !srv.target.is_root() => {
                    Some((srv.priority, srv.weight, srv.target.to_string(), srv.port))
                }
                _ => None,
            })
            .collect();
        records.sort();
        let mut priorities: Vec<u16> = records.iter().map(|record| record.0).collect();
        priorities.dedup();
        let mut answer = Answer {
            addresses: Vec::new(),
            valid_until: found.valid_until(),
        };
        let mut wrong = None;
        for (priority, weight, host, port) in records {
            let rank = priorities.iter().position(|other| *other == priority);
            let rank = rank.and_then(|rank| u32::try_from(rank).ok()).unwrap_or(0);
            // A weight of 0 is for "hardly any" (RFC 2782), which is one here.
            let weight = u32::from(weight).max(1);
            match self.addresses(&host, port, rank, weight).await {
                Ok(more) => {
                    answer.addresses.extend(more.addresses);
                    answer.valid_until = answer.valid_until.min(more.valid_until);
                }
                Err(error) => wrong = Some(format!("{host}: {error}")),
            }
        }
        match (answer.addresses.is_empty(), wrong) {
            (true, Some(wrong)) => Err(wrong),
            _ => Ok(answer),
        }
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// An error in few words.
fn said(error: &NetError) -> String {
    match error {
        NetError::Timeout => "no name server answered in time".to_owned(),
        NetError::NoConnections => "no name server can be reached".to_owned(),
        error if error.is_no_records_found() => {
            "there is no such name, or it has no such records".to_owned()
        }
        error => error.to_string(),
    }
}
