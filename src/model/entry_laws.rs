//! The laws of joining, against the definition: a set of marks, less those that undos name.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::entry::{Cause, NarrowEntry, WideEntry};
use super::epochs::{Epochs, Mark};
use super::identity::Digest;
use super::marks::{Life, Marks};
use super::provenance::Reason;
use super::time::{Retention, Timestamp};

const CASES: u32 = 10_000;
const LIVES: u8 = 3;
const SESSIONS: u8 = 4;
const ISSUERS: u8 = 2;

fn time(range: std::ops::Range<u64>) -> impl Strategy<Value = Timestamp> {
    range.prop_map(Timestamp::from_nanos)
}

fn life(number: u8) -> Life {
    Life::from_bytes([number; 16])
}

fn digest(number: u8) -> Digest {
    Digest::from_bytes([number; 16])
}

/// What one mark says. All that a life makes of one number is one mark.
#[derive(Clone, Debug)]
struct Said {
    reissue: bool,
    issuer: Option<u8>,
    /// 0 is pending.
    epoch: u64,
    in_doubt: bool,
    spared: BTreeSet<u8>,
    block: bool,
}

fn said() -> impl Strategy<Value = Said> {
    let issuer = prop_oneof![4 => Just(None), 1 => (0..ISSUERS).prop_map(Some)];
    let spared = prop::collection::btree_set(0..SESSIONS, 0..3);
    (any::<bool>(), issuer, 0..6_u64, spared, prop::bool::weighted(0.3)).prop_map(
        |(reissue, issuer, epoch, spared, block)| Said { reissue, issuer, epoch, in_doubt: epoch == 0, spared, block },
    )
}

/// What happens to one subject on three replicas.
#[derive(Clone, Debug)]
enum Step {
    /// The life of a replica makes a mark.
    Mark {
        at: usize,
        said: Said,
    },
    /// Somebody gives a pending mark that a replica holds its time.
    Settle {
        at: usize,
        epoch: u64,
    },
    Lift {
        at: usize,
    },
    Enable {
        at: usize,
    },
    /// One replica sends another all that it holds.
    Send {
        from: usize,
        to: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let at = || 0..usize::from(LIVES);
    prop_oneof![
        4 => (at(), said()).prop_map(|(at, said)| Step::Mark { at, said }),
        1 => (at(), 1..6_u64).prop_map(|(at, epoch)| Step::Settle { at, epoch }),
        1 => at().prop_map(|at| Step::Lift { at }),
        1 => at().prop_map(|at| Step::Enable { at }),
        4 => (at(), at()).prop_map(|(from, to)| Step::Send { from, to }),
    ]
}

/// A mark by its life and number.
type Name = (u8, u64);

/// The definition: every mark that was ever heard of, with the latest time that it was heard to have, and which of them were
/// named by a lift or an enabling that was heard of.
#[derive(Clone, Debug, Default)]
struct Definition {
    marks: BTreeMap<Name, Said>,
    lifted: BTreeSet<Name>,
    enabled: BTreeSet<Name>,
}

impl Definition {
    fn join(&mut self, other: &Self) {
        for (name, said) in &other.marks {
            self.marks
                .entry(*name)
                .and_modify(|known| known.epoch = known.epoch.max(said.epoch))
                .or_insert(said.clone());
        }
        self.lifted.extend(&other.lifted);
        self.enabled.extend(&other.enabled);
    }

    fn is_blocked(&self) -> bool {
        self.marks.iter().any(|(name, said)| said.block && !self.enabled.contains(name))
    }

