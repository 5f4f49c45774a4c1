//! How endpoints are spoken to: the settings of clusters as the data plane takes them, with the
//! files of their TLS read.

use std::net::IpAddr;
use std::sync::Arc;

use evener_config::values::Target;
use evener_config::{Cluster, ClusterTls, Endpoint, ProxyVersion};
use evener_edge::{EndpointAddress, UpstreamTerms};
use evener_net::{CertificateFiles, ClientTls, ClientTlsTerms, ServerName};

/// The TLS of all clusters that speak it.
#[derive(Default)]
pub(crate) struct Speeches {
    known: Vec<(ClusterTls, bool, Arc<ClientTls>)>,
}

impl Speeches {
    /// Reads the files of these clusters, those that are known anew. Connections that are made from
    /// now on go by them; an error changes nothing.
    pub(crate) fn read(&mut self, clusters: &[Cluster]) -> Result<(), String> {
        let mut fresh: Vec<(ClusterTls, bool, Arc<ClientTls>)> = Vec::new();
        for cluster in clusters {
            let Some(speech) = cluster.endpoints.first().map(|first| &first.speech) else {
                continue;
            };
            let Some(tls) = &speech.tls else { continue };
            if fresh
                .iter()
                .any(|(other, http2, _)| (other, *http2) == (tls, speech.http2))
            {
                continue;
            }
            let client = ClientTls::new(terms(tls, speech.http2))
                .map_err(|error| format!("`cluster.{}.tls`: {error}", cluster.name))?;
            fresh.push((tls.clone(), speech.http2, Arc::new(client)));
        }
        for (tls, http2, client) in &mut fresh {
            let same = |known: &&(ClusterTls, bool, Arc<ClientTls>)| {
                (&known.0, known.1) == (&*tls, *http2)
            };
            if let Some((_, _, old)) = self.known.iter().find(same) {
                old.replace_by(client);
                *client = old.clone();
            }
        }
        // Endpoints of settings that are gone, or that are not taken on after all, are still there.
        let old = std::mem::take(&mut self.known);
        let gone = |known: &(ClusterTls, bool, Arc<ClientTls>)| {
            !fresh
                .iter()
                .any(|(tls, http2, _)| (tls, *http2) == (&known.0, known.1))
        };
        self.known = old.into_iter().filter(gone).collect();
        self.known.append(&mut fresh);
        Ok(())
    }

    /// How one address of an endpoint is spoken to.
    pub(crate) fn of(&self, endpoint: &Endpoint, address: &EndpointAddress) -> UpstreamTerms {
        let speech = &endpoint.speech;
        let tls = speech.tls.as_ref().map(|tls| {
            let mut known = self.known.iter();
            let known = known.find(|(one, http2, _)| (one, *http2) == (tls, speech.http2));
            let (_, _, client) = known.expect("the files of every cluster were read");
            (client.clone(), server_name(tls, endpoint, address))
        });
        UpstreamTerms {
            http2: speech.http2,
            proxy: speech.proxy.map(|version| match version {
                ProxyVersion::V1 => evener_net::ProxyVersion::V1,
                ProxyVersion::V2 => evener_net::ProxyVersion::V2,
            }),
            tls,
        }
    }

    /// How checks speak to one address of an endpoint.
    pub(crate) fn of_checks(
        &self,
        endpoint: &Endpoint,
        address: &EndpointAddress,
    ) -> evener_health::Speech {
        let UpstreamTerms { tls, proxy, .. } = self.of(endpoint, address);
        evener_health::Speech { tls, proxy }
    }
}

fn terms(tls: &ClusterTls, http2: bool) -> ClientTlsTerms {
    ClientTlsTerms {
        authorities: tls.ca.clone(),
        certificate: tls
            .certificate
            .as_ref()
            .map(|(certificate, key)| CertificateFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                ocsp: None,
            }),
        verify: tls.verify,
        protocols: match http2 {
            true => vec![b"h2".to_vec()],
            false => vec![b"http/1.1".to_vec()],
        },
    }
}

/// The name that the endpoint's certificate must have. What is no name fits no certificate.
fn server_name(
    tls: &ClusterTls,
    endpoint: &Endpoint,
    address: &EndpointAddress,
) -> ServerName<'static> {
    let ip = match address {
        EndpointAddress::Tcp(address) => address.ip(),
        EndpointAddress::Unix(_) => IpAddr::from([0; 4]),
    };
    let host = match (&tls.server_name, &endpoint.target) {
        (Some(name), _) => name.clone(),
        (None, Target::Name { host, .. }) => host.clone(),
        (None, _) => return ip.into(),
    };
    ServerName::try_from(host).unwrap_or_else(|_| ip.into())
}
