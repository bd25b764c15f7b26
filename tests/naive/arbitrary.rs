//! Commands and credentials from small alphabets, so that they often meet.
//!
//! The same few texts serve as ids of every kind, as tenants and as issuers: whatever confuses them shows.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Claim, Command, Credential, EpochKind, Kind, Rules, SECOND, Subject, Time};

/// When the clocks start.
pub(crate) const START: u64 = 1_700_000_000 * SECOND;
/// One byte more than an id may have.
pub(crate) const TOO_LONG: &str = match std::str::from_utf8(&[b'x'; 1025]) {
    Ok(text) => text,
    Err(_) => "",
};
const QUARTER: u64 = SECOND / 4;

/// One thing that happens to a store.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A command, through the handle of a tenant where that can express it.
    Do {
        command: Command,
        handle: bool,
    },
    /// Time passes, in nanoseconds.
    Advance(u64),
    /// Somebody sets the wall clock by this much.
    SetWall(i64),
    Maintain,
    Snapshot,
    /// The store is closed and opened again.
    Reopen,
    /// The process is killed, and the store is opened again.
    Kill,
    /// The machine restarts in between.
    Reboot,
}

/// An element of a table; shrinks to the first.
fn one_of<T: Copy + std::fmt::Debug>(table: &'static [T]) -> impl Strategy<Value = T> {
    (0..table.len()).prop_map(|index| table[index])
}

pub(crate) fn id() -> impl Strategy<Value = &'static str> {
    one_of(&["a", "a", "a", "a", "b", "b", "b", "c"])
}

fn scope() -> impl Strategy<Value = Option<&'static str>> {
    one_of(&[None, None, None, None, Some("a"), Some("a"), Some("b"), Some("b")])
}

/// A subject of these kinds.
fn subject_of(kinds: &'static [Kind]) -> impl Strategy<Value = Subject> {
    (one_of(kinds), id(), scope(), scope()).prop_map(|(kind, id, tenant, issuer)| match kind {
        Kind::Everyone => Subject { kind, id: "", tenant: None, issuer },
        Kind::Tenant => Subject { kind, id, tenant: None, issuer },
        _ => Subject { kind, id, tenant, issuer },
    })
}

const NARROW: &[Kind] = &[Kind::Token, Kind::Session, Kind::Family, Kind::OpaqueToken];
const WIDE: &[Kind] = &[
    Kind::User,
    Kind::User,
    Kind::User,
    Kind::Client,
    Kind::Device,
    Kind::Group,
    Kind::Group,
    Kind::Tenant,
    Kind::Everyone,
];
const WITH_A_FLAG: &[Kind] = &[Kind::User, Kind::User, Kind::Client, Kind::Device, Kind::Tenant];
const ANY: &[Kind] = &[
    Kind::User,
    Kind::User,
    Kind::Token,
    Kind::Session,
    Kind::Session,
    Kind::Family,
    Kind::OpaqueToken,
    Kind::Client,
    Kind::Device,
    Kind::Group,
    Kind::Tenant,
    Kind::Everyone,
];

pub(crate) fn subject() -> impl Strategy<Value = Subject> {
    subject_of(ANY)
}

/// A wide subject.
pub(crate) fn wide() -> impl Strategy<Value = Subject> {
    subject_of(WIDE)
}

/// A time around the start: mostly on a quarter of a second, so that whole seconds and ties are common.
pub(crate) fn moment() -> impl Strategy<Value = u64> {
    (-80_i64..12, 0_u8..16).prop_map(|(quarters, nudge)| {
        let time = START.saturating_add_signed(quarters * QUARTER as i64);
        match nudge {
            14 => time + 1,
            15 => time - 1,
            13 => time - 200 * SECOND,
            8..=12 => time / SECOND * SECOND,
            _ => time,
        }
    })
}

/// How time passes: mostly a little.
pub(crate) fn pause() -> impl Strategy<Value = u64> {
    (0_u64..24, 0_u8..8).prop_map(|(quarters, size)| match size {
        0 => quarters * 10 * SECOND,
        1 => quarters + 1,
        _ => quarters / 2 * QUARTER,
    })
}

pub(crate) fn epoch_kind() -> impl Strategy<Value = EpochKind> {
    one_of(&[EpochKind::Reauthenticate, EpochKind::Reauthenticate, EpochKind::Reissue])
}

fn spared() -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![3 => Just(Vec::new()), 2 => vec(id(), 1..3)]
}

pub(crate) fn deny() -> impl Strategy<Value = Command> {
    let until = prop_oneof![2 => Just(None), 1 => (0_u64..400).prop_map(|secs| Some(START + secs * SECOND / 2))];
    (subject_of(NARROW), until).prop_map(|(subject, until)| Command::Deny { subject, until })
}

