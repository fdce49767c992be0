//! One client: a chat request, and its answer as a stream of events, each with the time at which it came.
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A server that says nothing for so long is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) asked: Instant,
    /// When each piece of text came: one per token, but for tokens that end within a character.
    pub(super) pieces: Vec<Instant>,
    pub(super) text: String,
    /// As the server counts them; 0 when the client left before the end.
    pub(super) prompt_tokens: u32,
    pub(super) answer_tokens: u32,
}

impl Answer {
    /// From the request to the first piece, in milliseconds.
    pub(super) fn first_ms(&self) -> f64 {
        self.pieces.first().map_or(f64::NAN, |first| ms(*first - self.asked))
    }

    /// Between one piece and the next, in milliseconds.
    pub(super) fn gaps_ms(&self) -> impl Iterator<Item = f64> {
        self.pieces.windows(2).map(|pair| ms(pair[1] - pair[0]))
    }
}

pub(super) fn ms(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

/// Asks and reads on while `stays` says so, which is told how many events have come.
pub(super) fn ask(
    address: SocketAddr,
    body: &Value,
    stays: impl Fn(usize) -> bool,
) -> Result<Answer> {
    let body = body.to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let asked = Instant::now();
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(SILENCE_MAX))?;
    socket.write_all(request.as_bytes())?;
    let mut reader = BufReader::new(socket);
    read_head(&mut reader)?;
    // Parsed when all is there: the time of an event should not hold the work of reading the one before.
    let mut events: Vec<(Instant, String)> = Vec::new();
    let mut text = Vec::new();
    while read_chunk(&mut reader, &mut text)? {
        let now = Instant::now();
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8(text.drain(..=end).collect())?;
            if let Some(event) = line.strip_prefix("data: ") {
                events.push((now, event.trim().to_owned()));
            }
        }
        if !stays(events.len()) {
            break;
        }
    }
    parse(asked, &events)
}

fn read_head(reader: &mut impl BufRead) -> Result<()> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "the connection ended within the head: {head}");
    }
    if head.starts_with("HTTP/1.1 200") {
        ensure!(head.to_lowercase().contains("transfer-encoding: chunked"), "no stream: {head}");
        return Ok(());
    }
    let mut rest = String::new();
    reader.read_to_string(&mut rest)?;
    bail!("{}\n{rest}", head.lines().next().unwrap_or_default())
}

/// Adds the next chunk to `text`; false after the last.
fn read_chunk(reader: &mut impl BufRead, text: &mut Vec<u8>) -> Result<bool> {
    let mut size = String::new();
    reader.read_line(&mut size)?;
    let size = usize::from_str_radix(size.trim(), 16)
        .with_context(|| format!("expected the size of a chunk, found {size:?}"))?;
    let begin = text.len();
    text.resize(begin + size, 0);
    reader.read_exact(&mut text[begin..])?;
    reader.read_exact(&mut [0; 2])?;
    Ok(size > 0)
}

fn parse(asked: Instant, events: &[(Instant, String)]) -> Result<Answer> {
    let mut answer = Answer {
        asked,
        pieces: Vec::new(),
        text: String::new(),
        prompt_tokens: 0,
        answer_tokens: 0,
    };
    for (time, event) in events.iter().filter(|(_, event)| event != "[DONE]") {
        let value: Value =
            serde_json::from_str(event).with_context(|| format!("a malformed event: {event}"))?;
        ensure!(value.get("error").is_none(), "an error within the stream: {event}");
        let piece = value["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        if !piece.is_empty() {
            answer.pieces.push(*time);
            answer.text += piece;
        }
        let count = |name: &str| value["usage"][name].as_u64().and_then(|n| u32::try_from(n).ok());
        answer.prompt_tokens = count("prompt_tokens").unwrap_or(answer.prompt_tokens);
        answer.answer_tokens = count("completion_tokens").unwrap_or(answer.answer_tokens);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_whatever_its_chunks() {
        // One event in two chunks, then three in one.
        let body = "data: {\"choices\":[{\"delta\":{\"con|tent\":\"A\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\" b\"}}]}\n\n\
             data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        let chunks: String =
            body.split('|').map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
        let mut server = std::io::Cursor::new(format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
        ));
        read_head(&mut server).unwrap();
        let mut text = Vec::new();
        while read_chunk(&mut server, &mut text).unwrap() {}
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, body.replace('|', ""));
        let now = Instant::now();
        let events: Vec<(Instant, String)> = text
            .lines()
            .filter_map(|line| Some((now, line.strip_prefix("data: ")?.to_owned())))
            .collect();
        let answer = parse(now, &events).unwrap();
        assert_eq!((answer.text.as_str(), answer.pieces.len()), ("A b", 2));
        assert_eq!((answer.prompt_tokens, answer.answer_tokens), (7, 2));
    }

    #[test]
    fn a_refusal_is_told_with_its_body() {
        let mut server = "HTTP/1.1 429 Too Many Requests\r\n\r\n{\"error\":\"busy\"}".as_bytes();
        let error = read_head(&mut server).unwrap_err().to_string();
        assert!(error.contains("429") && error.contains("busy"), "{error}");
    }
}
