//! Corners where a revocation was once without effect, each with the least that shows it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test panics"
)]

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rescind::storage::{MemoryStorage, Storage, StorageFile};
use rescind::{
    Cause, Claim, Credential, Durability, InvalidRevocation, ManualClock, Options, Revocation, Store, Subject,
    Timestamp, Verdict, WriteError,
};

/// So many seconds after the start.
fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_700_000_000 + secs)
}

fn options(clock: &ManualClock) -> Options {
    Options::new().background(false).clock(clock.clone()).segment_bytes(4096)
}

fn open(disk: &MemoryStorage, options: Options) -> Store {
    options.open_on(Arc::new(disk.clone())).unwrap()
}

fn seconds(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn is_revoked(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Revoked(_))
}

/// Alice, authenticated and issued a credential then.
fn alice(secs: u64) -> Credential<'static> {
    Credential::new().user("alice").issued_at(at(secs)).auth_time(at(secs))
}

#[test]
fn revocation_at_1970_denies_outright_until_the_clock_is_set() {
    let clock = ManualClock::at(Timestamp::MIN);
    let store = options(&clock).open_in_memory().unwrap();
    store.revoke(Revocation::of(Subject::token("t"))).unwrap();
    assert!(is_revoked(&store.check(&Credential::new().token("t"))));
    assert_eq!(store.check(&alice(50)), Verdict::Unknown(Cause::Clock));
    assert_eq!(store.revoke(Revocation::of(Subject::user("alice"))).unwrap().pending, 1);
    assert!(is_revoked(&store.check(&alice(50))) && store.stats().time_in_doubt);
    clock.set_wall(at(100));
    assert!(is_revoked(&store.check(&alice(50))));
    store.maintain();
    assert_eq!(store.stats().pending_epochs, 0);
    assert!(is_revoked(&store.check(&alice(50))));
    clock.set_wall(at(101));
    assert_eq!(store.check(&alice(101)), Verdict::Clear);
}

#[test]
fn what_was_forgotten_stays_dead_when_the_clock_is_set_back_and_the_store_reopened() {
    for write_while_back in [false, true] {
        let clock = ManualClock::at(at(0));
        let disk = MemoryStorage::new();
        let store = open(&disk, options(&clock));
        store.revoke(Revocation::of(Subject::token("t")).until(at(10))).unwrap();
        clock.advance(seconds(1000));
        assert_eq!(store.maintain().forgotten, 1);
        store.snapshot().unwrap();
        clock.set_wall(at(5));
        let credential = Credential::new().token("t").issued_at(at(0)).expires_at(at(10));
        assert_eq!(store.check(&credential), Verdict::Unknown(Cause::Clock));
        if write_while_back {
            store.revoke(Revocation::of(Subject::token("another"))).unwrap();
            store.snapshot().unwrap();
        }
        store.close().unwrap();
        let store = open(&disk, options(&clock));
        assert_eq!(store.check(&credential), Verdict::Unknown(Cause::Clock));
        clock.set_wall(at(1000));
        assert!(is_revoked(&store.check(&credential)));
    }
}

#[test]
fn loosening_the_maximum_age_while_the_clock_is_behind_revives_nobody() {
    let clock = ManualClock::at(at(0));
    let disk = MemoryStorage::new();
    let store = open(&disk, options(&clock).max_credential_age(seconds(100)));
    store.revoke(Revocation::of(Subject::user("alice"))).unwrap();
    clock.advance(seconds(1000));
    assert_eq!(store.maintain().forgotten, 1);
    store.snapshot().unwrap();
    store.close().unwrap();
    clock.set_wall(at(50));
    let store = open(&disk, options(&clock));
    assert_ne!(store.check(&alice(0)), Verdict::Clear);
    clock.set_wall(at(1000));
    assert!(is_revoked(&store.check(&alice(0))));
    assert_eq!(store.check(&alice(990)), Verdict::Clear);
}

