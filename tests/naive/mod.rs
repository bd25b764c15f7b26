//! Revocation as a list: every command that was accepted, in order, walked from the start for each verdict.
//!
//! It is written from `DESIGN.md` and shares no code with the crate: no digests, no merging, no filters, and nothing is
//! ever forgotten. Slow and plain is the point.

pub(crate) mod arbitrary;
pub(crate) mod drive;

use std::cell::{Cell, RefCell};

/// One second, in the nanoseconds in which this model counts time.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// The longest id in bytes.
const ID_BYTES_MAX: usize = 1024;

/// What a subject can be. An opaque token is a token whose id is never the same as a named one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Token,
    OpaqueToken,
    Session,
    Family,
    User,
    Client,
    Device,
    Group,
    Tenant,
    Everyone,
}

impl Kind {
    pub(crate) fn is_narrow(self) -> bool {
        matches!(self, Self::Token | Self::OpaqueToken | Self::Session | Self::Family)
    }

    pub(crate) fn can_be_disabled(self) -> bool {
        matches!(self, Self::User | Self::Client | Self::Device | Self::Tenant)
    }
}

/// What a revocation names. `Everyone` has the id `""`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    pub(crate) id: &'static str,
    pub(crate) tenant: Option<&'static str>,
    pub(crate) issuer: Option<&'static str>,
}

/// A time that a credential brings, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    Missing,
    Malformed,
    At(u64),
}

impl Time {
    fn at(self) -> Option<u64> {
        match self {
            Self::At(time) => Some(time),
            Self::Missing | Self::Malformed => None,
        }
    }
}

/// What a request presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    /// `Token` or `OpaqueToken`, and the id.
    pub(crate) token: Option<(Kind, &'static str)>,
    pub(crate) session: Option<&'static str>,
    pub(crate) family: Option<&'static str>,
    pub(crate) user: Option<&'static str>,
    pub(crate) client: Option<&'static str>,
    pub(crate) device: Option<&'static str>,
    pub(crate) groups: Vec<&'static str>,
    pub(crate) tenant: Option<&'static str>,
    pub(crate) issuer: Option<&'static str>,
    pub(crate) iat: Time,
    pub(crate) auth_time: Time,
    pub(crate) session_start: Time,
    pub(crate) exp: Time,
}

/// A claim that the rules can require.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Token,
    Session,
    Family,
    User,
    Client,
    Device,
    Group,
    Tenant,
    Issuer,
    IssuedAt,
    AuthTime,
    SessionStart,
    ExpiresAt,
}

/// Which time of a credential an epoch is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EpochKind {
    Reauthenticate,
    Reissue,
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// The outright denial of a narrow subject.
    Deny { subject: Subject, until: Option<u64> },
    /// An epoch on a wide subject; of now if no time is given. The sessions that it spares are named by their ids.
    Epoch { subject: Subject, kind: EpochKind, at: Option<u64>, spared: Vec<&'static str> },
    /// The flag, and a re-authenticate epoch.
    Disable(Subject),
    /// The end of the flag.
    Enable(Subject),
    /// The end of every denial and epoch so far.
    Lift(Subject),
}

impl Command {
    pub(crate) fn subject(&self) -> Subject {
        match self {
            Self::Deny { subject, .. } | Self::Epoch { subject, .. } => *subject,
            Self::Disable(subject) | Self::Enable(subject) | Self::Lift(subject) => *subject,
        }
    }

    /// Whether it can only add denials.
    pub(crate) fn only_adds(&self) -> bool {
        !matches!(self, Self::Enable(_) | Self::Lift(_))
    }
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It makes no sense.
    Invalid,
    /// Its epoch lies too far in the future.
    EpochInFuture,
    /// What it denies has expired.
    RetentionInPast,
    /// It is accepted, and changes something or not.
    Accepted { changes: bool },
}

/// The rules that hold for every credential.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) leeway: u64,
    pub(crate) skew: u64,
    pub(crate) max_age: Option<u64>,
    pub(crate) tenant_max_age: Vec<(&'static str, u64)>,
    pub(crate) required: Vec<Claim>,
}

/// Why a credential is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Denied(Shape),
    Disabled(Shape),
    Epoch(Shape, EpochKind, u64),
    TooOld(u64),
    Expired,
    FromTheFuture,
}

/// The kind and scope of a subject; an opaque token counts as a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    pub(crate) in_tenant: bool,
    pub(crate) at_issuer: bool,
}

