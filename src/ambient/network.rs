//! Requests to services on the network, for callers that block.

use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;

use tokio::runtime::{Builder, Runtime};

use crate::error::{Context, Kind, Result};

/// Runs a request to its end on threads of its own, and blocks until it is answered. The caller may be a thread of
/// another runtime, as a store blocks there too.
///
/// # Errors
/// `Internal` if the threads cannot be started, or if the request panics.
pub fn answer<T: Send + 'static>(request: impl Future<Output = T> + Send + 'static) -> Result<T> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let start = || Builder::new_multi_thread().worker_threads(2).thread_name("network").enable_all().build();
    let runtime = RUNTIME.get_or_init(start);
    let runtime = runtime.as_ref().map_err(ToString::to_string);
    let runtime = runtime.context(Kind::Internal, || "cannot start threads for the network".into())?;
    let (sender, receiver) = sync_channel(1);
    runtime.spawn(async move { sender.send(request.await) });
    receiver.recv().context(Kind::Internal, || "a request panicked; please report this".into())
}
