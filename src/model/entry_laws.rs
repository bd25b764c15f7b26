//! The laws of joining, against a model that keeps every mark it was ever given.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::entry::{Cause, Epochs, Mark, NarrowEntry, WideEntry};
use super::identity::Digest;
use super::provenance::Reason;
use super::time::{Retention, Timestamp};

const CASES: u32 = 10_000;
const SESSIONS: u8 = 4;

fn time(range: std::ops::Range<u64>) -> impl Strategy<Value = Timestamp> {
    range.prop_map(Timestamp::from_nanos)
}

fn cause() -> impl Strategy<Value = Cause> {
    (0..2_u8, prop_oneof![Just(None), Just(Some("a".into())), Just(Some("b".into()))])
        .prop_map(|(reason, actor)| Cause { reason: Reason::from(reason), actor })
}

fn session(number: u8) -> Digest {
    Digest::from_bytes([number; 16])
}

fn mark() -> impl Strategy<Value = Mark> {
    let spared = prop::collection::vec((0..SESSIONS).prop_map(session), 0..4);
    (time(0..6), time(1..6), cause(), spared).prop_map(|(epoch, at, cause, spared)| Mark { epoch, at, cause, spared })
}

/// One change, as a delta travels.
#[derive(Clone, Debug)]
enum Delta {
    Reauthenticate(Mark),
    Reissue(Mark),
    Disable(Timestamp, Cause),
    Lift(Timestamp),
    Enable(Timestamp),
    Floor(Timestamp),
}

impl Delta {
    fn entry(&self) -> WideEntry {
        let mut entry = WideEntry::default();
        match self.clone() {
            Self::Reauthenticate(mark) => entry.reauthenticate = Epochs::one(mark),
            Self::Reissue(mark) => entry.reissue = Epochs::one(mark),
            Self::Disable(at, cause) => entry.disabled = Some((at, cause)),
            Self::Lift(at) => entry.lifted = at,
            Self::Enable(at) => entry.enabled = at,
            Self::Floor(at) => entry.floor = at,
        }
        entry
    }
}

fn delta() -> impl Strategy<Value = Delta> {
    prop_oneof![
        4 => mark().prop_map(Delta::Reauthenticate),
        2 => mark().prop_map(Delta::Reissue),
        1 => (time(1..6), cause()).prop_map(|(at, cause)| Delta::Disable(at, cause)),
        1 => time(0..5).prop_map(Delta::Lift),
        1 => time(0..5).prop_map(Delta::Enable),
        1 => time(0..5).prop_map(Delta::Floor),
    ]
}

/// A change that undoes nothing.
fn denial() -> impl Strategy<Value = Delta> {
    delta().prop_filter("undoes", |delta| !matches!(delta, Delta::Lift(_) | Delta::Enable(_)))
}

fn wide() -> impl Strategy<Value = (Vec<Delta>, WideEntry)> {
    prop::collection::vec(delta(), 0..6).prop_map(|deltas| {
        let entry = joined(&deltas);
        (deltas, entry)
    })
}

fn joined(deltas: &[Delta]) -> WideEntry {
    let mut entry = WideEntry::default();
    deltas.iter().for_each(|delta| entry.join(delta.entry()));
    entry
}

fn join(mut a: WideEntry, b: WideEntry) -> WideEntry {
    a.join(b);
    a
}

fn narrow() -> impl Strategy<Value = NarrowEntry> {
    (time(0..6), cause(), time(0..6), 0_u32..6).prop_map(|(at, cause, lifted, until)| NarrowEntry {
        at,
        cause,
        lifted,
        until: Retention::from_secs(until),
    })
}

