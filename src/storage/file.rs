//! Real files in one directory that this process holds alone.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{LOCK, Storage, StorageFile, check_name, unlinked};
use platform::Directory;

/// A pid and a newline fit easily; a foreign LOCK file may hold anything.
const LOCK_LEN_MAX: u64 = 32;

/// Why a directory cannot hold the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// There is no directory, and none is to be made.
    #[error("{} does not exist: check the path, and that its volume is mounted", path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
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

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    /// For writing, and made if there is none.
    Create,
    /// For writing, and made; an error if there is one.
    CreateNew,
}

/// Files in one directory, locked against every other process while this value lives.
///
/// The directory must belong to the effective user and be writable by nobody else; files are made with
/// mode 0600, and neither symbolic links nor anything but regular files are opened. Its *parents* are
/// trusted: who may rename the directory itself may replace the store. A directory that is renamed while it is
/// open stays the one that is used, wherever it is then.
#[derive(Debug)]
pub struct FileStorage {
    path: PathBuf,
    directory: Directory,
    is_read_only: bool,
    /// None where nothing is written, and nobody ever did.
    _lock: Option<Lock>,
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
        match Self::open_existing(dir) {
            Err(DirectoryError::Missing { path }) => {
                create_directory(&path).map_err(DirectoryError::io(&path))?;
                Self::open_existing(&path)
            }
            result => result,
        }
    }

    /// The same, except that the directory is not made.
    ///
    /// # Errors
    ///
    /// As [`FileStorage::open`], and [`DirectoryError::Missing`].
    pub fn open_existing(dir: &Path) -> Result<Self, DirectoryError> {
        let (path, directory) = find(dir)?;
        let file = directory.open(LOCK, Access::Create).map_err(DirectoryError::io(&path.join(LOCK)))?;
        let mut lock = locked(file, &path, File::try_lock)?;
        lock.write_pid().map_err(DirectoryError::io(&path.join(LOCK)))?;
        Ok(Self { path, directory, is_read_only: false, _lock: Some(lock) })
    }

    /// The directory of a store that no process has open, to be looked at. Nothing in it is changed: whatever would
    /// change something fails with [`io::ErrorKind::ReadOnlyFilesystem`]. Several may look at once; meanwhile no
    /// process can open the store.
    ///
    /// # Errors
    ///
    /// As [`FileStorage::open_existing`]. Nothing was changed.
    pub fn open_read_only(dir: &Path) -> Result<Self, DirectoryError> {
        let (path, directory) = find(dir)?;
        let lock = match directory.open(LOCK, Access::Read) {
            Ok(file) => Some(locked(file, &path, File::try_lock_shared)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(DirectoryError::io(&path.join(LOCK))(error)),
        };
        Ok(Self { path, directory, is_read_only: true, _lock: lock })
    }

    /// The directory of a store that another process may have open, to be read along. Nothing in it is changed, and no lock
    /// is taken.
    ///
    /// # Errors
    ///
    /// As [`FileStorage::open_existing`], except that it does not matter whether it is in use. Nothing was changed.
    pub fn open_beside(dir: &Path) -> Result<Self, DirectoryError> {
        let (path, directory) = find(dir)?;
        Ok(Self { path, directory, is_read_only: true, _lock: None })
    }

    /// The directory's path, as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory, if it may be changed.
    fn writable(&self) -> io::Result<&Directory> {
        if self.is_read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(&self.directory) }
    }
}

/// The directory at a path, opened and checked.
fn find(dir: &Path) -> Result<(PathBuf, Directory), DirectoryError> {
    // `link/` names what the link points to, so without this a trailing slash would hide a link.
    let path: PathBuf = dir.components().collect();
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_symlink() => return Err(DirectoryError::Symlink { path }),
        Ok(metadata) if !metadata.is_dir() => return Err(DirectoryError::NotADirectory { path }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(DirectoryError::Missing { path }),
        Err(error) => return Err(DirectoryError::io(&path)(error)),
    }
    let directory = Directory::at(&path).map_err(DirectoryError::io(&path))?;
    directory.check(&path)?;
    Ok((path, directory))
}

/// Makes the directory and its missing parents, and their names durable: a store whose directory vanishes
/// in a power cut has lost everything it acknowledged.
fn create_directory(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|p| !p.as_os_str().is_empty() && fs::symlink_metadata(p).is_err()).collect();
    platform::directory_builder().recursive(true).create(path)?;
    missing.into_iter().try_for_each(sync_parent)
}

