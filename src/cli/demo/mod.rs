//! `demo`: a sender and receivers on this machine, each a process of its own with an identity of
//! its own, over mDNS, signaling and WebRTC on loopback.

mod child;
mod content;

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{try_join, try_join_all};
use tokio::time::timeout;

use super::Failure;
use super::args::Demo;
use super::screen::Screen;
use super::send::Sending;
use super::session::{Context, Interrupts, View, client_runtime};
use super::text::{Table, bytes, seconds, speed};
use crate::actors::api::{Event, Receiver, exit};
use crate::protocol::names::printable;
use child::{Device, Process};
pub(super) use content::Scratch;

/// How long a process may take to be ready, or to say what it has received.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the sender waits for the receivers, and may be silent.
const WAIT: &str = "20s";
const SILENCE: Duration = Duration::from_secs(60);

/// Shows it, and says whether everything arrived.
pub fn run(context: &Context, options: &Demo) -> Result<u8, Failure> {
    let screen = &context.screen;
    let runtime = client_runtime()?;
    let code = runtime.block_on(async {
        let mut interrupts = Interrupts::new()?;
        // Whatever is dropped here ends its processes and removes its files.
        tokio::select! {
            shown = show(screen, options) => Ok::<_, Failure>(match shown? {
                true => exit::OK,
                false => exit::ERROR,
            }),
            () = interrupts.next() => {
                screen.bars().clear()?;
                screen.note("interrupted; everything is cleared away");
                Ok(exit::INTERRUPTED)
            }
        }
    });
    // Hashing that goes on in the background is of no use any more.
    runtime.shutdown_background();
    let code = code?;
    if screen.is_json() {
        screen.object(&Event::End { code })?;
    }
    Ok(code)
}

/// The devices, started.
struct Stage {
    receivers: Vec<Process>,
    sender: Process,
}

async fn show(screen: &Screen, options: &Demo) -> Result<bool, Failure> {
    let io = |what: &'static str| move |error| Failure::Other(format!("cannot {what}: {error}"));
    let scratch = Scratch::new().map_err(io("make a temporary folder"))?;
    let count = u64::from(options.receivers);
    let path = match &options.path {
        Some(path) => {
            let path = std::path::absolute(path).map_err(io("find the file to send"))?;
            let size = content::size_of(&path).map_err(|error| {
                Failure::Usage(format!("cannot read {}: {error}", path.display()))
            })?;
            check_space(scratch.path(), size, count)?;
            path
        }
        None => {
            check_space(scratch.path(), options.size, count + 1)?;
            tell(
                screen,
                &format!("making a file of {} random bytes", bytes(options.size)),
            )?;
            let path = scratch.path().join("demo.bin");
            content::write_random(&path, options.size)
                .await
                .map_err(io("write the demo's file"))?;
            path
        }
    };
    // The settings of the person at the keyboard are not those of the demo's devices.
    let config = scratch.path().join("config.toml");
    std::fs::write(&config, "").map_err(io("write a config file"))?;
    let program = std::env::current_exe().map_err(io("find this program"))?;
    let device = |name: &str| Device::new(&program, scratch.path(), &config, name);
    let receivers: Vec<Device> = (1..=options.receivers)
        .map(|n| device(&format!("receiver-{n}")))
        .collect();
    let mut stage = set_up(screen, device("sender"), &receivers, &path)
        .await
        .map_err(Failure::Other)?;
    let outcome = perform(screen, &mut stage, &path).await;
    if let Err(reason) = &outcome {
        tell_logs(screen, &stage, reason);
    }
    let Stage { receivers, sender } = stage;
    receivers.iter().for_each(Process::ask_to_end);
    for process in receivers.into_iter().chain([sender]) {
        process.end().await;
    }
    Ok(outcome.unwrap_or(false))
}

fn check_space(place: &Path, size: u64, copies: u64) -> Result<(), Failure> {
    let needed = size.saturating_mul(copies).saturating_add(64 << 20);
    match content::free_space(place) {
        Ok(free) if free < needed => Err(Failure::NoRoom(format!(
            "{} has {} free, and {copies} copies need {}; take less (--size, --receivers), or \
             another place (the variable TMPDIR)",
            std::env::temp_dir().display(),
            bytes(free),
            bytes(needed),
        ))),
        // Where the system does not say, it is tried.
        _ => Ok(()),
    }
}

