//! A store at work: rotations and snapshots, batches, flags, lifts and maintenance; and what it was told of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rescind::storage::MemoryStorage;
use rescind::{
    Credential, Durability, Effect, Key, ManualClock, OpenError, Options, Receipt, Revocation, SnapshotError, Store,
    Subject, Timestamp, Verdict, WriteError,
};

use crate::harness::{Outcome, holds, lost};

pub(crate) const START_SECS: u64 = 1_700_000_000;
/// The smallest that there is.
pub(crate) const SEGMENT_BYTES: u64 = 4096;

pub(crate) fn options() -> Options {
    Options::new()
        .key(Key::from_bytes([7; 32]))
        .clock(ManualClock::at(Timestamp::from_secs(START_SECS)))
        .background(false)
        .retain_labels(true)
        .segment_bytes(SEGMENT_BYTES)
}

pub(crate) fn open(disk: &MemoryStorage) -> Result<Store, OpenError> {
    options().open_on(Arc::new(disk.clone()))
}

/// Opens what must open.
pub(crate) fn reopen(disk: &MemoryStorage) -> Result<Store, crate::harness::Failure> {
    open(disk).map_err(|error| crate::harness::Failure::Lost(format!("it does not open: {error}")))
}

pub(crate) fn revoke(store: &Store, token: &str) -> Result<Receipt, WriteError> {
    store.revoke(Revocation::of(Subject::token(token)))
}

pub(crate) fn is_denied(store: &Store, token: &str) -> bool {
    matches!(store.check(&Credential::new().token(token)), Verdict::Revoked(_))
}

fn session_is_denied(store: &Store, session: &str) -> bool {
    matches!(store.check(&Credential::new().session(session)), Verdict::Revoked(_))
}

pub(crate) fn is_disabled(store: &Store, user: &str) -> bool {
    let fresh = Credential::new().user(user).issued_at_secs(START_SECS + 9).auth_time_secs(START_SECS + 9);
    matches!(store.check(&fresh), Verdict::Revoked(denial) if denial.effect == Effect::Disabled)
}

/// What a workload was told.
#[derive(Clone, Default)]
pub(crate) struct Told {
    /// Tokens that were acknowledged, in their order.
    pub(crate) revoked: Vec<String>,
    /// Tokens that are denied in memory, and were not acknowledged.
    refused: Vec<String>,
    /// Sessions revoked together: each either acknowledged or not.
    batches: Vec<(String, bool)>,
    /// Whether users are disabled, and tokens revoked that are lifted now and then; none where that is not known.
    disabled: BTreeMap<String, Option<bool>>,
    lifted: BTreeMap<String, Option<bool>>,
    /// How many of `revoked` came before the last snapshot that was taken.
    pub(crate) snapshotted: usize,
    /// Whether the store says that everything that it denies is on disk.
    saved: bool,
}

/// The sessions of a batch that are looked at.
const BATCH: usize = 3;
/// The sessions of a batch that needs a segment larger than all others.
const LARGE_BATCH: usize = 90;
const STEPS: usize = 96;

/// Notes what is known of a fact after a change of it.
fn note<T>(known: &mut BTreeMap<String, Option<bool>>, id: String, value: bool, result: &Result<T, WriteError>) {
    let known = known.entry(id).or_insert(Some(!value));
    *known = if result.is_ok() { Some(value) } else { known.filter(|known| *known == value) };
}