    /// Whether a credential with this time, or none, is dead.
    fn binds(&self, reissue: bool, time: Option<u64>, issuer: u8, session: u8) -> bool {
        let standing = self.marks.iter().filter(|(name, _)| !self.lifted.contains(name)).map(|(_, said)| said);
        standing.filter(|said| said.reissue == reissue).any(|said| {
            let reaches = said.epoch == 0 || time.is_none_or(|time| time <= said.epoch);
            reaches && said.issuer.is_none_or(|of| of == issuer) && !said.spared.contains(&session)
        })
    }
}

fn entry_of((by, number): Name, said: &Said) -> WideEntry {
    let (life, at) = (life(by), Timestamp::from_nanos(number));
    let mark = Mark {
        epoch: Timestamp::from_nanos(said.epoch),
        at,
        life,
        in_doubt: said.in_doubt,
        issuer: said.issuer.map(digest),
        cause: Cause::default(),
        spared: said.spared.iter().map(|session| digest(*session)).collect(),
    };
    let mut entry = WideEntry::default();
    if said.reissue {
        entry.reissue = Epochs::one(mark);
    } else {
        entry.reauthenticate = Epochs::one(mark);
    }
    if said.block {
        entry.blocks = Marks::one(life, at, Cause::default());
    }
    entry
}

#[derive(Clone, Debug, Default)]
struct Replica {
    entry: WideEntry,
    definition: Definition,
}

fn take(replicas: &mut [Replica], next: &mut u64, step: &Step) {
    match step {
        Step::Mark { at, said } => {
            *next += 1;
            let name = (*at as u8, *next);
            let mut heard = Definition::default();
            heard.marks.insert(name, said.clone());
            replicas[*at].definition.join(&heard);
            replicas[*at].entry.join(entry_of(name, said));
        }
        Step::Settle { at, epoch } => {
            let replica = &mut replicas[*at];
            let pending = replica.entry.reauthenticate.iter().chain(replica.entry.reissue.iter());
            let names =
                pending.filter(|mark| mark.is_pending()).map(|mark| (mark.life.as_bytes()[0], mark.at.as_nanos()));
            for name in names.collect::<BTreeSet<Name>>() {
                let said = Said { epoch: *epoch, block: false, ..replica.definition.marks[&name].clone() };
                replica.entry.join(entry_of(name, &said));
            }
            // A later mark of the same life stands for those before it.
            let pending = replica.definition.marks.values_mut().filter(|said| said.epoch == 0);
            pending.for_each(|said| said.epoch = *epoch);
        }
        Step::Lift { at } => {
            let Replica { entry, definition } = &mut replicas[*at];
            definition.lifted.extend(definition.marks.keys());
            if let Some(lifting) = entry.lifting() {
                entry.join(lifting);
            }
        }
        Step::Enable { at } => {
            let Replica { entry, definition } = &mut replicas[*at];
            definition.enabled.extend(definition.marks.keys());
            if let Some(enabling) = entry.enabling() {
                entry.join(enabling);
            }
        }
        Step::Send { from, to } => {
            let Replica { entry, definition } = replicas[*from].clone();
            replicas[*to].entry.join(entry);
            replicas[*to].definition.join(&definition);
        }
    }
}

fn play(steps: &[Step]) -> Vec<Replica> {
    let mut replicas = vec![Replica::default(); usize::from(LIVES)];
    let mut next = 0;
    steps.iter().for_each(|step| take(&mut replicas, &mut next, step));
    replicas
}

/// Whether an entry says of every credential what the definition says.
fn agrees(Replica { entry, definition }: &Replica) -> Result<(), String> {
    if entry.blocks.stand() != definition.is_blocked() {
        return Err(format!("blocked: {} {}", entry.blocks.stand(), definition.is_blocked()));
    }
    for (reissue, epochs) in [(false, &entry.reauthenticate), (true, &entry.reissue)] {
        for time in (0..7).map(Some).chain([None]) {
            for (issuer, session) in
                (0..=ISSUERS).flat_map(|issuer| (0..=SESSIONS).map(move |session| (issuer, session)))
            {
                let denying = epochs.denying(
                    time.map(Timestamp::from_nanos),
                    |of| *of == digest(issuer),
                    |spared| *spared == digest(session),
                );
                let expected = definition.binds(reissue, time, issuer, session);
                if denying.is_some() != expected {
                    return Err(format!("{reissue} {time:?} {issuer} {session}: {denying:?}, expected {expected}"));
                }
            }
        }
    }
    Ok(())
}

/// Three entries of one subject, as three replicas, or one at different times, may hold them.
fn entries() -> impl Strategy<Value = [WideEntry; 3]> {
    let picks = [any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>()];
    (prop::collection::vec(step(), 0..16), picks).prop_map(|(steps, picks)| {
        let mut replicas = vec![Replica::default(); usize::from(LIVES)];
        let (mut next, mut held) = (0, vec![WideEntry::default()]);
        for step in &steps {
            take(&mut replicas, &mut next, step);
            held.extend(replicas.iter().map(|replica| replica.entry.clone()));
        }
        picks.map(|pick| pick.get(&held).clone())
    })
}

fn join(mut a: WideEntry, b: WideEntry) -> WideEntry {
    a.join(b);
    a
}

fn cause() -> impl Strategy<Value = Cause> {
    (0..2_u8, prop_oneof![Just(None), Just(Some("a".into())), Just(Some("b".into()))])
        .prop_map(|(reason, actor)| Cause { reason: Reason::from(reason), actor })
}

fn narrow() -> impl Strategy<Value = NarrowEntry> {
    let mark = (0..LIVES, time(1..6), cause(), 0_u32..6, any::<bool>());
    prop::collection::vec(mark, 1..6).prop_map(|marks| {
        let mut entry = NarrowEntry { denials: Marks::default(), until: Retention::from_secs(0) };
        for (by, at, cause, until, lifts) in marks {
            entry.join(NarrowEntry::denied(life(by), at, cause, Retention::from_secs(until)));
            if let Some(lifting) = entry.lifting().filter(|_| lifts) {
                entry.join(lifting);
            }
        }
        entry
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, max_local_rejects: CASES * 10, ..ProptestConfig::default() })]

