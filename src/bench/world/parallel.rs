//! A loop over indices on several threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `work` with every index below `count`, on `threads` threads. If a call fails, its thread
/// ends and the first error is returned after all threads have ended.
pub(super) fn for_each_index(
    count: usize,
    threads: usize,
    work: impl Fn(usize) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| take_indices(&next, count, &work)))
            .collect();
        handles.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

fn take_indices(
    next: &AtomicUsize,
    count: usize,
    work: &impl Fn(usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= count {
            return Ok(());
        }
        work(index)?;
    }
}