/// Does everything, one after another, until an error if `until_error`.
fn work(store: &Store, told: &mut Told, until_error: bool) -> Outcome {
    let mut is_poisoned = false;
    for step in 0..STEPS {
        let what = |what: &str| format!("step {step}: {what}");
        let user = format!("user-{}", step % 3);
        let result = match step % 12 {
            3 => {
                let batch = format!("batch-{step}");
                let size = if step % 48 == 15 { LARGE_BATCH } else { BATCH };
                let members = (0..size).map(|index| Revocation::of(Subject::session(format!("{batch}-{index}"))));
                let result = store.revoke_many(members);
                let denied = (0..BATCH).all(|index| session_is_denied(store, &format!("{batch}-{index}")));
                holds(denied, || what("a batch is not denied at once"))?;
                told.batches.push((batch, result.is_ok()));
                result
            }
            5 | 6 => {
                let result = store.disable(Subject::user(&*user));
                holds(is_disabled(store, &user), || what("a disabled user is not denied at once"))?;
                note(&mut told.disabled, user, true, &result);
                result
            }
            8 => {
                let was_disabled = is_disabled(store, &user);
                let result = store.enable(Subject::user(&*user));
                let undone = result.is_err() && is_disabled(store, &user) != was_disabled;
                holds(!undone, || what("something is undone that is not logged"))?;
                note(&mut told.disabled, user, false, &result);
                result
            }
            9 => {
                let token = format!("lifted-{}", step % 5);
                let result = revoke(store, &token);
                note(&mut told.lifted, token.clone(), true, &result);
                if result.is_ok() && step % 24 == 9 {
                    let result = store.lift(Subject::token(&*token));
                    holds(result.is_ok() || is_denied(store, &token), || what("a lift that is not logged"))?;
                    note(&mut told.lifted, token, false, &result);
                    result
                } else {
                    result
                }
            }
            7 if step % 24 == 19 => {
                // It heals, and takes a snapshot, if something has failed.
                match store.maintain().snapshot {
                    Some(Ok(_)) => {
                        told.snapshot(store);
                        is_poisoned = false;
                        continue;
                    }
                    Some(Err(SnapshotError::Poisoned { error, .. } | SnapshotError::File(error))) => {
                        Err(WriteError::NotDurable(error))
                    }
                    Some(Err(error)) => return lost(what(&error.to_string())),
                    None => continue,
                }
            }
            11 if step % 24 == 11 => match store.snapshot() {
                Ok(_) => {
                    told.snapshot(store);
                    is_poisoned = false;
                    continue;
                }
                Err(SnapshotError::Poisoned { error, .. } | SnapshotError::File(error)) => {
                    Err(WriteError::NotDurable(error))
                }
                Err(error) => return lost(what(&error.to_string())),
            },
            _ => {
                let token = format!("token-{step}");
                let result = revoke(store, &token);
                holds(is_denied(store, &token), || what("a token is not denied at once"))?;
                if result.is_ok() {
                    told.revoked.push(token)
                } else {
                    told.refused.push(token)
                }
                result
            }
        };
        match result {
            // What changes nothing has nothing to write.
            Ok(receipt) if is_poisoned && receipt.changed > 0 => {
                return lost(what("acknowledged after a failed sync, and nothing was healed"));
            }
            Ok(_) => {}
            Err(WriteError::NotDurable(_)) if until_error => return Ok(()),
            Err(WriteError::NotDurable(_)) => is_poisoned = store.stats().write_error.is_some(),
            Err(error) => return lost(what(&error.to_string())),
        }
    }
    told.saved = store.close().is_ok();
    Ok(())
}

impl Told {
    /// What is in memory is on disk from here on, and nothing else.
    fn snapshot(&mut self, store: &Store) {
        self.snapshotted = self.revoked.len();
        for (user, known) in &mut self.disabled {
            *known = Some(is_disabled(store, user));
        }
        for (token, known) in &mut self.lifted {
            *known = Some(is_denied(store, token));
        }
    }

    /// Fails if anything acknowledged is forgotten, or half of anything else is there.
    pub(crate) fn check(&self, store: &Store) -> Outcome {
        for token in &self.revoked {
            holds(is_denied(store, token), || format!("{token} was acknowledged, and is forgotten"))?;
        }
        for token in self.refused.iter().filter(|_| self.saved) {
            holds(is_denied(store, token), || format!("{token} was saved in the end, and is forgotten"))?;
        }
        self.check_batches(store, true)?;
        for (user, disabled) in &self.disabled {
            let agrees = disabled.is_none_or(|disabled| disabled == is_disabled(store, user));
            holds(agrees, || format!("{user} was acknowledged as disabled: {disabled:?}"))?;
        }
        for (token, revoked) in &self.lifted {
            let agrees = revoked.is_none_or(|revoked| revoked == is_denied(store, token));
            holds(agrees, || format!("{token} was acknowledged as revoked: {revoked:?}"))?;
        }
        Ok(())
    }

    /// Fails if half of a batch is there, or nothing of one that must be.
    pub(crate) fn check_batches(&self, store: &Store, acknowledged_are_there: bool) -> Outcome {
        for (batch, acknowledged) in &self.batches {
            let there = (0..BATCH).filter(|index| session_is_denied(store, &format!("{batch}-{index}"))).count();
            let may_be_absent = !(*acknowledged && acknowledged_are_there || self.saved);
            holds(there == BATCH || (there == 0 && may_be_absent), || format!("{there} of {BATCH} of {batch}"))?;
        }
        Ok(())
    }
}

/// Runs the workload on a disk on which a fault may be set.
pub(crate) fn run(disk: &MemoryStorage, options: Options, until_error: bool) -> Result<Told, crate::harness::Failure> {
    let mut told = Told::default();
    if let Ok(store) = options.open_on(Arc::new(disk.clone())) {
        work(&store, &mut told, until_error)?;
    }
    Ok(told)
}

/// How many operations the workload makes on a disk that does not fail.
pub(crate) fn operations(durability: Durability) -> u64 {
    let disk = MemoryStorage::new();
    let told = run(&disk, options().durability(durability), true).unwrap();
    assert!(told.revoked.len() > 40 && told.saved && told.batches.len() == STEPS / 12);
    let count = |prefix: &str| disk.files().keys().filter(|name| name.starts_with(prefix)).count();
    assert!(count("snap-") == 2 && count("wal-") > 1 && count("MARK") == 1);
    disk.operations()
}
