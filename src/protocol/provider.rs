//! What a provider gives on request: the parameters that it declares, and whether a request's fit.
//!
//! A request brings its parameters as a text that holds one JSON object. Nothing in it is taken
//! that was not declared, and nothing reaches a program but what [`Parameters::check`] returned.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value as Json;

use super::names::brief;

mod argument;
mod builtin;

pub use argument::{Argument, OUTPUT};
pub use builtin::Generator;

/// Longest text of parameters, in bytes.
pub const MAX_PARAMETERS: usize = 16 * 1024;
/// Most parameters that a provider declares.
pub const MAX_DECLARED: usize = 64;
/// Longest name of a parameter or of a request type, in bytes.
pub const MAX_NAME: usize = 64;
/// Longest value that is a text, in bytes.
pub const MAX_TEXT: usize = 1024;
/// Whole numbers beyond this are not exact in JSON (2^53).
pub const MAX_INTEGER: i64 = 1 << 53;

/// Whether this can be the name of a request type or of a parameter: it ends in file names,
/// arguments and logs.
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    begins && name.len() <= MAX_NAME && name.chars().all(fits)
}

/// What a parameter may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A whole number, within bounds.
    Integer {
        /// The least.
        min: i64,
        /// The most.
        max: i64,
    },
    /// A number, within bounds.
    Number {
        /// The least.
        min: f64,
        /// The most.
        max: f64,
    },
    /// A text without control characters.
    Text {
        /// Its most bytes.
        max_length: usize,
    },
    /// True or false.
    Boolean,
}

/// A parameter's value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Number(f64),
    /// A text without control characters.
    Text(String),
    /// True or false.
    Boolean(bool),
}

impl fmt::Display for Value {
    /// As an argument of a program: numbers without exponents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => write!(f, "{number}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
            Self::Boolean(boolean) => write!(f, "{boolean}"),
        }
    }
}

/// A declared parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// What it may be.
    pub kind: Kind,
    /// What it is when a request leaves it out; without it, every request must have it.
    pub default: Option<Value>,
    /// The only values that it may have; empty for all of its kind.
    pub choices: Vec<Value>,
}

/// Why a request's parameters do not fit. Whoever asked is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// It is longer than any may be.
    #[error("the parameters are longer than {MAX_PARAMETERS} bytes")]
    TooLong,
    /// It is no JSON object.
    #[error("the parameters are not a JSON object")]
    NotAnObject,
    /// It is not declared.
    #[error("there is no parameter {name:?}: there are {known}")]
    Unknown {
        /// Its name, made harmless.
        name: String,
        /// What there is.
        known: String,
    },
    /// Some are left out: all of their names, each with what it must be.
    #[error("missing: {0}")]
    Missing(String),
    /// It would be an option of the program that it is handed to.
    #[error("the parameter {name} must not begin with \"-\"")]
    Option {
        /// Its name.
        name: String,
    },
    /// It is something else.
    #[error("the parameter {name} must be {allowed}, not {got}")]
    Wrong {
        /// Its name.
        name: String,
        /// What it must be.
        allowed: String,
        /// What it is, made harmless.
        got: String,
    },
}

impl Parameter {
    /// One that every request must have.
    pub fn needed(kind: Kind) -> Self {
        Self {
            kind,
            default: None,
            choices: Vec::new(),
        }
    }

    /// One that a request may leave out.
    pub fn or(mut self, default: Value) -> Self {
        self.default = Some(default);
        self
    }

    /// What it must be, for people.
    pub fn allowed(&self) -> String {
        if !self.choices.is_empty() {
            let choices: Vec<_> = self.choices.iter().map(Value::to_string).collect();
            return format!("one of {}", choices.join(", "));
        }
        match &self.kind {
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Number { min, max } => format!("a number from {min} to {max}"),
            Kind::Text { max_length } => {
                format!("a text of at most {max_length} bytes without control characters")
            }
            Kind::Boolean => "true or false".to_owned(),
        }
    }

    /// Whether whoever declared it has written this value: a choice, or the default.
    pub fn has_written(&self, value: Option<&Value>) -> bool {
        !self.choices.is_empty() || self.default.as_ref() == value
    }

