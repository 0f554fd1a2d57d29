//! Runs one input and checks that it neither panics, nor hangs, nor takes too much memory.

use crate::memory;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that an input may take in addition to eight times its own size.
const MEMORY: usize = 64 << 20;

/// Place and message of the panic of the current input.
static PANIC: Mutex<String> = Mutex::new(String::new());
/// When the current input began.
static SINCE: Mutex<Option<Instant>> = Mutex::new(None);
/// The memory counters are global, so trials run one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// What is wrong with how an input was read.
#[derive(Debug)]
pub(crate) struct TrialFailure {
    /// The place of a panic, `memory` or `time`.
    pub(crate) kind: String,
    pub(crate) details: String,
}

/// Waits until no other test runs trials.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    locked(&ALONE)
}

/// Runs `read` on files of `bytes` bytes; returns whether they were accepted.
pub(crate) fn attempt(
    bytes: usize,
    patience: Duration,
    read: impl FnOnce() -> bool + Send,
) -> Result<bool, TrialFailure> {
    let held = memory::start();
    let start = Instant::now();
    *locked(&SINCE) = Some(start);
    let result = std::thread::scope(|scope| {
        let input = std::thread::Builder::new()
            .name("input".into())
            .stack_size(2 << 20);
        input
            .spawn_scoped(scope, || {
                (read(), time_used().unwrap_or_else(|| start.elapsed()))
            })
            .unwrap()
            .join()
    });
    *locked(&SINCE) = None;
    let peak = memory::peak_above(held);
    let Ok((accepted, time)) = result else {
        let details = locked(&PANIC).clone();
        return Err(TrialFailure {
            kind: details.lines().next().unwrap_or("").to_string(),
            details,
        });
    };
    if peak > MEMORY + 8 * bytes {
        let largest = memory::largest();
        return Err(TrialFailure {
            kind: "memory".into(),
            details: format!("{peak} bytes ({largest} at once) for {bytes} bytes of files"),
        });
    }
    if time > patience {
        return Err(TrialFailure {
            kind: "time".into(),
            details: format!("{time:?}"),
        });
    }
    Ok(accepted)
}

/// Keeps the panics of inputs off the screen, and aborts if an input hangs.
pub(crate) fn watch(patience: Duration) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().name() != Some("input") {
            return usual(panic);
        }
        let place = panic
            .location()
            .map_or(String::new(), |at| format!("{}:{}", at.file(), at.line()));
        let message = panic.payload_as_str().unwrap_or("");
        *locked(&PANIC) = format!("panic at {place}\n{message:.2000}");
    }));
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            if locked(&SINCE).is_some_and(|since| since.elapsed() > 30 * patience) {
                eprintln!("an input hangs");
                std::process::abort();
            }
        }
    });
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Time that this thread was running, if the system reports it: on a busy machine, the wall clock
/// would also count the time of other processes.
fn time_used() -> Option<Duration> {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = statistics.split(' ').next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}