    #[test]
    fn entry_denies_what_the_definition_denies(steps in prop::collection::vec(step(), 0..24)) {
        for replica in play(&steps) {
            prop_assert!(agrees(&replica).is_ok(), "{:?}", agrees(&replica));
        }
    }

    /// Replicas that have heard of the same hold the same, whatever the order.
    #[test]
    fn replicas_that_exchanged_everything_are_equal(steps in prop::collection::vec(step(), 0..16)) {
        let replicas = play(&steps);
        let [a, b, c] = [0, 1, 2].map(|index: usize| replicas[index].entry.clone());
        let forward = join(join(a.clone(), b.clone()), c.clone());
        prop_assert_eq!(&forward, &join(join(c.clone(), b.clone()), a.clone()));
        prop_assert_eq!(&forward, &join(b, join(a, c)));
        let mut definition = Definition::default();
        replicas.iter().for_each(|replica| definition.join(&replica.definition));
        let all = Replica { entry: forward, definition };
        prop_assert!(agrees(&all).is_ok(), "{:?}", agrees(&all));
    }

    #[test]
    fn joining_wide_entries_is_commutative_associative_and_idempotent([a, b, c] in entries()) {
        prop_assert_eq!(join(a.clone(), b.clone()), join(b.clone(), a.clone()));
        prop_assert_eq!(join(join(a.clone(), b.clone()), c.clone()), join(a.clone(), join(b, c)));
        prop_assert_eq!(join(a.clone(), a.clone()), a);
    }

    #[test]
    fn joining_narrow_entries_is_commutative_associative_and_idempotent(a in narrow(), b in narrow(), c in narrow()) {
        let join = |mut a: NarrowEntry, b: NarrowEntry| {
            a.join(b);
            a
        };
        prop_assert_eq!(join(a.clone(), b.clone()), join(b.clone(), a.clone()));
        prop_assert_eq!(join(join(a.clone(), b.clone()), c.clone()), join(a.clone(), join(b, c)));
        prop_assert_eq!(join(a.clone(), a.clone()), a);
    }

    /// Without what it undoes, nothing that is joined un-denies anything.
    #[test]
    fn entry_without_undoing_readmits_nobody(steps in prop::collection::vec(step(), 0..24)) {
        let replicas = play(&steps);
        let (known, change) = (&replicas[0].entry, &replicas[1].entry);
        let after = join(known.clone(), change.without_undoing(Some(known)));
        prop_assert!(after.blocks.stand() || !known.blocks.stand());
        for (before, after) in [(&known.reauthenticate, &after.reauthenticate), (&known.reissue, &after.reissue)] {
            for (time, issuer, session) in (0..7).flat_map(|t| (0..=ISSUERS).flat_map(move |i| (0..=SESSIONS).map(move |s| (t, i, s)))) {
                let denies = |epochs: &Epochs| {
                    let time = Some(Timestamp::from_nanos(time));
                    epochs.denying(time, |of| *of == digest(issuer), |spared| *spared == digest(session)).is_some()
                };
                prop_assert!(denies(after) || !denies(before), "{time} {issuer} {session}");
            }
        }
        prop_assert_eq!(join(after, change.clone()), join(known.clone(), change.clone()));
    }
}

/// Every history of three replicas up to six steps, of one user who is disabled, enabled and lifted, with state sent in between.
#[test]
fn every_short_history_agrees_with_the_definition() {
    let said =
        |epoch| Said { reissue: false, issuer: None, epoch, in_doubt: false, spared: BTreeSet::new(), block: true };
    let mut steps = Vec::new();
    for at in 0..usize::from(LIVES) {
        // Clocks that disagree: the later of two may be the earlier by its own life's clock.
        steps.push(Step::Mark { at, said: said(3 - at as u64) });
        steps.push(Step::Enable { at });
        steps.push(Step::Lift { at });
        steps.extend((0..usize::from(LIVES)).filter(|to| *to != at).map(|to| Step::Send { from: at, to }));
    }
    let depth = if cfg!(debug_assertions) { 4 } else { 6 };
    let mut histories = 0_u64;
    explore(&vec![Replica::default(); usize::from(LIVES)], 0, &steps, depth, &mut histories);
    assert_eq!(histories, (1..=depth).map(|length| (steps.len() as u64).pow(length)).sum::<u64>());
}

fn explore(replicas: &[Replica], number: u64, steps: &[Step], depth: u32, histories: &mut u64) {
    for step in steps {
        let (mut after, mut next) = (replicas.to_vec(), number);
        take(&mut after, &mut next, step);
        *histories += 1;
        for replica in &after {
            assert!(agrees(replica).is_ok(), "{step:?}: {:?} {replica:?}", agrees(replica));
        }
        if depth > 1 {
            explore(&after, next, steps, depth - 1, histories);
        }
    }
}
