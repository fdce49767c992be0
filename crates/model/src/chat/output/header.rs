//! The JSON around a call: read from the beginning each time, because it is short, until the arguments begin.

/// No real header is longer, and it is read again with each piece.
const HEADER_BYTES_MAX: usize = 8 << 10;

/// How far something could be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<T> {
    Done(T),
    /// More text may complete it.
    Incomplete,
    /// None can.
    Malformed,
}

/// Shorthand of this file: `Err(true)` is incomplete, `Err(false)` malformed.
type Read<T> = Result<T, bool>;

impl<T> From<Read<T>> for Step<T> {
    fn from(read: Read<T>) -> Self {
        match read {
            Ok(value) => Self::Done(value),
            Err(true) => Self::Incomplete,
            Err(false) => Self::Malformed,
        }
    }
}

/// The beginning of a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: String,
    /// The arguments where they are whole already; `None` where they begin at `end`.
    pub(super) arguments: Option<String>,
    /// Bytes of the header.
    pub(super) end: usize,
    /// The object that holds name and arguments is still open.
    pub(super) wrapped: bool,
}

/// Reads the header of a call. With `tools` only their names are calls, and an object that begins with other keys is
/// none; `named`: also `name[ARGS]{`.
pub(super) fn call(text: &str, tools: Option<&[String]>, named: bool) -> Step<Header> {
    let mut limit = text.len().min(HEADER_BYTES_MAX);
    while !text.is_char_boundary(limit) {
        limit -= 1;
    }
    let short = &text[..limit];
    let mut reader = Reader { text: short, at: 0 };
    match reader.call(tools, named) {
        Err(true) if short.len() < text.len() => Step::Malformed,
        read => read.into(),
    }
}

/// Reads on behind the arguments to the end of the object around them; gives the bytes.
pub(super) fn rest_of_object(text: &str) -> Step<usize> {
    let mut reader = Reader { text, at: 0 };
    let read = loop {
        match reader.another_key() {
            Ok(None) => break Ok(reader.at),
            Ok(Some(_)) => {
                if let Err(error) = reader.value() {
                    break Err(error);
                }
            }
            Err(error) => break Err(error),
        }
    };
    read.into()
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// The next character after white space.
    fn peek(&mut self) -> Read<char> {
        self.skip_space();
        self.rest().chars().next().ok_or(true)
    }

    fn expect(&mut self, c: char) -> Read<()> {
        if self.peek()? != c {
            return Err(false);
        }
        self.at += c.len_utf8();
        Ok(())
    }

    fn call(&mut self, tools: Option<&[String]>, named: bool) -> Read<Header> {
        if self.peek()? == '[' {
            self.at += 1;
        } else if named && self.peek()? != '{' {
            return self.named();
        }
        self.expect('{')?;
        let (mut name, mut arguments) = (None, None);
        let mut key = Some(self.key()?);
        while let Some(found) = key {
            match found.as_str() {
                "name" => {
                    let value = self.value()?;
                    let text: String = serde_json::from_str(value).map_err(|_| false)?;
                    let known = tools.is_none_or(|tools| tools.contains(&text));
                    name = Some(text).filter(|text| known && !text.is_empty());
                    if name.is_none() {
                        return Err(false);
                    }
                }
                "arguments" | "parameters" => {
                    if let (Some(name), '{') = (&name, self.peek()?) {
                        let name = name.clone();
                        return Ok(Header { name, arguments: None, end: self.at, wrapped: true });
                    }
                    arguments = Some(object(self.value()?)?);
                }
                "type" | "id" => {
                    self.value()?;
                }
                _ if tools.is_some() => return Err(false),
                _ => {
                    self.value()?;
                }
            }
            key = self.another_key()?;
        }
        if arguments.is_none() && tools.is_some() {
            return Err(false);
        }
        let arguments = Some(arguments.unwrap_or_else(|| "{}".to_owned()));
        Ok(Header { name: name.ok_or(false)?, arguments, end: self.at, wrapped: false })
    }

    /// `name[ARGS]{`, with `[CALL_ID]id` before `[ARGS]` in some versions.
    fn named(&mut self) -> Read<Header> {
        let word = |c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
        let rest = self.rest();
        let name = &rest[..rest.find(word).ok_or(true)?];
        let mut after = &rest[name.len()..];
        if let Some(id) = literal(after, "[CALL_ID]")? {
            after = &id[id.find(word).ok_or(true)?..];
        }
        after = literal(after, "[ARGS]")?.unwrap_or(after).trim_start();
        self.at = self.text.len() - after.len();
        if name.is_empty() || self.peek()? != '{' {
            return Err(false);
        }
        Ok(Header { name: name.to_owned(), arguments: None, end: self.at, wrapped: false })
    }

    /// `"key":`
    fn key(&mut self) -> Read<String> {
        if self.peek()? != '"' {
            return Err(false);
        }
        let key = serde_json::from_str(self.value()?).map_err(|_| false)?;
        self.expect(':')?;
        Ok(key)
    }

    /// The key after a comma, or none at the object's end, which is read.
    fn another_key(&mut self) -> Read<Option<String>> {
        match self.peek()? {
            ',' => {
                self.at += 1;
                self.key().map(Some)
            }
            '}' => {
                self.at += 1;
                Ok(None)
            }
            _ => Err(false),
        }
    }

    /// A whole value, as written.
    fn value(&mut self) -> Read<&'t str> {
        let first = self.peek()?;
        let rest = self.rest();
        let end = match first {
            '"' | '{' | '[' => Braces::default().feed(rest).ok_or(true)?,
            ',' | '}' | ']' | ':' => return Err(false),
            // Numbers and words are over where something else begins.
            _ => rest.find(|c: char| c.is_whitespace() || ",}]".contains(c)).ok_or(true)?,
        };
        self.at += end;
        Ok(&rest[..end])
    }
}

/// What stands behind `mark`, none if something else stands here.
fn literal<'t>(text: &'t str, mark: &str) -> Read<Option<&'t str>> {
    match text.strip_prefix(mark) {
        Some(after) => Ok(Some(after)),
        None if mark.starts_with(text) => Err(true),
        None => Ok(None),
    }
}

/// Arguments as an object: some models write it as a string, or nothing for an empty one.
fn object(value: &str) -> Read<String> {
    let text = match value {
        "null" => "{}".to_owned(),
        _ if value.starts_with('"') => serde_json::from_str(value).map_err(|_| false)?,
        _ => value.to_owned(),
    };
    if text.trim_start().starts_with('{') { Ok(text) } else { Err(false) }
}

/// Finds the end of a JSON string, array or object by its quotes and brackets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Braces {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Braces {
    /// Takes the next text; gives the bytes to the value's end once it is there.
    pub(super) fn feed(&mut self, text: &str) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            if self.depth == 0 && !self.in_string {
                return Some(at + 1);
            }
        }
        None
    }
}
