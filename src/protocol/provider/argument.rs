//! The arguments of a command that answers requests.

use super::{Value, Values, is_name};

/// One argument of a command: texts, and places for parameters between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(String),
}

/// The place for the path of the file that a command is to write.
pub const OUTPUT: &str = "output";

impl Argument {
    /// Reads `--rate={sample_rate}`; `{{` and `}}` stand for braces. Nothing where a brace has no
    /// partner, or no name is between them.
    pub fn new(text: &str) -> Option<Self> {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '{' | '}' if rest.peek() == Some(&c) => {
                    rest.next();
                    plain.push(c);
                }
                '{' => {
                    let name: String = rest.by_ref().take_while(|c| *c != '}').collect();
                    // `take_while` has taken the brace; without one, the text ends here.
                    let closed = text.len() > name.len() && is_name(&name);
                    if !closed || !text.contains(&format!("{{{name}}}")) {
                        return None;
                    }
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::Place(name));
                }
                '}' => return None,
                c => plain.push(c),
            }
        }
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Some(Self(parts))
    }

    /// The names of its places.
    pub fn places(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Place(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The parameter whose text would make an option of this argument: it begins with `-`, and
    /// nothing stands before it. Numbers are within their bounds, below zero where those say so.
    pub fn option(&self, values: &Values) -> Option<&str> {
        let before = |part: &&Part| match part {
            Part::Text(_) => false,
            Part::Place(name) => matches!(values.0.get(name), Some(Value::Text(t)) if t.is_empty()),
        };
        match self.0.iter().find(|part| !before(part))? {
            Part::Place(name) => match values.0.get(name) {
                Some(Value::Text(text)) if text.starts_with('-') => Some(name),
                _ => None,
            },
            Part::Text(_) => None,
        }
    }

    /// The argument with everything in its place; always one argument, whatever is in it.
    pub fn fill(&self, values: &Values, output: &str) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Place(name) if name == OUTPUT => output.to_owned(),
            Part::Place(name) => values.0.get(name).map(Value::to_string).unwrap_or_default(),
        });
        parts.collect()
    }
}
