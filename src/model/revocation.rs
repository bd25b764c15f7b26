//! The commands: revoke, and the changes that are not revocations (disable, enable, lift).

use std::fmt;

use super::provenance::{Actor, Channel, InitiatingEntity, Provenance, Reason};
use super::subject::{InvalidSubject, Kind, LocalSubject, Subject};
use super::time::{NumericDate, TimeClaim, Timestamp};

/// The most sessions that one revocation can spare.
pub const SPARED_SESSIONS_MAX: usize = 64;

/// The provenance builders, the same for every command.
macro_rules! provenance_builders {
    () => {
        /// Why, as a code.
        pub fn because(mut self, reason: Reason) -> Self {
            self.provenance.reason = reason;
            self
        }

        /// Who did it: a name, or an [`Actor`].
        pub fn by(mut self, actor: impl Into<Actor>) -> Self {
            self.provenance.actor = Some(actor.into());
            self
        }

        /// Why, as free text. It goes to the audit sinks only and must hold no secret.
        pub fn note(mut self, text: impl Into<String>) -> Self {
            self.provenance.note = Some(text.into());
            self
        }

        /// On whose behalf.
        pub fn on_behalf_of(mut self, initiator: InitiatingEntity) -> Self {
            self.provenance.initiator = Some(initiator);
            self
        }

        /// By which way the command came in; [`Channel::Api`] unless said.
        pub fn through(mut self, channel: Channel) -> Self {
            self.provenance.channel = channel;
            self
        }

        /// The `txn` that ties this change to others in the audit records (RFC 8417 section 2.2).
        pub fn transaction(mut self, txn: impl Into<String>) -> Self {
            self.provenance.transaction = Some(txn.into());
            self
        }
    };
}

/// Which credentials an epoch on a wide subject kills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum EpochKind {
    /// Those authenticated at or before it.
    #[default]
    Reauthenticate,
    /// Those issued at or before it.
    Reissue,
}

/// A command: this subject is dead.
///
/// A token, session or family is denied outright. A wide subject gets an *epoch*: every credential of it from at or
/// before that time is dead, and new ones live.
///
/// ```
/// use rescind::{Reason, Revocation, Subject};
///
/// let offboarding = Revocation::of(Subject::user("alice").in_tenant("acme"))
///     .because(Reason::Offboarding)
///     .by("hr-system");
/// # drop(offboarding);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a revocation does nothing until it is given to a store"]
pub struct Revocation<S = Subject> {
    pub(crate) subject: S,
    pub(crate) epoch_kind: EpochKind,
    pub(crate) epoch: TimeClaim,
    pub(crate) until: TimeClaim,
    pub(crate) spared_sids: Vec<Sid>,
    pub(crate) provenance: Provenance,
}

/// A session id that does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Sid(pub(crate) String);

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl<S> Revocation<S> {
    /// The revocation of a subject: for good if narrow, by a re-authenticate epoch of now if wide.
    pub fn of(subject: S) -> Self {
        Self {
            subject,
            epoch_kind: EpochKind::default(),
            epoch: TimeClaim::Missing,
            until: TimeClaim::Missing,
            spared_sids: Vec::new(),
            provenance: Provenance::default(),
        }
    }

    provenance_builders!();

    /// For a token, session or family: the time after which every credential naming it has expired (`exp`). Then it
    /// can be forgotten; without this it is remembered for good.
    pub fn until(self, time: impl Into<Timestamp>) -> Self {
        self.until_secs(time.into())
    }

    /// [`Revocation::until`] as a `NumericDate` in seconds.
    pub fn until_secs(mut self, secs: impl Into<NumericDate>) -> Self {
        self.until = secs.into().0;
        self
    }

    /// For a wide subject: credentials *issued* (`iat`) at or before the epoch are dead, and a token that was silently
    /// refreshed lives. For a change of claims or roles; without this, people must authenticate again.
    pub fn reissue(mut self) -> Self {
        self.epoch_kind = EpochKind::Reissue;
        self
    }

    /// For a wide subject: the epoch, where it is not now. An event of the past has its own time.
    pub fn at(self, time: impl Into<Timestamp>) -> Self {
        self.at_secs(time.into())
    }

    /// [`Revocation::at`] as a `NumericDate` in seconds.
    pub fn at_secs(mut self, secs: impl Into<NumericDate>) -> Self {
        self.epoch = secs.into().0;
        self
    }

    /// For a wide subject: this epoch spares one session ("log everyone out but me"). The session is taken in the
    /// tenant and under the issuer that the subject names. Earlier epochs still bind it.
    pub fn sparing_session(mut self, sid: impl Into<String>) -> Self {
        self.spared_sids.push(Sid(sid.into()));
        self
    }
}

