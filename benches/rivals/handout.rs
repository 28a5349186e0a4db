//! The program itself, as processes with state and config of their own, driven by its command line.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process::{Process, Usage};
use super::{Contestant, Job, Outcome};

const BUILT: &str = env!("CARGO_BIN_EXE_handout");
const LIMIT: Duration = Duration::from_secs(600);

/// `handout receive` and `handout send`.
pub struct Handout;

/// One installation.
struct Device {
    id: String,
    port: u16,
    folder: PathBuf,
}

impl Contestant for Handout {
    fn name(&self) -> &'static str {
        "handout"
    }

    fn run(&self, job: &Job<'_>) -> Result<Outcome, String> {
        let devices = (0..=job.receivers)
            .map(|n| Device::new(job.folder.join(format!("device-{n}"))))
            .collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<&str> = devices.iter().map(|d| d.id.as_str()).collect();
        for device in &devices {
            device.configure(&ids)?;
        }
        let (sender, receivers) = devices.split_first().ok_or("no devices")?;
        let mut running = Vec::new();
        for device in receivers {
            let mut command = device.command();
            command.args(["receive", "--once", "--json"]);
            running.push(Process::start("handout receive".to_owned(), &mut command)?);
        }
        for process in &mut running {
            process.wait_for(LIMIT, |line| event(line, "listening"))?;
        }
        let mut command = sender.command();
        command.arg("send").arg(job.source);
        for device in receivers {
            command.args(["--to", &device.id]);
        }
        command.args(["--wait", "60s", "--json"]);
        let begin = Instant::now();
        let mut sending = Process::start("handout send".to_owned(), &mut command)?;
        let mut all = Usage::default();
        let (last, summary) = sending.wait_for(LIMIT, |line| {
            running.iter_mut().for_each(Process::sample);
            event(line, "summary")
        })?;
        for process in running {
            let usage = process.finish(LIMIT)?;
            all.cpu += usage.cpu;
            all.peak = all.peak.max(usage.peak);
        }
        Ok(Outcome {
            data: longest(&summary)?,
            wall: last - begin,
            sender: sending.finish(LIMIT)?,
            receivers: all,
            files: receivers.iter().map(|d| d.arrived(job.source)).collect(),
        })
    }
}

impl Device {
    fn new(folder: PathBuf) -> Result<Self, String> {
        std::fs::create_dir_all(folder.join("received")).map_err(|e| e.to_string())?;
        // Free now; another program taking it before `receive` does would fail the run, not bend it.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr());
        let mut device = Self {
            id: String::new(),
            port: free.map_err(|e| e.to_string())?.port(),
            folder,
        };
        device.configure(&[])?;
        let mut command = device.command();
        let out = command.arg("id").stdin(Stdio::null()).output();
        let out = out.map_err(|e| format!("handout id: {e}"))?;
        let text = String::from_utf8_lossy(&out.stdout);
        let id = text
            .split(|c: char| !c.is_ascii_alphanumeric())
            .find(|word| word.len() == 32);
        device.id = id
            .ok_or(format!("`handout id` printed {text:?}"))?
            .to_owned();
        Ok(device)
    }

    fn configure(&self, authorized: &[&str]) -> Result<(), String> {
        let config = format!(
            "[discovery]\nloopback_only = true\n[signaling]\nport = {}\n[network]\nloopback = true\n\
             [receive]\ndestination = {:?}\n[trust]\nauthorized = {authorized:?}\n",
            self.port,
            self.folder.join("received")
        );
        std::fs::write(self.config_file(), config).map_err(|e| e.to_string())
    }

    fn config_file(&self) -> PathBuf {
        self.folder.join("handout.toml")
    }

    fn command(&self) -> Command {
        let program = std::env::var_os("HANDOUT").unwrap_or_else(|| BUILT.into());
        let mut command = Command::new(program);
        command.arg("--state").arg(self.folder.join("state"));
        command.arg("--config").arg(self.config_file());
        command.stderr(Stdio::null());
        command
    }

    fn arrived(&self, source: &Path) -> PathBuf {
        let name = source.file_name().unwrap_or_default();
        self.folder.join("received").join(name)
    }
}

/// The JSON object of a line, when it is this event.
fn event(line: &str, name: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    (value["event"] == name).then_some(value)
}

/// The seconds of the receiver that took longest; an error when one did not get everything.
fn longest(summary: &Value) -> Result<Duration, String> {
    let mut longest = 0.0_f64;
    for receiver in summary["receivers"].as_array().into_iter().flatten() {
        if receiver["state"] != "complete" {
            return Err(format!("not complete: {receiver}"));
        }
        longest = longest.max(receiver["seconds"].as_f64().unwrap_or(0.0));
    }
    if longest > 0.0 {
        Ok(Duration::from_secs_f64(longest))
    } else {
        Err(format!("the summary has no times: {summary}"))
    }
}