/// The epoch that binds a set of sessions, from every mark there was.
fn naive_epoch<'a>(
    marks: impl Iterator<Item = &'a Mark>,
    lifted: Timestamp,
    sessions: &BTreeSet<Digest>,
) -> Option<Timestamp> {
    marks
        .filter(|mark| mark.at > lifted && !mark.spared.iter().any(|spared| sessions.contains(spared)))
        .map(|mark| mark.epoch)
        .max()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, max_local_rejects: CASES * 10, ..ProptestConfig::default() })]

    #[test]
    fn joining_wide_entries_is_commutative_associative_and_idempotent((_, a) in wide(), (_, b) in wide(), (_, c) in wide()) {
        prop_assert_eq!(join(a.clone(), b.clone()), join(b.clone(), a.clone()));
        prop_assert_eq!(join(join(a.clone(), b.clone()), c.clone()), join(a.clone(), join(b, c)));
        prop_assert_eq!(join(a.clone(), a.clone()), a);
    }

    /// Laws alone would be kept by a least as well as by a greatest: nothing ever shrinks.
    #[test]
    fn joining_only_grows((_, a) in wide(), (_, b) in wide(), (c, d) in (narrow(), narrow())) {
        let (wide, mut narrow) = (join(a.clone(), b.clone()), c.clone());
        for part in [&a, &b] {
            prop_assert!(wide.lifted >= part.lifted && wide.enabled >= part.enabled && wide.floor >= part.floor);
            prop_assert!(wide.disabled >= part.disabled);
        }
        narrow.join(d.clone());
        for part in [&c, &d] {
            prop_assert!(narrow.at >= part.at && narrow.lifted >= part.lifted && narrow.until >= part.until);
        }
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

    #[test]
    fn the_order_of_changes_does_not_matter((deltas, entry) in wide(), seed in any::<u64>()) {
        let mut shuffled: Vec<_> = deltas.iter().cycle().take(deltas.len() * 2).cloned().enumerate().collect();
        shuffled.sort_by_key(|(index, _)| (*index as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let shuffled: Vec<_> = shuffled.into_iter().map(|(_, delta)| delta).collect();
        prop_assert_eq!(joined(&shuffled), entry);
    }

    #[test]
    fn pruning_loses_no_binding_epoch((deltas, entry) in wide(), sessions in prop::collection::btree_set((0..SESSIONS).prop_map(session), 0..2)) {
        let lifted = deltas.iter().filter_map(|delta| match delta {
            Delta::Lift(at) => Some(*at),
            _ => None,
        }).max().unwrap_or_default();
        let of = |reissue: bool| naive_epoch(deltas.iter().filter_map(move |delta| match delta {
            Delta::Reauthenticate(mark) if !reissue => Some(mark),
            Delta::Reissue(mark) if reissue => Some(mark),
            _ => None,
        }), lifted, &sessions);
        let bound = |epochs: &Epochs| epochs.binding(|session| sessions.contains(session)).map(|mark| mark.epoch);
        prop_assert_eq!(bound(&entry.reauthenticate), of(false));
        prop_assert_eq!(bound(&entry.reissue), of(true));
    }

    #[test]
    fn a_flag_is_set_iff_it_was_last_set_after_what_was_undone((deltas, entry) in wide()) {
        let enabled = deltas.iter().filter_map(|delta| match delta { Delta::Enable(at) => Some(*at), _ => None }).max().unwrap_or_default();
        let disabled = deltas.iter().filter_map(|delta| match delta { Delta::Disable(at, _) => Some(*at), _ => None }).max();
        prop_assert_eq!(entry.disabled_since().is_some(), disabled.is_some_and(|at| at > enabled));
    }

    #[test]
    fn without_an_undo_joining_never_un_denies((_, a) in wide(), b in denial(), sessions in prop::collection::btree_set((0..SESSIONS).prop_map(session), 0..2)) {
        let after = join(a.clone(), b.entry());
        let bound = |entry: &WideEntry| entry.binding_epoch(|session| sessions.contains(session));
        prop_assert!(bound(&after) >= bound(&a));
        prop_assert!(after.disabled_since().is_some() || a.disabled_since().is_none());
    }
}
