//! An HTTP server of a few lines: one request a connection, everything logged.
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Bytes of the body after which the connection is closed.
    sent_max: usize,
}

impl Reply {
    pub(super) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), sent_max: usize::MAX }
    }

    pub(super) fn ok(body: Vec<u8>) -> Self {
        Self { body, ..Self::status(200) }
    }

    /// The whole, or what `Range: bytes=N-` asks for.
    pub(super) fn range_of(request: &Request, mut body: Vec<u8>) -> Self {
        let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
        let Some(from) = range.and_then(|range| range.strip_suffix('-')) else {
            return Self::ok(body);
        };
        let (from, whole): (usize, usize) = (from.parse().unwrap(), body.len());
        if from >= whole {
            return Self::status(416);
        }
        body.drain(..from);
        let range = format!("bytes {from}-{}/{whole}", whole - 1);
        Self { status: 206, ..Self::ok(body) }.header("Content-Range", &range)
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    pub(super) fn cut_after(self, sent_max: usize) -> Self {
        Self { sent_max, ..self }
    }

    fn send(&self, head_only: bool, to: &mut TcpStream) -> std::io::Result<()> {
        write!(to, "HTTP/1.1 {} X\r\nConnection: close\r\n", self.status)?;
        write!(to, "Content-Length: {}\r\n", self.body.len())?;
        for (name, value) in &self.headers {
            write!(to, "{name}: {value}\r\n")?;
        }
        to.write_all(b"\r\n")?;
        if !head_only {
            to.write_all(&self.body[..self.body.len().min(self.sent_max)])?;
        }
        to.flush()
    }
}

pub(super) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(reply: impl Fn(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let closing = Arc::new(AtomicBool::new(false));
        let (log, ending) = (Arc::clone(&requests), Arc::clone(&closing));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ending.load(Ordering::Acquire) {
                    return;
                }
                let mut stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                log.lock().unwrap().push(request.clone());
                // A client that hangs up early is a case of its own.
                drop(reply(&request).send(request.method == "HEAD", &mut stream));
            }
        });
        Self { address, requests, closing, thread: Some(thread) }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The ranges of the requests for a file's bytes.
    pub(super) fn ranges(&self) -> Vec<String> {
        let requests = self.requests();
        let of_bytes = requests
            .iter()
            .filter(|request| request.method == "GET" && request.path.contains("/resolve/"));
        of_bytes.map(|request| request.header("range").unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Some(Request { method, path, headers })
}
