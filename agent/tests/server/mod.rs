//! A small HTTP server on loopback that answers as a test tells it, and remembers what it was asked: shared by tests of
//! several crates.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "every test takes what it needs, and may panic"
)]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A request.
#[derive(Debug, Clone)]
pub struct Heard {
    /// `POST /v1/chat/completions`, for instance.
    pub line: String,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// `Null` for a request without a body.
    pub body: Value,
    pub at: Instant,
}

/// An answer.
pub struct Said {
    pub status: u16,
    pub retry_after: Option<&'static str>,
    pub body: String,
    /// Before it is sent.
    pub delay: Duration,
}

impl Said {
    pub fn new(status: u16, body: impl ToString) -> Self {
        Self {
            status,
            retry_after: None,
            body: body.to_string(),
            delay: Duration::ZERO,
        }
    }

    /// A whole completion.
    pub fn completion(text: &str) -> Self {
        Self::choice(
            json!({"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}),
        )
    }

    /// A choice with all its fields.
    pub fn choice(choice: Value) -> Self {
        Self::new(
            200,
            json!({"object": "chat.completion", "choices": [choice]}),
        )
    }
}

/// The server; stops when dropped.
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

type Handler = dyn Fn(usize, &Heard) -> Said + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    heard: Mutex<Vec<Heard>>,
    turns: AtomicUsize,
    busy: AtomicUsize,
    busiest: AtomicUsize,
    closed: AtomicBool,
}

impl Heard {
    /// The question for one token with which a server is met.
    pub fn is_probe(&self) -> bool {
        self.body["messages"][0]["content"] == "Say yes."
    }
}

/// Lists the model `m`, answers the probe, and asks `turn` for the rest, with the number of the turn's request from 0.
pub fn friendly(turn: impl Fn(usize, &Heard) -> Said + Send + Sync + 'static) -> Server {
    Server::start(move |number, heard| match heard.line.as_str() {
        "GET /v1/models" => Said::new(200, json!({"object": "list", "data": [{"id": "m"}]})),
        _ if heard.is_probe() => Said::completion("yes"),
        _ => turn(number, heard),
    })
}

impl Server {
    /// Answers everything with `handler`, whose number counts the requests that are neither a list nor a probe.
    pub fn start(handler: impl Fn(usize, &Heard) -> Said + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            heard: Mutex::default(),
            turns: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            busiest: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.closed.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&serving);
                // Whoever hangs up early gets no answer.
                std::thread::spawn(move || shared.serve(stream.unwrap()).ok());
            }
        });
        Self {
            address,
            shared,
            thread: Some(thread),
        }
    }

    /// `openai:http://127.0.0.1:PORT/v1#m`
    pub fn policy(&self) -> String {
        format!("openai:http://{}/v1#m", self.address)
    }

    /// All requests so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.shared.heard.lock().unwrap().clone()
    }

    /// The requests of turns, without the first questions.
    pub fn turns(&self) -> Vec<Heard> {
        self.heard()
            .into_iter()
            .filter(|heard| heard.line.starts_with("POST") && !heard.is_probe())
            .collect()
    }

    /// The most requests that were answered at one time.
    pub fn busiest(&self) -> usize {
        self.shared.busiest.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

impl Shared {
    /// One request a connection.
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let heard = hear(&stream)?;
        self.heard.lock().unwrap().push(heard.clone());
        let is_turn = heard.line.starts_with("POST") && !heard.is_probe();
        let number = if is_turn {
            self.turns.fetch_add(1, Ordering::SeqCst)
        } else {
            0
        };
        self.busiest.fetch_max(
            self.busy.fetch_add(1, Ordering::SeqCst) + 1,
            Ordering::SeqCst,
        );
        let said = (self.handler)(number, &heard);
        std::thread::sleep(said.delay);
        self.busy.fetch_sub(1, Ordering::SeqCst);
        let wait = said
            .retry_after
            .map(|seconds| format!("Retry-After: {seconds}\r\n"))
            .unwrap_or_default();
        let Said { status, body, .. } = said;
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status} So\r\nContent-Type: application/json\r\n{wait}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    }
}

fn hear(stream: &TcpStream) -> std::io::Result<Heard> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut authorization, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match name.to_lowercase().as_str() {
            "authorization" => authorization = Some(value.to_string()),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let line = first.trim_end().trim_end_matches(" HTTP/1.1").to_string();
    Ok(Heard {
        line,
        authorization,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        at: Instant::now(),
    })
}