impl Shape {
    pub(crate) fn of(subject: Subject) -> Self {
        let kind = if subject.kind == Kind::OpaqueToken { Kind::Token } else { subject.kind };
        Self { kind, in_tenant: subject.tenant.is_some(), at_issuer: subject.issuer.is_some() }
    }
}

/// Why nobody can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    Missing(Claim),
    Malformed(Claim),
    ForeignTenant,
}

/// The answer, with everything that speaks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Clear,
    Revoked(Vec<Reason>),
    Unknown(Vec<Doubt>),
}

/// An accepted command.
#[derive(Clone, Debug)]
pub(crate) struct Logged {
    /// When, by the clock of the store.
    pub(crate) time: u64,
    pub(crate) command: Command,
    /// Up to when the credentials of an issuer, or of none, could then say that they were issued, where that was later.
    lines: Vec<(Option<&'static str>, u64)>,
    /// The latest stamp that was known of credentials that name the subject.
    stamp: u64,
}

impl Logged {
    /// The epoch of a command that makes one of now, for credentials of an issuer.
    fn epoch_of(&self, issuer: Option<&'static str>) -> u64 {
        let lines = self.lines.iter().filter(|(of, _)| *of == issuer).map(|(_, line)| *line);
        lines.max().unwrap_or_default().max(self.time).max(self.stamp)
    }
}

/// A credential from beyond the clock was let in.
#[derive(Clone, Debug)]
struct LetIn {
    credential: Credential,
    stamp: u64,
    ahead: u64,
    /// It may be the first second that no epoch binds, which the store gives out.
    is_given_out: bool,
}

impl LetIn {
    /// Whether it says that the clock of its issuer is ahead.
    fn is_of_issuer_ahead(&self) -> bool {
        self.ahead > ROUNDING && !self.is_given_out
    }
}

/// The list of accepted commands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) rules: Rules,
    pub(crate) log: Vec<Logged>,
    let_in: RefCell<Vec<LetIn>>,
    /// An issuer was seen ahead, or further ahead, since that was written down.
    has_news: Cell<bool>,
    kept: Vec<LetIn>,
}

/// An issuer that is ahead by more is taken to go on so, and by this much more.
const ROUNDING: u64 = 2 * SECOND;

impl Model {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Puts a command on the list, if it is acceptable.
    pub(crate) fn apply(&mut self, now: u64, command: &Command) -> Outcome {
        let outcome = self.outcome(now, command);
        if matches!(outcome, Outcome::Accepted { .. }) {
            self.log(now, command);
        }
        outcome
    }

    /// Notes that a credential was let in.
    pub(crate) fn let_in(&self, now: u64, credential: &Credential) {
        let stamps = [credential.iat, credential.auth_time, credential.session_start];
        let stamp = stamps.into_iter().filter_map(Time::at).max().unwrap_or_default();
        if stamp > now {
            let is_given_out = self.latest_epoch(credential).is_some_and(|epoch| stamp <= next_whole_second(epoch));
            let new = LetIn { credential: credential.clone(), stamp, ahead: stamp - now, is_given_out };
            let is_known = |other: &LetIn| {
                other.credential.issuer == credential.issuer && other.is_of_issuer_ahead() && other.ahead >= new.ahead
            };
            let is_news = new.is_of_issuer_ahead() && !self.let_in.borrow().iter().any(is_known);
            self.has_news.set(self.has_news.get() || is_news);
            self.let_in.borrow_mut().push(new);
        }
    }

    /// The latest epoch that concerns a credential.
    fn latest_epoch(&self, credential: &Credential) -> Option<u64> {
        let is_standing =
            |(index, logged): &(usize, &Logged)| names(credential, logged.command.subject()) && !self.is_lifted(*index);
        let epoch = |(_, logged): (usize, &Logged)| match &logged.command {
            Command::Epoch { subject, at, spared, .. } => {
                let is_spared = spared.iter().any(|spared| names(credential, session(*subject, spared)));
                (!is_spared).then(|| at.unwrap_or(logged.epoch_of(credential.issuer)))
            }
            Command::Disable(_) => Some(logged.epoch_of(credential.issuer)),
            Command::Deny { .. } | Command::Enable(_) | Command::Lift(_) => None,
        };
        self.log.iter().enumerate().filter(is_standing).filter_map(epoch).max()
    }

    /// The store writes down what is ahead, if there is anything new about issuers.
    pub(crate) fn keep_news(&mut self, now: u64) {
        if self.has_news.get() {
            self.keep(now);
        }
    }

