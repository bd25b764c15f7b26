//! Real files in one directory that this process holds alone.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{LOCK, Storage, StorageFile, check_name};

/// A pid and a newline fit easily; a foreign LOCK file may hold anything.
const LOCK_LEN_MAX: u64 = 32;

/// Why a directory cannot hold the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The path is a symbolic link.
    #[error("{} is a symbolic link: give the path of the directory itself", path.display())]
    Symlink {
        /// The path as given.
        path: PathBuf,
    },
    /// The path is something other than a directory.
    #[error("{} is not a directory: remove it or choose another path", path.display())]
    NotADirectory {
        /// The path as given.
        path: PathBuf,
    },
    /// The directory belongs to someone else, who could replace its files.
    #[error(
        "{} belongs to user id {owner}, but this process runs as {user}: change its owner or choose another path",
        path.display()
    )]
    ForeignOwner {
        /// The path as given.
        path: PathBuf,
        /// The user id of the directory's owner.
        owner: u32,
        /// The effective user id of this process.
        user: u32,
    },
    /// Users other than the owner may write into the directory.
    #[error("{} has mode {mode:04o}, so others may write into it: run `chmod 700` on it", path.display())]
    WritableByOthers {
        /// The path as given.
        path: PathBuf,
        /// The permission bits.
        mode: u32,
    },
    /// The process may not create, read or lock the directory.
    #[error("no permission for {}: let the user of this process own it and its parent", path.display())]
    PermissionDenied {
        /// The directory, or the file in it.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// Another handle, usually in another process, has the store open.
    #[error("{} is in use by {}: stop it first, or choose another path", path.display(), holder(*pid))]
    InUse {
        /// The path as given.
        path: PathBuf,
        /// The process that holds the lock, when it could be read.
        pid: Option<u32>,
    },
    /// Any other failure.
    #[error("cannot use {} as a store directory", path.display())]
    Io {
        /// The directory, or the file in it.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl DirectoryError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { path, source },
            _ => Self::Io { path, source },
        }
    }
}

/// Files in one directory, locked against every other process while this value lives.
///
/// The directory must belong to the effective user and be writable by nobody else; files are made with
/// mode 0600, and neither symbolic links nor anything but regular files are opened. Its *parents* are
/// trusted: who may rename the directory itself may replace the store.
#[derive(Debug)]
pub struct FileStorage {
    path: PathBuf,
    #[cfg_attr(not(unix), expect(dead_code, reason = "directories cannot be synced there"))]
    directory: Option<File>,
    _lock: Lock,
}

/// The lock file, held for its lock alone, which the system drops with the process, however that ends.
#[derive(Debug)]
struct Lock(File);

impl Lock {
    fn write_pid(&mut self) -> io::Result<()> {
        self.0.set_len(0)?;
        writeln!(self.0, "{}", std::process::id())
    }
}

impl Drop for Lock {
    /// Closing alone would keep the directory locked while a child process, forked a moment ago by another
    /// thread, still has the handle. There is nobody to tell of an error, and closing follows.
    fn drop(&mut self) {
        self.0.unlock().ok();
    }
}

impl FileStorage {
    /// The store's directory, made with mode 0700 when missing, checked and locked.
    ///
    /// # Errors
    ///
    /// One variant for each way a directory is unfit. At most the directory and its `LOCK` file were made;
    /// no file of the store was read or changed.
    pub fn open(dir: &Path) -> Result<Self, DirectoryError> {
        // `link/` names what the link points to, so without this a trailing slash would hide a link.
        let path: PathBuf = dir.components().collect();
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => return Err(DirectoryError::Symlink { path }),
            Ok(metadata) if !metadata.is_dir() => return Err(DirectoryError::NotADirectory { path }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_directory(&path).map_err(DirectoryError::io(&path))?;
            }
            Err(error) => return Err(DirectoryError::io(&path)(error)),
        }
        let directory = platform::open_directory(&path).map_err(DirectoryError::io(&path))?;
        if let Some(directory) = &directory {
            platform::check_directory(&path, directory)?;
        }
        let lock = lock(&path)?;
        Ok(Self { path, directory, _lock: lock })
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(self.path.join(name))
    }
}

