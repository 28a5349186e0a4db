//! The coordinator: broadcasts, transfers, and who gets what. It holds the only strong address
//! of each peer actor, so a peer lives as long as the coordinator wants it, and a peer that
//! panics is noticed here and built anew.

mod around;
mod arrivals;
mod counted;
mod door;
mod groups;
mod handing_in;
mod introductions;
mod invites;
mod keys;
mod kiosk;
mod leftovers;
mod links;
mod meeting;
mod notes;
mod pairing;
mod people;
mod plans;
mod pulse;
mod purposes;
mod questions;
mod receiving;
mod reload;
mod report;
mod requests;
mod sending;
mod turns;
mod versions;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::WeakAddr;
use actix::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use crate::config::Settings;
use crate::content::{HeadShelf, Source};
use crate::dataplane::{Progress, Standing};
use crate::net::link::Path;
use crate::protocol::clones::Clones;
use crate::protocol::id::{BroadcastId, DeviceId, RunId, TransferId};
use crate::protocol::identity::Identity;
use crate::protocol::invite::Issued;
use crate::protocol::message::Code;
use crate::protocol::names::printable;
use crate::protocol::peers::PeerTable;
use crate::protocol::rate::Rate;
use crate::protocol::transfer::{Direction, TransferEvent, TransferState};
use crate::protocol::trust::{Pages, TrustBook};
use crate::store::{Account, After, BroadcastRecord, PlanRecord, Question, TransferRecord};

use super::api::{Event, Request, TransferInfo};
use super::discovery::stream_of;
use super::metrics::Metrics;
use super::peer::{Peer, PeerContext, unix_now};
use super::store::{StoreActor, keep};
use around::Around;
pub use around::judge_clock;
use arrivals::Programs;
use door::Door;
pub use introductions::PassOn;
use introductions::Swarm;
pub use keys::change_signal;
use kiosk::Kiosk;
pub use kiosk::KioskStart;
pub use links::{FromPeer, PeerNews};
use meeting::Meeting;
pub use meeting::{AtRendezvous, IsMeant, IsReachable, PathTo, Standing as AtStanding};
pub use notes::{Acquaintance, Noted, WhoMay};
use plans::Plans;
pub use plans::is_no_end;
pub use pulse::{Alive, Pulse};
pub use purposes::{Unvouch, Vouch};
use reload::Changing;
use turns::Waits;

/// How often progress is sampled and deadlines are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often what is over is counted.
const TIDY: Duration = Duration::from_secs(10);
/// Messages that may wait; what strangers can trigger is dropped beyond it.
const MAILBOX: usize = 1024;

/// What the store held when the node was started.
pub struct Loaded {
    /// The clock is not where it can be: nothing is old because of it.
    pub odd_clock: bool,
    /// Whom we trust, with what.
    pub trust: Pages,
    /// Broadcasts to be carried on.
    pub broadcasts: Vec<BroadcastRecord>,
    /// All transfers on record.
    pub transfers: Vec<TransferRecord>,
    /// Invites that we have issued.
    pub invites: Vec<Issued>,
    /// How it lets others in by itself, where it does.
    pub kiosk: Option<KioskStart>,
    /// What is remembered of the config file's broadcasts.
    pub plans: Vec<PlanRecord>,
    /// This process hands them out.
    pub runs_plans: bool,
    /// It takes what requests of its own bring, and nothing else.
    pub only_fetches: bool,
}

/// Makes the shared context of peers once the coordinator's own address is known.
pub type ContextMaker = Box<dyn FnOnce(WeakAddr<Coordinator>) -> Arc<PeerContext>>;

