//! What the settings name on this machine's disk that cannot be used as it is now. It may become
//! right later, so it is no mistake. Seen with the eyes of whoever reads the settings.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::broadcasts::BROADCASTS;
use super::kiosk::KioskPin;
use super::providers::PROVIDERS;
use super::reader::Reader;
use super::receive::LIST as RULES;
use super::settings::Settings;
use crate::protocol::destination::fixed;
use crate::protocol::pairing::pin::read_pin;
use crate::protocol::plan::Deadline;

/// Bytes that are read of a file with a secret.
const MAX_SECRET: u64 = 4096;
/// Fewest characters of a secret.
const SHORTEST_SECRET: usize = 16;

/// Looks at all of it.
pub(super) fn look(settings: &Settings, r: &mut Reader<'_>) {
    secrets(settings, r);
    folders(settings, r);
    programs(settings, r);
    past_deadlines(settings, r);
}

fn secrets(settings: &Settings, r: &mut Reader<'_>) {
    let long = |text: &str| match text.len() {
        ..SHORTEST_SECRET => Some("has fewer than 16 characters: write more of them"),
        _ => None,
    };
    let any = |text: &str| match text.is_empty() {
        true => Some("is empty"),
        false => None,
    };
    let digits = |text: &str| match read_pin(text) {
        None => Some("has no PIN of six digits"),
        Some(_) => None,
    };
    type Check<'a> = &'a dyn Fn(&str) -> Option<&'static str>;
    let (notify, kiosk, meeting) = (&settings.notify, &settings.kiosk, &settings.rendezvous);
    let used: [(_, _, _, Check<'_>); 4] = [
        (
            "rendezvous.token_file",
            &meeting.token_file,
            meeting.url.is_some(),
            &any,
        ),
        (
            "notify.secret_file",
            &notify.secret_file,
            notify.webhook.is_some(),
            &any,
        ),
        ("kiosk.secret_file", &kiosk.secret_file, kiosk.invite, &long),
        (
            "kiosk.pin_file",
            &kiosk.pin_file,
            kiosk.pin == KioskPin::File,
            &digits,
        ),
    ];
    for (key, path, is_used, check) in used {
        let Some(path) = path.as_ref().filter(|_| is_used) else {
            continue;
        };
        let fault = match secret(path) {
            Ok(text) => check(&text).map(str::to_owned),
            Err(error) => Some(unreadable(&error)),
        };
        if let Some(fault) = fault {
            let text = format!("names {}, which {fault}", path.display());
            r.warn_of(key, text);
        }
    }
    let token = &settings.api.token_file;
    if settings.api.listen.is_some()
        && let Some(fault) = token_fault(token)
    {
        let text = format!("names {}, which {fault}", token.display());
        r.warn_of("api.token_file", text);
    }
}

fn secret(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_SECRET)
        .read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "is not there: write it, or mend the path".to_owned(),
        ErrorKind::PermissionDenied => {
            "may not be read by this user: mend its owner and mode".to_owned()
        }
        _ => format!("cannot be read: {error}"),
    }
}

/// What is wrong with the file of a token; one that is missing is made.
fn token_fault(path: &Path) -> Option<String> {
    let text = match secret(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let folder = path.parent()?;
            let fault = folder_fault(folder)?;
            return Some(format!("cannot be made, since its folder {fault}"));
        }
        Err(error) => return Some(unreadable(&error)),
    };
    let mode = fs::metadata(path).ok()?.mode();
    if mode & 0o027 != 0 {
        let mode = mode & 0o777;
        return Some(format!(
            "others may use (mode {mode:03o}): chmod 600 mends it"
        ));
    }
    let first = text.lines().next().unwrap_or_default().trim();
    let fits = first.len() >= SHORTEST_SECRET && first.bytes().all(|b| b.is_ascii_graphic());
    (!fits).then(|| {
        "has no token in its first line: at least 16 letters, digits or signs, or remove it to get \
         a new one"
            .to_owned()
    })
}