/// Makes the directory and its missing parents, and their names durable: a store whose directory vanishes
/// in a power cut has lost everything it acknowledged.
fn create_directory(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|p| !p.as_os_str().is_empty() && fs::symlink_metadata(p).is_err()).collect();
    platform::directory_builder().recursive(true).create(path)?;
    missing.into_iter().try_for_each(sync_parent)
}

fn lock(directory: &Path) -> Result<Lock, DirectoryError> {
    let path = directory.join(LOCK);
    let file = open_regular(OpenOptions::new().read(true).write(true).create(true).truncate(false), &path)
        .map_err(DirectoryError::io(&path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(DirectoryError::InUse { path: directory.to_path_buf(), pid: read_pid(&file) });
        }
        Err(TryLockError::Error(error)) => return Err(DirectoryError::io(&path)(error)),
    }
    let mut lock = Lock(file);
    lock.write_pid().map_err(DirectoryError::io(&path))?;
    Ok(lock)
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(LOCK_LEN_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// A regular file, mode 0600 if made: never through a symbolic link, never waiting on a FIFO.
pub(crate) fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = platform::guard(options).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    let message = format!("{} is not a regular file: remove it", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Makes the name of `path` durable in its directory.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    platform::sync_directory(parent)
}

impl Storage for FileStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 cannot be one of ours, and could not be asked for either.
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let path = self.file(name)?;
        let file = open_regular(OpenOptions::new().read(true).write(true).create_new(true), &path)?;
        Ok(Box::new(OpenFile { file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        let path = self.file(name)?;
        let file = open_regular(OpenOptions::new().read(true).write(true), &path)?;
        Ok(Box::new(OpenFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.file(from)?, self.file(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.file(name)?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        #[cfg(unix)]
        if let Some(directory) = &self.directory {
            directory.sync_all()?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct OpenFile {
    file: File,
}

impl StorageFile for OpenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        platform::read_exact_at(&self.file, buf, offset)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        platform::write_all_at(&self.file, bytes, offset)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(unix)]
mod platform {
    use std::fs::{DirBuilder, File, OpenOptions};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
    use std::path::Path;

    use rustix::fs::OFlags;

    use super::DirectoryError;

    pub(super) fn directory_builder() -> DirBuilder {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder
    }

    pub(super) fn open_directory(path: &Path) -> io::Result<Option<File>> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).map(Some)
    }

    /// Asks the open handle, not the path, so that nobody can swap the directory in between.
    pub(super) fn check_directory(path: &Path, directory: &File) -> Result<(), DirectoryError> {
        let metadata = directory.metadata().map_err(DirectoryError::io(path))?;
        let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
        if owner != user {
            return Err(DirectoryError::ForeignOwner { path: path.to_path_buf(), owner, user });
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(DirectoryError::WritableByOthers { path: path.to_path_buf(), mode });
        }
        Ok(())
    }

    pub(super) fn guard(options: &mut OpenOptions) -> &mut OpenOptions {
        options.mode(0o600).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
    }

    pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    pub(super) fn read_exact_at(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
        file.read_exact_at(buf, offset)
    }

    // The standard method goes on after short writes and EINTR, and turns `Ok(0)` into `WriteZero`.
    pub(super) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }
}

/// Elsewhere there are no owners, modes and directory handles to check, and files have a cursor.
#[cfg(not(unix))]
mod platform {
    use std::fs::{DirBuilder, File, OpenOptions};
    use std::io::{self, Read, Seek, SeekFrom, Write};
    use std::path::Path;

    use super::DirectoryError;

    pub(super) fn directory_builder() -> DirBuilder {
        DirBuilder::new()
    }

    pub(super) fn open_directory(_: &Path) -> io::Result<Option<File>> {
        Ok(None)
    }

    pub(super) fn check_directory(_: &Path, _: &File) -> Result<(), DirectoryError> {
        Ok(())
    }

    pub(super) fn guard(options: &mut OpenOptions) -> &mut OpenOptions {
        options
    }

    pub(super) fn sync_directory(_: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn read_exact_at(mut file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(buf)
    }

    pub(super) fn write_all_at(mut file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }
}
