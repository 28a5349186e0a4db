//! The command line: its verbs, options, and how their values are read.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use serde_json::Value as Json;

use crate::config;
use crate::protocol::allowance::{Priority, Share};
use crate::protocol::id::DeviceId;
use crate::protocol::provider::is_name;
use crate::protocol::rendezvous::ClientType;
use crate::protocol::roles::{Roles, UnknownRole};

/// Gives files to a whole room: one device sends, many authorized devices receive.
#[derive(Debug, Parser)]
#[command(
    name = "handout",
    version,
    about,
    max_term_width = 100,
    after_help = "Begin with `handout demo`. On two machines: `handout pair` on one and `handout pair \
                  NAME` on the other, then `handout receive` there and `handout send FILE --to NAME` \
                  here. For a whole room: `handout invite --uses 30 --group NAME`.\n\n\
                  Exit codes: 0 all delivered, 1 error, 2 usage or config, 3 some receivers failed, \
                  4 not authorized, 5 no receiver before the deadline, 6 integrity, 7 disk or quota, \
                  130 interrupted."
)]
pub struct Cli {
    /// What all verbs take.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of all verbs.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The config file, instead of the usual one
    #[arg(long, global = true, value_name = "FILE", env = "HANDOUT_CONFIG")]
    pub config: Option<PathBuf>,
    /// The state folder: the device's key, authorizations, progress
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// One JSON object per line on stdout, each with an `event`
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more: once for what is going on, twice for why, three times for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Changes a setting, as SECTION.KEY=VALUE; `handout config show` lists them
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = setting)]
    pub set: Vec<(String, String)>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Be the service: everything that the config says, until stopped
    Run,
    /// Receive until stopped
    Receive(Receive),
    /// Give data to whoever asks for it at a rendezvous, until stopped
    Provide(Provide),
    /// Ask for data at a rendezvous, and receive it
    Request(Request),
    /// Send files and folders, and wait until everyone has them
    Send(Send),
    /// Give files back to the device that handed something out, into a folder of your own there
    HandIn(HandIn),
    /// Show it: a sender and receivers on this machine, as real processes
    Demo(Demo),
    /// Who is here, and who may
    Peers(Peers),
    /// Let a device in by its id, without pairing
    Authorize(Authorize),
    /// Groups of devices, and rosters
    #[command(subcommand)]
    Group(Group),
    /// Come to know another device: compare a code on both screens, or type a PIN
    Pair(Pair),
    /// Let in whoever has an invite: a token, a URL, a QR code
    Invite(Invite),
    /// Shut a device out, at once: its links and transfers end
    Revoke {
        /// Its id, the beginning of one, or its name
        device: String,
    },
    /// What the config file hands out by itself, and who has it
    Broadcasts,
    /// What is going on, and what was
    Transfers {
        /// Go on telling, until stopped
        #[arg(long)]
        watch: bool,
    },
    /// Who still misses a broadcast, and why: exit code 3 when somebody does
    Report(Report),
    /// Whether the running service does what it is for: exit code 0, else 1
    Health,
    /// The audit log
    #[command(subcommand)]
    Audit(Audit),
    /// Stop a transfer or broadcast for now
    Pause(Which),
    /// Go on with a paused transfer or broadcast
    Resume(Which),
    /// Stop a transfer or broadcast for good
    Cancel(Which),
    /// Take an offer that waits for a person
    Accept(Which),
    /// Do not take such an offer
    Refuse(Which),
    /// Have the running service read its settings again; so does the signal HUP
    Reload,
    /// What is here of things that are handed out again and again, and what is kept of before
    Versions,
    /// Put an earlier version back in the place of the one that is there
    Rollback {
        /// What it is called (`handout versions`), or the beginning of a transfer's id
        #[arg(value_name = "NAME|TRANSFER")]
        what: String,
        /// Which version; the newest before the one that is there, where nothing is said
        #[arg(long, value_name = "VERSION")]
        to: Option<u64>,
    },
    /// This device's id, and its key
    Id {
        /// What to do with the key
        #[command(subcommand)]
        what: Option<Id>,
    },
    /// What stands in the way on this machine and network, and what to do about it
    Doctor(Doctor),
    /// Be a server on which devices of different networks, and other programs, meet; until stopped
    Rendezvous {
        /// What else there is to do
        #[command(subcommand)]
        what: Option<RendezvousVerb>,
    },
    /// The settings
    #[command(subcommand)]
    Config(Config),
    /// What a shell needs to complete commands, on stdout
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// The manual page, on stdout
    Man {
        /// The page of this verb, such as send, or group add
        verb: Vec<String>,
    },
}

