//! A global allocator that counts: bytes in use, the most that were in use, and the largest request.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: PeakAllocator = PeakAllocator;

/// Starts a measurement; returns the bytes in use.
pub(crate) fn start() -> usize {
    let held = HELD.load(Relaxed);
    PEAK.store(held, Relaxed);
    LARGEST.store(0, Relaxed);
    held
}

/// The most bytes in use since [`start`] beyond those in use then. If one request was larger, its
/// size.
pub(crate) fn peak_above(held_at_start: usize) -> usize {
    PEAK.load(Relaxed)
        .saturating_sub(held_at_start)
        .max(largest())
}

/// Bytes of the largest request since [`start`].
pub(crate) fn largest() -> usize {
    LARGEST.load(Relaxed)
}

struct PeakAllocator;

impl PeakAllocator {
    fn take(size: usize) {
        LARGEST.fetch_max(size, Relaxed);
        let held = HELD.fetch_add(size, Relaxed) + size;
        PEAK.fetch_max(held, Relaxed);
    }
}

// SAFETY: every request goes to the system's allocator unchanged; the counters are atomic.
unsafe impl GlobalAlloc for PeakAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::take(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(place, layout, size) }
    }
}