    /// The store writes down what is ahead.
    pub(crate) fn keep(&mut self, now: u64) {
        self.has_news.set(false);
        let is_kept = |let_in: &&LetIn| let_in.is_of_issuer_ahead() || let_in.stamp > now;
        self.kept = self.let_in.borrow().iter().filter(is_kept).cloned().collect();
    }

    /// The store is opened again.
    pub(crate) fn reopen(&mut self) {
        self.let_in = RefCell::new(self.kept.clone());
        self.has_news.set(false);
    }

    /// Puts a command on the list.
    pub(crate) fn log(&mut self, now: u64, command: &Command) {
        let (lines, stamp) = (self.lines(now), self.stamp_of(command.subject()));
        self.log.push(Logged { time: now, command: command.clone(), lines, stamp });
    }

    fn lines(&self, now: u64) -> Vec<(Option<&'static str>, u64)> {
        let line = |let_in: &LetIn| let_in.stamp.max(now + let_in.ahead + ROUNDING);
        let let_in = self.let_in.borrow();
        let ahead = let_in.iter().filter(|let_in| let_in.is_of_issuer_ahead());
        ahead.map(|let_in| (let_in.credential.issuer, line(let_in))).collect()
    }

    /// The latest stamp of credentials that name a subject, in whatever tenant and at whatever issuer.
    fn stamp_of(&self, subject: Subject) -> u64 {
        let anywhere = Subject { tenant: None, issuer: None, ..subject };
        let let_in = self.let_in.borrow();
        let of_subject =
            let_in.iter().filter(|let_in| !let_in.is_of_issuer_ahead() && names(&let_in.credential, anywhere));
        of_subject.map(|let_in| let_in.stamp).max().unwrap_or_default()
    }

    /// What would become of a command.
    pub(crate) fn outcome(&self, now: u64, command: &Command) -> Outcome {
        let subject = command.subject();
        if cannot_be_named(subject) {
            return Outcome::Invalid;
        }
        match command {
            Command::Deny { until, .. } => match until {
                _ if !subject.kind.is_narrow() => Outcome::Invalid,
                Some(until) if until + self.rules.leeway < now => Outcome::RetentionInPast,
                _ => Outcome::Accepted { changes: true },
            },
            Command::Epoch { at, spared, .. } => match at {
                _ if subject.kind.is_narrow() => Outcome::Invalid,
                _ if spared.iter().any(|spared| cannot_be_named(session(subject, spared))) => Outcome::Invalid,
                Some(at) if *at > now + self.rules.skew => Outcome::EpochInFuture,
                _ => Outcome::Accepted { changes: true },
            },
            Command::Disable(_) if !subject.kind.can_be_disabled() => Outcome::Invalid,
            Command::Enable(_) if !subject.kind.can_be_disabled() => Outcome::Invalid,
            Command::Disable(_) => Outcome::Accepted { changes: true },
            Command::Enable(_) => Outcome::Accepted { changes: self.is_disabled(subject) },
            Command::Lift(_) => {
                let holds = |(index, logged): (usize, &Logged)| {
                    logged.command.only_adds() && logged.command.subject() == subject && !self.is_lifted(index)
                };
                Outcome::Accepted { changes: self.log.iter().enumerate().any(holds) }
            }
        }
    }

    fn is_disabled(&self, subject: Subject) -> bool {
        let disables = |index: &usize| self.log[*index].command == Command::Disable(subject);
        (0..self.log.len()).filter(disables).any(|index| !self.is_enabled(index))
    }

    /// Whether a later command takes the denial or the epoch at this place of the list back.
    fn is_lifted(&self, index: usize) -> bool {
        let subject = self.log[index].command.subject();
        self.log[index..].iter().any(|later| later.command == Command::Lift(subject))
    }

    /// Whether a later command takes the flag at this place of the list back.
    fn is_enabled(&self, index: usize) -> bool {
        let subject = self.log[index].command.subject();
        self.log[index..].iter().any(|later| later.command == Command::Enable(subject))
    }

