//! A thread that publishes now and then.

use std::fmt;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

/// Publishes figures every so often, until it is dropped.
pub struct Reporter {
    /// Gone once it is to end.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}

impl Reporter {
    /// Calls `publish` at once, and again each time that so long has passed. What it has hold of, a store say, lives as long as this.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(every: Duration, mut publish: impl FnMut() + Send + 'static) -> std::io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        publish();
        let thread = std::thread::Builder::new().name("rescind-report".to_owned()).spawn(move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                publish();
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic was that of `publish`, and has been told.
            thread.join().ok();
        }
    }
}