/// `receive`
#[derive(Debug, Args)]
pub struct Receive {
    /// End after the first transfer
    #[arg(long)]
    pub once: bool,
    /// The folder that files go into. Like the options below, this changes what holds for all
    /// devices; rules for some of them in the config file count more
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Ask before anything is taken: here, and with `handout accept` and `handout refuse`
    #[arg(long)]
    pub ask: bool,
    /// Take only files with such names, as '*.pdf'; several with commas, or --type again
    #[arg(long = "type", value_name = "PATTERN")]
    pub types: Vec<String>,
    /// Take no bundle with more bytes: 500MB, 2GiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// Come in by an invite first: its token or URL, `-` for stdin, or `@FILE`
    #[arg(
        long,
        value_name = "INVITE",
        env = "HANDOUT_INVITE",
        hide_env_values = true
    )]
    pub invite: Option<String>,
    /// Come in first by the PIN that a device shows: its name, id, or ID@HOST:PORT; the PIN is read
    /// from $HANDOUT_PIN where that is set, else from stdin
    #[arg(long, value_name = "DEVICE", conflicts_with = "invite")]
    pub pin: Option<String>,
}

/// At which rendezvous, and as whom.
#[derive(Debug, Args)]
pub struct At {
    /// The rendezvous: https://HOST[:PORT][/PATH]; changes rendezvous.url
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The file with the token that says who we are there; changes rendezvous.token_file
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Deal with clients that cannot prove who they are: nothing that they say or send is verified
    #[arg(long)]
    pub plain: bool,
}

impl At {
    /// Whether they name a rendezvous, or who we are there.
    pub fn is_given(&self) -> bool {
        self.url.is_some() || self.token_file.is_some()
    }

    /// What these options change in the settings.
    pub fn overrides(&self) -> Result<Vec<(String, String)>, String> {
        let mut overrides = Vec::new();
        if let Some(url) = &self.url {
            overrides.push(("rendezvous.url".to_owned(), url.clone()));
        }
        if let Some(file) = &self.token_file {
            let file = path_text("--token-file", file)?;
            overrides.push(("rendezvous.token_file".to_owned(), file));
        }
        Ok(overrides)
    }
}

/// `provide`
#[derive(Debug, Args)]
#[command(
    after_help = "What is given is what the config file describes with [[provider]]; where it \
                  describes nothing, the built-in spectrum and signal."
)]
pub struct Provide {
    /// At which rendezvous, and as whom
    #[command(flatten)]
    pub at: At,
}

/// `request`
#[derive(Debug, Args)]
#[command(
    after_help = "Built-in types: spectrum has frequency_start, frequency_end and sample_rate (Hz), \
                  and may have fft_size, averages and seed; signal has frequency, sample_rate (Hz) \
                  and duration (s), and may have seed.\n\n\
                  Exit codes: 0 it is here, 1 it did not come, 2 usage or wrong parameters, 4 the rendezvous does not let us, 5 \
                  nobody provides it, 7 disk or policy."
)]
pub struct Request {
    /// What is asked for, such as spectrum
    #[arg(value_name = "TYPE")]
    pub request_type: String,
    /// A parameter; may be repeated. Numbers, true and false are sent as such; NAME='"7"' is a text
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    pub param: Vec<(String, Json)>,
    /// How long to wait for somebody who provides it: 30s, 2m
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub wait: Duration,
    /// The folder that it goes into, instead of the one where all goes
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Take it from this device alone
    #[arg(long, value_name = "DEVICE_ID")]
    pub from: Option<DeviceId>,
    /// At which rendezvous, and as whom
    #[command(flatten)]
    pub at: At,
}

