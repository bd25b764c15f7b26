//! The way from the model's words to the crate's, and a store that is driven along with a model.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use rescind::storage::MemoryStorage;
use rescind::{
    Cause, Denial, Durability, Effect, LocalSubject, ManualClock, Options, Receipt, Revocation, Store, Timestamp,
    Verdict, WriteError,
};

use super::arbitrary::{START, Step};
use super::{
    Claim, Command, Credential, Doubt, EpochKind, Kind, Model, Outcome, Reason, Rules, SECOND, Shape, Subject, Time,
};

/// How many cases each property sees, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 10_000;
/// Below this many cases shares mean little.
const CASES_FOR_SHARES: u64 = 500;

/// Counts what the cases of a property were like.
#[derive(Debug, Default)]
pub(crate) struct Tally(RefCell<BTreeMap<&'static str, u64>>);

impl Tally {
    pub(crate) fn count(&self, what: &'static str) {
        *self.0.borrow_mut().entry(what).or_default() += 1;
    }

    pub(crate) fn count_if(&self, what: &'static str, condition: bool) {
        if condition {
            self.count(what);
        }
    }

    pub(crate) fn count_verdict(&self, verdict: &Verdict) {
        self.count("verdicts");
        self.count(match verdict {
            Verdict::Clear => "clear",
            Verdict::Revoked(_) => "revoked",
            Verdict::Unknown(_) => "unknown",
        });
    }

    fn of(&self, what: &str) -> u64 {
        self.0.borrow().get(what).copied().unwrap_or(0)
    }

    /// Fails if fewer than this many in a hundred of the one were the other.
    pub(crate) fn expect(&self, what: &str, percent: u64, of: &str) -> &Self {
        let (part, whole) = (self.of(what), self.of(of));
        let is_enough = part * 100 >= whole * percent;
        assert!(is_enough || whole < CASES_FOR_SHARES, "only {part} of {whole} {of} were {what}: {self:?}");
        self
    }

    /// Fails unless each verdict was at least this share, in per cent.
    pub(crate) fn expect_verdicts(&self, clear: u64, revoked: u64, unknown: u64) -> &Self {
        self.expect("clear", clear, "verdicts")
            .expect("revoked", revoked, "verdicts")
            .expect("unknown", unknown, "verdicts")
    }
}

/// Runs a property on many cases, and says what they were like.
pub(crate) fn property<S: Strategy>(
    name: &str,
    strategy: S,
    test: impl Fn(&Tally, S::Value) -> TestCaseResult,
) -> Tally {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let tally = Tally::default();
    let outcome = TestRunner::new(config).run(&strategy, |case| {
        tally.count("cases");
        test(&tally, case)
    });
    if let Err(failure) = outcome {
        panic!("{name}: {failure}");
    }
    println!("{name}: {:?}", tally.0.borrow());
    tally
}

pub(crate) fn duration(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

pub(crate) fn timestamp(nanos: u64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

fn claim(claim: Claim) -> rescind::Claim {
    match claim {
        Claim::Token => rescind::Claim::Token,
        Claim::Session => rescind::Claim::Session,
        Claim::Family => rescind::Claim::Family,
        Claim::User => rescind::Claim::User,
        Claim::Client => rescind::Claim::Client,
        Claim::Device => rescind::Claim::Device,
        Claim::Group => rescind::Claim::Group,
        Claim::Tenant => rescind::Claim::Tenant,
        Claim::Issuer => rescind::Claim::Issuer,
        Claim::IssuedAt => rescind::Claim::IssuedAt,
        Claim::AuthTime => rescind::Claim::AuthTime,
        Claim::SessionStart => rescind::Claim::SessionStart,
        Claim::ExpiresAt => rescind::Claim::ExpiresAt,
    }
}

pub(crate) fn subject(subject: Subject) -> rescind::Subject {
    use rescind::Subject as S;
    let Subject { kind, id, tenant, issuer } = subject;
    let mut out = match kind {
        Kind::Token => S::token(id),
        Kind::OpaqueToken => S::opaque_token(id),
        Kind::Session => S::session(id),
        Kind::Family => S::family(id),
        Kind::User => S::user(id),
        Kind::Client => S::client(id),
        Kind::Device => S::device(id),
        Kind::Group => S::group(id),
        Kind::Tenant => S::tenant(id),
        Kind::Everyone => S::everyone(),
    };
    if let Some(tenant) = tenant {
        out = out.in_tenant(tenant);
    }
    if let Some(issuer) = issuer {
        out = out.at_issuer(issuer);
    }
    out
}

/// The tenant whose handle can express a subject, and the subject in its words.
fn local(subject: Subject) -> Option<(&'static str, LocalSubject)> {
    use LocalSubject as S;
    let Subject { kind, id, tenant, issuer } = subject;
    let tenant = if kind == Kind::Tenant { id } else { tenant? };
    let out = match kind {
        Kind::Token => S::token(id),
        Kind::OpaqueToken => S::opaque_token(id),
        Kind::Session => S::session(id),
        Kind::Family => S::family(id),
        Kind::User => S::user(id),
        Kind::Client => S::client(id),
        Kind::Device => S::device(id),
        Kind::Group => S::group(id),
        Kind::Tenant => S::everyone(),
        Kind::Everyone => return None,
    };
    Some((tenant, if let Some(issuer) = issuer { out.at_issuer(issuer) } else { out }))
}

/// The revocation of a subject; none for a change.
fn revocation_of<S>(subject: S, command: &Command) -> Option<Revocation<S>> {
    let mut out = Revocation::of(subject);
    match command {
        Command::Deny { until, .. } => {
            if let Some(until) = until {
                out = out.until(timestamp(*until));
            }
        }
        Command::Epoch { kind, at, spared, .. } => {
            if *kind == EpochKind::Reissue {
                out = out.reissue();
            }
            if let Some(at) = at {
                out = out.at(timestamp(*at));
            }
            for sid in spared {
                out = out.sparing_session(*sid);
            }
        }
        _ => return None,
    }
    Some(out)
}

/// The revocation that a command is; none for a change.
pub(crate) fn revocation(command: &Command) -> Option<Revocation> {
    revocation_of(subject(command.subject()), command)
}

/// Gives a command to a store, or to the handle of its tenant where that can express it.
pub(crate) fn give(store: &Store, command: &Command, handle: bool) -> Result<Receipt, WriteError> {
    if let Some((tenant, local)) = local(command.subject()).filter(|_| handle)
        && let Ok(tenant) = store.tenant(tenant)
    {
        return match command {
            Command::Disable(_) => tenant.disable(local),
            Command::Enable(_) => tenant.enable(local),
            Command::Lift(_) => tenant.lift(local),
            revoke => tenant.revoke(revocation_of(local, revoke).unwrap()),
        };
    }
    match command {
        Command::Disable(named) => store.disable(subject(*named)),
        Command::Enable(named) => store.enable(subject(*named)),
        Command::Lift(named) => store.lift(subject(*named)),
        revoke => store.revoke(revocation(revoke).unwrap()),
    }
}

/// A credential as the crate takes it.
pub(crate) fn credential(credential: &Credential) -> rescind::Credential<'_> {
    let c = credential;
    let mut out = rescind::Credential::new();
    match c.token {
        Some((Kind::OpaqueToken, secret)) => out = out.opaque_token(secret),
        Some((_, jti)) => out = out.token(jti),
        None => {}
    }
    if let Some(text) = c.session {
        out = out.session(text);
    }
    if let Some(text) = c.family {
        out = out.family(text);
    }
    if let Some(text) = c.user {
        out = out.user(text);
    }
    if let Some(text) = c.client {
        out = out.client(text);
    }
    if let Some(text) = c.device {
        out = out.device(text);
    }
    if let Some(text) = c.tenant {
        out = out.tenant(text);
    }
    if let Some(text) = c.issuer {
        out = out.issuer(text);
    }
    out = out.groups(&c.groups);
    out = with_time(out, c.iat, |out, time| out.issued_at_secs(time));
    out = with_time(out, c.auth_time, |out, time| out.auth_time_secs(time));
    out = with_time(out, c.session_start, |out, time| out.session_started_at_secs(time));
    with_time(out, c.exp, |out, time| out.expires_at_secs(time))
}

/// Whole seconds go in as integers, quarters as floating point, which is exact for them, the rest as times.
fn with_time<'a>(
    out: rescind::Credential<'a>,
    time: Time,
    set: impl Fn(rescind::Credential<'a>, rescind::NumericDate) -> rescind::Credential<'a>,
) -> rescind::Credential<'a> {
    match time {
        Time::Missing => out,
        Time::Malformed => set(out, f64::NAN.into()),
        Time::At(at) if at % SECOND == 0 => set(out, (at / SECOND).into()),
        Time::At(at) if at % (SECOND / 4) == 0 => {
            set(out, ((at / SECOND) as f64 + (at % SECOND) as f64 / SECOND as f64).into())
        }
        Time::At(at) => set(out, timestamp(at).into()),
    }
}

fn kind(kind: rescind::Kind) -> Option<Kind> {
    Some(match kind {
        rescind::Kind::Token => Kind::Token,
        rescind::Kind::Session => Kind::Session,
        rescind::Kind::Family => Kind::Family,
        rescind::Kind::User => Kind::User,
        rescind::Kind::Client => Kind::Client,
        rescind::Kind::Device => Kind::Device,
        rescind::Kind::Group => Kind::Group,
        rescind::Kind::Tenant => Kind::Tenant,
        rescind::Kind::Everyone => Kind::Everyone,
        _ => return None,
    })
}

/// What a denial says, in the model's words; none if it contradicts itself.
pub(crate) fn reason(denial: &Denial) -> Option<Reason> {
    let nanos = |limit: Duration| u64::try_from(limit.as_nanos()).ok();
    let shape = match denial.subject {
        Some(shape) => Some(Shape { kind: kind(shape.kind)?, in_tenant: shape.in_tenant, at_issuer: shape.at_issuer }),
        None => None,
    };
    Some(match (denial.effect, shape) {
        (Effect::Revoked, Some(shape)) => Reason::Denied(shape),
        (Effect::Disabled, Some(shape)) => Reason::Disabled(shape),
        (Effect::Reauthenticate { epoch }, Some(shape)) => {
            Reason::Epoch(shape, EpochKind::Reauthenticate, epoch.as_nanos())
        }
        (Effect::Reissue { epoch }, Some(shape)) => Reason::Epoch(shape, EpochKind::Reissue, epoch.as_nanos()),
        (Effect::TooOld { limit }, None) => Reason::TooOld(nanos(limit)?),
        (Effect::Expired, None) => Reason::Expired,
        (Effect::FromTheFuture, None) => Reason::FromTheFuture,
        _ => return None,
    })
}

/// Fails unless a verdict is the model's, and gives one of its reasons.
pub(crate) fn agree(verdict: &Verdict, expected: &super::Verdict) -> TestCaseResult {
    let agree = match (verdict, expected) {
        (Verdict::Clear, super::Verdict::Clear) => true,
        (Verdict::Revoked(denial), super::Verdict::Revoked(reasons)) => {
            reason(denial).is_some_and(|reason| reasons.contains(&reason))
        }
        (Verdict::Unknown(cause), super::Verdict::Unknown(doubts)) => doubts.iter().any(|doubt| match doubt {
            Doubt::Missing(missing) => *cause == Cause::MissingClaim(claim(*missing)),
            Doubt::Malformed(malformed) => *cause == Cause::MalformedClaim(claim(*malformed)),
            Doubt::ForeignTenant => *cause == Cause::ForeignTenant,
        }),
        _ => false,
    };
    prop_assert!(agree, "the store says {verdict:?}, the model {expected:?}");
    Ok(())
}

/// Options for a store under test: these rules, and a clock that stands still.
pub(crate) fn options(rules: &Rules, clock: &ManualClock) -> Options {
    let mut options = Options::new()
        .background(false)
        .clock(clock.clone())
        .leeway(duration(rules.leeway))
        .max_clock_skew(duration(rules.skew))
        .retention_grace(Duration::ZERO)
        .segment_bytes(4096);
    if let Some(age) = rules.max_age {
        options = options.max_credential_age(duration(age));
    }
    for (tenant, age) in &rules.tenant_max_age {
        options = options.tenant_max_credential_age(*tenant, duration(*age));
    }
    for required in &rules.required {
        options = options.require_claim(claim(*required));
    }
    options
}

/// A store, its clock, and the model of it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) model: Model,
    pub(crate) clock: ManualClock,
    /// None for a store that keeps nothing on disk.
    pub(crate) disk: Option<MemoryStorage>,
    durability: Durability,
    /// What the wall clock says, and what it would say had nobody set it.
    pub(crate) now: u64,
    pub(crate) true_time: u64,
    pub(crate) forgotten: usize,
    was_set_back: bool,
}

