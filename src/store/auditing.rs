//! The thread that hands audit records to the sinks, so that a slow or failing sink holds up no denial.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::audit::{AuditRecord, AuditSink};
use crate::sync::channel::{Receiver, Sender, bounded};
use crate::sync::thread::{self, JoinHandle};

use super::Shared;

/// How many records may wait. Beyond that they are counted as failures and dropped.
const QUEUE_MAX: usize = 64 * 1024;

/// The way to the sinks.
#[derive(Clone, Debug)]
pub(super) struct AuditQueue {
    shared: Arc<Shared>,
    sender: Sender<AuditRecord>,
}

impl AuditQueue {
    /// Never waits.
    pub(super) fn push(&self, record: AuditRecord) {
        if self.sender.try_send(record).is_err() {
            self.shared.counters.audit_failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Starts the thread. It ends, with everything flushed, when the last queue is dropped.
pub(super) fn start(
    shared: Arc<Shared>,
    sinks: Vec<Arc<dyn AuditSink>>,
) -> std::io::Result<(AuditQueue, JoinHandle<()>)> {
    let (sender, receiver) = bounded(QUEUE_MAX);
    let queue = AuditQueue { shared: Arc::clone(&shared), sender };
    let thread = thread::Builder::new().name("rescind-audit".into()).spawn(move || run(&shared, &sinks, &receiver))?;
    Ok((queue, thread))
}

fn run(shared: &Shared, sinks: &[Arc<dyn AuditSink>], records: &Receiver<AuditRecord>) {
    let count = |failed: bool| shared.counters.audit_failures.fetch_add(u64::from(failed), Ordering::Relaxed);
    for record in records.iter() {
        for sink in sinks {
            count(sink.record(&record).is_err());
        }
        if records.is_empty() {
            for sink in sinks {
                count(sink.flush().is_err());
            }
        }
    }
}