/// `pair`
#[derive(Debug, Args)]
#[command(
    after_help = "Run `handout pair` on one device and `handout pair DEVICE` on the other, and \
                  compare the codes. Where one of them has no keyboard: `handout pair --show-pin` \
                  there, `handout pair DEVICE --pin` here."
)]
pub struct Pair {
    /// With whom: a name, an id, or ID@HOST:PORT; left out, whoever comes
    pub device: Option<String>,
    /// Type the PIN that the other device shows; from $HANDOUT_PIN where that is set, else stdin
    #[arg(long, requires = "device", conflicts_with_all = ["show_pin", "expect_code"])]
    pub pin: bool,
    /// Show a PIN, to be typed on the other device
    #[arg(long, conflicts_with_all = ["device", "expect_code"])]
    pub show_pin: bool,
    /// How long to wait for the other device
    #[arg(long = "for", default_value = "5m", value_name = "TIME", value_parser = duration)]
    pub life: Duration,
    /// The code that the other screen shows, instead of a question; `-` reads it from stdin
    #[arg(long, value_name = "CODE")]
    pub expect_code: Option<String>,
}

/// `invite`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Invite {
    /// What else there is to do
    #[command(subcommand)]
    pub what: Option<Invites>,
    /// How many devices it lets in
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub uses: u32,
    /// For how long
    #[arg(long = "for", default_value = "10m", value_name = "TIME", value_parser = duration)]
    pub life: Duration,
    /// The group that they come into
    #[arg(long)]
    pub group: Option<String>,
    /// What they may do: send, receive, relay, introduce, all or none, with commas between
    #[arg(long)]
    pub roles: Option<Roles>,
    /// Where this device can be reached, instead of its own addresses; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Vec<String>,
    /// Print the QR code also where nobody sees it
    #[arg(long)]
    pub qr: bool,
}

/// `invite list`, `invite revoke`
#[derive(Debug, Subcommand)]
pub enum Invites {
    /// All invites on record
    List,
    /// Take one back; whoever came in by it stays
    Revoke {
        /// Its id, or the beginning of that; or all
        id: String,
    },
}

/// `rendezvous token`
#[derive(Debug, Subcommand)]
pub enum RendezvousVerb {
    /// Make a token for a user of this rendezvous, on stdout
    Token(NewToken),
}

/// `rendezvous token`
#[derive(Debug, Args)]
pub struct NewToken {
    /// Whose it is: a name of at most 128 bytes
    #[arg(long, value_name = "NAME")]
    pub subject: String,
    /// What they may do: 1 provides data, 2 asks for data, device (3) is a Handout device
    #[arg(long, value_name = "1|2|device", value_parser = client_type)]
    pub client_type: ClientType,
    /// For how long
    #[arg(long = "for", default_value = "12h", value_name = "TIME", value_parser = duration)]
    pub life: Duration,
}

/// `send`
#[derive(Debug, Args)]
pub struct Send {
    /// Files and folders
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// To whom: device names, ids, ID@HOST:PORT where discovery does not reach, groups (@GROUP where a device has that name), or `all`; several with commas, or --to again
    #[arg(long, required = true, value_name = "WHO", value_parser = who_list)]
    pub to: Vec<WhoList>,
    /// How long to wait for devices that are not here: 30s, 2m, 1h, or `forever`
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = wait)]
    pub wait: Wait,
    /// The most bytes in a second to all of them together: 5MB/s, 40Mbit/s
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<u64>,
    /// To so many devices at a time
    #[arg(long, value_name = "DEVICES", value_parser = clap::value_parser!(u32).range(1..))]
    pub at_most: Option<u32>,
    /// Before other broadcasts, or after them: low, normal or high
    #[arg(long, value_name = "PRIORITY", default_value_t)]
    pub priority: Priority,
}