/// Identities, authorizations both ways, receivers listening, and the sender on its way.
async fn set_up(
    screen: &Screen,
    sender: Device,
    receivers: &[Device],
    path: &Path,
) -> Result<Stage, String> {
    let (sender_id, ids) = try_join(
        identity(&sender),
        try_join_all(receivers.iter().map(identity)),
    )
    .await?;
    let receivers_authorize = try_join_all(receivers.iter().map(async |receiver| {
        let verb = ["authorize", &sender_id, "--name", &sender.name];
        receiver.complete(&verb).await
    }));
    // One process at a time may have a state folder.
    let sender_authorizes = async {
        for (receiver, id) in receivers.iter().zip(&ids) {
            let verb = ["authorize", id, "--name", &receiver.name];
            sender.complete(&verb).await?;
        }
        Ok(())
    };
    try_join(receivers_authorize, sender_authorizes).await?;
    let start = |receiver: &Device| {
        let process = receiver.start(&["receive"]);
        process.map_err(|error| format!("{} does not start: {error}", receiver.name))
    };
    let mut started: Vec<Process> = receivers.iter().map(start).collect::<Result<_, _>>()?;
    for process in &mut started {
        wait_for(process, |event| matches!(event, Event::Listening { .. })).await?;
    }
    let count = receivers.len();
    tell(
        screen,
        &format!(
            "1 sender and {count} receivers: {} processes, each with its own key; mDNS, signaling \
             and WebRTC over loopback",
            count + 1
        ),
    )
    .map_err(|error| error.to_string())?;
    let all = ids.join(",");
    let path = path.to_str().ok_or("the path to send must be Unicode")?;
    let sender = sender
        .start(&["send", "--to", &all, "--wait", WAIT, "--", path])
        .map_err(|error| format!("the sender does not start: {error}"))?;
    Ok(Stage {
        receivers: started,
        sender,
    })
}

async fn identity(device: &Device) -> Result<String, String> {
    let events = device.complete(&["id"]).await?;
    let id = events.into_iter().find_map(|event| match event {
        Event::Id { device_id, .. } => Some(device_id.to_string()),
        _ => None,
    });
    id.ok_or_else(|| format!("{} has no id", device.name))
}

async fn wait_for(process: &mut Process, wanted: impl Fn(&Event) -> bool) -> Result<Event, String> {
    let name = process.name.clone();
    let look = async {
        while let Some(event) = process.events.recv().await {
            if wanted(&event) {
                return Ok(event);
            }
            if let Event::Error { message } = event {
                return Err(format!("{name}: {}", printable(&message)));
            }
        }
        Err(format!("{name} has ended too early"))
    };
    timeout(PATIENCE, look)
        .await
        .unwrap_or_else(|_| Err(format!("{name} is not ready after {PATIENCE:?}")))
}

/// Follows the sender to its end, then looks at what the receivers have. True when all is well.
async fn perform(screen: &Screen, stage: &mut Stage, path: &Path) -> Result<bool, String> {
    let summary = follow_sender(screen, &mut stage.sender).await?;
    let mut arrived: Vec<(String, PathBuf)> = Vec::new();
    for process in &mut stage.receivers {
        let event = wait_for(process, |event| matches!(event, Event::Received { .. })).await?;
        if let Event::Received { path, .. } = event {
            arrived.push((process.name.clone(), path));
        }
    }
    tell(screen, "reading everything again from outside (BLAKE3)").map_err(|e| e.to_string())?;
    let original = digest(path.to_owned());
    let copies: Vec<_> = arrived
        .into_iter()
        .map(|(name, path)| (name, digest(path)))
        .collect();
    let original = digested(original).await?;
    let mut rows = Vec::new();
    for ((name, copy), process) in copies.into_iter().zip(&mut stage.receivers) {
        let same = digested(copy).await? == original;
        rows.push((name, same, process.peak_memory()));
    }
    conclude(screen, &summary, &rows, stage.sender.peak_memory()).map_err(|e| e.to_string())?;
    match rows.iter().find(|(_, same, _)| !same) {
        Some((name, ..)) => Err(format!("what {name} has is not what was sent")),
        None => Ok(true),
    }
}