/// Owns broadcasts, transfers, peers and their authorizations.
pub struct Coordinator {
    settings: Arc<Settings>,
    changing: Changing,
    programs: Programs,
    identity: Identity,
    store: Addr<StoreActor>,
    data_plane: Handle,
    metrics: Arc<Metrics>,
    heads: HeadShelf,
    /// Nothing when this process only reads and changes the store.
    context: Option<Arc<PeerContext>>,
    make_context: Option<ContextMaker>,
    trust: TrustBook,
    door: Door,
    meeting: Option<Meeting>,
    kiosk: Option<Kiosk>,
    table: PeerTable,
    peers: HashMap<DeviceId, PeerSlot>,
    broadcasts: HashMap<BroadcastId, Broadcast>,
    transfers: HashMap<TransferId, Transfer>,
    swarm: Swarm,
    plans: Plans,
    only_fetches: bool,
    clones: Clones,
    /// How often changes of others' keys are looked at.
    changes: Rate,
    /// Who has been shown our change of key, or has linked with us since.
    shown: HashSet<DeviceId>,
    watchers: Vec<Watcher>,
    tidied: Instant,
    /// When what there is was last counted.
    counted: Instant,
    around: Around,
}

/// A peer actor, and what is known of its link.
struct PeerSlot {
    actor: Addr<Peer>,
    session: Option<SessionInfo>,
    /// The outgoing transfer that its session works on.
    sending: Option<TransferId>,
    /// When the link was last lost, or the device first wanted.
    absent_since: Instant,
    error: Option<String>,
    /// The last connection failed because the other side said no.
    refused: bool,
    wanted: bool,
    /// The address that it signaled from when the last link was made.
    from: Option<IpAddr>,
    /// How the packets of that link travel.
    path: Option<Path>,
    /// Through whom its actor may signal, as it was last told.
    through: Option<DeviceId>,
}

struct SessionInfo {
    name: String,
    device_type: String,
    verified: bool,
    standing: Standing,
}

struct Broadcast {
    record: BroadcastRecord,
    source: Source,
    /// How long to wait for devices that are not there; for ever when nothing.
    wait: Option<Duration>,
    /// Who asked and hears how it goes.
    watcher: Option<mpsc::Sender<Event>>,
    started: Instant,
}

struct Transfer {
    record: TransferRecord,
    progress: Arc<Progress>,
    /// Payload bytes that moved in earlier processes.
    moved_before: u64,
    shown: u64,
    /// Payload bytes that the metrics have counted.
    counted: u64,
    /// When its chunks first began to move in this process.
    began: Option<Instant>,
    finished: Option<Instant>,
    already: bool,
    /// When its bytes last moved, or it was handed over.
    moved: Instant,
    /// What it waits for while it is pending.
    waits: Option<Waits>,
    /// When what has come of it was left to the next version.
    left: Option<Instant>,
}

impl Transfer {
    fn of(record: TransferRecord) -> Self {
        let progress = Arc::new(Progress::default());
        progress.restart(record.bytes_done);
        let shown = record.bytes_done;
        Self {
            moved_before: record.account.moved,
            record,
            progress,
            shown,
            counted: 0,
            began: None,
            finished: None,
            already: false,
            moved: Instant::now(),
            waits: None,
            left: None,
        }
    }

    /// Payload bytes that moved over the link, in this process and earlier ones.
    fn moved(&self) -> u64 {
        self.moved_before.saturating_add(self.progress.moved())
    }

    /// How long its chunks have moved, or did.
    fn took(&self) -> Option<Duration> {
        let end = self.finished.unwrap_or_else(Instant::now);
        Some(end - self.began?)
    }
}

struct Watcher {
    events: mpsc::Sender<Event>,
}

/// Says goodbye: waits until what the sessions have said has arrived.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Farewell;

impl Handler<Farewell> for Coordinator {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Farewell, _: &mut Context<Self>) -> Self::Result {
        let flushing: Vec<_> = self
            .peers
            .iter()
            .filter(|(device, slot)| slot.session.is_some() || self.door.is_present(device))
            .map(|(_, slot)| slot.actor.send(super::peer::Flush))
            .collect();
        Box::pin(async move {
            futures::future::join_all(flushing).await;
        })
    }
}

