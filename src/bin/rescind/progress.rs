//! A bar that moves as a store is read, on a terminal.

use std::io;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rescind::storage::{Storage, StorageFile};

use crate::output::Failure;

/// What is shorter is over before anybody has read a bar.
const BYTES_MIN: u64 = 32 * 1024 * 1024;

/// A bar of so many things, on standard error if that is a terminal.
pub(crate) fn bar(what: &'static str, count: u64) -> ProgressBar {
    styled(what, count, "{msg} [{bar:40}] {human_pos} of {human_len}, {eta} left")
}

fn styled(what: &'static str, length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.with_message(what)
}

/// A storage that moves a bar as it is read.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    storage: S,
    bar: ProgressBar,
}

#[derive(Debug)]
struct WatchedFile {
    file: Box<dyn StorageFile>,
    bar: ProgressBar,
}

impl<S: Storage> Watched<S> {
    /// Of a storage whose files are read so many times.
    pub(crate) fn new(storage: S, what: &'static str, times: u64) -> Result<Self, Failure> {
        let cannot = |error: io::Error| Failure::Cannot(format!("cannot list the directory: {error}"));
        let mut bytes = 0;
        for name in storage.list().map_err(cannot)? {
            // What cannot be opened is reported by whoever reads it.
            bytes += storage.open(&name).and_then(|file| file.len()).unwrap_or(0);
        }
        let bytes = bytes * times;
        let bar = match bytes {
            BYTES_MIN.. => styled(what, bytes, "{msg} [{bar:40}] {bytes} of {total_bytes}, {eta} left"),
            _ => ProgressBar::hidden(),
        };
        Ok(Self { storage, bar })
    }
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl<S: Storage> Storage for Watched<S> {
    fn list(&self) -> io::Result<Vec<String>> {
        self.storage.list()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        self.storage.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(WatchedFile { file: self.storage.open(name)?, bar: self.bar.clone() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.storage.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.storage.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.storage.sync_directory()
    }
}

impl StorageFile for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.bar.inc(buf.len() as u64);
        self.file.read_exact_at(buf, offset)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}