impl World {
    pub(crate) fn in_memory(rules: Rules) -> Self {
        let clock = ManualClock::at(timestamp(START));
        let store = options(&rules, &clock).open_in_memory().unwrap();
        Self::new(store, rules, clock, None, Durability::Memory)
    }

    pub(crate) fn on_disk(rules: Rules, durability: Durability) -> Self {
        let clock = ManualClock::at(timestamp(START));
        let disk = MemoryStorage::new();
        let store = options(&rules, &clock).durability(durability).open_on(Arc::new(disk.clone())).unwrap();
        Self::new(store, rules, clock, Some(disk), durability)
    }

    fn new(
        store: Store,
        rules: Rules,
        clock: ManualClock,
        disk: Option<MemoryStorage>,
        durability: Durability,
    ) -> Self {
        let model = Model::new(rules);
        Self { store, model, clock, disk, durability, now: START, true_time: START, forgotten: 0, was_set_back: false }
    }

    /// Opens the store again on what is on a disk, with the rules of the model.
    pub(crate) fn open_on(&mut self, disk: MemoryStorage) {
        let options = options(&self.model.rules, &self.clock).durability(self.durability);
        self.store = options.open_on(Arc::new(disk.clone())).unwrap();
        self.model.reopen();
        self.disk = Some(disk);
    }

