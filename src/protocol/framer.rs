//! Cuts a byte stream into whole JSON objects (PROTOCOL.md §3, framing).
//!
//! The scanner only balances brackets and skips strings; whether an object is valid JSON is for
//! the parser that gets it. Every byte is looked at once.

/// Most bytes in one signaling object.
pub const MAX_OBJECT: usize = 256 * 1024;
/// Most levels of nesting in one signaling object.
pub const MAX_DEPTH: usize = 16;

/// Why a stream cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramerError {
    /// Something other than white space or `{` between two objects.
    #[error("byte {0:#04x} stands where a JSON object should begin")]
    Garbage(u8),
    /// The object does not end in time.
    #[error("a JSON object is longer than {0} bytes")]
    TooLong(usize),
    /// Too many levels.
    #[error("a JSON object has more than {0} levels")]
    TooDeep(usize),
    /// `}` closes `[`, or the other way round.
    #[error("the brackets of a JSON object do not match")]
    Unbalanced,
}

/// Incremental reader of JSON objects: spread over lines, or several in a row.
///
/// Holds at most one object, and never more bytes than the limit.
#[derive(Debug)]
pub struct JsonFramer {
    object: Vec<u8>,
    /// One bit per open bracket, the innermost lowest: set for `{`.
    open: u32,
    depth: usize,
    in_string: bool,
    escaped: bool,
    max_object: usize,
    failed: Option<FramerError>,
}

impl Default for JsonFramer {
    fn default() -> Self {
        Self::new(MAX_OBJECT)
    }
}

impl JsonFramer {
    /// A reader of objects of at most `max_object` bytes and [`MAX_DEPTH`] levels.
    pub fn new(max_object: usize) -> Self {
        Self {
            object: Vec::new(),
            open: 0,
            depth: 0,
            in_string: false,
            escaped: false,
            max_object,
            failed: None,
        }
    }

    /// Reads from the front of `input`, which is left with what has not been read, until one
    /// object is whole or the input is used up (`None`). Call it again until it gives `None`.
    ///
    /// # Errors
    /// See [`FramerError`]. An error is final: every later call returns it again, because
    /// nobody can tell where the next object would begin.
    pub fn next_object(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, FramerError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.scan(input).inspect_err(|error| {
            self.failed = Some(*error);
            self.object = Vec::new();
        })
    }

    /// True when an object has begun and not ended.
    pub fn is_inside(&self) -> bool {
        self.depth > 0
    }

    fn scan(&mut self, input: &mut &[u8]) -> Result<Option<Vec<u8>>, FramerError> {
        if self.depth == 0 {
            let start = input.iter().position(|b| !is_space(*b));
            *input = &input[start.unwrap_or(input.len())..];
            match input.first() {
                None => return Ok(None),
                Some(b'{') => {}
                Some(other) => return Err(FramerError::Garbage(*other)),
            }
        }
        for (at, byte) in input.iter().enumerate() {
            if self.object.len() + at >= self.max_object {
                return Err(FramerError::TooLong(self.max_object));
            }
            if self.step(*byte)? {
                self.object.extend_from_slice(&input[..=at]);
                *input = &input[at + 1..];
                return Ok(Some(std::mem::take(&mut self.object)));
            }
        }
        self.object.extend_from_slice(input);
        *input = &[];
        Ok(None)
    }

    /// Takes one byte; true when it closes the outermost bracket.
    fn step(&mut self, byte: u8) -> Result<bool, FramerError> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                if self.depth == MAX_DEPTH {
                    return Err(FramerError::TooDeep(MAX_DEPTH));
                }
                self.depth += 1;
                self.open = self.open << 1 | u32::from(byte == b'{');
            }
            b'}' | b']' => {
                if (self.open & 1 == 1) != (byte == b'}') {
                    return Err(FramerError::Unbalanced);
                }
                self.open >>= 1;
                self.depth -= 1;
                return Ok(self.depth == 0);
            }
            _ => {}
        }
        Ok(false)
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(framer: &mut JsonFramer, mut input: &[u8]) -> Result<Vec<Vec<u8>>, FramerError> {
        let mut objects = Vec::new();
        while let Some(object) = framer.next_object(&mut input)? {
            objects.push(object);
        }
        Ok(objects)
    }

    #[test]
    fn objects_spread_over_lines_and_several_in_a_row_are_found() {
        let text = b"\n{\"a\":\n [1,{}],\r\n\"b\":\"}\\\"{\"} {}{\"c\":\"\\\\\"}\n  {";
        let mut framer = JsonFramer::default();
        let found = read_all(&mut framer, text).unwrap();
        let expected: [&[u8]; 3] = [
            b"{\"a\":\n [1,{}],\r\n\"b\":\"}\\\"{\"}",
            b"{}",
            b"{\"c\":\"\\\\\"}",
        ];
        assert_eq!(found, expected);
        assert!(framer.is_inside());
    }

    #[test]
    fn garbage_between_objects_is_final() {
        let mut framer = JsonFramer::default();
        let mut input: &[u8] = b"{} x {}";
        assert_eq!(framer.next_object(&mut input), Ok(Some(b"{}".to_vec())));
        assert_eq!(
            framer.next_object(&mut input),
            Err(FramerError::Garbage(b'x'))
        );
        assert_eq!(
            framer.next_object(&mut &b"{}"[..]),
            Err(FramerError::Garbage(b'x'))
        );
    }

    #[test]
    fn depth_length_and_brackets_are_bounded_and_checked() {
        let nested = |n: usize| format!("{}{}", "{\"a\":".repeat(n), "}".repeat(n));
        let read = |text: &str| read_all(&mut JsonFramer::new(200), text.as_bytes());
        assert!(read(&nested(16)).is_ok());
        assert_eq!(read(&nested(17)), Err(FramerError::TooDeep(16)));
        assert_eq!(read("{]"), Err(FramerError::Unbalanced));
        let fits = format!("{{\"a\":\"{}\"}}", "x".repeat(200 - 8));
        assert_eq!(read(&fits).unwrap().len(), 1);
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(200 - 7));
        assert_eq!(read(&long), Err(FramerError::TooLong(200)));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<String>().prop_map(serde_json::Value::from),
            "[{}\\[\\]\"\\\\ ]{0,12}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                proptest::collection::hash_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_splits_give_the_same_objects(
            values in proptest::collection::vec((any_json(), any::<bool>()), 0..5),
            step in 1usize..40,
        ) {
            let mut text = String::new();
            let mut expected = Vec::new();
            for (value, pretty) in values {
                let value = serde_json::json!({ "data": value });
                text.push_str(&if pretty {
                    format!("{value:#}\n")
                } else {
                    value.to_string()
                });
                expected.push(value);
            }
            let mut framer = JsonFramer::default();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(step) {
                found.extend(read_all(&mut framer, piece).unwrap());
            }
            let found: Vec<serde_json::Value> =
                found.iter().map(|o| serde_json::from_slice(o).unwrap()).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn any_bytes_never_panic_and_never_grow_the_memory(
            pieces in proptest::collection::vec(
                proptest::collection::vec(
                    prop_oneof![any::<u8>(), Just(b'{'), Just(b'}'), Just(b'"'), Just(b'\\')], 0..60),
                0..20),
        ) {
            let mut framer = JsonFramer::new(100);
            for piece in pieces {
                let _ = read_all(&mut framer, &piece);
                prop_assert!(framer.object.len() <= 100);
                prop_assert!(framer.object.capacity() <= 200);
            }
        }
    }
}
