//! Answers to requests: made by a generator or a command, a few at a time, and kept for the next
//! request that asks for the same.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::{Mutex as Turn, Semaphore};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::actors::program::{Confined, Program};
use crate::config::{Origin, ProviderRule};
use crate::content::generate::{GenerateError, Product};
use crate::content::{MADE, SinkError, check_space};
use crate::protocol::names::printable;
use crate::protocol::provider::{Generator, Values};

/// Most answers of one provider that are kept, whatever their size.
const MAX_KEPT: usize = 1000;
/// What the folders of answers are called, in the state folder.
const FOLDER: &str = MADE;

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum AnswerError {
    /// The request cannot be met.
    #[error("{0}")]
    Request(String),
    /// It is our fault. What happened is in our log; whoever asked learns only that.
    #[error("the provider could not make it")]
    Here,
    /// There is no room for it.
    #[error("the provider's disk has no room for it")]
    Room,
    /// It is not said by the device itself that it asks.
    #[error("whoever asks has not proven to be the device that it says: {0}")]
    Unproven(String),
    /// The device is not let in. Why is in our log.
    #[error("the provider does not let this device in")]
    NotLetIn,
    /// The program ends.
    #[error("the provider is being stopped")]
    Stopped,
}

impl AnswerError {
    /// The word for programs.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Request(_) => "parameters",
            Self::Here => "failed",
            Self::Room => "disk_full",
            Self::Unproven(_) => "unproven",
            Self::NotLetIn => "unauthorized",
            Self::Stopped => "stopped",
        }
    }
}

/// A file that answers a request: removed when nobody needs it any more.
#[derive(Debug)]
pub(super) struct Answer {
    /// Where it is, in a folder of its own.
    pub(super) path: PathBuf,
    /// What it is called for whoever gets it.
    pub(super) name: String,
    /// Its bytes.
    pub(super) size: u64,
    made: Instant,
    folder: PathBuf,
}

impl Drop for Answer {
    fn drop(&mut self) {
        // At the end all of them are removed at once.
        if let Err(error) = fs::remove_dir_all(&self.folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(%error, "an answer could not be removed: {}", self.folder.display());
        }
    }
}

/// How one answer stands.
#[derive(Default)]
struct Slot {
    /// The one that is kept.
    answer: Option<Arc<Answer>>,
    /// The last one, kept or not, while somebody has it: whoever waited for it takes it, too.
    last: Weak<Answer>,
    /// The last try that failed: whoever waited for it does not try again.
    failed: Option<(Instant, AnswerError)>,
}

/// The answers of one provider.
pub(super) struct Answers {
    pub(super) rule: ProviderRule,
    folder: Arc<Folder>,
    at_once: Semaphore,
    slots: Mutex<HashMap<[u8; 32], Arc<Turn<Slot>>>>,
    /// What is kept, with the time of its last use.
    kept: Mutex<HashMap<[u8; 32], (Instant, u64)>>,
    reserve: u64,
}

impl Answers {
    pub(super) fn new(rule: ProviderRule, folder: Arc<Folder>, reserve: u64) -> Self {
        Self {
            at_once: Semaphore::new(rule.at_most),
            rule,
            folder,
            slots: Mutex::default(),
            kept: Mutex::default(),
            reserve,
        }
    }

    /// Checks what can be checked before anything is made.
    pub(super) fn check(&self, values: &Values) -> Result<(), AnswerError> {
        match &self.rule.origin {
            Origin::Generator(generator) => {
                let product = Product::new(*generator, values).map_err(of_generator)?;
                let (size, most) = (product.size(), self.rule.max_size);
                match size > most {
                    true => Err(of_generator(GenerateError::TooLarge { size, most })),
                    false => Ok(()),
                }
            }
            Origin::Command { arguments, .. } => {
                let checked = self.rule.parameters.check_arguments(arguments, values);
                checked.map_err(|error| AnswerError::Request(error.to_string()))
            }
        }
    }