    /// Closes the store and opens it again.
    pub(crate) fn reopen(&mut self) {
        if let Some(disk) = self.disk.clone() {
            self.store.close().unwrap();
            self.model.keep(self.now);
            self.open_on(disk);
        }
    }

    /// Gives a command to the store and to the model, which must take it alike.
    pub(crate) fn apply(&mut self, command: &Command, handle: bool) -> Result<Outcome, TestCaseError> {
        let expected = self.model.apply(self.now, command);
        let result = give(&self.store, command, handle);
        let agree = match (&result, expected) {
            // What is forgotten can no longer be taken back, and the receipt says so.
            (Ok(receipt), Outcome::Accepted { changes: true }) if self.forgotten > 0 && receipt.changed == 0 => {
                self.model.log.pop();
                !command.only_adds()
            }
            (Ok(receipt), Outcome::Accepted { changes }) => receipt.changed == usize::from(changes),
            (Err(WriteError::Invalid(_)), Outcome::Invalid) => true,
            (Err(WriteError::EpochInFuture { .. }), Outcome::EpochInFuture) => true,
            // A store whose clock was set back knows that it is later.
            (Ok(_), Outcome::EpochInFuture) if self.was_set_back => {
                self.model.log(self.now, command);
                true
            }
            (Err(WriteError::RetentionInPast { .. }), Outcome::RetentionInPast) => true,
            _ => false,
        };
        prop_assert!(agree, "{command:?}: the store says {result:?}, the model {expected:?}");
        Ok(expected)
    }

