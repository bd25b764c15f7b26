//! Whatever happens to a writer and its disk, its follower answers as it does.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Token(u8),
    User(u8),
    Disable(u8),
    Enable(u8),
    LiftToken(u8),
    LiftUser(u8),
    Many(u8),
    Snapshot,
    Maintain,
    Advance(u16),
    Reopen,
    /// The operation so many from now fails, and maybe all later ones.
    Fail(u8, bool),
    Repair,
    Look,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6_u8).prop_map(Step::Token),
        2 => (0..4_u8).prop_map(Step::User),
        2 => (0..4_u8).prop_map(Step::Disable),
        3 => (0..4_u8).prop_map(Step::Enable),
        2 => (0..6_u8).prop_map(Step::LiftToken),
        2 => (0..4_u8).prop_map(Step::LiftUser),
        2 => (1..40_u8).prop_map(Step::Many),
        2 => Just(Step::Snapshot),
        2 => Just(Step::Maintain),
        2 => (1..900_u16).prop_map(Step::Advance),
        1 => Just(Step::Reopen),
        1 => (0..6_u8, any::<bool>()).prop_map(|(after, sticky)| Step::Fail(after, sticky)),
        2 => Just(Step::Repair),
        3 => Just(Step::Look),
    ];
    proptest::collection::vec(step, 1..50)
}

struct World {
    clock: ManualClock,
    disk: MemoryStorage,
    writer: Store,
    follower: Store,
    many: u64,
    /// Whether something was refused that the follower may have read: then it may deny more.
    has_failed: bool,
    is_failing: bool,
}

impl World {
    fn new() -> Self {
        let clock = clock();
        let (disk, writer, follower) = pair(&clock);
        Self { clock, disk, writer, follower, many: 0, has_failed: false, is_failing: false }
    }

    fn note<T>(&mut self, result: Result<T, WriteError>) {
        self.has_failed |= matches!(result, Err(WriteError::NotDurable(_)));
    }

    fn repair(&mut self) {
        self.disk.clear_faults();
        self.is_failing = false;
        // The first may still meet what the fault left behind.
        if self.writer.snapshot().is_err() {
            self.writer.snapshot().unwrap();
        }
    }

    fn take(&mut self, step: Step) {
        let end = Timestamp::from_secs(NOW + 2_000);
        match step {
            Step::Token(number) => {
                let revocation = Revocation::of(Subject::token(format!("t{number}")));
                let result = self.writer.revoke(if number % 2 == 0 { revocation.until(end) } else { revocation });
                self.note(result);
            }
            Step::User(number) => {
                let result = self.writer.revoke(Revocation::of(Subject::user(format!("u{number}"))));
                self.note(result);
            }
            Step::Disable(number) => {
                let result = self.writer.disable(Subject::user(format!("u{number}")));
                self.note(result);
            }
            Step::Enable(number) => {
                let result = self.writer.enable(Subject::user(format!("u{number}")));
                self.note(result);
            }
            Step::LiftToken(number) => {
                let result = self.writer.lift(Subject::token(format!("t{number}")));
                self.note(result);
            }
            Step::LiftUser(number) => {
                let result = self.writer.lift(Subject::user(format!("u{number}")));
                self.note(result);
            }
            Step::Many(count) => {
                self.many += 1;
                let tokens =
                    (0..count).map(|number| Revocation::of(Subject::token(format!("m{}-{number}", self.many))));
                let result = self.writer.revoke_many(tokens);
                self.note(result);
            }
            Step::Snapshot => _ = self.writer.snapshot().ok(),
            Step::Maintain => _ = self.writer.maintain(),
            Step::Advance(secs) => self.clock.advance(Duration::from_secs(u64::from(secs))),
            Step::Reopen => {
                self.disk.clear_faults();
                self.is_failing = false;
                self.writer.close().ok();
                self.writer = options(&self.clock).open_on(Arc::new(self.disk.clone())).unwrap();
            }
            Step::Fail(after, sticky) => {
                let kind = if sticky { std::io::ErrorKind::StorageFull } else { std::io::ErrorKind::Other };
                self.disk.fail_at(self.disk.operations() + u64::from(after), kind, sticky);
                self.is_failing = true;
            }
            Step::Repair => self.repair(),
            Step::Look => _ = self.follower.maintain(),
        }
    }

    fn compare(&self, is_settled: bool) -> Result<(u32, u32), TestCaseError> {
        let end = Timestamp::from_secs(NOW + 2_000);
        let now = clock_secs(&self.clock);
        let mut denied = (0, 0);
        let tokens = (0..6).map(|number| format!("t{number}")).chain((1..=self.many).map(|many| format!("m{many}-0")));
        let tokens: Vec<String> = tokens.collect();
        let users: Vec<String> = (0..4).map(|number| format!("u{number}")).collect();
        let tokens = tokens.iter().map(|id| token(id).expires_at(end));
        // One that is from before every epoch, and one that is from after.
        let users = users
            .iter()
            .flat_map(|id| [NOW, now + 1].map(|iat| Credential::new().user(id.as_str()).issued_at_secs(iat)));
        for credential in tokens.chain(users) {
            let (wanted, got) = (self.writer.check(&credential), self.follower.check(&credential));
            let is_denied = |verdict: Verdict| matches!(verdict, Verdict::Revoked(_));
            prop_assert!(
                is_denied(got) || !is_denied(wanted),
                "the writer: {}, the follower: {}, {:?}",
                wanted,
                got,
                credential
            );
            if is_settled && !self.has_failed {
                prop_assert_eq!(is_denied(got), is_denied(wanted), "{} {} {:?}", got, wanted, credential);
            }
            if is_settled {
                prop_assert!(!matches!(got, Verdict::Unknown(_)), "{}", got);
            }
            denied.0 += u32::from(is_denied(got));
            denied.1 += u32::from(!is_denied(got));
        }
        Ok(denied)
    }
}

/// At every look it denies whatever its writer has logged; and once that has said how far the log is on disk, the two agree.
#[test]
fn a_follower_answers_as_its_writer_does() {
    let cases = if is_full() { 20_000 } else { 1_500 };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let seen = std::cell::Cell::new((0_u32, 0_u32, 0_u64));
    runner
        .run(&steps(), |steps| {
            let mut world = World::new();
            for step in steps {
                let is_look = matches!(step, Step::Look);
                world.take(step);
                if is_look && !world.has_failed && !world.is_failing {
                    world.compare(false)?;
                }
            }
            world.repair();
            world.writer.maintain();
            // It looks, finds that it must read everything again, and does.
            for _ in 0..4 {
                world.follower.maintain();
                world.clock.advance(Duration::from_millis(300));
            }
            let (denied, clear) = world.compare(true)?;
            let rereads = following(&world.follower).rereads;
            seen.set((seen.get().0 + denied, seen.get().1 + clear, seen.get().2 + rereads));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let (denied, clear, rereads) = seen.get();
    println!("follower cases={cases} denied={denied} clear={clear} rereads={rereads}");
    assert!(denied > cases && clear > cases && rereads > u64::from(cases) / 20, "the cases are dull");
}
