//! How much is known of what each replica has issued, life by life.
//!
//! The entries of any life are taken. For freshness those lives of a name count that *speak*: as a rule one, which is
//! replaced by the next. Two whose times of speaking overlap are twins, and both count; see
//! [`manual::causality`](crate::manual::causality).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::NodeId;
use super::message::{Known, LIVES_MAX};
use crate::model::Life;

/// How many deltas are remembered that came before those they follow.
const PENDING_MAX: usize = 1024;

/// What is known of the deltas of one life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Course {
    /// All up to this delta is held; none if it is not known what was issued before this life.
    reached: Option<u64>,
    /// Whether something in these was refused: then others cannot rely on it that whoever holds the same holds all.
    is_partial: bool,
    /// Deltas that are held after a gap.
    pending: BTreeSet<u64>,
    /// All that this life had issued at this time is held.
    heard: Option<Duration>,
    /// When it was first heard of, and when it last proved that it lived, by our clock.
    first: Duration,
    alive: Option<Duration>,
    /// When it last spoke for itself, by our clock: what arrived may have been on its way for long.
    spoke: Option<Duration>,
    /// When the first heartbeat was sent by its clock, and when that arrived by ours.
    sent: Option<(Duration, Duration)>,
}

impl Course {
    fn new(now: Duration) -> Self {
        Self { first: now, ..Self::default() }
    }

    fn prove(&mut self, at: Duration) {
        self.alive = self.alive.max(Some(at));
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.alive >= Some(other.first) && other.alive >= Some(self.first)
    }

    fn close_gap(&mut self) {
        let Some(mut reached) = self.reached else { return };
        while let Some(first) = self.pending.first().copied().filter(|first| *first <= reached + 1) {
            self.pending.remove(&first);
            reached = reached.max(first);
        }
        self.reached = Some(reached);
    }
}

/// What is known of one replica's lives.
#[derive(Clone, Debug, Default)]
struct Origin(BTreeMap<Life, Course>);

impl Origin {
    fn enter(&mut self, life: Life, now: Duration) -> &mut Course {
        if !self.0.contains_key(&life) && self.0.len() >= LIVES_MAX {
            let silent = self.0.iter().min_by_key(|(_, course)| course.alive).map(|(life, _)| *life);
            silent.into_iter().for_each(|life| _ = self.0.remove(&life));
        }
        self.0.entry(life).or_insert_with(|| Course::new(now))
    }

    /// The life that last proved to live; if none has, the one that was heard of last.
    fn current(&self) -> Option<(&Life, &Course)> {
        self.0.iter().max_by_key(|(_, course)| (course.alive, course.first))
    }

    /// The lives that speak at a time: the current one, and those that lived beside it within so long.
    fn speaking(&self, now: Duration, window: Duration) -> impl Iterator<Item = (&Life, &Course)> {
        let current = self.current();
        self.0.iter().filter(move |(life, course)| {
            current.is_some_and(|(current, beside)| {
                let is_recent = course.alive.is_some_and(|alive| now.saturating_sub(alive) <= window);
                current == *life || is_recent && course.overlaps(beside)
            })
        })
    }

    /// The lives that may speak beside the current one: each was heard after the other had been heard first. What was heard may
    /// have come late, which turns out soon.
    fn returning(&self, now: Duration, window: Duration) -> impl Iterator<Item = &Course> {
        let current = self.current();
        self.0.iter().filter_map(move |(life, course)| {
            let (_, beside) = current.filter(|(current, _)| *current != life)?;
            let is_recent = |course: &Course| course.spoke.is_some_and(|spoke| now.saturating_sub(spoke) <= window / 3);
            let is_after = |one: &Course, other: &Course| one.spoke > Some(other.first);
            let may_speak = is_recent(course) && is_after(course, beside) && is_after(beside, course);
            may_speak.then_some(course)
        })
    }
}

/// What is known of every replica's deltas.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(BTreeMap<NodeId, Origin>);

impl Origins {
    fn course(&self, origin: NodeId, life: Life) -> Option<&Course> {
        self.0.get(&origin)?.0.get(&life)
    }

    fn course_mut(&mut self, origin: NodeId, life: Life) -> Option<&mut Course> {
        self.0.get_mut(&origin)?.0.get_mut(&life)
    }

