//! Epochs: times before which the credentials of a wide subject are dead.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::entry::Cause;
use super::identity::Digest;
use super::marks::{Life, Undone};
use super::time::Timestamp;

/// One epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Credentials from at or before this are dead; all of them while it is [`PENDING`](Self::PENDING).
    pub(crate) epoch: Timestamp,
    /// When the epoch was made: the number of the mark among those of its life.
    pub(crate) at: Timestamp,
    /// The life that made it.
    pub(crate) life: Life,
    /// Whether it was made while the time was in doubt, and was or is pending.
    pub(crate) in_doubt: bool,
    /// The issuer of the credentials concerned; those of every issuer if there is none.
    pub(crate) issuer: Option<Digest>,
    /// Why, and by whom.
    pub(crate) cause: Cause,
    /// The sessions it spares, sorted.
    pub(crate) spared: Vec<Digest>,
}

impl Mark {
    /// The epoch of a mark that was made while the time was in doubt. It is the least, so that joining settles it.
    pub(crate) const PENDING: Timestamp = Timestamp::MIN;

    pub(crate) fn is_pending(&self) -> bool {
        self.epoch == Self::PENDING
    }

    /// What tells marks apart; one mark may have lines for several issuers.
    fn identity(&self) -> (Life, Timestamp, Option<Digest>) {
        (self.life, self.at, self.issuer)
    }

    /// The order in which marks are kept is the reverse of this.
    fn key(&self) -> (Timestamp, Timestamp, bool, Life, Option<Digest>) {
        (self.epoch, self.at, self.issuer.is_none(), self.life, self.issuer)
    }

    /// Whether whatever this binds, the other binds as well, if neither spares anyone, and an undo of the other is one of
    /// this: that is so of a later mark of the same life only.
    fn is_dominated_by(&self, other: &Self) -> bool {
        other.life == self.life
            && other.at >= self.at
            && other.epoch >= self.epoch
            && (other.issuer.is_none() || other.issuer == self.issuer)
            // What is pending here may have a time elsewhere, and the other way round: both are dominated, or neither. A later
            // mark that was pending has been given no earlier time than this one would be; any other may be of the past.
            && (!self.in_doubt || other.in_doubt)
            && other.key() > self.key()
    }

    /// Whether it binds a credential with this time, or without one.
    fn reaches(&self, time: Option<Timestamp>) -> bool {
        // A whole-second claim t is dead iff t <= floor(epoch), which for a whole t is the same as t <= epoch.
        self.is_pending() || time.is_none_or(|time| time <= self.epoch)
    }
}

/// The epochs of one sort on one subject: as a rule one.
///
/// Several are kept while each binds somebody whom no later one of its life binds: a session spared today is still bound by
/// yesterday's epoch. Marks of different lives are never weighed against each other; see [`super::marks`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Epochs {
    /// Latest epoch first.
    marks: Vec<Mark>,
    lifted: Undone,
}

impl Epochs {
    /// One epoch.
    pub(crate) fn one(mark: Mark) -> Self {
        Self::of(vec![mark])
    }

    /// Some epochs.
    pub(crate) fn of(marks: Vec<Mark>) -> Self {
        let mut epochs = Self { marks, lifted: Undone::default() };
        for mark in &mut epochs.marks {
            mark.spared.sort_unstable();
            mark.spared.dedup();
        }
        epochs.canonicalise();
        epochs
    }