impl Revocation<Subject> {
    /// Every spared session, in the scope of the subject.
    ///
    /// All epochs of one subject name sessions in this one scope, so that one session is one digest there. Entries rely
    /// on it: they drop an epoch when no session is spared by all the epochs that outdo it.
    pub(crate) fn spared(&self) -> impl Iterator<Item = Subject> + '_ {
        self.spared_sids.iter().map(|Sid(sid)| {
            let mut session = Subject::session(sid);
            session.tenant = self.subject.tenant_name().map(Into::into);
            session.issuer = self.subject.issuer.clone();
            session
        })
    }

    /// Checks what can be checked without a clock.
    pub(crate) fn validate(&self) -> Result<(), InvalidRevocation> {
        self.subject.validate()?;
        validate(&self.provenance)?;
        let kind = self.subject.kind;
        let spared = self.spared_sids.len();
        if self.until == TimeClaim::Malformed {
            return Err(InvalidRevocation::MalformedTime { part: "until" });
        }
        if self.epoch == TimeClaim::Malformed {
            return Err(InvalidRevocation::MalformedTime { part: "epoch" });
        }
        if kind.is_narrow() {
            if self.epoch != TimeClaim::Missing || self.epoch_kind != EpochKind::Reauthenticate || spared > 0 {
                return Err(InvalidRevocation::EpochOnNarrow { kind });
            }
        } else if self.until != TimeClaim::Missing {
            return Err(InvalidRevocation::RetentionOnWide { kind });
        }
        if spared > SPARED_SESSIONS_MAX {
            return Err(InvalidRevocation::TooManySpared { count: spared });
        }
        for session in self.spared() {
            session.validate().map_err(InvalidRevocation::SparedSession)?;
        }
        Ok(())
    }
}

impl Revocation<LocalSubject> {
    /// The revocation that this is in `tenant`.
    pub(crate) fn within(self, tenant: &str) -> Revocation {
        let Self { subject, epoch_kind, epoch, until, spared_sids, provenance } = self;
        let subject = subject.within(tenant);
        Revocation { subject, epoch_kind, epoch, until, spared_sids, provenance }
    }
}

/// What [`Store::disable`](crate::Store::disable), [`Store::enable`](crate::Store::enable) and
/// [`Store::lift`](crate::Store::lift) take: a subject, and who, why and how. A bare subject converts into it.
///
/// ```
/// use rescind::{Change, Reason, Store, Subject};
///
/// let store = Store::in_memory();
/// store.disable(Subject::user("bob"))?;
/// store.enable(Change::of(Subject::user("bob")).because(Reason::Administrative).by("alice"))?;
/// # Ok::<(), rescind::WriteError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a change does nothing until it is given to a store"]
pub struct Change<S = Subject> {
    pub(crate) subject: S,
    pub(crate) provenance: Provenance,
}

impl<S> Change<S> {
    /// A change to a subject.
    pub fn of(subject: S) -> Self {
        Self { subject, provenance: Provenance::default() }
    }

    provenance_builders!();
}

impl Change<Subject> {
    pub(crate) fn validate(&self) -> Result<(), InvalidRevocation> {
        self.subject.validate()?;
        validate(&self.provenance)
    }
}

impl Change<LocalSubject> {
    /// The change that this is in `tenant`.
    pub(crate) fn within(self, tenant: &str) -> Change {
        Change { subject: self.subject.within(tenant), provenance: self.provenance }
    }
}

impl From<Subject> for Change {
    fn from(subject: Subject) -> Self {
        Self::of(subject)
    }
}

impl From<LocalSubject> for Change<LocalSubject> {
    fn from(subject: LocalSubject) -> Self {
        Self::of(subject)
    }
}

fn validate(provenance: &Provenance) -> Result<(), InvalidRevocation> {
    match provenance.oversized() {
        Some((part, bytes, limit)) => Err(InvalidRevocation::TextTooLong { part, bytes, limit }),
        None => Ok(()),
    }
}

/// Why a command makes no sense. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRevocation {
    /// The subject cannot be named.
    #[error(transparent)]
    Subject(#[from] InvalidSubject),
    /// A spared session cannot be named.
    #[error("spared session: {0}")]
    SparedSession(#[source] InvalidSubject),
    /// Too many sessions were to be spared.
    #[error("{count} sessions to spare, the limit is {SPARED_SESSIONS_MAX}: revoke the others one by one")]
    TooManySpared {
        /// How many.
        count: usize,
    },
    /// An epoch, a reissue or a spared session on a narrow subject.
    #[error("a {kind} is denied outright and has no epoch: leave out at, reissue and sparing, or revoke the user")]
    EpochOnNarrow {
        /// The kind of the subject.
        kind: Kind,
    },
    /// A retention on a wide subject.
    #[error(
        "the epoch of a {kind} cannot end at a time of its own, credentials might outlive it: leave out until, and \
         declare Options::max_credential_age to have epochs forgotten"
    )]
    RetentionOnWide {
        /// The kind of the subject.
        kind: Kind,
    },
    /// A number that names no time.
    #[error("{part} is a number that names no time: give seconds since 1970, before the year 2554")]
    MalformedTime {
        /// Which part.
        part: &'static str,
    },
    /// A text is too long.
    #[error("the {part} is {bytes} bytes long, the limit is {limit}")]
    TextTooLong {
        /// Which text.
        part: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A maximum age of something else than a tenant or everyone, or under one issuer.
    #[error("a maximum credential age is that of a tenant or of everyone, under any issuer, and not of a {kind}")]
    NotAged {
        /// The kind of the subject.
        kind: Kind,
    },
    /// A maximum age of zero.
    #[error("a maximum credential age of zero would deny everything: disable the tenant instead")]
    ZeroAge,
    /// A kind without a flag was to be disabled or enabled.
    #[error("a {kind} cannot be disabled or enabled, only a user, client, device or tenant: revoke it instead")]
    NotDisableable {
        /// The kind of the subject.
        kind: Kind,
    },
}
