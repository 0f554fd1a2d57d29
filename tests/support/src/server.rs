//! A small HTTP server on loopback that replies as a test tells it, and records what it was asked.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A request that the server received.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    /// Method and path, for example `POST /v1/chat/completions`.
    pub line: String,
    /// The header `Authorization`.
    pub authorization: Option<String>,
    /// The JSON body. `Null` if there is none.
    pub body: Value,
    /// When it arrived.
    pub at: Instant,
}

impl HttpRequest {
    /// Returns whether this is the request for one token with which a connection begins.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.body["messages"][0]["content"] == "Say yes."
    }
}

/// A reply of the server.
pub struct HttpReply {
    /// The HTTP status.
    pub status: u16,
    /// The header `Retry-After`.
    pub retry_after: Option<&'static str>,
    /// The body.
    pub body: String,
    /// Time before the reply is sent.
    pub delay: Duration,
}

impl HttpReply {
    /// Returns a reply without delay.
    pub fn new(status: u16, body: impl ToString) -> Self {
        Self {
            status,
            retry_after: None,
            body: body.to_string(),
            delay: Duration::ZERO,
        }
    }

    /// Returns a whole completion.
    #[must_use]
    pub fn completion(text: &str) -> Self {
        Self::choice(
            json!({"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}),
        )
    }

    /// Returns a completion with all fields of its choice.
    #[must_use]
    pub fn choice(choice: Value) -> Self {
        Self::new(
            200,
            json!({"object": "chat.completion", "choices": [choice]}),
        )
    }
}

type Handler = dyn Fn(usize, &HttpRequest) -> HttpReply + Send + Sync;

/// The server. It stops when it is dropped.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<ServerState>,
    thread: Option<JoinHandle<()>>,
}

struct ServerState {
    handler: Box<Handler>,
    requests: Mutex<Vec<HttpRequest>>,
    turns: AtomicUsize,
    busy: AtomicUsize,
    busiest: AtomicUsize,
    closed: AtomicBool,
}

/// Starts a server that lists the model `m` and replies to the probe. Every other request is passed
/// to `turn`, with its number from 0.
pub fn friendly(turn: impl Fn(usize, &HttpRequest) -> HttpReply + Send + Sync + 'static) -> Server {
    Server::start(move |number, request| match request.line.as_str() {
        "GET /v1/models" => HttpReply::new(200, json!({"object": "list", "data": [{"id": "m"}]})),
        _ if request.is_probe() => HttpReply::completion("yes"),
        _ => turn(number, request),
    })
}

impl Server {
    /// Starts a server that passes every request to `handler`. Its number counts the requests that
    /// are neither a list of models nor a probe.
    pub fn start(
        handler: impl Fn(usize, &HttpRequest) -> HttpReply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ServerState {
            handler: Box::new(handler),
            requests: Mutex::default(),
            turns: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            busiest: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let serving = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.closed.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&serving);
                // If the client closes the connection early, the reply is lost.
                std::thread::spawn(move || state.serve(stream.unwrap()).ok());
            }
        });
        Self {
            address,
            state,
            thread: Some(thread),
        }
    }

    /// Returns the value for `--policy`: `openai:http://127.0.0.1:PORT/v1#m`.
    #[must_use]
    pub fn policy(&self) -> String {
        format!("openai:http://{}/v1#m", self.address)
    }

    /// Returns all requests so far.
    #[must_use]
    pub fn heard(&self) -> Vec<HttpRequest> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Returns the requests of turns, without the list of models and the probes.
    #[must_use]
    pub fn turns(&self) -> Vec<HttpRequest> {
        self.heard()
            .into_iter()
            .filter(|request| request.line.starts_with("POST") && !request.is_probe())
            .collect()
    }

    /// Returns the most requests that were served at the same time.
    #[must_use]
    pub fn busiest(&self) -> usize {
        self.state.busiest.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

impl ServerState {
    /// Serves one request per connection.
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let request = read_request(&stream)?;
        self.requests.lock().unwrap().push(request.clone());
        let is_turn = request.line.starts_with("POST") && !request.is_probe();
        let number = if is_turn {
            self.turns.fetch_add(1, Ordering::SeqCst)
        } else {
            0
        };
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.busiest.fetch_max(busy, Ordering::SeqCst);
        let reply = (self.handler)(number, &request);
        std::thread::sleep(reply.delay);
        self.busy.fetch_sub(1, Ordering::SeqCst);
        let wait = reply
            .retry_after
            .map(|seconds| format!("Retry-After: {seconds}\r\n"))
            .unwrap_or_default();
        let HttpReply { status, body, .. } = reply;
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status} So\r\nContent-Type: application/json\r\n{wait}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<HttpRequest> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut authorization = None;
    let mut length = 0;
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
    Ok(HttpRequest {
        line: first.trim_end().trim_end_matches(" HTTP/1.1").to_string(),
        authorization,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        at: Instant::now(),
    })
}
