//! The seam to the disk: a flat directory of named files.
//!
//! Everything durable goes through [`Storage`], so that the same journal runs on real files
//! ([`FileStorage`]) and on memory that loses power on command ([`MemoryStorage`]).
//!
//! What a backend promises, and no more:
//!
//! - bytes are durable once [`StorageFile::sync`] returned `Ok`; before that a crash may keep any subset
//!   of them;
//! - a name made, replaced or removed is durable once [`Storage::sync_directory`] returned `Ok`; syncing a
//!   file says nothing about its name;
//! - a sync that failed may have dropped the bytes it was asked for, and a later `Ok` does not bring them
//!   back: whoever sees the error must stop trusting that file.

use std::fmt::Debug;
use std::io;

mod file;
mod memory;

pub use file::{DirectoryError, FileStorage};
pub use memory::MemoryStorage;

pub(crate) use file::{open_regular, sync_parent};

/// The name of the lock file, which belongs to the backend and is never listed.
const LOCK: &str = "LOCK";

/// A directory of flat files.
///
/// Names are plain: not empty, not `.` or `..`, not `LOCK`, without `/`, `\` and NUL; others are refused
/// with [`io::ErrorKind::InvalidInput`].
pub trait Storage: Send + Sync + Debug {
    /// The names of all files, sorted.
    ///
    /// # Errors
    ///
    /// When the directory cannot be read. Nothing changed.
    fn list(&self) -> io::Result<Vec<String>>;

    /// A new, empty file, for reading and writing.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] when the name is taken; otherwise whatever the backend met.
    /// Nothing changed.
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// An existing file, for reading and writing. Several handles to one file may live at once.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] when there is none; an error too when the name is a symbolic link or
    /// anything but a regular file. Nothing changed.
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Gives `from` the name `to`, replacing in one step what was there.
    ///
    /// # Errors
    ///
    /// When `from` does not exist or the backend failed. The names are then as before.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Handles that are still open keep working.
    ///
    /// # Errors
    ///
    /// When the name does not exist or the backend failed. The name is then still there.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Whether it is still what whoever opens it now would find: a directory may be replaced by another of its name.
    ///
    /// # Errors
    ///
    /// When the backend failed.
    fn is_in_place(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// Makes every create, rename and remove so far durable.
    ///
    /// # Errors
    ///
    /// When the backend failed. Which of them are durable is then unknown.
    fn sync_directory(&self) -> io::Result<()>;
}

/// One open file of a [`Storage`].
#[expect(clippy::len_without_is_empty, reason = "a length on disk; asking whether a file is empty has no use here")]
pub trait StorageFile: Send + Sync + Debug {
    /// The length in bytes.
    ///
    /// # Errors
    ///
    /// When the backend failed. Nothing changed.
    fn len(&self) -> io::Result<u64>;

    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] when the file ends first; any other kind is a failed read and must
    /// not be taken for the end of the file. The file is unchanged, `buf` may be partly filled.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`, over short writes and interruptions; a gap reads as zeros.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WriteZero`] when the backend takes no more bytes; otherwise whatever it met. Any
    /// part of `bytes` may have been written.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file to `len` bytes, or extends it with zeros.
    ///
    /// # Errors
    ///
    /// When the backend failed. The length is then unknown.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// Makes everything written to the file so far durable, its length included.
    ///
    /// # Errors
    ///
    /// When the backend failed. The bytes may be lost although they still read back; do not call again in
    /// the hope of an `Ok`. [`io::ErrorKind::NotFound`] when the file's last name was removed: what is synced into it
    /// nobody will find.
    fn sync(&mut self) -> io::Result<()>;
}

/// The whole content of a file of at most `max` bytes.
///
/// # Errors
///
/// [`io::ErrorKind::FileTooLarge`] before anything is allocated, when the file is longer than `max`;
/// otherwise what the read met. Nothing changed.
pub fn read_all(file: &dyn StorageFile, max: u64) -> io::Result<Vec<u8>> {
    let len = file.len()?;
    if len > max {
        let message = format!("the file has {len} bytes, more than the {max} allowed");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut bytes = Vec::new();
    // `max` is the caller's, who may be generous: no memory is an error here, not an abort.
    bytes.try_reserve_exact(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    bytes.resize(len, 0);
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// The error of a sync of a file that nobody will find again.
fn unlinked() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the file has been removed from its directory")
}

/// Refuses names that would leave the directory, or touch the lock.
fn check_name(name: &str) -> io::Result<()> {
    let reserved = matches!(name, "" | "." | ".." | LOCK);
    if reserved || name.contains(['/', '\\', '\0']) {
        let message = format!("{name:?} is not a file name in a store: use a plain name without separators");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}