async fn follow_sender(screen: &Screen, sender: &mut Process) -> Result<Vec<Receiver>, String> {
    let mut view = Sending::new(screen);
    let mut summary = Vec::new();
    loop {
        let event = timeout(SILENCE, sender.events.recv())
            .await
            .map_err(|_| format!("the sender has said nothing for {SILENCE:?}"))?
            .ok_or("the sender has ended too early")?;
        sender.peak_memory();
        if screen.is_json() && !matches!(event, Event::End { .. }) {
            screen.object(&event).map_err(|error| error.to_string())?;
        }
        match event {
            // The table of this verb says more.
            Event::Summary { receivers, .. } => {
                view.clear();
                summary = receivers;
            }
            Event::Error { message } => return Err(printable(&message)),
            Event::End { code: exit::OK } => return Ok(summary),
            Event::End { code } => {
                let missing = summary
                    .iter()
                    .filter(|receiver| receiver.state != "complete");
                let reasons: Vec<String> = missing
                    .map(|receiver| {
                        let reason = receiver.reason.as_deref().unwrap_or("it gave no reason");
                        format!("{}: {}", printable(&receiver.name), printable(reason))
                    })
                    .collect();
                let reasons = reasons.join("\n");
                return Err(format!("the sender ends with exit code {code}\n{reasons}"));
            }
            event => view.event(&event).map_err(|error| error.to_string())?,
        }
    }
}

type Digesting = tokio::task::JoinHandle<std::io::Result<blake3::Hash>>;

fn digest(path: PathBuf) -> Digesting {
    tokio::task::spawn_blocking(move || content::digest(&path))
}

async fn digested(digesting: Digesting) -> Result<blake3::Hash, String> {
    let hash = digesting.await.map_err(std::io::Error::other).flatten();
    hash.map_err(|error| format!("cannot read what was received: {error}"))
}

/// The table at the end; `rows` are name, whether its files are right, peak memory in bytes.
fn conclude(
    screen: &Screen,
    summary: &[Receiver],
    rows: &[(String, bool, u64)],
    sender_peak: u64,
) -> std::io::Result<()> {
    let header = [
        "RECEIVER",
        "BYTES",
        "TIME",
        "SPEED",
        "FROM OUTSIDE",
        "PEAK MEMORY",
    ];
    let mut table = Table::new(&header, &[1, 2, 3, 5]);
    let memory = |peak: u64| {
        if peak == 0 {
            String::new()
        } else {
            bytes(peak)
        }
    };
    let (mut total, mut longest) = (0, 0.0_f64);
    for (name, same, peak) in rows {
        let line = summary.iter().find(|receiver| receiver.name == *name);
        let (got, took) = line.map_or((0, 0.0), |line| (line.bytes, line.seconds.unwrap_or(0.0)));
        total += got;
        longest = longest.max(took);
        let verdict = if *same { "verified" } else { "DIFFERENT" };
        let cells = [bytes(got), seconds(took), speed(got, took)];
        let cells = std::iter::once(name.clone()).chain(cells);
        table.row(cells.chain([verdict.to_owned(), memory(*peak)]));
        if screen.is_json() {
            let text = format!("{name}: {verdict}, peak memory {peak} bytes");
            screen.object(&Event::Note { text })?;
        }
    }
    table.row([
        "all together".to_owned(),
        bytes(total),
        seconds(longest),
        speed(total, longest),
        String::new(),
        String::new(),
    ]);
    table.row([
        "sender".to_owned(),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
        memory(sender_peak),
    ]);
    if screen.is_json() {
        return Ok(());
    }
    table
        .lines()
        .iter()
        .try_for_each(|line| screen.result(line))
}

/// Says what is being done.
fn tell(screen: &Screen, what: &str) -> std::io::Result<()> {
    if screen.is_json() {
        let text = what.to_owned();
        return screen.object(&Event::Note { text });
    }
    screen.note(what);
    Ok(())
}

fn tell_logs(screen: &Screen, stage: &Stage, reason: &str) {
    screen.error(reason);
    for process in stage.receivers.iter().chain([&stage.sender]) {
        let lines = process.last_lines();
        if !lines.is_empty() {
            screen.note(&format!("the last that {} has logged:", process.name));
            lines
                .iter()
                .for_each(|line| screen.note(&format!("  {}", printable(line))));
        }
    }
}