/// Makes a peer's actor panic, for the test of what happens then.
#[cfg(test)]
#[derive(Message)]
#[rtype(result = "()")]
pub struct PanicPeer(pub DeviceId);

#[cfg(test)]
impl Handler<PanicPeer> for Coordinator {
    type Result = ();

    fn handle(&mut self, PanicPeer(device): PanicPeer, _: &mut Context<Self>) {
        self.peers[&device].actor.do_send(super::peer::Panic);
    }
}

/// Makes the coordinator itself panic, for the test of what happens then.
#[cfg(test)]
#[derive(Message)]
#[rtype(result = "()")]
pub struct PanicSelf;

#[cfg(test)]
impl Handler<PanicSelf> for Coordinator {
    type Result = ();

    fn handle(&mut self, _: PanicSelf, _: &mut Context<Self>) {
        panic!("asked to");
    }
}

/// A request of a person or program, and where its answer goes.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ask {
    /// What is asked.
    pub request: Request,
    /// Where events go; the last one is [`Event::End`].
    pub reply: mpsc::Sender<Event>,
}

impl Coordinator {
    /// A coordinator over what the store held. Without a `make_context` it has no network.
    pub fn new(
        settings: watch::Sender<Arc<Settings>>,
        identity: Identity,
        run: RunId,
        (store, metrics): (Addr<StoreActor>, Arc<Metrics>),
        data_plane: Handle,
        loaded: Loaded,
        make_context: Option<ContextMaker>,
    ) -> Self {
        let changing = Changing::new(settings);
        let settings = changing.now();
        let transfers = loaded.transfers.into_iter().map(|mut record| {
            // Whatever was under way when the last process ended is pending again.
            if let Ok(state) = record.state.clone().on(TransferEvent::Disconnect) {
                record.state = state;
            }
            (record.id, Transfer::of(record))
        });
        let mut coordinator = Self {
            table: PeerTable::new(settings.discovery.max_peers),
            transfers: transfers.collect(),
            trust: TrustBook::new(identity.device_id(), loaded.trust),
            clones: Clones::new(Instant::now(), identity.device_id(), run),
            changes: Rate::new(keys::MAX_CHANGES, keys::CHANGES_SPAN),
            shown: HashSet::new(),
            door: Door::new(loaded.invites),
            meeting: None,
            kiosk: None,
            heads: HeadShelf::new(settings.state.dir.join("heads")),
            settings,
            changing,
            programs: Programs::default(),
            identity,
            store,
            data_plane,
            metrics,
            context: None,
            make_context,
            peers: HashMap::new(),
            broadcasts: HashMap::new(),
            swarm: Swarm::default(),
            plans: Plans::new(loaded.plans, loaded.runs_plans),
            only_fetches: loaded.only_fetches,
            watchers: Vec::new(),
            tidied: Instant::now(),
            counted: Instant::now(),
            around: Around::new(loaded.odd_clock),
        };
        coordinator.open_kiosk(loaded.kiosk);
        for record in loaded.broadcasts {
            coordinator.reload(record);
        }
        coordinator
    }

    /// Something happened that whoever watches wants to know.
    fn emit(&mut self, event: &Event) {
        self.count(event);
        self.audit(event);
        self.watchers
            .retain(|watcher| offer_event(&watcher.events, event));
    }