fn folders(settings: &Settings, r: &mut Reader<'_>) {
    let policy = &settings.receive.policy;
    let log = settings.log.file.as_ref();
    let log = log.and_then(|file| Some(file.parent()?.to_owned()));
    let kiosk = settings.kiosk.show.clone();
    let some = |path: &PathBuf, used: bool| used.then(|| path.clone());
    for (key, path) in [
        ("state.dir", some(&settings.state.dir, true)),
        (
            "receive.destination",
            some(&policy.defaults.destination, settings.receive.enabled),
        ),
        (
            "hand_in.destination",
            some(
                &settings.hand_in.terms.destination,
                settings.hand_in.enabled,
            ),
        ),
        ("kiosk.show", kiosk.filter(|_| settings.kiosk.is_open())),
        ("log.file", log),
    ] {
        if let Some(text) = path.as_deref().and_then(unusable) {
            r.warn_of(key, text);
        }
    }
    if !settings.receive.enabled {
        return;
    }
    for (table, rule) in RULES.tables(r).iter().zip(&policy.rules) {
        let path = rule.changes.destination.as_deref();
        if let Some(text) = path.and_then(unusable) {
            table.doubt(r, "destination", text);
        }
    }
}

/// What is wrong with a folder that something is put into. It may have places for names.
fn unusable(path: &Path) -> Option<String> {
    let folder = fixed(path);
    let fault = folder_fault(&folder)?;
    Some(format!("names {}, which {fault}", folder.display()))
}

/// Why nothing can be put into a folder, which is made where it is missing.
fn folder_fault(folder: &Path) -> Option<String> {
    // An empty path is said to be wrong elsewhere.
    let there = folder.ancestors().find(|path| {
        let absent = |error: io::Error| error.kind() == ErrorKind::NotFound;
        !path.symlink_metadata().is_err_and(absent) && !path.as_os_str().is_empty()
    })?;
    let (is, shown) = match there == folder {
        true => ("", String::new()),
        false => ("cannot be made: ", format!("{} ", there.display())),
    };
    match fs::metadata(there) {
        Ok(meta) if !meta.is_dir() => Some(format!("{is}{shown}is no folder: name another one")),
        Ok(_) => match access(there, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => None,
            Err(error) => Some(format!(
                "{is}{shown}cannot be written by this user ({error}): mend its owner and mode, or \
                 name another folder"
            )),
        },
        // A file stands on the way.
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            let file = there.ancestors().find(|path| path.is_file())?;
            let file = file.display();
            Some(format!(
                "cannot be made: {file} is no folder: name another one"
            ))
        }
        Err(error) => Some(format!("{is}{shown}cannot be used: {error}")),
    }
}

fn programs(settings: &Settings, r: &mut Reader<'_>) {
    let policy = &settings.receive.policy;
    if let Some(text) = policy.defaults.run.first().and_then(program_fault) {
        r.warn_of("receive.run", text);
    }
    for (table, rule) in RULES.tables(r).iter().zip(&policy.rules) {
        let program = rule.changes.run.as_ref().and_then(|run| run.first());
        if let Some(text) = program.and_then(program_fault) {
            table.doubt(r, "run", text);
        }
    }
    for table in PROVIDERS.tables(r) {
        let program = table.texts("command").into_iter().next();
        if let Some(text) = program.as_ref().and_then(program_fault) {
            table.doubt(r, "command", text);
        }
    }
}

fn program_fault(program: &String) -> Option<String> {
    // Places may stand in it, too.
    if program.contains('{') {
        return None;
    }
    let fault = match fs::metadata(program) {
        Ok(meta) if !meta.is_file() => "is no program".to_owned(),
        Ok(_) => match access(program.as_str(), Access::EXEC_OK) {
            Ok(()) => return None,
            Err(_) => format!("may not be run: chmod +x {program} mends that, perhaps"),
        },
        Err(error) => unreadable(&error),
    };
    Some(format!("names {program}, which {fault}"))
}

/// A deadline that has passed when the file is read.
fn past_deadlines(settings: &Settings, r: &mut Reader<'_>) {
    for table in BROADCASTS.tables(r) {
        let names = table.texts("name");
        let mut rules = settings.broadcasts.iter();
        let rule = rules.find(|rule| names.first().is_some_and(|name| name == rule.name.as_str()));
        let Some(rule) = rule.filter(|rule| rule.enabled) else {
            continue;
        };
        if let Some(Deadline::At(end)) = rule.terms.deadline
            && end.unix(rule.terms.zone) <= r.surroundings.now
        {
            let text = format!(
                "is {end}, which has passed: nothing is handed out; name a later time, or a \
                 duration such as \"7d\""
            );
            table.doubt(r, "deadline", text);
        }
    }
}