    pub(crate) fn take(&mut self, step: &Step) -> TestCaseResult {
        match step {
            Step::Do { command, handle } => _ = self.apply(command, *handle)?,
            Step::Advance(nanos) => {
                self.now += nanos;
                self.true_time += nanos;
                self.clock.advance(duration(*nanos));
            }
            Step::SetWall(by) => {
                self.now = self.now.saturating_add_signed(*by);
                self.was_set_back |= *by < 0;
                self.clock.set_wall(timestamp(self.now));
            }
            Step::Maintain => {
                self.forgotten += self.store.maintain().forgotten;
                self.model.keep_news(self.now);
            }
            Step::Snapshot => {
                self.store.snapshot().unwrap();
                self.model.keep(self.now);
            }
            Step::Reopen => self.reopen(),
            Step::Kill => {
                if let Some(disk) = &self.disk {
                    let image = disk.kill_image();
                    self.open_on(image);
                }
            }
            Step::Reboot => {
                if let Some(disk) = self.disk.clone() {
                    self.store.close().unwrap();
                    self.model.keep(self.now);
                    self.clock.reboot();
                    self.open_on(disk);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn take_all(&mut self, steps: &[Step]) -> TestCaseResult {
        steps.iter().try_for_each(|step| self.take(step))
    }

    pub(crate) fn check(&self, presented: &Credential) -> Verdict {
        let verdict = self.store.check(&credential(presented));
        if verdict == Verdict::Clear {
            self.model.let_in(self.now, presented);
        }
        verdict
    }

    /// Fails unless the store says of a credential what the model says.
    pub(crate) fn agrees_on(&self, tally: &Tally, presented: &Credential) -> TestCaseResult {
        let verdict = self.check(presented);
        tally.count_verdict(&verdict);
        agree(&verdict, &self.model.verdict(self.now, presented))
    }
}
