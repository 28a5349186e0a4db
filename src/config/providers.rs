//! `[[provider]]`: what is given to whoever asks for it at a rendezvous.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use config::{Map, Value as Raw, ValueKind};

use super::layers::nearest;
use super::reader::Reader;
use super::receive;
use super::shapes::{self, Shape, text};
use super::tables::{List, Table};
use crate::protocol::provider::{
    Argument, Generator, Kind, MAX_DECLARED, MAX_INTEGER, MAX_TEXT, OUTPUT, Parameter, Parameters,
    is_name,
};

/// The list in the file.
pub(super) const PROVIDERS: List = List {
    name: "provider",
    keys: &[
        "name",
        "generator",
        "command",
        "file_name",
        "parameters",
        "cache_size",
        "cache_for",
        "at_most",
        "timeout",
        "max_size",
        "to",
        "plain",
        "enabled",
    ],
    most: 100,
};

/// The keys of a parameter.
const PARAMETER_KEYS: [&str; 6] = ["type", "min", "max", "max_length", "choices", "default"];
/// Most choices of a parameter.
const MAX_CHOICES: usize = 100;
const NAME: &str =
    "1 to 64 characters of a-z, A-Z, 0-9, _, - and ., the first a letter, digit or _";
const GIB: u64 = 1 << 30;

/// Where an answer comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// It is made here.
    Generator(Generator),
    /// A program writes it: its absolute path, and its arguments.
    Command {
        /// The program.
        program: String,
        /// Its arguments.
        arguments: Vec<Argument>,
    },
}

/// What answers requests of one type.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderRule {
    /// The type of the requests.
    pub name: String,
    /// Where the answers come from.
    pub origin: Origin,
    /// What the file is called; nothing for a name made from the request.
    pub file_name: Option<String>,
    /// What a request may say.
    pub parameters: Parameters,
    /// Bytes of answers that are kept for the next such request; 0 for none.
    pub cache_size: u64,
    /// For how long.
    pub cache_for: Duration,
    /// How many answers are made at a time.
    pub at_most: usize,
    /// How long making one may take.
    pub timeout: Duration,
    /// Most bytes of an answer.
    pub max_size: u64,
    /// Devices that get answers: ids, names and groups; empty for whoever the rendezvous lets ask.
    pub to: Vec<String>,
    /// Whether clients without a proof of who they are get answers.
    pub plain: bool,
    /// Whether requests are answered at all.
    pub enabled: bool,
}

// Bounds may be fractions, but none is NaN: TOML's are refused.
impl Eq for ProviderRule {}

impl ProviderRule {
    fn with_defaults(name: &str, origin: Origin, parameters: Parameters) -> Self {
        Self {
            name: name.to_owned(),
            origin,
            file_name: None,
            parameters,
            cache_size: GIB / 4,
            cache_for: Duration::from_secs(600),
            at_most: 2,
            timeout: Duration::from_secs(120),
            max_size: GIB,
            to: Vec::new(),
            plain: false,
            enabled: true,
        }
    }

    /// The generators that are built in, for a file that describes nothing else.
    pub fn built_in() -> Vec<Self> {
        let all = Generator::ALL.into_iter();
        let rule = |(name, generator): (&str, Generator)| {
            Self::with_defaults(name, Origin::Generator(generator), generator.parameters())
        };
        all.map(rule).collect()
    }
}

pub(super) fn read(r: &mut Reader<'_>) -> Vec<ProviderRule> {
    PROVIDERS.distinct(r, "name", "the name of one provider only");
    let tables = PROVIDERS.tables(r).into_iter();
    tables.filter_map(|table| read_one(r, &table)).collect()
}

