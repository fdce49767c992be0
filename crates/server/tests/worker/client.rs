//! HTTP/1.1 by hand: what a test sends is what goes over the wire.
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than anything takes that works.
const TIME_MAX: Duration = Duration::from_secs(60);

/// An answer, its body still to come.
pub(crate) struct Answer<S> {
    pub(crate) status: u16,
    /// Lines of the head, names in lower case.
    pub(crate) head: Vec<String>,
    reader: BufReader<S>,
    chunked: bool,
}

/// An event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: Value,
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIME_MAX)).unwrap();
    stream.set_write_timeout(Some(TIME_MAX)).unwrap();
    stream
}

/// Sends a request over `stream`. `head` are further lines, each with its end.
pub(crate) fn send<S: Read + Write>(
    mut stream: S,
    line: &str,
    head: &str,
    body: &str,
) -> Answer<S> {
    let length = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{head}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    receive(stream)
}

/// Reads an answer's head.
pub(crate) fn receive<S: Read>(stream: S) -> Answer<S> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the answer ends within its head");
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    let head: Vec<String> = lines
        .iter()
        .map(|line| match line.split_once(": ") {
            Some((name, value)) => format!("{}: {value}", name.to_ascii_lowercase()),
            None => line.clone(),
        })
        .collect();
    let chunked = head.iter().any(|line| line == "transfer-encoding: chunked");
    Answer { status, head, reader, chunked }
}

impl<S: Read> Answer<S> {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The next chunk of the body; None after the last.
    fn chunk(&mut self) -> Option<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut bytes = vec![0; length + 2];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes.truncate(length);
        (length > 0).then(|| String::from_utf8(bytes).unwrap())
    }

    pub(crate) fn text(mut self) -> String {
        let mut text = String::new();
        if self.chunked {
            while let Some(chunk) = self.chunk() {
                text.push_str(&chunk);
            }
        } else {
            self.reader.read_to_string(&mut text).unwrap();
        }
        text
    }

    pub(crate) fn json(self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next event; None at the end. Each leaves the server in a chunk of its own, comments too.
    pub(crate) fn event(&mut self) -> Option<Event> {
        loop {
            let chunk = self.chunk()?;
            let field = |name: &str| chunk.lines().find_map(|line| line.strip_prefix(name));
            if let (Some(name), Some(data)) = (field("event: "), field("data: ")) {
                let data = serde_json::from_str(data).unwrap();
                return Some(Event { name: name.to_owned(), data });
            }
        }
    }

    pub(crate) fn events(mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.event()).collect()
    }
}
