//! The threads that talk to one store.
//!
//! A store that hangs keeps its own threads busy, and no others: further requests wait in a queue that has an end.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The number of requests to one store at a time.
const THREADS: usize = 8;

/// The number of requests that wait for a thread. A store that is further behind is asked nothing more.
const QUEUE: usize = 64;

type Work = Box<dyn FnOnce() + Send>;

/// The threads of one store, which begin with the first request and end with the value.
#[derive(Debug, Default)]
pub(super) struct Workers {
    queue: OnceLock<SyncSender<Work>>,
}

impl Workers {
    /// Hands work over. False if the queue is full; the work is not done then.
    pub fn take(&self, work: Work) -> bool {
        self.queue.get_or_init(start).try_send(work).is_ok()
    }
}

fn start() -> SyncSender<Work> {
    let (sender, receiver) = sync_channel(QUEUE);
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..THREADS {
        let receiver = Arc::clone(&receiver);
        std::thread::spawn(move || {
            while let Some(work) = next(&receiver) {
                work();
            }
        });
    }
    sender
}

fn next(receiver: &Mutex<Receiver<Work>>) -> Option<Work> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_store_that_hangs_is_asked_only_so_much() {
        let workers = Workers::default();
        let (release, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let (done, finished) = channel();
        let hang = || {
            let (gate, done) = (Arc::clone(&gate), done.clone());
            Box::new(move || {
                let _ = gate.lock().unwrap().recv();
                let _ = done.send(());
            })
        };
        let taken = (0..1000).filter(|_| workers.take(hang())).count();
        assert!((QUEUE..=QUEUE + THREADS).contains(&taken), "{taken}");
        drop(release);
        (0..taken).for_each(|_| finished.recv().unwrap());
        assert!(workers.take(hang()));
    }
}
