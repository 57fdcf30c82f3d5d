//! Work in the background while a test does something else.

use std::sync::atomic::{AtomicBool, Ordering};

/// Repeats `again` in `threads` threads, numbered from 1, for as long as `work` takes; what was begun is done
/// when this returns.
pub fn meanwhile<T>(threads: u32, again: impl Fn(u32) + Sync, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 1..=threads {
            let (done, again) = (&done, &again);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    again(number);
                }
            });
        }
        let _ends = Ends(&done);
        work()
    })
}

/// Also when the work fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