fn read_one(r: &mut Reader<'_>, table: &Table) -> Option<ProviderRule> {
    let name = table.needs(r, "name", &name());
    let generator = table.take(r, "generator", &shapes::choice(&Generator::ALL));
    let command = table.take(r, "command", &command());
    if table.has("generator") == table.has("command") && !r.has_slips() {
        let (key, got) = match table.has("command") {
            true => ("command", "besides a generator"),
            false => ("generator", "left out, and no command either"),
        };
        let allowed = "one of generator and command, which says where the answers come from";
        table.wrong(r, key, allowed, got);
    }
    let declared = parameters(r, table);
    let parameters = match generator {
        Some(generator) => {
            if table.has("parameters") {
                let allowed = "left out where there is a generator, which has its own";
                table.wrong(r, "parameters", allowed, "there besides");
            }
            generator.parameters()
        }
        None => declared,
    };
    if let Some((_, arguments)) = &command {
        check_places(r, table, arguments);
    }
    let origin = match (generator, command) {
        (Some(generator), _) => Some(Origin::Generator(generator)),
        (None, Some((program, arguments))) => Some(Origin::Command { program, arguments }),
        (None, None) => None,
    };
    let file_name = table.take(r, "file_name", &file_name());
    let cache_size = table.take(r, "cache_size", &shapes::bytes(0..=1 << 50));
    let cache_for = table.take(r, "cache_for", &shapes::span(["1s", "30d"]));
    let at_most = table.take(r, "at_most", &shapes::number(1..=64));
    let timeout = table.take(r, "timeout", &shapes::span(["1s", "1d"]));
    let max_size = table.take(r, "max_size", &shapes::bytes(1..=1 << 50));
    let to = table.take(r, "to", &receive::who());
    let plain = table.take(r, "plain", &shapes::boolean());
    let enabled = table.take(r, "enabled", &shapes::boolean());
    let usual = ProviderRule::with_defaults(&name?, origin?, parameters);
    Some(ProviderRule {
        file_name,
        cache_size: cache_size.unwrap_or(usual.cache_size),
        cache_for: cache_for.unwrap_or(usual.cache_for),
        at_most: at_most.unwrap_or(usual.at_most),
        timeout: timeout.unwrap_or(usual.timeout),
        max_size: max_size.unwrap_or(usual.max_size),
        // "everyone" is what holds when nothing is said.
        to: to
            .filter(|to| to.iter().all(|word| word != "everyone"))
            .unwrap_or_default(),
        plain: plain.unwrap_or(usual.plain),
        enabled: enabled.unwrap_or(usual.enabled),
        ..usual
    })
}

fn name() -> Shape<'static, String> {
    Shape::new(NAME, |value| {
        text(value).filter(|name| is_name(name)).map(str::to_owned)
    })
}

fn file_name() -> Shape<'static, String> {
    let allowed = "the name of a file, without slashes, of at most 80 bytes";
    Shape::new(allowed, |value| {
        let name = text(value)?;
        let safe = crate::protocol::names::safe_component(name);
        (safe == name).then_some(safe)
    })
}

fn command() -> Shape<'static, (String, Vec<Argument>)> {
    let words = shapes::list::<String>("");
    let allowed = "a list of an absolute path of a program and its arguments, in which {NAME} \
                   stands for a parameter and {output} for the file to write; {{ and }} are braces";
    Shape::new(allowed, move |value| {
        let ValueKind::Array(_) = value.kind else {
            return None;
        };
        let words = (words.parse)(value).filter(|words| words.len() <= 100)?;
        let (program, arguments) = words.split_first()?;
        let fits = words.iter().all(|word| !word.contains('\0'));
        if !fits || !program.starts_with('/') || program.contains(['{', '}']) {
            return None;
        }
        let arguments = arguments.iter().map(|word| Argument::new(word));
        Some((program.clone(), arguments.collect::<Option<_>>()?))
    })
}