fn locked(
    file: File,
    directory: &Path,
    try_lock: impl FnOnce(&File) -> Result<(), TryLockError>,
) -> Result<Lock, DirectoryError> {
    match try_lock(&file) {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => {
            Err(DirectoryError::InUse { path: directory.to_path_buf(), pid: read_pid(&file) })
        }
        Err(TryLockError::Error(error)) => Err(DirectoryError::io(&directory.join(LOCK))(error)),
    }
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(LOCK_LEN_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// A regular file, mode 0600 if made: never through a symbolic link, never waiting on a FIFO.
pub(crate) fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    regular(platform::guard(options).open(path)?, path)
}

fn regular(file: File, path: &Path) -> io::Result<File> {
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
        let mut names = self.directory.list()?;
        names.retain(|name| name != LOCK);
        names.sort();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        check_name(name)?;
        let file = self.writable()?.open(name, Access::CreateNew)?;
        Ok(Box::new(OpenFile { file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        check_name(name)?;
        let file = self.directory.open(name, if self.is_read_only { Access::Read } else { Access::Write })?;
        Ok(Box::new(OpenFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        self.writable()?.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.writable()?.remove(name)
    }

    fn is_in_place(&self) -> io::Result<bool> {
        self.directory.is_at(&self.path)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.writable()?.sync()
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
        self.file.sync_data()?;
        if platform::is_unlinked(&self.file)? { Err(unlinked()) } else { Ok(()) }
    }
}

#[cfg(unix)]
mod platform {
    use std::fs::{DirBuilder, File, OpenOptions};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
    use std::path::Path;

    use rustix::fs::{AtFlags, Dir, Mode, OFlags};

    use super::{Access, DirectoryError, regular};

    /// Never through a symbolic link, never waiting on a FIFO.
    const GUARD: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

    pub(super) fn directory_builder() -> DirBuilder {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder
    }

    /// A directory by its handle, so that every file is looked for in this one, whatever becomes of its path.
    #[derive(Debug)]
    pub(super) struct Directory(File);

    impl Directory {
        pub(super) fn at(path: &Path) -> io::Result<Self> {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
            OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).map(Self)
        }

        pub(super) fn check(&self, path: &Path) -> Result<(), DirectoryError> {
            let metadata = self.0.metadata().map_err(DirectoryError::io(path))?;
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

        pub(super) fn open(&self, name: &str, access: Access) -> io::Result<File> {
            let flags = match access {
                Access::Read => OFlags::RDONLY,
                Access::Write => OFlags::RDWR,
                Access::Create => OFlags::RDWR | OFlags::CREATE,
                Access::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            };
            let file = rustix::fs::openat(&self.0, name, flags | GUARD, Mode::RUSR | Mode::WUSR)?;
            regular(file.into(), Path::new(name))
        }

        pub(super) fn list(&self) -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in Dir::read_from(&self.0)? {
                // A name that is not UTF-8 cannot be one of ours, and could not be asked for either.
                if let Ok(name) = entry?.file_name().to_str()
                    && !matches!(name, "." | "..")
                {
                    names.push(name.to_owned());
                }
            }
            Ok(names)
        }

        pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
            let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
            match std::fs::symlink_metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                found => Ok(place(found?) == place(self.0.metadata()?)),
            }
        }

        pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
        }

        pub(super) fn remove(&self, name: &str) -> io::Result<()> {
            Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
        }

        pub(super) fn sync(&self) -> io::Result<()> {
            self.0.sync_all()
        }
    }

    pub(super) fn guard(options: &mut OpenOptions) -> &mut OpenOptions {
        options.mode(0o600).custom_flags(GUARD.bits().cast_signed())
    }

    pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    pub(super) fn is_unlinked(file: &File) -> io::Result<bool> {
        Ok(file.metadata()?.nlink() == 0)
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
    use std::fs::{self, DirBuilder, File, OpenOptions};
    use std::io::{self, Read, Seek, SeekFrom, Write};
    use std::path::{Path, PathBuf};

    use super::{Access, DirectoryError, regular};

    pub(super) fn directory_builder() -> DirBuilder {
        DirBuilder::new()
    }

    /// A directory by its path.
    #[derive(Debug)]
    pub(super) struct Directory(PathBuf);

    impl Directory {
        pub(super) fn at(path: &Path) -> io::Result<Self> {
            Ok(Self(path.to_owned()))
        }

        pub(super) fn check(&self, _: &Path) -> Result<(), DirectoryError> {
            Ok(())
        }

        pub(super) fn open(&self, name: &str, access: Access) -> io::Result<File> {
            let mut options = OpenOptions::new();
            options.read(true).write(access != Access::Read);
            options.create(access == Access::Create).create_new(access == Access::CreateNew);
            let path = self.0.join(name);
            regular(options.open(&path)?, &path)
        }

        pub(super) fn list(&self) -> io::Result<Vec<String>> {
            let names = fs::read_dir(&self.0)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
            names.filter_map(io::Result::transpose).collect()
        }

        pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
            path.try_exists()
        }

        pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            fs::rename(self.0.join(from), self.0.join(to))
        }

        pub(super) fn remove(&self, name: &str) -> io::Result<()> {
            fs::remove_file(self.0.join(name))
        }

        pub(super) fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(super) fn guard(options: &mut OpenOptions) -> &mut OpenOptions {
        options
    }

    pub(super) fn sync_directory(_: &Path) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn is_unlinked(_: &File) -> io::Result<bool> {
        Ok(false)
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
