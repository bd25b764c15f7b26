//! For stores that nobody has open: looking at one without changing it, and saving what is readable of a damaged one.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use crate::clock::Reading;
use crate::codec::{Ahead, Limits, Record};
use crate::denylist::Denylist;
use crate::journal::{
    Damage, FileError, FileSummary, Loaded, RecoveryError, RecoveryReport, SnapshotWriter, create_filled, inspect,
    survey,
};
use crate::storage::{DirectoryError, FileStorage, Storage};

use super::CopyError;
use super::snapshot::write_all;

/// What a store's directory was found to hold.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verification {
    /// What each file of the store holds.
    pub files: Vec<FileSummary>,
    /// What is not as it was written, also in files that opening the store would not read.
    pub damage: Vec<Damage>,
    /// Batches that were on disk once, and are not known to be there whole.
    pub missing_batches: Vec<RangeInclusive<u64>>,
    /// The length of the torn tail in bytes: the end of a log whose writer was interrupted. It was never acknowledged as
    /// durable, and is no damage.
    pub torn_tail_bytes: u64,
    /// What opening the store would say, were its key at hand.
    pub recovery: Result<RecoveryReport, RecoveryError>,
}

impl Verification {
    /// Whether everything is as it was written.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty() && self.missing_batches.is_empty() && self.recovery.is_ok()
    }
}

/// What was saved of a damaged store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SalvageReport {
    /// How many entries the new store has.
    pub entries: u64,
    /// How many records were read, in snapshots and in the log; of most entries there are several.
    pub records: u64,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// Batches that were on disk once, and of which something may be lost: whoever was revoked in one of them may be let
    /// in. If it is not known who that was, revoke everyone.
    pub missing_batches: Vec<RangeInclusive<u64>>,
    /// The length of the torn tail in bytes: see [`Verification::torn_tail_bytes`].
    pub torn_tail_bytes: u64,
    /// Whether the key was there. If not, the new store is opened with [`Options::key`](crate::Options::key), as the old one was, or not at all.
    pub has_key: bool,
}

/// A store was not looked at. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The directory cannot be used: it is not there, a process has it open, no permission.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The directory cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Nothing was saved. The damaged store has not changed; what was written so far is no store, and can be removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SalvageError {
    /// The damaged store cannot be read at all.
    #[error("the damaged store: {0}")]
    Source(#[from] VerifyError),
    /// No header tells whose files these are, so that nothing in them can be told from noise.
    #[error("no file in the directory has a readable header of a store: there is nothing to salvage")]
    NothingReadable,
    /// The new store could not be made.
    #[error("the new store: {0}")]
    Target(#[from] CopyError),
}

/// Reads every byte of the store in a directory, and says what is there and what is damaged. Nothing is changed, not even
/// a torn tail. No key is needed.
///
/// # Errors
/// See [`VerifyError`]. Damage is no error: see [`Verification::is_sound`].
pub fn verify(directory: impl AsRef<Path>) -> Result<Verification, VerifyError> {
    Ok(verify_on(&FileStorage::open_read_only(directory.as_ref())?)?)
}

/// The same of another storage.
///
/// # Errors
/// When the files cannot be listed, or the length of one cannot be read.
pub fn verify_on(storage: &dyn Storage) -> Result<Verification, FileError> {
    let found = survey(storage, &mut |_, _| {})?;
    let recovery = inspect(storage);
    Ok(Verification {
        files: found.files,
        damage: found.damage,
        missing_batches: found.missing,
        torn_tail_bytes: found.torn_tail_bytes,
        recovery,
    })
}

/// Makes a new store, in a directory that is empty or not there, of everything that can be read in a damaged one, before
/// the damage and after it. The damaged one is not changed.
///
/// What is in a record that can be read binds. What is lost is reported as [`SalvageReport::missing_batches`].
///
/// # Errors
/// See [`SalvageError`].
pub fn salvage(from: impl AsRef<Path>, into: impl AsRef<Path>) -> Result<SalvageReport, SalvageError> {
    let from = FileStorage::open_read_only(from.as_ref()).map_err(VerifyError::from)?;
    let into = FileStorage::open(into.as_ref()).map_err(CopyError::from)?;
    salvage_on(&from, Arc::new(into))
}

/// The same on other storages.
///
/// # Errors
/// See [`SalvageError`].
pub fn salvage_on(from: &dyn Storage, into: Arc<dyn Storage>) -> Result<SalvageReport, SalvageError> {
    let denylist = Denylist::new();
    let (mut limits, mut records) = ((0, Limits::default()), 0);
    let found = survey(from, &mut |batch, loaded| match loaded {
        Loaded::Rows(rows) => {
            records += rows.rows.len() as u64;
            denylist.load(rows);
        }
        Loaded::Record(record) => {
            records += 1;
            match record {
                Record::Entry(item) => denylist.join(item),
                // The latest are those by which entries were forgotten last.
                Record::Limits(latest) if batch >= limits.0 => limits = (batch, latest),
                Record::Limits(_) | Record::Ahead(_) => {}
            }
        }
    })
    .map_err(VerifyError::from)?;
    let identity = found.identity.ok_or(SalvageError::NothingReadable)?;
    let reading = found.last_reading.unwrap_or(Reading::default());
    let fill =
        |writer: &mut SnapshotWriter| Ok::<_, CopyError>(write_all(writer, &limits.1, Ahead::default(), &denylist)?);
    let (entries, _) = create_filled(&into, identity.key_id, found.key.as_ref(), reading, fill)?;
    Ok(SalvageReport {
        entries,
        records,
        damage: found.damage,
        missing_batches: found.missing,
        torn_tail_bytes: found.torn_tail_bytes,
        has_key: found.key.is_some(),
    })
}