    /// The answer to a request: one that is kept, or a new one.
    pub(super) async fn get(&self, values: &Values) -> Result<Arc<Answer>, AnswerError> {
        let key = values.key(&self.rule.name);
        let asked = Instant::now();
        let slot = Arc::clone(lock(&self.slots).entry(key).or_default());
        // Whoever asks for the same meanwhile waits here, and takes what comes of it.
        let mut turn = slot.lock().await;
        if let Some(answer) = &turn.answer
            && answer.made.elapsed() < self.rule.cache_for
        {
            if let Some(kept) = lock(&self.kept).get_mut(&key) {
                kept.0 = Instant::now();
            }
            return Ok(Arc::clone(answer));
        }
        if let Some(answer) = turn.last.upgrade()
            && answer.made >= asked
        {
            return Ok(answer);
        }
        turn.answer = None;
        if let Some((at, error)) = &turn.failed
            && *at >= asked
        {
            return Err(error.clone());
        }
        let made = match self.at_once.acquire().await {
            Ok(_turn) => self.make(values).await,
            Err(_) => Err(AnswerError::Stopped),
        };
        match made {
            Ok(answer) => {
                let answer = Arc::new(answer);
                turn.last = Arc::downgrade(&answer);
                if answer.size <= self.rule.cache_size {
                    turn.answer = Some(Arc::clone(&answer));
                    drop(turn);
                    self.keep(key, answer.size);
                } else {
                    drop(turn);
                    self.forget(&key);
                }
                Ok(answer)
            }
            Err(error) => {
                turn.failed = Some((Instant::now(), error.clone()));
                drop(turn);
                self.forget(&key);
                Err(error)
            }
        }
    }

    /// Notes what is kept, and lets go of what was not used for longest where that is too much.
    fn keep(&self, key: [u8; 32], size: u64) {
        let mut kept = lock(&self.kept);
        kept.insert(key, (Instant::now(), size));
        let mut gone = Vec::new();
        loop {
            let total: u64 = kept.values().map(|(_, size)| size).sum();
            if total <= self.rule.cache_size && kept.len() <= MAX_KEPT {
                break;
            }
            let oldest = kept.iter().min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            kept.remove(&oldest);
            gone.push(oldest);
        }
        drop(kept);
        gone.iter().for_each(|key| self.forget(key));
    }

    /// Lets go of what is older than it may be.
    fn forget_old(&self) {
        let old: Vec<[u8; 32]> = lock(&self.slots)
            .iter()
            .filter(|(_, slot)| {
                // What somebody has in hand is not old.
                slot.try_lock().is_ok_and(|slot| {
                    let age = slot.answer.as_ref().map(|answer| answer.made.elapsed());
                    age.is_some_and(|age| age >= self.rule.cache_for)
                })
            })
            .map(|(key, _)| *key)
            .collect();
        old.iter().for_each(|key| self.forget(key));
    }

    fn forget(&self, key: &[u8; 32]) {
        lock(&self.kept).remove(key);
        // Its file goes with it, once nobody sends it any more.
        lock(&self.slots).remove(key);
    }

    async fn make(&self, values: &Values) -> Result<Answer, AnswerError> {
        let (rule, values) = (self.rule.clone(), values.clone());
        let (folder, reserve) = (Arc::clone(&self.folder), self.reserve);
        let making = move || make(&rule, &values, &folder, reserve);
        let made = tokio::task::spawn_blocking(making).await;
        made.unwrap_or_else(|error| {
            warn!(%error, "making an answer ended early");
            Err(AnswerError::Here)
        })
    }
}

