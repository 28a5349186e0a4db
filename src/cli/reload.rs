//! A service reads its settings again: at the signal HUP, and when their file has changed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc as thread_mpsc;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::log;
use crate::actors::api::Request;
use crate::actors::manager;
use crate::actors::service::Node;
use crate::config::Settings;

/// A file counts as written when its folder has been quiet for this long.
const QUIET: Duration = Duration::from_millis(300);
/// It is read after this time even where the folder is never quiet.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sees to it, for as long as the runtime lives that it is called on. What comes of it is among
/// the events that the node tells to whoever watches.
pub fn follow(node: &Node) -> io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    let mut settings = node.settings();
    let file = settings.borrow().file().map(Path::to_owned);
    let (changed, mut changes) = mpsc::channel(1);
    if let Some(file) = file {
        let now = settings.borrow().clone();
        std::thread::Builder::new()
            .name("config".to_owned())
            .spawn(move || watch(&file, &now, &changed))?;
    }
    let node = node.clone();
    tokio::task::spawn_local(async move {
        loop {
            tokio::select! {
                hangup = hangups.recv() => if hangup.is_none() { return },
                Some(()) = changes.recv() => debug!("the config file has changed"),
                renewed = settings.changed() => {
                    if renewed.is_err() {
                        return;
                    }
                    log::change(settings.borrow().log.level);
                    continue;
                }
            }
            manager::reloading();
            let mut answer = node.ask(Request::Reload);
            while answer.recv().await.is_some() {}
            manager::ready();
        }
    });
    Ok(())
}

/// Tells of each new content of a file. Watches its folder, since editors put a new file in the
/// place of the old one; and where the file is a link, the folder that it leads to.
fn watch(file: &Path, known: &Settings, changed: &mpsc::Sender<()>) {
    let (events, arrivals) = thread_mpsc::sync_channel(64);
    let mut watcher = match watcher(file, events) {
        Ok(watcher) => watcher,
        Err(error) => {
            let file = file.display();
            warn!(%file, %error, "changes of the config file go unnoticed; `handout reload` works");
            return;
        }
    };
    let mut target = file.canonicalize().ok();
    // It may have changed since it was read, before anybody looked.
    let mut known = known.file_digest();
    loop {
        if let Some(digest) = Settings::digest_of(file)
            && known != Some(digest)
        {
            known = Some(digest);
            // One that waits is enough: whoever gets it reads what is there then.
            if let Err(mpsc::error::TrySendError::Closed(())) = changed.try_send(()) {
                return;
            }
        }
        let leads_to = file.canonicalize().ok();
        if leads_to != target
            && let Some(folder) = leads_to.as_deref().and_then(Path::parent)
        {
            // Fails where it is watched already.
            let _ = watcher.watch(folder, RecursiveMode::NonRecursive);
            target = leads_to;
        }
        if arrivals.recv().is_err() {
            return;
        }
        let latest = Instant::now() + PATIENCE;
        while Instant::now() < latest && arrivals.recv_timeout(QUIET).is_ok() {}
    }
}

fn watcher(file: &Path, events: thread_mpsc::SyncSender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let reads = event.as_ref().is_ok_and(|event| event.kind.is_access());
        if !reads {
            // A full queue has news enough.
            let _ = events.try_send(());
        }
    })?;
    let folders = [Some(file.to_owned()), file.canonicalize().ok()];
    let mut folders: Vec<PathBuf> = folders
        .into_iter()
        .filter_map(|file| Some(file?.parent()?.to_owned()))
        .collect();
    folders.dedup();
    for folder in folders {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}