#[test]
fn a_revocation_after_a_forgotten_lift_survives_the_restart_that_brings_the_lift_back() {
    let clock = ManualClock::at(at(0));
    let disk = MemoryStorage::new();
    let store = open(&disk, options(&clock));
    store.revoke(Revocation::of(Subject::session("s")).until(at(10))).unwrap();
    store.lift(Subject::session("s")).unwrap();
    clock.advance(seconds(1000));
    assert_eq!(store.maintain().forgotten, 1);
    clock.set_wall(at(0));
    store.revoke(Revocation::of(Subject::session("s"))).unwrap();
    let credential = Credential::new().session("s");
    assert!(is_revoked(&store.check(&credential)));
    store.close().unwrap();
    assert!(is_revoked(&open(&disk, options(&clock)).check(&credential)));
}

#[test]
fn a_session_spared_twice_is_still_bound_by_an_earlier_epoch() {
    let clock = ManualClock::at(at(60));
    let store = options(&clock).open_in_memory().unwrap();
    let alice_is_out = |epoch| Revocation::of(Subject::user("alice")).at(at(epoch));
    store.revoke(alice_is_out(50)).unwrap();
    let credential = alice(40).session("s").tenant("acme");
    clock.set_wall(at(200));
    store.revoke(alice_is_out(100).sparing_session("s")).unwrap();
    clock.set_wall(at(300));
    store.revoke(alice_is_out(90).sparing_session("s")).unwrap();
    assert!(is_revoked(&store.check(&credential)));
    assert_eq!(store.check(&alice(60).session("s").tenant("acme")), Verdict::Clear);
}

#[test]
fn the_handle_of_a_tenant_brings_the_tenant() {
    let clock = ManualClock::at(at(100));
    let store = options(&clock).require_claim(Claim::Tenant).open_in_memory().unwrap();
    assert_eq!(store.check(&alice(0)), Verdict::Unknown(Cause::MissingClaim(Claim::Tenant)));
    let acme = store.tenant("acme").unwrap();
    assert_eq!(acme.check(&alice(0)), Verdict::Clear);
    store.revoke(Revocation::of(Subject::user("alice").in_tenant("acme"))).unwrap();
    assert!(is_revoked(&acme.check(&alice(0))));
}

/// A disk whose syncs wait while the gate is shut.
#[derive(Clone, Debug)]
struct Gated {
    disk: MemoryStorage,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn shut(&self, shut: bool) {
        self.state.lock().unwrap().0 = shut;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |state| state.0).unwrap());
        self.state.lock().unwrap().1 -= 1;
    }

    fn wait_for_someone(&self) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| state.1 == 0).unwrap());
    }
}

#[derive(Debug)]
struct GatedFile(Box<dyn StorageFile>, Arc<Gate>);

impl Storage for Gated {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(GatedFile(self.disk.create(name)?, Arc::clone(&self.gate))))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(GatedFile(self.disk.open(name)?, Arc::clone(&self.gate))))
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

impl StorageFile for GatedFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.truncate(len)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.1.pass();
        self.0.sync()
    }
}

#[test]
fn a_lift_on_its_way_to_the_disk_does_not_take_back_what_is_revoked_meanwhile() {
    for subject in [Subject::token("t"), Subject::user("alice")] {
        let clock = ManualClock::at(at(100));
        let disk = Gated { disk: MemoryStorage::new(), gate: Arc::default() };
        let store = options(&clock).durability(Durability::Sync).open_on(Arc::new(disk.clone())).unwrap();
        store.revoke(Revocation::of(subject.clone())).unwrap();
        disk.gate.shut(true);
        let credential = alice(50).token("t");
        std::thread::scope(|scope| {
            let lift = scope.spawn(|| store.lift(subject.clone()).unwrap());
            disk.gate.wait_for_someone();
            let pending = store.submit(Revocation::of(subject.clone())).unwrap();
            disk.gate.shut(false);
            assert!(lift.join().unwrap().is_changed());
            pending.wait().unwrap();
        });
        assert!(is_revoked(&store.check(&credential)), "{subject:?}");
        store.close().unwrap();
        let store = options(&clock).open_on(Arc::new(disk)).unwrap();
        assert!(is_revoked(&store.check(&credential)), "{subject:?}, reopened");
    }
}