    /// A replica has spoken for itself: when, by its own clock and as it arrived by ours, and when we had said what it answers.
    /// A message is on its way for no longer than `delay`.
    pub(super) fn speak(
        &mut self,
        origin: NodeId,
        life: Life,
        sent: Duration,
        now: Duration,
        answers: Option<Duration>,
        delay: Duration,
    ) {
        let course = self.0.entry(origin).or_default().enter(life, now);
        course.spoke = Some(now);
        let (first_sent, arrived) = *course.sent.get_or_insert((sent, now));
        answers.into_iter().for_each(|at| course.prove(at));
        // Without an answer: as much later than its first message as its clock has gone on, which was sent no longer before
        // than it may have been on its way.
        let passed = sent.checked_sub(first_sent).filter(|passed| *passed > delay);
        // What was kept by a broker arrives at once.
        let passed = passed.map(|passed| passed.min(now.saturating_sub(arrived)));
        passed.into_iter().for_each(|passed| course.prove((arrived + passed).saturating_sub(delay)));
    }

    /// This replica lives, and has issued so much.
    pub(super) fn live(&mut self, own: NodeId, life: Life, sequence: u64, now: Duration) {
        let course = self.0.entry(own).or_default().enter(life, now);
        (course.reached, course.heard, course.alive) = (Some(sequence), Some(now), Some(now));
    }