    /// Every revocation that binds a credential, with its place on the list.
    fn bindings(&self, credential: &Credential) -> Vec<(usize, Reason)> {
        let mut bindings = Vec::new();
        for (index, logged) in self.log.iter().enumerate() {
            let (command, now) = (&logged.command, logged.epoch_of(credential.issuer));
            let subject = command.subject();
            if !names(credential, subject) {
                continue;
            }
            let shape = Shape::of(subject);
            match command {
                Command::Deny { .. } if !self.is_lifted(index) => bindings.push((index, Reason::Denied(shape))),
                Command::Epoch { kind, at, spared, .. } if !self.is_lifted(index) => {
                    let epoch = at.unwrap_or(now);
                    let is_spared = spared.iter().any(|spared| names(credential, session(subject, spared)));
                    if !is_spared && is_from_at_or_before(epoch, basis(credential, *kind)) {
                        bindings.push((index, Reason::Epoch(shape, *kind, epoch)));
                    }
                }
                Command::Disable(_) => {
                    if !self.is_enabled(index) {
                        bindings.push((index, Reason::Disabled(shape)));
                    }
                    let kind = EpochKind::Reauthenticate;
                    if !self.is_lifted(index) && is_from_at_or_before(now, basis(credential, kind)) {
                        bindings.push((index, Reason::Epoch(shape, kind, now)));
                    }
                }
                _ => {}
            }
        }
        bindings
    }

    /// What was revoked and binds a credential.
    pub(crate) fn held(&self, credential: &Credential) -> Vec<Reason> {
        self.bindings(credential).into_iter().map(|(_, reason)| reason).collect()
    }

    /// Whether something binds a credential that may not be forgotten while the credential could be alive: anything but
    /// a denial until a time that the credential outlives.
    pub(crate) fn holds_for_its_life(&self, credential: &Credential) -> bool {
        self.bindings(credential).iter().any(|(index, _)| match self.log[*index].command {
            Command::Deny { until: Some(until), .. } => credential.exp.at().is_some_and(|exp| exp <= until),
            _ => true,
        })
    }

    /// Why a credential is dead whatever was revoked.
    fn dead_by_rule(&self, now: u64, credential: &Credential) -> Vec<Reason> {
        let mut reasons = Vec::new();
        let leeway = self.rules.leeway;
        for claim in [credential.iat, credential.auth_time, credential.session_start] {
            if claim.at().is_some_and(|time| time > now + leeway) {
                reasons.push(Reason::FromTheFuture);
            }
        }
        if credential.exp.at().is_some_and(|exp| exp + leeway < now) {
            reasons.push(Reason::Expired);
        }
        if let Some(limit) = self.max_age_of(credential) {
            let is_older = |time: u64| now.saturating_sub(time) > limit;
            let is_young = match (credential.iat.at(), basis(credential, EpochKind::Reauthenticate)) {
                (Some(iat), Some(authenticated)) => !is_older(iat) && !is_older(authenticated),
                _ => false,
            };
            if !is_young {
                reasons.push(Reason::TooOld(limit));
            }
        }
        reasons
    }

    fn max_age_of(&self, credential: &Credential) -> Option<u64> {
        let of_tenant = self.rules.tenant_max_age.iter().filter(|(tenant, _)| credential.tenant == Some(*tenant));
        of_tenant.map(|(_, age)| *age).chain(self.rules.max_age).min()
    }

    fn doubts(&self, credential: &Credential) -> Vec<Doubt> {
        let malformed = malformed(credential).into_iter().map(Doubt::Malformed);
        let missing = self.rules.required.iter().filter(|claim| !brings(credential, **claim));
        malformed.chain(missing.map(|claim| Doubt::Missing(*claim))).collect()
    }

    pub(crate) fn verdict(&self, now: u64, credential: &Credential) -> Verdict {
        let mut reasons = self.held(credential);
        reasons.extend(self.dead_by_rule(now, credential));
        if !reasons.is_empty() {
            return Verdict::Revoked(reasons);
        }
        let doubts = self.doubts(credential);
        if doubts.is_empty() { Verdict::Clear } else { Verdict::Unknown(doubts) }
    }

    /// The verdict through the handle of a tenant, which a credential without a tenant counts as of.
    pub(crate) fn verdict_in(&self, tenant: &'static str, now: u64, credential: &Credential) -> Verdict {
        match credential.tenant {
            Some(other) if other != tenant => Verdict::Unknown(vec![Doubt::ForeignTenant]),
            _ => self.verdict(now, &Credential { tenant: Some(tenant), ..credential.clone() }),
        }
    }
}

/// The session that is spared by an epoch on a subject: in its tenant, at its issuer.
fn session(subject: Subject, id: &'static str) -> Subject {
    let tenant = if subject.kind == Kind::Tenant { Some(subject.id) } else { subject.tenant };
    Subject { kind: Kind::Session, id, tenant, issuer: subject.issuer }
}

