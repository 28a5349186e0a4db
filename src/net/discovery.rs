//! Finding peers with DNS-SD over mDNS (PROTOCOL.md §2). What comes out are hints: any machine on
//! the network can say anything here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use mdns_sd::{IfKind, IfPredicate, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent};
use mdns_sd::{ServiceInfo, UnregisterStatus};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::interfaces::Selection;
use crate::protocol::id::{DeviceId, RunId};
use crate::protocol::peers::{DeviceType, MAX_ADDRESSES, PeerAdvert, display_name};

/// The service type that we advertise and look for.
pub const SERVICE_TYPE: &str = "_fileshare._tcp.local.";
/// The protocol version in the TXT record.
pub const PROTO: u32 = 1;
const PREFIX: &str = "Peer-";
/// Events that wait to be handled.
const QUEUE: usize = 256;
/// Most peers tracked over a new subscription.
const MAX_KNOWN: usize = 4096;
/// How long peers may take to show themselves again after a new subscription.
const RECHECK: Duration = Duration::from_secs(15);
/// Between two subscriptions, so that a flood does not make us spin.
const RESUBSCRIBE: Duration = Duration::from_secs(1);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// What we say about ourselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advert {
    /// Who we are.
    pub device_id: DeviceId,
    /// Our name for people; made harmless and cut to 64 bytes.
    pub name: String,
    /// What we are.
    pub device_type: DeviceType,
    /// This start of our program.
    pub run: RunId,
    /// The port of the signaling listener.
    pub port: u16,
    /// Where we can be reached; empty for all addresses of the used interfaces, kept up to date.
    pub addresses: Vec<IpAddr>,
}

/// How to discover.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiscoveryOptions {
    /// What to say about ourselves; `None` only looks.
    pub advert: Option<Advert>,
    /// Which interfaces to use.
    pub interfaces: Selection,
}

/// What was discovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiscoveryEvent {
    /// A peer is there, or what it says about itself has changed.
    Found(PeerAdvert),
    /// An advert under another name than the first for its device, or of our own id: there may
    /// be two machines with one key.
    Copy {
        /// What it says.
        advert: PeerAdvert,
        /// The number in the name; 1 for the plain one.
        number: u32,
    },
    /// Such an advert is gone.
    CopyGone {
        /// Whose it was.
        id: DeviceId,
        /// The number in its name.
        number: u32,
    },
    /// A peer said goodbye, or its advert ran out. Anybody can say so in its name.
    Lost(DeviceId),
    /// Nothing will come any more: start again. For people.
    Stopped(String),
}

/// Why discovery does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// The mDNS responder failed.
    #[error(
        "mDNS discovery does not start ({0}): check that UDP port 5353 may be used here, or name peers by address"
    )]
    Daemon(#[from] mdns_sd::Error),
    /// The id does not fit a DNS label.
    #[error("the device id {0} is too long to be advertised (at most 55 characters)")]
    LongId(DeviceId),
}

/// The running discovery. [`Discovery::stop`] says goodbye to the network and waits until that
/// is sent; dropping it says goodbye as well, without waiting.
pub struct Discovery {
    daemon: ServiceDaemon,
    fullname: Option<String>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery")
            .field("fullname", &self.fullname)
            .finish_non_exhaustive()
    }
}

impl Discovery {
    /// Starts to advertise and to look. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// See [`DiscoveryError`].
    pub fn start(
        options: DiscoveryOptions,
    ) -> Result<(Self, mpsc::Receiver<DiscoveryEvent>), DiscoveryError> {
        let service = options
            .advert
            .as_ref()
            .map(|advert| service_info(advert, &options.interfaces))
            .transpose()?;
        let daemon = ServiceDaemon::new()?;
        let (events, receiver) = mpsc::channel(QUEUE);
        // From here on dropping it ends the daemon's thread, also when a step below fails.
        let mut discovery = Self {
            daemon: daemon.clone(),
            fullname: None,
            task: tokio::spawn(async {}),
        };
        choose_interfaces(&daemon, &options.interfaces)?;
        if let Some(service) = service {
            let fullname = service.get_fullname().to_owned();
            daemon.register(service)?;
            discovery.fullname = Some(fullname);
        }
        let found = daemon.browse(SERVICE_TYPE)?;
        let watcher = Watcher {
            daemon,
            ours: options.advert.map(|advert| (advert.device_id, advert.run)),
            loopback: options.interfaces != Selection::All,
            known: HashMap::new(),
            recheck: None,
            events,
        };
        discovery.task = tokio::spawn(watcher.run(found));
        Ok((discovery, receiver))
    }