/// Notes a mistake for each place that nothing stands for, and where there is none for the file; a
/// doubt for each parameter that has no place. What is wrong with a declaration is told by itself.
fn check_places(r: &mut Reader<'_>, table: &Table, arguments: &[Argument]) {
    let declared: BTreeSet<&str> = match table.raw("parameters").map(|all| &all.kind) {
        Some(ValueKind::Table(all)) => all.keys().map(String::as_str).collect(),
        _ => BTreeSet::new(),
    };
    let used: BTreeSet<&str> = arguments.iter().flat_map(Argument::places).collect();
    for name in declared.difference(&used) {
        let text =
            format!("no argument of command has {{{name}}}: what is asked there changes nothing");
        table.doubt(r, "parameters", text);
    }
    let mut writes = false;
    for (at, argument) in arguments.iter().enumerate() {
        for place in argument.places() {
            writes |= place == OUTPUT;
            if place != OUTPUT && !declared.contains(place) {
                let allowed = "a parameter that is declared below, or {output}";
                table.wrong_item(r, "command", at + 1, allowed, &format!("{{{place}}}"));
            }
        }
    }
    if !writes {
        let allowed = "a list in which {output} stands where the program is told which file to \
                       write";
        table.wrong(r, "command", allowed, "a list without it");
    }
}

fn parameters(r: &mut Reader<'_>, table: &Table) -> Parameters {
    let mut parameters = BTreeMap::new();
    let Some(value) = table.raw("parameters") else {
        return Parameters::default();
    };
    let allowed = "a section [provider.parameters] with lines such as \
                   rate = { type = \"number\", min = 1, max = 1e9, default = 1e6 }";
    let ValueKind::Table(all) = &value.kind else {
        table.wrong(r, "parameters", allowed, &shapes::brief(value));
        return Parameters::default();
    };
    if all.len() > MAX_DECLARED {
        let got = format!("{} of them", all.len());
        table.wrong(r, "parameters", &format!("at most {MAX_DECLARED}"), &got);
        return Parameters::default();
    }
    // In the order of their names, so that mistakes come in the same order each time.
    for (name, value) in BTreeMap::from_iter(all) {
        let key = format!("parameters.{name}");
        table.note(r, &key, value);
        if !is_name(name) || name == OUTPUT {
            let allowed = format!("named by {NAME}, and not \"{OUTPUT}\"");
            table.wrong_at(r, value, &key, &allowed, &format!("{name:?}"));
            continue;
        }
        let ValueKind::Table(keys) = &value.kind else {
            let allowed = "a table such as { type = \"number\", min = 1, max = 1e9 }";
            table.wrong_at(r, value, &key, allowed, &shapes::brief(value));
            continue;
        };
        if let Some(parameter) = parameter(r, table, &key, value, keys) {
            parameters.insert(name.clone(), parameter);
        }
    }
    Parameters(parameters)
}