/// Lets go of what is too old, again and again: perhaps nobody asks any more. Does not end.
pub(super) async fn keep_tidy(all: impl Iterator<Item = &Arc<Answers>> + Clone, every: Duration) {
    loop {
        sleep(every).await;
        all.clone().for_each(|answers| answers.forget_old());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn of_generator(error: GenerateError) -> AnswerError {
    match error {
        GenerateError::Request(text) => AnswerError::Request(text),
        error @ GenerateError::TooLarge { .. } => AnswerError::Request(error.to_string()),
        GenerateError::Stopped => AnswerError::Request("it took too long: ask for less".to_owned()),
        GenerateError::Io(error) => {
            warn!(%error, "an answer could not be written");
            AnswerError::Here
        }
    }
}

fn make(
    rule: &ProviderRule,
    values: &Values,
    folder: &Folder,
    reserve: u64,
) -> Result<Answer, AnswerError> {
    let own = folder.new_one().map_err(|error| {
        warn!(%error, "no folder for an answer");
        AnswerError::Here
    })?;
    let path = own.join("answer");
    let began = Instant::now();
    let made = match &rule.origin {
        Origin::Generator(generator) => generate(rule, *generator, values, &path, folder, reserve),
        Origin::Command { .. } => command(rule, values, &path, folder, reserve),
    };
    let finished = made.and_then(|name| {
        let meta = fs::symlink_metadata(&path).ok();
        match meta.filter(|meta| meta.is_file()) {
            Some(meta) if meta.len() <= rule.max_size => Ok((name, meta.len())),
            Some(meta) => {
                let (provider, bytes) = (&rule.name, meta.len());
                warn!(
                    provider,
                    bytes, "an answer is larger than provider.max_size"
                );
                Err(AnswerError::Here)
            }
            None => {
                let provider = &rule.name;
                warn!(
                    provider,
                    "the command ended well and wrote no file at {{output}}"
                );
                Err(AnswerError::Here)
            }
        }
    });
    match finished {
        Ok((name, size)) => {
            let (provider, took) = (&rule.name, began.elapsed());
            info!(provider, size, ?took, "an answer was made");
            Ok(Answer {
                path,
                name: rule.file_name.clone().unwrap_or(name),
                size,
                made: Instant::now(),
                folder: own,
            })
        }
        Err(error) => {
            let _ = fs::remove_dir_all(&own);
            Err(error)
        }
    }
}

fn room(path: &Path, size: u64, reserve: u64) -> Result<(), AnswerError> {
    let folder = path.parent().unwrap_or(path);
    check_space(folder, size, reserve).map_err(|error| {
        warn!(%error, "no room for an answer");
        match error {
            SinkError::DiskFull { .. } => AnswerError::Room,
            _ => AnswerError::Here,
        }
    })
}

fn generate(
    rule: &ProviderRule,
    generator: Generator,
    values: &Values,
    path: &Path,
    folder: &Folder,
    reserve: u64,
) -> Result<String, AnswerError> {
    let product = Product::new(generator, values).map_err(of_generator)?;
    room(path, product.size(), reserve)?;
    let end = Instant::now() + rule.timeout;
    let ends = || folder.stops.load(Ordering::Relaxed);
    let stops = || ends() || Instant::now() >= end;
    match product.write(path, rule.max_size, &stops) {
        Ok(()) => Ok(product.file_name()),
        Err(GenerateError::Stopped) if ends() => Err(AnswerError::Stopped),
        Err(error) => Err(of_generator(error)),
    }
}

fn command(
    rule: &ProviderRule,
    values: &Values,
    path: &Path,
    folder: &Folder,
    reserve: u64,
) -> Result<String, AnswerError> {
    let Origin::Command { program, arguments } = &rule.origin else {
        return Err(AnswerError::Here);
    };
    let Some(output) = path.to_str() else {
        warn!("the state folder's path is no Unicode: commands cannot be told of it");
        return Err(AnswerError::Here);
    };
    room(path, 1, reserve)?;
    let arguments = arguments.iter();
    let ended = Program {
        program: program.clone(),
        arguments: arguments
            .map(|argument| argument.fill(values, output).into())
            .collect(),
        environment: Vec::new(),
        folder: path.parent().map(Path::to_owned),
        timeout: rule.timeout,
        setting: "provider.timeout",
        confined: Some(Confined {
            output: (path.to_owned(), rule.max_size),
            stops: Arc::clone(&folder.stops),
        }),
    }
    .run();
    let (provider, how, output) = (&rule.name, &ended.how, &ended.output);
    match ended.code {
        Some(0) => {
            info!(provider, output, "a command has made an answer");
            Ok(format!("{}.bin", rule.name))
        }
        _ if folder.stops.load(Ordering::Relaxed) => Err(AnswerError::Stopped),
        _ => {
            let program = printable(program);
            warn!(provider, program, how, output, "a command made no answer");
            Err(AnswerError::Here)
        }
    }
}

/// Where the answers of this process lie: removed with it.
pub(super) struct Folder {
    path: PathBuf,
    /// Held, so that others see that somebody uses it.
    _lock: File,
    next: AtomicU64,
    /// Whatever is being made is to end.
    pub(super) stops: Arc<AtomicBool>,
}

impl Folder {
    /// Makes one in the state folder, and removes those that other processes have left.
    pub(super) fn new(state: &Path) -> io::Result<Self> {
        let all = state.join(FOLDER);
        DirBuilder::new().recursive(true).mode(0o700).create(&all)?;
        for entry in fs::read_dir(&all)?.flatten() {
            let left = File::open(entry.path())
                .is_ok_and(|dir| flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok());
            if left && let Err(error) = fs::remove_dir_all(entry.path()) {
                warn!(%error, "answers of an earlier run could not be removed");
            }
        }
        let mut name = [0; 16];
        getrandom::fill(&mut name).map_err(io::Error::other)?;
        let path = all.join(HEXLOWER.encode(&name));
        DirBuilder::new().mode(0o700).create(&path)?;
        let lock = File::open(&path)?;
        // Where that cannot be done, nobody takes it for left behind either.
        let _ = flock(&lock, FlockOperation::NonBlockingLockExclusive);
        Ok(Self {
            path,
            _lock: lock,
            next: AtomicU64::new(0),
            stops: Arc::default(),
        })
    }

    pub(super) fn new_one(&self) -> io::Result<PathBuf> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(number.to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests;