pub(crate) fn epoch() -> impl Strategy<Value = Command> {
    let at = prop_oneof![Just(None), moment().prop_map(Some)];
    (wide(), epoch_kind(), at, spared()).prop_map(|(subject, kind, at, spared)| Command::Epoch {
        subject,
        kind,
        at,
        spared,
    })
}

/// A command that only adds.
pub(crate) fn addition() -> impl Strategy<Value = Command> {
    prop_oneof![4 => deny(), 6 => epoch(), 2 => subject_of(WITH_A_FLAG).prop_map(Command::Disable)]
}

pub(crate) fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => addition(),
        1 => subject_of(WITH_A_FLAG).prop_map(Command::Enable),
        2 => subject().prop_map(Command::Lift),
    ]
}

/// Commands of which the later ones often name the subject of an earlier one.
pub(crate) fn commands(most: usize) -> impl Strategy<Value = Vec<(Command, bool)>> {
    let again = prop_oneof![3 => Just(None), 2 => (any::<prop::sample::Index>(), 0_u8..4).prop_map(Some)];
    vec((command(), again, any::<bool>()), 0..=most).prop_map(|drawn| {
        let mut commands: Vec<(Command, bool)> = Vec::with_capacity(drawn.len());
        for (mut command, again, handle) in drawn {
            if let Some((index, how)) = again
                && !commands.is_empty()
            {
                let subject = index.get(&commands).0.subject();
                command = match (how, command) {
                    (0, _) if subject.kind.can_be_disabled() => Command::Disable(subject),
                    (1, _) if subject.kind.can_be_disabled() => Command::Enable(subject),
                    (0..=2, _) => Command::Lift(subject),
                    (_, Command::Deny { until, .. }) if subject.kind.is_narrow() => Command::Deny { subject, until },
                    (_, Command::Epoch { kind, at, spared, .. }) if !subject.kind.is_narrow() => {
                        Command::Epoch { subject, kind, at, spared }
                    }
                    (_, command) => command,
                };
            }
            commands.push((command, handle));
        }
        commands
    })
}

/// Commands, with time passing between them.
pub(crate) fn history(most: usize) -> impl Strategy<Value = Vec<Step>> {
    (commands(most), vec(prop_oneof![Just(0), pause()], most + 1)).prop_map(|(commands, pauses)| {
        let mut steps = Vec::with_capacity(commands.len() * 2);
        for ((command, handle), pause) in commands.into_iter().zip(pauses) {
            if pause > 0 {
                steps.push(Step::Advance(pause));
            }
            steps.push(Step::Do { command, handle });
        }
        steps
    })
}

/// Steps with these between them, each before as many commands as its number says.
pub(crate) fn interleaved(
    history: impl Strategy<Value = Vec<Step>>,
    others: impl Strategy<Value = Step>,
    most: usize,
) -> impl Strategy<Value = Vec<Step>> {
    (history, vec((any::<prop::sample::Index>(), others), 0..=most)).prop_map(|(mut steps, others)| {
        for (index, other) in others {
            let place = index.index(steps.len() + 1);
            steps.insert(place, other);
        }
        steps
    })
}

fn claim(most: u8) -> impl Strategy<Value = Option<&'static str>> {
    (0_u8..10, id()).prop_map(move |(present, id)| (present < most).then_some(id))
}

/// A well-formed credential. It names most things, but not all, and seldom lacks its times.
pub(crate) fn credential() -> impl Strategy<Value = Credential> {
    let names = (claim(7), any::<bool>(), claim(7), claim(4), claim(8), claim(4), claim(4));
    let groups = vec(id(), 0..3);
    let time = |most: u8| {
        (0_u8..20, moment()).prop_map(move |(present, at)| if present < most { Time::At(at) } else { Time::Missing })
    };
    let exp = (0_u8..16, moment(), 0_u64..400).prop_map(|(sort, at, secs)| match sort {
        0 => Time::At(at),
        1..=8 => Time::At(START + secs * SECOND),
        _ => Time::Missing,
    });
    (names, groups, claim(8), claim(6), (time(18), time(9), time(6), exp)).prop_map(
        |((token, opaque, session, family, user, client, device), groups, tenant, issuer, times)| {
            let (iat, auth_time, session_start, exp) = times;
            let kind = if opaque { Kind::OpaqueToken } else { Kind::Token };
            let token = token.map(|token| (kind, token));
            Credential {
                token,
                session,
                family,
                user,
                client,
                device,
                groups,
                tenant,
                issuer,
                iat,
                auth_time,
                session_start,
                exp,
            }
        },
    )
}

/// A credential of so much later.
pub(crate) fn later(mut credential: Credential, nanos: u64) -> Credential {
    for time in [&mut credential.iat, &mut credential.auth_time, &mut credential.session_start] {
        if let Time::At(at) = time {
            *at += nanos;
        }
    }
    credential
}