    /// The value, if it fits.
    pub fn value(&self, json: &Json) -> Option<Value> {
        let value = match (&self.kind, json) {
            (Kind::Integer { min, max }, Json::Number(number)) => {
                // Some programs write all numbers as fractions.
                let whole = number.as_i64().or_else(|| {
                    let float = number.as_f64()?;
                    let exact = float.fract() == 0.0 && float.abs() <= MAX_INTEGER as f64;
                    exact.then_some(float as i64)
                })?;
                (*min..=*max)
                    .contains(&whole)
                    .then_some(Value::Integer(whole))
            }
            (Kind::Number { min, max }, Json::Number(number)) => {
                let number = number.as_f64()?;
                let fits = number.is_finite() && (*min..=*max).contains(&number);
                // Minus zero is zero.
                fits.then_some(Value::Number(number + 0.0))
            }
            (Kind::Text { max_length }, Json::String(text)) => {
                let fits = text.len() <= *max_length && !text.chars().any(char::is_control);
                fits.then(|| Value::Text(text.clone()))
            }
            (Kind::Boolean, Json::Bool(boolean)) => Some(Value::Boolean(*boolean)),
            _ => None,
        }?;
        (self.choices.is_empty() || self.choices.contains(&value)).then_some(value)
    }
}

/// What a provider declares, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters(pub BTreeMap<String, Parameter>);

impl Parameters {
    /// Refuses texts of a request that would be options of a program with these arguments.
    pub fn check_arguments(
        &self,
        arguments: &[Argument],
        values: &Values,
    ) -> Result<(), ParameterError> {
        let asked = |name: &&str| {
            let declared = self.0.get(*name);
            !declared.is_some_and(|one| one.has_written(values.0.get(*name)))
        };
        let mut options = arguments
            .iter()
            .filter_map(|argument| argument.option(values));
        match options.find(asked) {
            Some(name) => Err(ParameterError::Option {
                name: name.to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// The values of a request: those that it has and the defaults of the rest.
    pub fn check(&self, text: &str) -> Result<Values, ParameterError> {
        if text.len() > MAX_PARAMETERS {
            return Err(ParameterError::TooLong);
        }
        // Some that need none send nothing, or null.
        let given = match serde_json::from_str(if text.trim().is_empty() { "{}" } else { text }) {
            Ok(Json::Object(given)) => given,
            Ok(Json::Null) => serde_json::Map::new(),
            _ => return Err(ParameterError::NotAnObject),
        };
        if let Some(name) = given.keys().find(|name| !self.0.contains_key(*name)) {
            let known: Vec<_> = self.0.keys().map(String::as_str).collect();
            return Err(ParameterError::Unknown {
                name: brief(name),
                known: match known.is_empty() {
                    true => "none".to_owned(),
                    false => known.join(", "),
                },
            });
        }
        let (mut values, mut missing) = (BTreeMap::new(), Vec::new());
        for (name, parameter) in &self.0 {
            let value = match (given.get(name), &parameter.default) {
                (Some(json), _) => parameter.value(json).ok_or_else(|| ParameterError::Wrong {
                    name: name.clone(),
                    allowed: parameter.allowed(),
                    got: brief(&json.to_string()),
                })?,
                (None, Some(default)) => default.clone(),
                (None, None) => {
                    missing.push(format!("{name} ({})", parameter.allowed()));
                    continue;
                }
            };
            values.insert(name.clone(), value);
        }
        match missing.is_empty() {
            true => Ok(Values(values)),
            false => Err(ParameterError::Missing(missing.join(", "))),
        }
    }
}

/// Checked parameters of a request: every one that is declared, with its value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values(pub BTreeMap<String, Value>);

impl Values {
    /// A number; 0 where it is none, which its declaration rules out.
    pub fn number(&self, name: &str) -> f64 {
        match self.0.get(name) {
            Some(Value::Number(number)) => *number,
            Some(Value::Integer(number)) => *number as f64,
            _ => 0.0,
        }
    }

    /// A whole number; 0 where it is none.
    pub fn integer(&self, name: &str) -> i64 {
        match self.0.get(name) {
            Some(Value::Integer(number)) => *number,
            _ => 0,
        }
    }

    /// What names the answer to this request: the same for the same type and values, however they
    /// were written.
    pub fn key(&self, request_type: &str) -> [u8; 32] {
        let mut hash = blake3::Hasher::new_derive_key("handout provider cache 1");
        let mut put = |kind: &[u8], text: &str| {
            hash.update(kind);
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        put(b"t", request_type);
        for (name, value) in &self.0 {
            put(b"n", name);
            let kind: &[u8] = match value {
                Value::Integer(_) => b"i",
                Value::Number(_) => b"f",
                Value::Text(_) => b"s",
                Value::Boolean(_) => b"b",
            };
            put(kind, &value.to_string());
        }
        *hash.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests;