#[test]
fn lifting_everyone_does_not_lift_what_was_once_dead_by_age() {
    let clock = ManualClock::at(at(0));
    let disk = MemoryStorage::new();
    let store = open(&disk, options(&clock).max_credential_age(seconds(100)));
    store.revoke(Revocation::of(Subject::user("alice"))).unwrap();
    clock.advance(seconds(1000));
    assert_eq!(store.maintain().forgotten, 1);
    store.close().unwrap();
    let store = open(&disk, options(&clock));
    assert!(is_revoked(&store.check(&alice(0))));
    assert_eq!(store.lift(Subject::everyone()).unwrap().changed, 0, "nobody revoked everyone");
    store.revoke(Revocation::of(Subject::everyone())).unwrap();
    assert!(is_revoked(&store.check(&alice(990))));
    assert_eq!(store.lift(Subject::everyone()).unwrap().changed, 1);
    assert_eq!(store.check(&alice(990)), Verdict::Clear);
    assert!(is_revoked(&store.check(&alice(0))), "alice was revoked, which nobody lifted");
    assert!(store.explain(&Subject::everyone()).unwrap().unwrap().denies());
}

#[test]
fn an_epoch_made_after_a_small_step_back_binds_what_was_issued_before_it() {
    let clock = ManualClock::at(at(100));
    let store = options(&clock).open_in_memory().unwrap();
    store.maintain();
    clock.set_wall(at(70));
    for make in [
        |store: &Store| store.revoke(Revocation::of(Subject::user("alice"))),
        |store: &Store| {
            store.disable(Subject::user("alice"))?;
            store.enable(Subject::user("alice"))
        },
    ] {
        assert_eq!(store.check(&alice(100)), Verdict::Clear);
        make(&store).unwrap();
        assert!(is_revoked(&store.check(&alice(100))));
        store.lift(Subject::user("alice")).unwrap();
    }
}

#[test]
fn epochs_in_falling_order_do_not_add_up_without_end() {
    let clock = ManualClock::at(at(10_000));
    let store = options(&clock).open_in_memory().unwrap();
    let session = |n: u64| format!("s{n}");
    for n in 0..200 {
        let revocation = Revocation::of(Subject::user("alice")).at(at(9_000 - n)).sparing_session(session(n));
        store.revoke(revocation).unwrap();
        // Whatever is pruned, an unspared session is bound by the latest, and a spared one by the one before.
        assert!(is_revoked(&store.check(&alice(9_000))));
        assert!(n == 0 || is_revoked(&store.check(&alice(8_999).session(session(0)))));
    }
    let facts = store.explain(&Subject::user("alice")).unwrap().unwrap().facts.len();
    assert!(facts <= 16, "{facts} epochs");
    store.lift(Subject::user("alice")).unwrap();
    assert_eq!(store.check(&alice(1)), Verdict::Clear);
}

#[test]
fn a_clock_that_was_accepted_stays_accepted() {
    let clock = ManualClock::at(at(1_000_000));
    let disk = MemoryStorage::new();
    let store = open(&disk, options(&clock).max_credential_age(seconds(100)));
    store.revoke(Revocation::of(Subject::user("bob"))).unwrap();
    store.close().unwrap();
    clock.reboot();
    clock.set_wall(at(0));
    let store = open(&disk, options(&clock).max_credential_age(seconds(100)));
    assert_eq!(store.check(&alice(0)), Verdict::Unknown(Cause::Clock));
    store.close().unwrap();
    // Nothing is written but by the acceptance; the age is loosened at the same time, from a time that never was.
    let store = open(&disk, options(&clock).accept_clock(true));
    assert_eq!(store.check(&alice(1)), Verdict::Clear);
    store.close().unwrap();
    let store = open(&disk, options(&clock));
    assert_eq!(store.check(&alice(1)), Verdict::Clear);
    assert!(is_revoked(&store.check(&alice(0))), "what may have been forgotten stays dead");
}

#[test]
fn tenants_with_an_age_of_their_own_are_limited_before_the_log_is() {
    let clock = ManualClock::at(at(0));
    let with = |count: u64| {
        (0..count).fold(options(&clock), |options, n| {
            options.tenant_max_credential_age(format!("a tenant with a name of some length {n}"), seconds(n + 1))
        })
    };
    open(&MemoryStorage::new(), with(4096)).close().unwrap();
    assert!(with(4097).open_on(Arc::new(MemoryStorage::new())).is_err());
}