/// `report`
#[derive(Debug, Args)]
pub struct Report {
    /// A broadcast's id, the beginning of that, its name, or that of its series; left out, all
    /// broadcasts are listed
    pub what: Option<String>,
    /// Which version of the series, instead of the newest
    #[arg(long, value_name = "N", requires = "what")]
    pub version: Option<u64>,
    /// As a table for spreadsheets
    #[arg(long, requires = "what", conflicts_with = "json")]
    pub csv: bool,
}

/// `audit`
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Audit {
    /// Whether every line is as it was written: exit code 6 when one is not
    Check,
}

/// `hand-in`
#[derive(Debug, Args)]
pub struct HandIn {
    /// Files and folders
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// To which device: a name, an id or its beginning; left out, the one that sent the last thing
    /// that has arrived here
    #[arg(long, value_name = "DEVICE")]
    pub to: Option<String>,
    /// How long to wait for it: 30s, 2m, 1h, or `forever`
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = wait)]
    pub wait: Wait,
}

/// `demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// What to send, instead of random bytes
    pub path: Option<PathBuf>,
    /// How many receivers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub receivers: u8,
    /// How many random bytes
    #[arg(long, default_value = "256MiB", value_parser = size)]
    pub size: u64,
}

/// `peers`
#[derive(Debug, Args)]
pub struct Peers {
    /// How long to look around, when no service runs; 0s only lists those on record
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = duration)]
    pub wait: Duration,
}

/// `authorize`
#[derive(Debug, Args)]
pub struct Authorize {
    /// What `handout id` says on that device
    #[arg(value_name = "DEVICE_ID", value_parser = provable_id)]
    pub device: DeviceId,
    /// A name for it, instead of the one that it gives itself
    #[arg(long, default_value = "")]
    pub name: String,
    /// What it may do: send, receive, relay, introduce, with commas between; all when nothing is
    /// said here and about its groups
    #[arg(long, value_name = "ROLES")]
    pub roles: Option<Roles>,
    /// The group to put it into
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// For how long: 45m, 8h, 2d; for ever when nothing is said
    #[arg(long = "for", value_name = "TIME", value_parser = lifetime)]
    pub lifetime: Option<Duration>,
}

/// `group`
#[derive(Debug, Subcommand)]
pub enum Group {
    /// All groups
    List,
    /// Who is in a group, and its rosters
    Show {
        /// Its name
        group: String,
    },
    /// Put devices into a group; it is made where there is none
    Add {
        /// Its name
        group: String,
        /// Ids, beginnings of ids, or names
        #[arg(required = true, value_name = "DEVICE")]
        devices: Vec<String>,
    },
    /// Take devices out of a group
    Remove {
        /// Its name
        group: String,
        /// Ids, beginnings of ids, or names
        #[arg(required_unless_present = "all", value_name = "DEVICE")]
        devices: Vec<String>,
        /// The group itself, with its rosters
        #[arg(long, conflicts_with = "devices")]
        all: bool,
    },
    /// What the members of a group may do
    Roles {
        /// Its name
        group: String,
        /// send, receive, relay, introduce, with commas between; all; none; or unsaid
        #[arg(value_parser = group_roles)]
        roles: GroupRoles,
    },
    /// A roster of the group's devices, to be looked at and signed, on stdout
    Export {
        /// Its name
        group: String,
        /// A word to those who import it
        #[arg(long, default_value = "", value_name = "TEXT")]
        admin_note: String,
    },
    /// Sign a roster with this device's key, on stdout
    Sign {
        /// What `export` gave; - for standard input
        file: PathBuf,
        /// For how long it is good
        #[arg(long = "for", default_value = "30d", value_name = "TIME", value_parser = lifetime)]
        lifetime: Duration,
        /// Its version, instead of the next one
        #[arg(long, value_name = "N")]
        version: Option<u64>,
    },
    /// Let all devices of a signed roster in
    Import {
        /// The signed roster; - for standard input
        file: PathBuf,
        /// Who must have signed it; needed once for each admin and group
        #[arg(long, value_name = "DEVICE_ID", value_parser = provable_id)]
        admin: Option<DeviceId>,
    },
}