    /// Says goodbye, and stops; within a few seconds.
    pub async fn stop(mut self) {
        self.task.abort();
        if let Some(fullname) = self.fullname.take()
            && let Ok(done) = self.daemon.unregister(&fullname)
        {
            let status = timeout(GOODBYE, done.recv_async()).await;
            if !matches!(status, Ok(Ok(UnregisterStatus::OK))) {
                debug!("the goodbye may not have been sent: peers will notice later");
            }
        }
        if let Ok(done) = self.daemon.shutdown() {
            let _ = timeout(GOODBYE, done.recv_async()).await;
        }
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.task.abort();
        // The daemon works these off in order. When it is gone already there is nothing to do.
        if let Some(fullname) = self.fullname.take() {
            let _ = self.daemon.unregister(&fullname);
        }
        let _ = self.daemon.shutdown();
    }
}

fn choose_interfaces(daemon: &ServiceDaemon, selection: &Selection) -> mdns_sd::Result<()> {
    match selection {
        Selection::All => daemon.disable_interface(vec![IfKind::LoopbackV4, IfKind::LoopbackV6]),
        Selection::Loopback => {
            daemon.disable_interface(IfKind::All)?;
            daemon.enable_interface(IfKind::LoopbackV4)
        }
        chosen => {
            // A rule instead of a list, so that an interface that comes up later counts, too.
            let chosen = chosen.clone();
            daemon.disable_interface(IfKind::All)?;
            daemon.enable_interface(IfKind::Predicate(IfPredicate::new(move |interface| {
                chosen.takes(&interface.name, interface.ip())
            })))
        }
    }
}

fn service_info(advert: &Advert, selection: &Selection) -> Result<ServiceInfo, DiscoveryError> {
    let id = &advert.device_id;
    // "handout-" is the longer of the two prefixes, and a label has at most 63 bytes.
    if id.as_str().len() > 55 {
        return Err(DiscoveryError::LongId(id.clone()));
    }
    let (proto, run) = (PROTO.to_string(), advert.run.to_string());
    let name = display_name(&advert.name);
    let txt = [
        ("txtvers", "1"),
        ("id", id.as_str()),
        ("name", &name),
        ("type", advert.device_type.as_str()),
        ("proto", &proto),
        ("run", &run),
    ];
    let mut addresses = advert.addresses.clone();
    if addresses.is_empty() && *selection == Selection::Loopback {
        addresses.push(IpAddr::from([127, 0, 0, 1]));
    }
    let service = ServiceInfo::new(
        SERVICE_TYPE,
        &format!("{PREFIX}{id}"),
        &format!("handout-{id}.local."),
        &addresses[..],
        advert.port,
        &txt[..],
    )?;
    Ok(match addresses.is_empty() {
        true => service.enable_addr_auto(),
        false => service,
    })
}

/// The device that an instance is named after, and the number that mDNS puts behind a name that
/// somebody else has (1 where there is none); `None` for strangers.
fn id_of(fullname: &str) -> Option<(DeviceId, u32)> {
    let at = fullname.len().checked_sub(SERVICE_TYPE.len() + 1)?;
    let (instance, rest) = (fullname.get(..at)?, fullname.get(at + 1..)?);
    let fits = fullname.as_bytes()[at] == b'.' && rest.eq_ignore_ascii_case(SERVICE_TYPE);
    let name = instance.strip_prefix(PREFIX).filter(|_| fits)?;
    let numbered = name
        .strip_suffix(')')
        .and_then(|name| name.split_once(" ("));
    let (id, number) = match numbered {
        Some((id, number)) => (id, number.parse().ok().filter(|number| *number > 1)?),
        None => (name, 1),
    };
    Some((id.parse().ok()?, number))
}

/// Reads an advert, and the number in its name; the error says why it is none of ours.
fn read_advert(
    service: &ResolvedService,
    loopback: bool,
) -> Result<(PeerAdvert, u32), &'static str> {
    let (id, number) = id_of(&service.fullname).ok_or("the instance is not Peer-<id>")?;
    let txt = |key: &str| service.get_property_val_str(key);
    if txt("txtvers") != Some("1") {
        return Err("txtvers is not 1");
    }
    if txt("id") != Some(id.as_str()) {
        return Err("id is not that of the instance");
    }
    if service.port == 0 {
        return Err("the port is 0");
    }
    let usable =
        |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast() && (loopback || !ip.is_loopback());
    let mut addrs: Vec<SocketAddr> = service
        .addresses
        .iter()
        .filter(|scoped| usable(&scoped.to_ip_addr()))
        .map(|scoped| socket_addr(scoped, service.port))
        .collect();
    // IPv4 first: it needs no scope, so more networks and programs get it right.
    addrs.sort_unstable();
    addrs.dedup();
    addrs.truncate(MAX_ADDRESSES);
    if addrs.is_empty() {
        return Err("no usable address");
    }
    let advert = PeerAdvert {
        name: display_name(txt("name").unwrap_or(id.short())),
        device_type: DeviceType::from_word(txt("type").unwrap_or_default()),
        proto: txt("proto").and_then(|p| p.parse().ok()).unwrap_or(PROTO),
        run: txt("run").and_then(|run| run.parse().ok()),
        addrs,
        id,
    };
    Ok((advert, number))
}