/// Whether a credential names a subject. A tenant or an issuer that the subject leaves out is any.
pub(crate) fn names(credential: &Credential, subject: Subject) -> bool {
    let Subject { kind, id, tenant, issuer } = subject;
    if tenant.is_some() && credential.tenant != tenant || issuer.is_some() && credential.issuer != issuer {
        return false;
    }
    match kind {
        Kind::Token | Kind::OpaqueToken => credential.token == Some((kind, id)),
        Kind::Session => credential.session == Some(id),
        Kind::Family => credential.family == Some(id),
        Kind::User => credential.user == Some(id),
        Kind::Client => credential.client == Some(id),
        Kind::Device => credential.device == Some(id),
        Kind::Group => credential.groups.contains(&id),
        Kind::Tenant => credential.tenant == Some(id),
        Kind::Everyone => true,
    }
}

/// The time that an epoch is compared with. A malformed one says nothing.
fn basis(credential: &Credential, kind: EpochKind) -> Option<u64> {
    match kind {
        EpochKind::Reauthenticate => {
            credential.auth_time.at().or(credential.session_start.at()).or(credential.iat.at())
        }
        EpochKind::Reissue => credential.iat.at(),
    }
}

fn next_whole_second(time: u64) -> u64 {
    (time / SECOND + 1) * SECOND
}

/// The same-second rule; a missing time is from before.
pub(crate) fn is_from_at_or_before(epoch: u64, time: Option<u64>) -> bool {
    match time {
        None => true,
        Some(whole) if whole % SECOND == 0 => whole <= epoch / SECOND * SECOND,
        Some(fractional) => fractional <= epoch,
    }
}

fn is_unusable(text: &str) -> bool {
    text.is_empty() || text.len() > ID_BYTES_MAX
}

fn cannot_be_named(subject: Subject) -> bool {
    let Subject { kind, id, tenant, issuer } = subject;
    let id_is_unusable = match kind {
        Kind::Everyone => false,
        Kind::OpaqueToken => id.is_empty(),
        _ => is_unusable(id),
    };
    let tenant_of_tenant = matches!(kind, Kind::Tenant | Kind::Everyone) && tenant.is_some();
    id_is_unusable || tenant_of_tenant || tenant.is_some_and(is_unusable) || issuer.is_some_and(is_unusable)
}

fn malformed(credential: &Credential) -> Vec<Claim> {
    let c = credential;
    let token = match c.token {
        Some((Kind::OpaqueToken, secret)) => secret.is_empty(),
        Some((_, id)) => is_unusable(id),
        None => false,
    };
    let text = |text: Option<&str>| text.is_some_and(is_unusable);
    let time = |time: Time| time == Time::Malformed;
    let claims = [
        (Claim::Token, token),
        (Claim::Session, text(c.session)),
        (Claim::Family, text(c.family)),
        (Claim::User, text(c.user)),
        (Claim::Client, text(c.client)),
        (Claim::Device, text(c.device)),
        (Claim::Group, c.groups.iter().any(|group| is_unusable(group))),
        (Claim::Tenant, text(c.tenant)),
        (Claim::Issuer, text(c.issuer)),
        (Claim::IssuedAt, time(c.iat)),
        (Claim::AuthTime, time(c.auth_time)),
        (Claim::SessionStart, time(c.session_start)),
        (Claim::ExpiresAt, time(c.exp)),
    ];
    claims.into_iter().filter(|(_, malformed)| *malformed).map(|(claim, _)| claim).collect()
}

fn brings(credential: &Credential, claim: Claim) -> bool {
    let c = credential;
    match claim {
        Claim::Token => c.token.is_some(),
        Claim::Session => c.session.is_some(),
        Claim::Family => c.family.is_some(),
        Claim::User => c.user.is_some(),
        Claim::Client => c.client.is_some(),
        Claim::Device => c.device.is_some(),
        Claim::Group => !c.groups.is_empty(),
        Claim::Tenant => c.tenant.is_some(),
        Claim::Issuer => c.issuer.is_some(),
        Claim::IssuedAt => c.iat != Time::Missing,
        Claim::AuthTime => c.auth_time != Time::Missing,
        Claim::SessionStart => c.session_start != Time::Missing,
        Claim::ExpiresAt => c.exp != Time::Missing,
    }
}
