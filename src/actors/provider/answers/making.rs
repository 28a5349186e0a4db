//! How an answer is made: by a generator, or by a command.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tracing::{info, warn};

use super::{Answer, AnswerError, Folder};
use crate::actors::program::{Confined, Program};
use crate::config::{Origin, ProviderRule};
use crate::content::generate::{GenerateError, Product};
use crate::content::{SinkError, check_space};
use crate::protocol::names::printable;
use crate::protocol::provider::{Generator, Values};

pub(super) fn of_generator(error: GenerateError) -> AnswerError {
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

/// Makes an answer in a folder of its own. Blocks.
pub(super) fn make(
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