/// Link-local IPv6 addresses are of no use without the interface they were heard on.
fn socket_addr(scoped: &ScopedIp, port: u16) -> SocketAddr {
    match scoped {
        ScopedIp::V6(v6) if v6.addr().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.addr(), port, 0, v6.scope_id().index).into()
        }
        other => SocketAddr::new(other.to_ip_addr(), port),
    }
}

/// Turns the daemon's events into ours.
struct Watcher {
    daemon: ServiceDaemon,
    ours: Option<(DeviceId, RunId)>,
    loopback: bool,
    /// The peers that are there, and whether they were seen since the last subscription.
    known: HashMap<DeviceId, bool>,
    /// When those not seen since are given up.
    recheck: Option<Instant>,
    events: mpsc::Sender<DiscoveryEvent>,
}

/// Nobody listens to us any more.
struct Unheard;

impl Watcher {
    async fn run(mut self, mut found: mdns_sd::Receiver<ServiceEvent>) {
        loop {
            let recheck = self.recheck;
            let due = sleep_until(recheck.unwrap_or_else(Instant::now));
            let handled = tokio::select! {
                event = found.recv_async() => match event {
                    Ok(event) => self.on_event(event).await,
                    Err(_) => match self.subscribe_again().await {
                        Some(receiver) => {
                            found = receiver;
                            Ok(())
                        }
                        None => return,
                    },
                },
                () = due, if recheck.is_some() => self.give_up_unseen().await,
                () = self.events.closed() => return,
            };
            if handled.is_err() {
                return;
            }
        }
    }

    async fn on_event(&mut self, event: ServiceEvent) -> Result<(), Unheard> {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let (advert, number) = match read_advert(&service, self.loopback) {
                    Ok(read) => read,
                    Err(reason) => {
                        debug!(reason, "an advert of the same service type is not ours");
                        return Ok(());
                    }
                };
                if let Some((ours, run)) = &self.ours
                    && *ours == advert.id
                {
                    // We hear ourselves as well.
                    return match advert.run {
                        Some(other) if other != *run => {
                            self.tell(DiscoveryEvent::Copy { advert, number }).await
                        }
                        _ => Ok(()),
                    };
                }
                if number > 1 {
                    return self.tell(DiscoveryEvent::Copy { advert, number }).await;
                }
                if self.known.len() < MAX_KNOWN || self.known.contains_key(&advert.id) {
                    self.known.insert(advert.id.clone(), true);
                }
                self.tell(DiscoveryEvent::Found(advert)).await
            }
            ServiceEvent::ServiceRemoved(_, fullname) => match id_of(&fullname) {
                Some((id, number)) if number > 1 || self.is_ours(&id) => {
                    self.tell(DiscoveryEvent::CopyGone { id, number }).await
                }
                Some((id, _)) => {
                    self.known.remove(&id);
                    self.tell(DiscoveryEvent::Lost(id)).await
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn is_ours(&self, id: &DeviceId) -> bool {
        self.ours.as_ref().is_some_and(|(ours, _)| ours == id)
    }

    /// The daemon drops a subscription that is read too slowly. What was lost meanwhile is
    /// unknown, so everybody has to show himself again.
    async fn subscribe_again(&mut self) -> Option<mdns_sd::Receiver<ServiceEvent>> {
        loop {
            sleep(RESUBSCRIBE).await;
            match self.daemon.browse(SERVICE_TYPE) {
                Ok(receiver) => {
                    warn!("mDNS events came faster than they were handled: looking again");
                    self.known.values_mut().for_each(|seen| *seen = false);
                    self.recheck = Some(Instant::now() + RECHECK);
                    return Some(receiver);
                }
                Err(mdns_sd::Error::Again) => {}
                Err(error) => {
                    let stopped = DiscoveryEvent::Stopped(error.to_string());
                    let _ = self.tell(stopped).await;
                    return None;
                }
            }
        }
    }

    async fn give_up_unseen(&mut self) -> Result<(), Unheard> {
        self.recheck = None;
        let unseen: Vec<_> = self.known.extract_if(|_, seen| !*seen).collect();
        for (id, _) in unseen {
            self.tell(DiscoveryEvent::Lost(id)).await?;
        }
        Ok(())
    }

    async fn tell(&self, event: DiscoveryEvent) -> Result<(), Unheard> {
        self.events.send(event).await.map_err(|_| Unheard)
    }
}

#[cfg(test)]
mod tests;