    /// Moves a transfer along, records it and tells everybody. False when the move is not legal,
    /// which a late message may well make it.
    fn advance(&mut self, id: TransferId, happened: TransferEvent) -> bool {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            return false;
        };
        match transfer.record.state.clone().on(happened) {
            Ok(state) => transfer.record.state = state,
            Err(illegal) => {
                debug!(transfer = %id, %illegal, "ignored");
                return false;
            }
        }
        let name = || printable(&transfer.record.name);
        match &transfer.record.state {
            TransferState::Paused {
                code: code @ (Code::DiskFull | Code::DiskError),
                reason,
                ..
            } => warn!(transfer = %id, name = name(), ?code, %reason, "waits for the disk"),
            TransferState::Failed { code, reason } => {
                let (device, reason) = (&transfer.record.peer, printable(reason));
                warn!(transfer = %id, name = name(), %device, ?code, reason, "failed");
            }
            _ => {}
        }
        let now = unix_now();
        transfer.record.updated = now;
        transfer.record.bytes_done = transfer.progress.done();
        if transfer.record.state == TransferState::Active {
            transfer.began.get_or_insert_with(Instant::now);
        }
        if transfer.record.state.is_final() {
            transfer.finished.get_or_insert_with(Instant::now);
        }
        let millis = transfer.took().map(|took| took.as_millis());
        transfer.record.account = Account {
            moved: transfer.moved(),
            millis: millis.and_then(|millis| millis.try_into().ok()),
            authorized: Some(self.trust.why(&transfer.record.peer, now).0),
        };
        let record = transfer.record.clone();
        // What somebody decided, and what is over, must outlive a kill; the rest is found again.
        let lasts = record.state.is_final()
            || matches!(record.state, TransferState::Paused { .. })
            || record.question == Some(Question::Accepted);
        keep(&self.store, "a transfer", move |store| {
            store.put_transfer(record)?;
            if lasts { store.flush() } else { Ok(()) }
        });
        if self.transfers[&id].record.state.is_final() {
            keep(&self.store, "progress", move |store| {
                store.drop_progress(&id)
            });
        }
        if let Some(info) = self.info_of(id) {
            let broadcast = info.broadcast;
            let event = Event::Transfer(info);
            self.emit(&event);
            self.tell_broadcast(broadcast, &event);
        }
        true
    }

    fn info_of(&self, id: TransferId) -> Option<TransferInfo> {
        let transfer = self.transfers.get(&id)?;
        let record = &transfer.record;
        Some(TransferInfo {
            transfer: id,
            broadcast: record.broadcast,
            direction: record.direction,
            device_id: record.peer.clone(),
            device_name: self.name_of(&record.peer),
            name: record.name.clone(),
            bytes: transfer.progress.done().min(record.size),
            size: record.size,
            state: record.state.clone(),
            waits: transfer.waits_for(),
        })
    }

    fn tell_broadcast(&self, broadcast: Option<BroadcastId>, event: &Event) {
        let watcher = broadcast
            .and_then(|id| self.broadcasts.get(&id))
            .and_then(|broadcast| broadcast.watcher.as_ref());
        if let Some(watcher) = watcher {
            offer_event(watcher, event);
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.rebuild_dead_peers();
        self.shut_out_whoever_may_no_longer();
        self.show_progress();
        self.keep_limits();
        self.give_up_on_the_absent();
        self.tend_door(ctx);
        self.tend_kiosk(ctx);
        self.retry_full_disks();
        self.expire_questions();
        self.run_what_is_due(ctx);
        self.tick_plans(ctx);
        self.drive(ctx);
        self.finish_broadcasts();
        self.tend_introductions();
        self.tend_clones();
        self.watch_who_may();
        self.renew_helpers(ctx);
        self.count_what_there_is();
        self.look_around();
        if self.tidied.elapsed() >= TIDY {
            self.tidied = Instant::now();
            self.tidy();
            self.catch_up_with_the_audit_log();
        }
    }

    /// Lets go of the oldest of what is over: neither memory nor the state folder grows for ever.
    /// What counts towards a quota goes last, and the smallest of it first: many small bundles
    /// must not make a large one be forgotten.
    fn tidy(&mut self) {
        self.give_up_on_senders();
        self.discard_what_was_left();
        let retention = self.settings.transfer.retention;
        let period = self.settings.receive.policy.longest_period();
        let since = period.map_or(u64::MAX, |p| unix_now().saturating_sub(p.as_secs()));
        let counted = |record: &TransferRecord| {
            let counts = record.direction == Direction::Incoming && record.updated >= since;
            if counts { record.size } else { 0 }
        };
        let mut over: Vec<(u64, u64, TransferId)> = self
            .transfers
            .values()
            .map(|transfer| &transfer.record)
            .filter(|record| record.state.is_final())
            .filter(|record| {
                record
                    .broadcast
                    .is_none_or(|of| !self.broadcasts.contains_key(&of) && !self.plans.keeps(of))
            })
            // What is still to be run would be forgotten.
            .filter(|record| record.after != Some(After::Due))
            .map(|record| (counted(record), record.updated, record.id))
            .collect();
        if over.len() <= retention {
            return;
        }
        over.sort();
        over.truncate(over.len() - retention);
        for (_, _, id) in &over {
            if self.transfers.get(id).is_some_and(|of| of.left.is_some()) {
                self.discard_unless_wanted(*id);
            }
            self.transfers.remove(id);
        }
        keep(&self.store, "retention", move |store| {
            for (_, _, id) in &over {
                store.remove_transfer(id)?;
            }
            store.prune_broadcasts(retention).map(|_| ())
        });
        let bundles = self
            .transfers
            .values()
            .map(|transfer| transfer.record.bundle)
            .collect();
        let heads = self.heads.clone();
        self.data_plane
            .spawn_blocking(move || heads.retain(&bundles));
    }

    fn show_progress(&mut self) {
        let mut moved = Vec::new();
        for (id, transfer) in &mut self.transfers {
            let bytes = transfer.progress.done().min(transfer.record.size);
            if bytes != transfer.shown {
                transfer.shown = bytes;
                transfer.moved = Instant::now();
                let event = Event::Progress {
                    transfer: *id,
                    device_id: transfer.record.peer.clone(),
                    bytes,
                    size: transfer.record.size,
                };
                moved.push((transfer.record.broadcast, event));
            }
        }
        for (broadcast, event) in moved {
            self.emit(&event);
            self.tell_broadcast(broadcast, &event);
        }
    }

    fn is_incoming(&self, id: TransferId) -> bool {
        self.transfers
            .get(&id)
            .is_some_and(|transfer| transfer.record.direction == Direction::Incoming)
    }
}

