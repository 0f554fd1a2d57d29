//! Retries with exponential backoff, and the decision that a server is gone.

use super::failure::RequestFailure;
use super::options::RemoteOptions;
use rand::RngExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// Number of requests in a row that must fail, each after its last retry, before the server counts
/// as gone.
const MAX_FAILED_IN_A_ROW: usize = 8;

/// The longest delay before a retry, whatever a server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// The longest delay before a retry, if the server does not ask for one.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Repeats failed requests to one server. It is shared by all threads that send requests.
#[derive(Debug)]
pub(super) struct Retry {
    retries: usize,
    first_wait: Duration,
    /// Whether the server has ever replied with success.
    answered: AtomicBool,
    failed_in_a_row: AtomicUsize,
    gone: OnceLock<String>,
}

impl Retry {
    pub(super) fn new(options: &RemoteOptions) -> Self {
        Self {
            retries: options.retries,
            first_wait: options.first_wait,
            answered: AtomicBool::new(false),
            failed_in_a_row: AtomicUsize::new(0),
            gone: OnceLock::new(),
        }
    }

    /// Returns the reason if the server is gone.
    pub(super) fn gone(&self) -> Option<&String> {
        self.gone.get()
    }

    /// Repeats `attempt` while it fails for a reason that may pass. If the server is unreachable
    /// and has never replied, there is no retry: the URL is wrong, or the server was not started.
    /// If the server is gone, `attempt` is not called at all.
    pub(super) fn run<T>(
        &self,
        attempt: impl Fn() -> Result<T, RequestFailure>,
    ) -> Result<T, RequestFailure> {
        if let Some(reason) = self.gone.get() {
            return Err(RequestFailure::Unreachable(reason.clone()));
        }
        let mut tries = 0;
        loop {
            let failure = match attempt() {
                Err(failure) => failure,
                done => {
                    self.answered.store(true, Ordering::Relaxed);
                    self.failed_in_a_row.store(0, Ordering::Relaxed);
                    return done;
                }
            };
            let asked_wait = match &failure {
                RequestFailure::Transient { wait, .. } => *wait,
                RequestFailure::Unreachable(_) if self.answered.load(Ordering::Relaxed) => None,
                _ => return Err(self.give_up(failure)),
            };
            if tries == self.retries {
                return Err(self.give_up(failure));
            }
            std::thread::sleep(
                self.backoff(tries)
                    .max(asked_wait.unwrap_or_default())
                    .min(LONGEST_WAIT),
            );
            tries += 1;
        }
    }

    /// Returns an exponential delay, of which up to half is taken off at random, so that requests
    /// that failed together are not repeated together.
    fn backoff(&self, tries: usize) -> Duration {
        self.first_wait
            .saturating_mul(1 << tries.min(16))
            .min(LONGEST_BACKOFF)
            .mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Records a request that failed for good, and decides whether the server is gone.
    fn give_up(&self, failure: RequestFailure) -> RequestFailure {
        let is_gone = match &failure {
            RequestFailure::Unreachable(_)
            | RequestFailure::Refused {
                status: 401 | 403 | 404,
                ..
            } => self.answered.load(Ordering::Relaxed),
            RequestFailure::Transient { .. } => {
                self.failed_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_FAILED_IN_A_ROW
            }
            RequestFailure::Refused { .. } | RequestFailure::ContextFull => false,
        };
        if is_gone {
            // If another thread has recorded a reason before, that reason is kept.
            let _ = self.gone.set(failure.reason());
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn retry(retries: usize) -> Retry {
        Retry::new(&RemoteOptions {
            concurrency: 1,
            timeout: Duration::from_secs(1),
            retries,
            first_wait: Duration::ZERO,
            key: None,
            instructions: None,
            stop: Vec::new(),
        })
    }

    fn busy() -> RequestFailure {
        RequestFailure::transient("busy".into())
    }

    #[test]
    fn a_transient_failure_is_retried_and_a_refusal_is_not() {
        let attempts = Cell::new(0);
        let result = retry(2).run(|| {
            attempts.set(attempts.get() + 1);
            if attempts.get() < 3 {
                Err(busy())
            } else {
                Ok(7)
            }
        });
        assert_eq!((result.unwrap(), attempts.get()), (7, 3));
        attempts.set(0);
        let refused = retry(2).run::<()>(|| {
            attempts.set(attempts.get() + 1);
            Err(RequestFailure::Refused {
                status: 400,
                reason: "no".into(),
            })
        });
        assert_eq!(
            (refused.unwrap_err().reason(), attempts.get()),
            ("no".into(), 1)
        );
    }

    #[test]
    fn a_server_is_gone_after_eight_failed_requests_in_a_row() {
        let retry = retry(0);
        for _ in 0..7 {
            assert!(retry.run::<()>(|| Err(busy())).is_err());
        }
        assert!(retry.run(|| Ok(())).is_ok() && retry.gone().is_none());
        for count in 1..=8 {
            assert!(retry.run::<()>(|| Err(busy())).is_err());
            assert_eq!(retry.gone().is_some(), count == 8, "{count}");
        }
        assert_eq!(
            retry.run(|| Ok(())).unwrap_err().reason(),
            "busy",
            "no further request is sent"
        );
    }
}