    /// The replicas of which anything is known.
    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.0.keys().copied()
    }

    /// A third party says that a life of a replica lived at a time.
    pub(super) fn tell(&mut self, origin: NodeId, life: Life, alive: Option<Duration>, now: Duration) {
        let course = self.0.entry(origin).or_default().enter(life, now);
        alive.into_iter().for_each(|at| course.prove(at));
    }

    /// Whether a delta is held, as far as is remembered.
    pub(super) fn holds(&self, origin: NodeId, life: Life, sequence: u64) -> bool {
        self.course(origin, life).is_some_and(|known| {
            known.reached.is_some_and(|reached| sequence <= reached) || known.pending.contains(&sequence)
        })
    }

    /// A delta is held, but for what was refused in it.
    pub(super) fn delivered(&mut self, origin: NodeId, life: Life, sequence: u64, is_partial: bool, now: Duration) {
        let known = self.0.entry(origin).or_default().enter(life, now);
        if known.pending.len() < PENDING_MAX {
            known.is_partial |= is_partial;
            known.pending.insert(sequence);
            known.close_gap();
        }
    }

    /// All up to a delta is held.
    pub(super) fn reach(&mut self, origin: NodeId, life: Life, sequence: u64) {
        let Some(known) = self.course_mut(origin, life) else { return };
        if known.reached <= Some(sequence) {
            known.is_partial = false;
        }
        known.reached = known.reached.max(Some(sequence));
        known.close_gap();
    }

    /// At a time, a life had issued no more than this: if that is held, so is all that it had issued then.
    pub(super) fn hear(&mut self, origin: NodeId, life: Life, sequence: u64, at: Duration) {
        if let Some(known) = self.course_mut(origin, life)
            && known.reached >= Some(sequence)
        {
            known.heard = known.heard.max(Some(at));
        }
    }

    /// The time of which all is held that a replica had issued.
    pub(super) fn heard(&self, origin: NodeId, now: Duration, window: Duration) -> Option<Duration> {
        let known = self.0.get(&origin)?;
        let speaking = known.speaking(now, window).map(|(_, course)| course);
        let mut speaking = speaking.chain(known.returning(now, window)).map(|course| course.heard);
        let first = speaking.next()?;
        match speaking.next() {
            // What was issued in the lives before it was issued before.
            None => known.0.values().map(|course| course.heard).max().flatten(),
            Some(second) => speaking.fold(first.min(second), Option::min),
        }
    }

    /// Whether more is known to have been issued than is held.
    pub(super) fn lacks(&self, origin: NodeId, life: Life, sequence: u64) -> bool {
        self.course(origin, life).is_none_or(|known| known.reached < Some(sequence))
    }

    /// Up to which delta of its current life all is held.
    pub(super) fn reached(&self, origin: NodeId) -> Option<(Life, u64)> {
        let (life, course) = self.0.get(&origin)?.current()?;
        Some((*life, course.reached?))
    }

    /// The lives of a name that speak beside each other, and how long ago each last proved to live; none if there is only one.
    pub(super) fn twins(&self, origin: NodeId, now: Duration, window: Duration) -> Vec<(Life, Duration)> {
        let Some(known) = self.0.get(&origin) else { return Vec::new() };
        let age = |course: &Course| now.saturating_sub(course.alive.unwrap_or_default());
        let lives: Vec<_> = known.speaking(now, window).map(|(life, course)| (*life, age(course))).collect();
        if lives.len() > 1 { lives } else { Vec::new() }
    }

    /// What is said of these in a heartbeat.
    pub(super) fn known<'a>(
        &self,
        origins: impl IntoIterator<Item = &'a NodeId>,
        now: Duration,
        window: Duration,
    ) -> Vec<Known> {
        let known = origins.into_iter().flat_map(|origin| {
            let known = self.0.get(origin);
            let speaking = known.into_iter().flat_map(|known| known.speaking(now, window));
            speaking.filter_map(|(life, course)| {
                let heard = now.saturating_sub(course.heard?);
                let age = u64::try_from(heard.as_nanos()).unwrap_or(u64::MAX);
                let is_partial = course.is_partial;
                Some(Known { origin: *origin, life: *life, sequence: course.reached?, age, is_partial })
            })
        });
        known.take(super::message::ORIGINS_MAX).collect()
    }

    /// Keeps only these.
    pub(super) fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.0.retain(|origin, _| keep(origin));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId::from_bytes([1; 16]);
    const WINDOW: Duration = Duration::from_secs(10);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn life(number: u8) -> Life {
        Life::from_bytes([number; 16])
    }

    /// A life that has spoken at a time, by our clock, in answer to what was said to it then.
    fn speak(origins: &mut Origins, number: u8, at: u64) {
        origins.speak(A, life(number), secs(1000 + at), secs(at), Some(secs(at)), WINDOW);
    }

    #[test]
    fn gap_is_closed_by_what_comes_late() {
        let mut origins = Origins::default();
        speak(&mut origins, 5, 0);
        origins.reach(A, life(5), 0);
        for sequence in [1, 3, 4, 6] {
            origins.delivered(A, life(5), sequence, false, secs(0));
        }
        assert_eq!(origins.reached(A), Some((life(5), 1)));
        assert!(origins.holds(A, life(5), 4) && !origins.holds(A, life(5), 2) && !origins.holds(A, life(5), 5));
        origins.delivered(A, life(5), 2, false, secs(0));
        assert_eq!(origins.reached(A), Some((life(5), 4)));
        origins.reach(A, life(5), 5);
        assert_eq!(origins.reached(A), Some((life(5), 6)), "what was there already counts");
        origins.reach(A, life(5), 2);
        assert_eq!(origins.reached(A), Some((life(5), 6)), "and nothing is taken back");
    }

    #[test]
    fn new_life_is_compared_before_it_counts() {
        let mut origins = Origins::default();
        origins.delivered(A, life(5), 1, false, secs(0));
        assert_eq!(origins.reached(A), None, "nobody knows what was before");
        speak(&mut origins, 5, 1);
        origins.reach(A, life(5), 1);
        origins.hear(A, life(5), 1, secs(3));
        assert_eq!(origins.heard(A, secs(3), WINDOW), Some(secs(3)));
        origins.hear(A, life(5), 2, secs(4));
        assert_eq!(origins.heard(A, secs(4), WINDOW), Some(secs(3)), "the second is missing");
        speak(&mut origins, 4, 5);
        origins.delivered(A, life(4), 1, false, secs(5));
        origins.hear(A, life(4), 1, secs(5));
        assert_eq!((origins.reached(A), origins.heard(A, secs(5), WINDOW)), (None, Some(secs(3))));
        origins.delivered(A, life(5), 2, false, secs(5));
        origins.reach(A, life(5), 7);
        assert_eq!(origins.reached(A), None, "what is late from before changes nothing");
        origins.reach(A, life(4), 0);
        assert_eq!(origins.reached(A), Some((life(4), 1)));
        assert!(origins.lacks(A, life(4), 2) && !origins.lacks(A, life(4), 1) && origins.lacks(A, life(9), 0));
        assert_eq!(origins.twins(A, secs(5), WINDOW), []);
    }

    #[test]
    fn lives_that_speak_beside_each_other_both_count_until_one_is_silent() {
        let mut origins = Origins::default();
        for (number, at) in [(1, 0), (1, 1), (2, 2), (2, 3), (1, 4)] {
            speak(&mut origins, number, at);
            origins.reach(A, life(number), 0);
            origins.hear(A, life(number), 0, secs(at));
        }
        assert_eq!(origins.twins(A, secs(4), WINDOW), [(life(1), secs(0)), (life(2), secs(1))]);
        assert_eq!(origins.heard(A, secs(4), WINDOW), Some(secs(3)), "the lesser of both");
        // The second issues something that is not held.
        speak(&mut origins, 2, 5);
        origins.hear(A, life(2), 1, secs(5));
        speak(&mut origins, 1, 6);
        origins.hear(A, life(1), 0, secs(6));
        assert_eq!(origins.heard(A, secs(6), WINDOW), Some(secs(3)));
        assert_eq!(origins.known(&[A], secs(6), WINDOW).len(), 2);
        // The first is silent.
        for at in 7..18 {
            speak(&mut origins, 2, at);
        }
        assert_eq!(origins.twins(A, secs(16), WINDOW).len(), 2);
        assert_eq!(origins.twins(A, secs(17), WINDOW), []);
    }

    #[test]
    fn restart_is_no_twin_even_if_a_message_comes_late() {
        let mut origins = Origins::default();
        speak(&mut origins, 1, 0);
        speak(&mut origins, 2, 3);
        // Sent by the first at two seconds, in answer to what was said to it then.
        origins.speak(A, life(1), secs(1002), secs(5), Some(secs(2)), WINDOW);
        // A life that had ended before we heard of it.
        origins.speak(A, life(3), secs(9000), secs(6), None, WINDOW);
        speak(&mut origins, 2, 7);
        assert_eq!(origins.twins(A, secs(7), WINDOW), []);
        assert_eq!(origins.reached(A), None);
    }

    #[test]
    fn life_that_is_heard_again_counts_until_it_is_known_whether_that_came_late() {
        let mut origins = Origins::default();
        for (number, at) in [(1, 0), (2, 8), (2, 9)] {
            speak(&mut origins, number, at);
            origins.reach(A, life(number), 0);
            origins.hear(A, life(number), 0, secs(at));
        }
        assert_eq!(origins.heard(A, secs(9), WINDOW), Some(secs(9)), "the first was replaced");
        // It was cut off, and answers nothing yet.
        origins.speak(A, life(1), secs(1009), secs(10), None, WINDOW);
        assert_eq!(origins.heard(A, secs(10), WINDOW), Some(secs(0)));
        assert_eq!(origins.twins(A, secs(10), WINDOW), [], "which proves nothing");
        assert_eq!(origins.heard(A, secs(14), WINDOW), Some(secs(9)), "it came late");
    }

    #[test]
    fn twin_that_is_never_answered_is_noticed_by_its_own_clock() {
        let mut origins = Origins::default();
        for at in 0..40 {
            speak(&mut origins, 2, at);
            if at > 2 {
                origins.speak(A, life(1), secs(500 + at), secs(at), None, WINDOW);
            }
            let expected = if at < 14 { 0 } else { 2 };
            assert_eq!(origins.twins(A, secs(at), secs(12)).len(), expected, "{at}");
        }
        assert_eq!(origins.heard(A, secs(40), secs(12)), None, "nothing is known of one of them");
    }

    #[test]
    fn what_was_refused_is_told_until_all_is_held() {
        let mut origins = Origins::default();
        let is_partial = |origins: &Origins| origins.known(&[A], secs(9), WINDOW)[0].is_partial;
        speak(&mut origins, 5, 1);
        origins.reach(A, life(5), 0);
        origins.hear(A, life(5), 0, secs(1));
        origins.delivered(A, life(5), 1, false, secs(1));
        assert!(!is_partial(&origins));
        origins.delivered(A, life(5), 2, true, secs(1));
        origins.delivered(A, life(5), 3, false, secs(1));
        assert!(is_partial(&origins));
        origins.reach(A, life(5), 2);
        assert!(is_partial(&origins), "who holds less than this does not tell");
        origins.reach(A, life(5), 3);
        assert!(!is_partial(&origins));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut origins = Origins::default();
        speak(&mut origins, 1, 0);
        origins.reach(A, life(1), 0);
        (2..10_000).for_each(|sequence| origins.delivered(A, life(1), sequence, false, secs(0)));
        assert!(origins.course(A, life(1)).unwrap().pending.len() <= PENDING_MAX);
        (2..=255).for_each(|number| origins.delivered(A, life(number), 1, false, secs(0)));
        assert!(origins.0[&A].0.len() <= LIVES_MAX);
        assert!(origins.course(A, life(1)).is_some(), "a life that speaks is remembered");
    }
}