/// Sends an event to one listener; false when it is gone. A listener that lags misses progress,
/// which comes again, and only then is let go.
fn offer_event(listener: &mpsc::Sender<Event>, event: &Event) -> bool {
    let lags = listener.capacity() < listener.max_capacity() / 2;
    if lags && matches!(event, Event::Progress { .. }) {
        return !listener.is_closed();
    }
    listener.try_send(event.clone()).is_ok()
}

impl Actor for Coordinator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(MAILBOX);
        if let Some(make) = self.make_context.take() {
            let context = make(ctx.address().downgrade());
            if let Some(relayed) = context.receptions.listen() {
                ctx.add_stream(stream_of(relayed));
            }
            self.meeting = context
                .take_mail()
                .map(|(mail, events)| Meeting::new(mail, events, ctx));
            self.context = Some(context);
            self.add_static_peers(ctx);
            self.discard_leftovers();
            let rules = self.settings.broadcasts.clone();
            self.take_up_plans(&rules, ctx);
        }
        self.keep_limits();
        ctx.run_interval(TICK, Self::tick);
        self.drive(ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_lags_misses_progress_and_then_is_let_go() {
        let (listener, mut events) = mpsc::channel(8);
        let progress = Event::Progress {
            transfer: TransferId([1; 16]),
            device_id: "a".parse().unwrap(),
            bytes: 1,
            size: 2,
        };
        let note = Event::End { code: 0 };
        for _ in 0..100 {
            assert!(offer_event(&listener, &progress), "it comes again");
        }
        assert_eq!(listener.capacity(), 3, "less than half is left");
        for _ in 0..3 {
            assert!(offer_event(&listener, &note));
        }
        assert!(!offer_event(&listener, &note), "it does not listen");
        while events.try_recv().is_ok() {}
        assert!(offer_event(&listener, &progress));
        drop(events);
        assert!(!offer_event(&listener, &progress));
    }
}