/// Roles of a group, or that nothing is said about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupRoles {
    /// Nothing is said.
    Unsaid,
    /// These.
    Said(Roles),
}

/// `id rotate`, `id new`
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Id {
    /// Change the key: the devices that let this one in follow, since the old key signs the new one
    Rotate,
    /// Be another device, with a new key: for a copy of a disk. Others must authorize it anew;
    /// whom it has authorized stays
    New,
}

/// `pause`, `resume`, `cancel`, `accept`, `refuse`
#[derive(Debug, Args)]
pub struct Which {
    /// The id of a transfer or broadcast, or its beginning (`handout transfers` lists them); the name
    /// of something that this device hands out, but for offers; or all
    pub id: String,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// How long to listen to the network
    #[arg(long, default_value = "3s", value_name = "TIME", value_parser = duration)]
    pub wait: Duration,
    /// A text for the IT department, instead
    #[arg(long)]
    pub for_it: bool,
}

/// `config`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Whether the settings are in order: every mistake, with its line and what to do
    Check {
        /// The config file, instead of the one that would be used
        file: Option<PathBuf>,
    },
    /// Every setting, its value, and where that is from
    Show,
    /// A config file to begin with, with comments, on stdout
    Init {
        /// What this device is for
        role: InitRole,
        /// Write it to this file, which must not be there yet
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// What a device is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InitRole {
    /// Hands out by hand, and collects
    Teacher,
    /// Keeps a room of machines up to date
    Lab,
    /// Hands out to whoever comes by, without a keyboard
    Kiosk,
    /// Takes what is handed out
    Receiver,
}

/// Some of those to send to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhoList(pub Vec<String>);

/// How long to wait; for ever when nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait(pub Option<Duration>);

impl Global {
    /// What these options change in the settings; `--state` counts more than `--set`.
    pub fn overrides(&self) -> Result<Vec<(String, String)>, String> {
        let mut overrides = self.set.clone();
        if let Some(dir) = &self.state {
            overrides.push(("state.dir".to_owned(), path_text("--state", dir)?));
        }
        Ok(overrides)
    }
}

impl Send {
    /// To whom, each once, in the order given.
    pub fn everyone(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for who in self.to.iter().flat_map(|list| &list.0) {
            if !all.contains(who) {
                all.push(who.clone());
            }
        }
        all
    }
}

/// A path as the value of a setting, which is text.
pub fn path_text(option: &str, path: &std::path::Path) -> Result<String, String> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("{option} must be a path in Unicode, not {}", path.display()))
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        _ => Err("it must be KEY=VALUE, such as device.name=alpha".to_owned()),
    }
}

fn parameter(text: &str) -> Result<(String, Json), String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err("it must be NAME=VALUE, such as sample_rate=1000000".to_owned());
    };
    if !is_name(name) {
        return Err(format!("{name:?} cannot be the name of a parameter"));
    }
    let json = match serde_json::from_str(value) {
        Ok(json @ (Json::Number(_) | Json::Bool(_) | Json::String(_))) => json,
        _ => Json::String(value.to_owned()),
    };
    Ok((name.to_owned(), json))
}

fn client_type(text: &str) -> Result<ClientType, String> {
    match text {
        "1" => Ok(ClientType::Provider),
        "2" => Ok(ClientType::Requester),
        "3" | "device" => Ok(ClientType::Device),
        _ => Err("it must be 1, 2 or device".to_owned()),
    }
}

fn who_list(text: &str) -> Result<WhoList, String> {
    let parts: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
    if parts.iter().any(String::is_empty) {
        return Err("a name is empty; write --to all, --to NAME or --to NAME,NAME".to_owned());
    }
    Ok(WhoList(parts))
}

fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text).ok_or_else(|| "it must be a time such as 500ms, 30s or 2m".to_owned())
}

