//! A storage and a clock that let a test in, and a place at which another thread stops.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rescind::storage::{MemoryStorage, Storage, StorageFile};
use rescind::{Clock, ManualClock, Timestamp};

/// What is called at some point.
pub(crate) type Hook = Arc<dyn Fn() + Send + Sync>;

/// What may refuse to make a file.
type Refusal = Arc<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// A storage in memory that does as its disk does, but for what is asked of it.
#[derive(Clone)]
pub(crate) struct Hooked {
    disk: MemoryStorage,
    before_sync: Hook,
    before_create: Refusal,
    /// Alters what is written to a file.
    alter: fn(&str, &mut [u8]),
}

struct HookedFile {
    file: Box<dyn StorageFile>,
    name: String,
    hooks: Hooked,
}

impl Hooked {
    pub(crate) fn new(disk: &MemoryStorage) -> Self {
        Self { disk: disk.clone(), before_sync: Arc::new(|| ()), before_create: Arc::new(|_| Ok(())), alter: |_, _| () }
    }

    pub(crate) fn before_sync(self, hook: Hook) -> Self {
        Self { before_sync: hook, ..self }
    }

    pub(crate) fn before_create(self, hook: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { before_create: Arc::new(hook), ..self }
    }

    pub(crate) fn altering(self, alter: fn(&str, &mut [u8])) -> Self {
        Self { alter, ..self }
    }

    fn file(&self, name: &str, file: Box<dyn StorageFile>) -> Box<dyn StorageFile> {
        Box::new(HookedFile { file, name: name.to_owned(), hooks: self.clone() })
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl Storage for Hooked {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        (self.before_create)(name)?;
        Ok(self.file(name, self.disk.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        Ok(self.file(name, self.disk.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }
}

impl StorageFile for HookedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = bytes.to_vec();
        (self.hooks.alter)(&self.name, &mut bytes);
        self.file.write_all_at(&bytes, offset)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        (self.hooks.before_sync)();
        self.file.sync()
    }
}

/// A clock that lets a test in when the time since boot is asked for.
pub(crate) struct HookedClock(pub(crate) ManualClock, pub(crate) Hook);

impl fmt::Debug for HookedClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Clock for HookedClock {
    fn wall(&self) -> Timestamp {
        self.0.wall()
    }

    fn boot(&self) -> Duration {
        self.1();
        self.0.boot()
    }

    fn boot_id(&self) -> u64 {
        self.0.boot_id()
    }
}

/// A place at which another thread stops, once, from when it is armed until it may go on.
pub(crate) struct Stop {
    armed: Arc<AtomicBool>,
    entered: Receiver<()>,
    leave: Sender<()>,
}

/// A place to stop at, and what is to be called there.
pub(crate) fn stop() -> (Stop, Hook) {
    let armed = Arc::new(AtomicBool::new(false));
    let ((enter, entered), (leave, left)) = (channel(), channel());
    let (enter, left, is_armed) = (Mutex::new(enter), Mutex::new(left), Arc::clone(&armed));
    let hook = move || {
        if is_armed.swap(false, Ordering::Relaxed) {
            enter.lock().unwrap().send(()).unwrap();
            left.lock().unwrap().recv().unwrap();
        }
    };
    (Stop { armed, entered, leave }, Arc::new(hook))
}

impl Stop {
    /// Whoever comes there next stops.
    pub(crate) fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }

    /// Waits until somebody has stopped there.
    pub(crate) fn wait(&self) {
        self.entered.recv().unwrap();
    }

    /// Lets it go on.
    pub(crate) fn release(&self) {
        self.leave.send(()).unwrap();
    }
}