/// The credential, changed so that it names a subject.
pub(crate) fn naming(mut credential: Credential, subject: Subject) -> Credential {
    let id = Some(subject.id);
    match subject.kind {
        Kind::Token | Kind::OpaqueToken => credential.token = Some((subject.kind, subject.id)),
        Kind::Session => credential.session = id,
        Kind::Family => credential.family = id,
        Kind::User => credential.user = id,
        Kind::Client => credential.client = id,
        Kind::Device => credential.device = id,
        Kind::Group => credential.groups.push(subject.id),
        Kind::Tenant => credential.tenant = id,
        Kind::Everyone => {}
    }
    credential.tenant = subject.tenant.or(credential.tenant);
    credential.issuer = subject.issuer.or(credential.issuer);
    credential
}

/// Credentials, every other of which names a subject of the history.
pub(crate) fn concerned(credentials: Vec<Credential>, steps: &[Step]) -> Vec<Credential> {
    let subjects: Vec<_> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Do { command, .. } => Some(command.subject()),
            _ => None,
        })
        .collect();
    let concerned = credentials.into_iter().enumerate().map(|(index, credential)| match subjects.get(index / 2) {
        Some(subject) if index % 2 == 0 => naming(credential, *subject),
        _ => credential,
    });
    concerned.collect()
}

pub(crate) const CLAIMS: &[Claim] = &[
    Claim::Tenant,
    Claim::User,
    Claim::Session,
    Claim::Token,
    Claim::Issuer,
    Claim::IssuedAt,
    Claim::ExpiresAt,
    Claim::AuthTime,
    Claim::SessionStart,
    Claim::Family,
    Claim::Client,
    Claim::Device,
    Claim::Group,
];

pub(crate) fn required() -> impl Strategy<Value = Claim> {
    one_of(CLAIMS)
}

/// What is wrong with one claim: that it is missing, empty, too long, or no time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Defect {
    Missing,
    Empty,
    TooLong,
}

pub(crate) fn defect() -> impl Strategy<Value = (Claim, Defect)> {
    (required(), one_of(&[Defect::Missing, Defect::Empty, Defect::TooLong]))
}

/// Spoils one claim. Whatever is wrong with a time that is there, it is malformed.
pub(crate) fn spoil(mut credential: Credential, (claim, defect): (Claim, Defect)) -> Credential {
    let text = match defect {
        Defect::Missing => None,
        Defect::Empty => Some(""),
        Defect::TooLong => Some(TOO_LONG),
    };
    let time = if text.is_none() { Time::Missing } else { Time::Malformed };
    match claim {
        Claim::Token => credential.token = text.map(|text| (Kind::Token, text)),
        Claim::Session => credential.session = text,
        Claim::Family => credential.family = text,
        Claim::User => credential.user = text,
        Claim::Client => credential.client = text,
        Claim::Device => credential.device = text,
        Claim::Group if text.is_none() => credential.groups.clear(),
        Claim::Group => credential.groups.extend(text),
        Claim::Tenant => credential.tenant = text,
        Claim::Issuer => credential.issuer = text,
        Claim::IssuedAt => credential.iat = time,
        Claim::AuthTime => credential.auth_time = time,
        Claim::SessionStart => credential.session_start = time,
        Claim::ExpiresAt => credential.exp = time,
    }
    credential
}

/// A credential, and now and then one with a defect.
pub(crate) fn any_credential() -> impl Strategy<Value = Credential> {
    prop_oneof![
        5 => credential(),
        1 => (credential(), defect()).prop_map(|(credential, defect)| spoil(credential, defect)),
    ]
}

pub(crate) fn max_age() -> impl Strategy<Value = u64> {
    (1_u64..120).prop_map(|secs| secs * SECOND)
}

/// Rules that hold of nobody here: clocks may differ by more than they do.
pub(crate) fn lenient() -> Rules {
    Rules { leeway: 10 * SECOND, skew: 10 * SECOND, ..Rules::default() }
}

/// Rules that are mostly lenient.
pub(crate) fn rules() -> impl Strategy<Value = Rules> {
    let max_age = || prop_oneof![3 => Just(None), 1 => max_age().prop_map(Some)];
    let required = prop_oneof![4 => Just(Vec::new()), 1 => vec(required(), 1..3)];
    (0_u64..3, 0_u64..4, max_age(), max_age(), required).prop_map(|(leeway, skew, max_age, of_tenant, required)| {
        Rules {
            leeway: leeway * 2 * SECOND,
            skew: skew * 2 * SECOND,
            max_age,
            tenant_max_age: of_tenant.map(|age| ("a", age)).into_iter().collect(),
            required,
        }
    })
}