    /// The epochs, latest first.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Mark> {
        self.marks.iter()
    }

    /// Which marks are lifted.
    pub(crate) fn lifted(&self) -> &Undone {
        &self.lifted
    }

    /// The lifting of all that stands; none if nothing does.
    pub(crate) fn lifting(&self) -> Option<Self> {
        let mut lifted = Undone::default();
        self.marks.iter().for_each(|mark| lifted.raise(mark.life, mark.at));
        (!lifted.is_empty()).then_some(Self { marks: Vec::new(), lifted })
    }

    /// Marks of `life`, made from `at` on, that say the same as those here, except that those for which `is_too_late` holds wait
    /// for the time that `timed` gives them; and the lifting of all these; none if none is too late.
    pub(crate) fn restated(
        &self,
        (life, at): (Life, Timestamp),
        is_too_late: impl Fn(&Mark) -> bool,
        timed: impl Fn(Mark) -> Vec<Mark>,
    ) -> Option<Self> {
        if !self.marks.iter().any(&is_too_late) {
            return None;
        }
        let mut restated = Self::default();
        let mut number = at;
        for mark in &self.marks {
            restated.lifted.raise(mark.life, mark.at);
            let again = Mark { at: number, life, ..mark.clone() };
            if is_too_late(mark) {
                restated.marks.extend(timed(Mark { epoch: Mark::PENDING, in_doubt: true, ..again }));
            } else {
                restated.marks.push(again);
            }
            number = number.successor();
        }
        restated.canonicalise();
        Some(restated)
    }

    /// Whether it holds a mark of a life with this number or a later one, or its undoing.
    pub(crate) fn knows(&self, life: Life, number: Timestamp) -> bool {
        self.lifted.covers(life, number) || self.marks.iter().any(|mark| mark.life == life && mark.at >= number)
    }

    /// The highest number in it.
    pub(crate) fn latest(&self) -> Timestamp {
        self.marks.iter().map(|mark| mark.at).max().unwrap_or_default().max(self.lifted.latest())
    }

    /// Whether any epoch waits for its time.
    pub(crate) fn is_pending(&self) -> bool {
        // They are the least, and last.
        self.marks.last().is_some_and(Mark::is_pending)
    }

    /// These marks, all lines of one, made to bind whatever the marks here bind, and the lifting of the latter: for a subject
    /// that has too many. They are as late as the latest and spare only whom all spare. Nothing is outdone while it waits for
    /// its time.
    pub(crate) fn outdone_by(&self, marks: Vec<Mark>) -> Self {
        let Some(first) = marks.first().filter(|_| !self.is_pending()).cloned() else { return Self::of(marks) };
        let mut lines: Vec<(Option<Digest>, Timestamp)> = Vec::new();
        let mut spared = first.spared.clone();
        for mark in marks.iter().chain(&self.marks) {
            spared.retain(|session| mark.spared.contains(session));
            match lines.iter_mut().find(|(issuer, _)| *issuer == mark.issuer) {
                Some((_, epoch)) => *epoch = mark.epoch.max(*epoch),
                None => lines.push((mark.issuer, mark.epoch)),
            }
        }
        let outdoing =
            lines.into_iter().map(|(issuer, epoch)| Mark { issuer, epoch, spared: spared.clone(), ..first.clone() });
        let mut epochs = Self::of(outdoing.collect());
        let others = self.marks.iter().filter(|mark| mark.life != first.life);
        others.for_each(|mark| epochs.lifted.raise(mark.life, mark.at));
        epochs
    }

    /// The latest epoch that binds a credential with this time, or without one. `is_issuer` and `spares` tell whether the
    /// credential is of an issuer and whether it is of a session; both are asked only where it matters.
    pub(crate) fn denying(
        &self,
        time: Option<Timestamp>,
        is_issuer: impl Fn(&Digest) -> bool,
        spares: impl Fn(&Digest) -> bool,
    ) -> Option<&Mark> {
        // Times are compared first: most credentials are from after the latest epoch.
        self.marks.iter().find(|mark| {
            mark.reaches(time) && mark.issuer.as_ref().is_none_or(&is_issuer) && !mark.spared.iter().any(&spares)
        })
    }

    /// Makes this the least that is at least both.
    pub(crate) fn join(&mut self, other: Self) {
        self.lifted.join(&other.lifted);
        self.marks.extend(other.marks);
        self.canonicalise();
    }

    /// The same without what it would lift beyond what is `known`, and without times for epochs that are pending there:
    /// joined in over that, it un-denies nothing.
    pub(crate) fn without_undoing(&self, known: Option<&Self>) -> Self {
        let nothing = Self::default();
        let known = known.unwrap_or(&nothing);
        // A time settles the mark, and those of the same life before it.
        let settles = |mark: &Mark| {
            let is_before = |other: &Mark| other.is_pending() && other.life == mark.life && other.at <= mark.at;
            mark.in_doubt && known.marks.iter().any(is_before)
        };
        let marks = self.marks.iter().filter_map(|mark| match settles(mark) {
            false => Some(mark.clone()),
            true => mark.issuer.is_none().then(|| Mark { epoch: Mark::PENDING, ..mark.clone() }),
        });
        let mut denying = Self { marks: marks.collect(), lifted: self.lifted.within(&known.lifted) };
        denying.canonicalise();
        denying
    }

    /// Keeps only some marks.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&Mark) -> bool) {
        self.marks.retain(keep);
    }

    pub(super) fn is_canonical(&self) -> bool {
        let is_sound = |mark: &Mark| mark.at > Timestamp::MIN && (mark.in_doubt || !mark.is_pending());
        let spared = self.marks.iter().all(|mark| is_sound(mark) && mark.spared.is_sorted_by(|a, b| a < b));
        let mut canonical = self.clone();
        canonical.canonicalise();
        spared && self.lifted.is_canonical() && canonical == *self
    }

    /// Brings the marks into the one form that depends only on what was joined, not on the order.
    ///
    /// For each mark, `D` is the set of sessions that every mark dominating it spares. Only sessions in `D` can need
    /// it: if it spares all of `D` too it binds nobody that is not bound already, and goes.
    fn canonicalise(&mut self) {
        let Self { marks, lifted } = self;
        marks.retain(|mark| !lifted.covers(mark.life, mark.at));
        if marks.len() > 1 {
            // The same mark may have been given a time, or a later one, elsewhere.
            marks.sort_by_key(|mark| Reverse((mark.identity(), mark.epoch)));
            marks.dedup_by(|other, kept| {
                let same = other.identity() == kept.identity();
                if same {
                    kept.spared.retain(|session| other.spared.binary_search(session).is_ok());
                    kept.cause = kept.cause.clone().max(other.cause.clone());
                }
                same
            });
            marks.sort_by_key(|mark| Reverse(mark.key()));
            let mut canonical: Vec<Mark> = Vec::with_capacity(marks.len().min(2));
            // Dominators sort before what they dominate. One that went was itself dominated by marks that together
            // spare no session that it does not, so `D` is the same without it.
            for mark in marks.drain(..) {
                let mut dominators = canonical.iter().filter(|other| mark.is_dominated_by(other));
                let needed_by = dominators.next().map(|first| {
                    let mut needed_by = first.spared.clone();
                    dominators
                        .for_each(|other| needed_by.retain(|session| other.spared.binary_search(session).is_ok()));
                    needed_by
                });
                let spares = |session: &Digest| mark.spared.binary_search(session).is_ok();
                if needed_by.is_none_or(|needed_by| !needed_by.iter().all(spares)) {
                    canonical.push(mark);
                }
            }
            *marks = canonical;
        }
        lifted.prune();
    }
}