fn group_roles(text: &str) -> Result<GroupRoles, String> {
    match text {
        "unsaid" => Ok(GroupRoles::Unsaid),
        roles => roles
            .parse()
            .map(GroupRoles::Said)
            .map_err(|error: UnknownRole| error.to_string()),
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    config::duration(text)
        .filter(|time| time.as_secs() > 0)
        .ok_or_else(|| "it must be a time such as 45m, 8h or 30d".to_owned())
}

fn wait(text: &str) -> Result<Wait, String> {
    if text.trim() == "forever" {
        return Ok(Wait(None));
    }
    config::duration(text)
        .map(|duration| Wait(Some(duration)))
        .ok_or_else(|| "it must be a time such as 30s or 2m, or forever".to_owned())
}

fn rate(text: &str) -> Result<u64, String> {
    config::rate(text)
        .filter(|rate| *rate >= Share::MIN_RATE)
        .ok_or_else(|| "it must be a rate such as 5MB/s or 40Mbit/s, at least 16kB/s".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    config::size(text)
        .filter(|bytes| (1..=1 << 40).contains(bytes))
        .ok_or_else(|| "it must be a size such as 64MiB or 1GiB, at most 1TiB".to_owned())
}

/// Only ids that their device can prove may be authorized by hand; whoever cannot prove one is let
/// in, or not, by the setting `trust.plain_peers`.
fn provable_id(text: &str) -> Result<DeviceId, String> {
    let id: DeviceId = text
        .trim()
        .parse()
        .map_err(|error| format!("{error}; `handout id` on that device prints it"))?;
    if id.is_self_certifying() {
        Ok(id)
    } else {
        Err(
            "a device id has 32 characters of a-z and 2-7; `handout id` on that device prints it"
                .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("handout").chain(words.iter().copied()))
    }

    fn sending(words: &[&str]) -> Send {
        match parse(words).unwrap().verb {
            Verb::Send(send) => send,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn receivers_come_from_several_options_and_lists_each_once() {
        let send = sending(&["send", "a", "b", "--to", "alpha, beta", "--to=gamma,alpha"]);
        assert_eq!(send.everyone(), ["alpha", "beta", "gamma"]);
        assert_eq!(send.paths.len(), 2);
        for bad in ["", ",", "a,,b", "a,", " "] {
            assert!(parse(&["send", "a", "--to", bad]).is_err(), "{bad:?}");
        }
        assert!(parse(&["send", "a"]).is_err());
        assert!(parse(&["send", "--to", "all"]).is_err());
    }

    #[test]
    fn the_wait_has_a_unit_or_is_forever() {
        let wait_of = |text: &str| sending(&["send", "a", "--to", "all", "--wait", text]).wait;
        assert_eq!(wait_of("90s"), Wait(Some(Duration::from_secs(90))));
        assert_eq!(wait_of("0s"), Wait(Some(Duration::ZERO)));
        assert_eq!(wait_of("forever"), Wait(None));
        let default = sending(&["send", "a", "--to", "all"]).wait;
        assert_eq!(default, Wait(Some(Duration::from_secs(30))));
        for bad in ["30", "-1s", "soon", "", "1.5s"] {
            assert!(
                parse(&["send", "a", "--to", "all", "--wait", bad]).is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn global_options_stand_anywhere_and_state_beats_set() {
        let cli = parse(&[
            "--set",
            "state.dir=/a",
            "id",
            "--state",
            "/b",
            "--json",
            "-vv",
        ]);
        let global = cli.unwrap().global;
        assert!(global.json);
        assert_eq!(global.verbose, 2);
        let pair = |value: &str| ("state.dir".to_owned(), value.to_owned());
        assert_eq!(global.overrides().unwrap(), [pair("/a"), pair("/b")]);
        assert_eq!(setting("a.b=c=d"), Ok(("a.b".into(), "c=d".into())));
        assert!(setting("a.b").is_err() && setting("=c").is_err());
    }

    #[test]
    fn only_ids_that_can_be_proven_are_authorized() {
        let id = DeviceId::of_key(&[1; 32]);
        assert!(parse(&["authorize", id.as_str()]).is_ok());
        for bad in ["kiosk", "", "../x", &id.as_str()[1..]] {
            assert!(parse(&["authorize", bad]).is_err(), "{bad:?}");
        }
    }
}