/// One parameter, or nothing where something is wrong with it, which is noted.
fn parameter(
    r: &mut Reader<'_>,
    table: &Table,
    key: &str,
    whole: &Raw,
    keys: &Map<String, Raw>,
) -> Option<Parameter> {
    let before = r.errors.len();
    for (name, value) in BTreeMap::from_iter(keys) {
        if !PARAMETER_KEYS.contains(&name.as_str()) {
            let meant = nearest(name, name, PARAMETER_KEYS.iter().map(|k| (*k).to_owned()));
            table.unknown_at(
                r,
                value,
                &format!("{key}.{name}"),
                meant.map(|m| format!("{key}.{m}")),
            );
        }
    }
    let number = |value: &Raw| match value.kind {
        ValueKind::I64(number) => Some(number as f64),
        ValueKind::U64(number) => Some(number as f64),
        ValueKind::Float(number) => Some(number).filter(|number| number.is_finite()),
        _ => None,
    };
    let bound = |r: &mut Reader<'_>, name: &str, whole: bool| {
        let value = keys.get(name)?;
        let found =
            number(value).filter(|n| !whole || n.fract() == 0.0 && n.abs() <= MAX_INTEGER as f64);
        if found.is_none() {
            let allowed = if whole { "a whole number" } else { "a number" };
            let key = format!("{key}.{name}");
            table.wrong_at(r, value, &key, allowed, &shapes::brief(value));
        }
        found
    };
    let word = keys.get("type").and_then(text);
    let (kind, foreign): (_, &[&str]) = match word {
        Some("integer") => {
            let min = bound(r, "min", true).map_or(-MAX_INTEGER, |n| n as i64);
            let max = bound(r, "max", true).map_or(MAX_INTEGER, |n| n as i64);
            (Kind::Integer { min, max }, &["max_length"])
        }
        Some("number") => {
            let min = bound(r, "min", false).unwrap_or(f64::MIN);
            let max = bound(r, "max", false).unwrap_or(f64::MAX);
            (Kind::Number { min, max }, &["max_length"])
        }
        Some("text") => {
            let most = bound(r, "max_length", true);
            let max_length = most.map_or(MAX_TEXT, |most| most as usize);
            if !(1..=MAX_TEXT).contains(&max_length) {
                let allowed = format!("a whole number from 1 to {MAX_TEXT}");
                let value = keys.get("max_length").unwrap_or(whole);
                let got = shapes::brief(value);
                table.wrong_at(r, value, &format!("{key}.max_length"), &allowed, &got);
            }
            (Kind::Text { max_length }, &["min", "max"])
        }
        Some("boolean") => (Kind::Boolean, &["min", "max", "max_length", "choices"]),
        _ => {
            let value = keys.get("type").unwrap_or(whole);
            let got = keys
                .get("type")
                .map_or("left out".to_owned(), shapes::brief);
            let allowed = "\"integer\", \"number\", \"text\" or \"boolean\"";
            table.wrong_at(r, value, &format!("{key}.type"), allowed, &got);
            return None;
        }
    };
    for name in foreign {
        if let Some(value) = keys.get(*name) {
            let allowed = format!("left out where the type is {:?}", word.unwrap_or_default());
            let got = shapes::brief(value);
            table.wrong_at(r, value, &format!("{key}.{name}"), &allowed, &got);
        }
    }
    let empty = match &kind {
        Kind::Integer { min, max } => min > max,
        Kind::Number { min, max } => min > max,
        _ => false,
    };
    if empty && let Some(value) = keys.get("max").or(keys.get("min")) {
        let got = shapes::brief(value);
        table.wrong_at(r, value, &format!("{key}.max"), "at least min", &got);
    }
    let mut parameter = Parameter::needed(kind);
    if let Some(value) = keys.get("choices") {
        let fitting = match &value.kind {
            ValueKind::Array(items) if (1..=MAX_CHOICES).contains(&items.len()) => {
                let items = items.iter().map(|item| parameter.value(&json(item)?));
                items.collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        match fitting {
            Some(choices) => parameter.choices = choices,
            None => {
                let each = parameter.allowed();
                let allowed = format!("a list of 1 to {MAX_CHOICES}, each {each}");
                let got = shapes::brief(value);
                table.wrong_at(r, value, &format!("{key}.choices"), &allowed, &got);
            }
        }
    }
    if let Some(value) = keys.get("default") {
        match json(value).and_then(|json| parameter.value(&json)) {
            Some(default) => parameter.default = Some(default),
            None => {
                let (allowed, got) = (parameter.allowed(), shapes::brief(value));
                table.wrong_at(r, value, &format!("{key}.default"), &allowed, &got);
            }
        }
    }
    (r.errors.len() == before).then_some(parameter)
}

/// A value as a request would say it.
fn json(value: &Raw) -> Option<serde_json::Value> {
    Some(match &value.kind {
        ValueKind::I64(number) => (*number).into(),
        ValueKind::U64(number) => (*number).into(),
        ValueKind::Float(number) => (*number).into(),
        ValueKind::String(text) => text.clone().into(),
        ValueKind::Boolean(boolean) => (*boolean).into(),
        _ => return None,
    })
}