#[test]
fn raising_the_leeway_or_the_skew_revives_nothing_that_was_forgotten() {
    let token = || Credential::new().token("t").issued_at(at(0)).expires_at(at(10));
    let aged = || Credential::new().user("alice").issued_at(at(0)).auth_time(at(0));
    for skew in [false, true] {
        let clock = ManualClock::at(at(0));
        let disk = MemoryStorage::new();
        let before = || options(&clock).max_credential_age(seconds(100));
        let store = open(&disk, before());
        store.revoke(Revocation::of(Subject::token("t")).until(at(10))).unwrap();
        store.revoke(Revocation::of(Subject::user("alice"))).unwrap();
        clock.advance(seconds(1000));
        assert_eq!(store.maintain().forgotten, 2);
        store.snapshot().unwrap();
        store.close().unwrap();
        let after = || if skew { before().max_clock_skew(seconds(3600)) } else { before().leeway(seconds(3600)) };
        for _ in 0..2 {
            let store = open(&disk, after());
            if skew {
                // Behind by less than may now pass unnoticed.
                clock.set_wall(at(5));
            }
            assert!(is_revoked(&store.check(&token())), "skew: {skew}");
            assert!(is_revoked(&store.check(&aged())), "skew: {skew}");
            clock.set_wall(at(1000));
            store.close().unwrap();
        }
    }
}

#[test]
fn what_is_as_long_as_allowed_is_taken_and_what_is_longer_is_not() {
    let store = options(&ManualClock::at(at(0))).open_in_memory().unwrap();
    let long = |extra: usize| "a".repeat(rescind::ACTOR_BYTES_MAX + extra);
    assert!(store.revoke(Revocation::of(Subject::user("u")).by(long(0))).is_ok());
    assert!(matches!(
        store.revoke(Revocation::of(Subject::user("u")).by(long(1))),
        Err(WriteError::Invalid(InvalidRevocation::TextTooLong { .. }))
    ));
    let sparing = |count: usize| {
        let revocation = Revocation::of(Subject::tenant("acme"));
        (0..count).fold(revocation, |revocation, n| revocation.sparing_session(format!("sid-{n}")))
    };
    assert!(store.revoke(sparing(rescind::SPARED_SESSIONS_MAX)).is_ok());
    assert!(matches!(
        store.revoke(sparing(rescind::SPARED_SESSIONS_MAX + 1)),
        Err(WriteError::Invalid(InvalidRevocation::TooManySpared { count })) if count == rescind::SPARED_SESSIONS_MAX + 1
    ));
}

#[test]
fn a_change_of_what_cannot_be_named_is_refused() {
    let store = options(&ManualClock::at(at(0))).open_in_memory().unwrap();
    for result in [
        store.disable(Subject::user("")),
        store.enable(Subject::user("")),
        store.lift(Subject::token("")),
        store.lift(rescind::Change::of(Subject::token("t")).by("a".repeat(rescind::ACTOR_BYTES_MAX + 1))),
    ] {
        assert!(matches!(result, Err(WriteError::Invalid(_))), "{result:?}");
    }
}

#[test]
fn a_subject_tells_its_issuer_and_a_revocation_no_spared_session() {
    assert_eq!(Subject::user("u").at_issuer("i").issuer_name(), Some("i"));
    assert_eq!(Subject::user("u").issuer_name(), None);
    let shown = format!("{:?}", Revocation::of(Subject::tenant("acme")).sparing_session("secret"));
    assert!(shown.contains("<redacted>") && !shown.contains("secret"), "{shown}");
}

/// A snapshot is taken later than the last batch in it was written: it has seen a later time.
#[test]
fn the_time_of_a_snapshot_outlasts_that_of_the_log_before_it() {
    let clock = ManualClock::at(at(0));
    let disk = MemoryStorage::new();
    let store = open(&disk, options(&clock));
    store.revoke(Revocation::of(Subject::user("bob"))).unwrap();
    clock.advance(seconds(3600));
    store.snapshot().unwrap();
    let image = disk.kill_image();
    drop(store);
    clock.reboot();
    clock.set_wall(at(1800));
    let store = open(&image, options(&clock));
    assert_eq!(store.check(&alice(1799)), Verdict::Unknown(Cause::Clock));
}
