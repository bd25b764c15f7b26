//! What time it is, as far as a store has reason to believe, and up to when credentials of an issuer that is ahead may say that
//! they were issued: the sources of every epoch, together with [`Stamps`](super::stamps::Stamps). The argument is in [`manual::causality`](crate::manual::causality).

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::codec::IssuerAhead;
use crate::model::{Digest, Timestamp};

/// How many issuers that are ahead have a line of their own. What more there are share one, which moves everybody's epoch.
const ISSUERS_MAX: usize = 64;
/// A stamp that is ahead by no more than this is taken for rounding, and says nothing of the issuer's clock.
pub(super) const ROUNDING: Duration = Duration::from_secs(2);
/// How much is added to what an issuer was seen ahead, for whole seconds that were rounded down and for the time between
/// issue and presentation.
const MARGIN: Duration = Duration::from_secs(2);
/// For how long an issuer counts as ahead after it was last seen so.
const AHEAD_FOR: Duration = Duration::from_secs(3600);
/// After how long a wall clock that was set back is believed, if nothing else speaks against it.
const STEADY_FOR: Duration = Duration::from_secs(3600);
/// No right clock shows a time before this, the beginning of 2020.
pub(super) const EARLIEST: Timestamp = Timestamp::from_secs(1_577_836_800);

/// The time, and whether it can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time {
    /// What the wall clock shows.
    pub(super) wall: Timestamp,
    /// The latest time that there is reason to believe in, within the allowed skew of the wall clock: where epochs start.
    pub(super) believed: Timestamp,
    /// The latest time that anything credible speaks for.
    pub(super) latest: Timestamp,
    /// What the boot clock bears out of the wall clock.
    pub(super) borne_out: Timestamp,
    is_disputed: bool,
    skew: Duration,
}

impl Time {
    /// The time by a wall clock, which may be off by the skew.
    pub(super) fn new(wall: Timestamp, borne_out: Timestamp, skew: Duration) -> Self {
        let mut time = Self { wall, believed: wall, latest: wall, borne_out, is_disputed: false, skew };
        time.hear(EARLIEST);
        time
    }

    /// Something says that it is this late.
    pub(super) fn hear(&mut self, claim: Timestamp) {
        if claim <= self.wall.saturating_add(self.skew) {
            self.believed = self.believed.max(claim);
        }
        self.latest = self.latest.max(claim);
    }

    /// Whether something credible lies beyond the allowed skew: then no epoch can be given a time.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_disputed || self.latest > self.wall.saturating_add(self.skew)
    }

    /// Something credible says that it is earlier by more than the skew: what is denied from now would be refused there.
    pub(super) fn dispute(&mut self) {
        self.is_disputed = true;
    }

    /// By how much an epoch lies beyond what the boot clock bears out, if that is more than the skew.
    pub(super) fn beyond(&self, epoch: Timestamp) -> Option<Duration> {
        Some(epoch.saturating_since(self.borne_out)).filter(|beyond| *beyond > self.skew)
    }

    /// No epoch may be later than this.
    pub(super) fn horizon(&self) -> Timestamp {
        self.believed.saturating_add(self.skew)
    }
}

/// Whether there is something new about what is ahead, to be told to peers at once and to be written down.
#[derive(Debug, Default)]
pub(super) struct News {
    to_peers: AtomicBool,
    to_disk: AtomicBool,
}

impl News {
    pub(super) fn announce(&self) {
        self.to_peers.store(true, Ordering::Relaxed);
        self.to_disk.store(true, Ordering::Relaxed);
    }

    /// Whether there is any since peers were told, for whoever tells them now.
    pub(super) fn take_for_peers(&self) -> bool {
        self.to_peers.load(Ordering::Relaxed) && self.to_peers.swap(false, Ordering::Relaxed)
    }

    /// Whether there is any since it was written down, for whoever does that now.
    pub(super) fn take_for_disk(&self) -> bool {
        self.to_disk.load(Ordering::Relaxed) && self.to_disk.swap(false, Ordering::Relaxed)
    }
}

/// What one issuer was seen to do.
#[derive(Default)]
struct Line {
    /// The hash by which it is looked up, and the digest that stands for it.
    issuer: OnceLock<(u64, Digest)>,
    /// The latest stamp that was let in here or at a peer.
    latest: AtomicU64,
    /// By how much it was seen ahead, in nanoseconds.
    ahead: AtomicU64,
    /// When, in nanoseconds since boot.
    ahead_at: AtomicU64,
}

impl Line {
    /// Tells whether it is further ahead than was known.
    fn note(&self, stamp: Timestamp, ahead: Option<Duration>, boot: Duration) -> bool {
        let (latest, boot) = (stamp.as_nanos(), nanos(boot));
        // Known already, as a rule: then nothing is written.
        if self.latest.load(Ordering::Relaxed) < latest {
            self.latest.fetch_max(latest, Ordering::SeqCst);
        }
        let Some(ahead) = ahead.map(nanos) else { return false };
        let known = self.ahead(boot);
        if ahead > known {
            self.ahead.store(ahead, Ordering::SeqCst);
        }
        // Said again now and then.
        if ahead > known || boot.saturating_sub(self.ahead_at.load(Ordering::Relaxed)) > nanos(AHEAD_FOR) / 60 {
            self.ahead_at.store(boot, Ordering::SeqCst);
        }
        ahead > known
    }

    fn ahead(&self, boot: u64) -> u64 {
        let is_recent = boot.saturating_sub(self.ahead_at.load(Ordering::SeqCst)) <= nanos(AHEAD_FOR);
        if is_recent { self.ahead.load(Ordering::SeqCst) } else { 0 }
    }

    /// Up to when its credentials may say that they were issued.
    fn stands_at(&self, now: Timestamp, boot: Duration) -> Timestamp {
        let latest = Timestamp::from_nanos(self.latest.load(Ordering::SeqCst));
        match self.ahead(nanos(boot)) {
            0 => latest,
            ahead => latest.max(now.saturating_add(Duration::from_nanos(ahead)).saturating_add(MARGIN)),
        }
    }
}

/// What checks and the clock have shown.
pub(super) struct Belief {
    /// The latest time that the wall clock has shown, in nanoseconds since 1970. A credential from after it is noted before it
    /// is let in.
    seen: AtomicU64,
    /// When it showed that, in nanoseconds since boot.
    seen_at: AtomicU64,
    /// The latest time that peers have shown, where that was credible.
    heard: AtomicU64,
    lines: [Line; ISSUERS_MAX],
    others: Line,
}

impl Belief {
    /// `seen` is the latest time that is known from before.
    pub(super) fn new(seen: Timestamp, boot: Duration) -> Self {
        Self {
            seen: AtomicU64::new(seen.as_nanos()),
            seen_at: AtomicU64::new(nanos(boot)),
            heard: AtomicU64::new(0),
            lines: std::array::from_fn(|_| Line::default()),
            others: Line::default(),
        }
    }

    /// The latest time that the wall clock has shown.
    #[inline]
    pub(super) fn seen(&self) -> Timestamp {
        Timestamp::from_nanos(self.seen.load(Ordering::Relaxed))
    }

    /// The latest time that peers have shown, where that was credible.
    pub(super) fn heard(&self) -> Timestamp {
        Timestamp::from_nanos(self.heard.load(Ordering::SeqCst))
    }

    pub(super) fn hear_clocks(&self, latest: Timestamp) {
        self.heard.fetch_max(latest.as_nanos(), Ordering::SeqCst);
    }

    /// Most replicas agree that it is no later than a time: what was heard beyond that was wrong.
    pub(super) fn agree_on(&self, time: &Time) {
        let heard = self.heard.load(Ordering::SeqCst);
        if heard > time.wall.saturating_add(time.skew).as_nanos() {
            // Unless it has been heard anew meanwhile.
            self.heard.compare_exchange(heard, 0, Ordering::SeqCst, Ordering::SeqCst).ok();
        }
    }

    /// The wall clock shows a time. Tells whether that is the latest so far.
    pub(super) fn show(&self, wall: Timestamp, boot: Duration) -> bool {
        let is_latest = self.seen.fetch_max(wall.as_nanos(), Ordering::SeqCst) <= wall.as_nanos();
        if is_latest {
            self.seen_at.store(nanos(boot), Ordering::Relaxed);
        }
        is_latest
    }

    /// Believes a wall clock that has been set back, once it has gone on for long, and tells whether it did so now. Stamps of
    /// before are of a clock that was wrong.
    pub(super) fn settle(&self, wall: Timestamp, boot: Duration) -> bool {
        let since = nanos(boot).saturating_sub(self.seen_at.load(Ordering::Relaxed));
        let is_steady = since > nanos(STEADY_FOR);
        if is_steady {
            self.seen.store(wall.as_nanos(), Ordering::SeqCst);
            self.seen_at.store(nanos(boot), Ordering::Relaxed);
            self.heard.store(0, Ordering::SeqCst);
            self.lines.iter().chain([&self.others]).for_each(|line| line.latest.store(0, Ordering::SeqCst));
        }
        is_steady
    }

    /// A credential of an issuer that is ahead is about to be let in. `key` is a hash of the issuer; `digest` stands for it,
    /// and is asked for once. Tells whether it is further ahead than was known.
    pub(super) fn note(
        &self,
        (key, digest): (u64, impl FnOnce() -> Digest),
        stamp: Timestamp,
        ahead: Duration,
        boot: Duration,
    ) -> bool {
        self.line(key, digest).note(stamp, Some(ahead), boot)
    }

    /// The issuers that are ahead, for the disk.
    pub(super) fn standing(&self, now: Timestamp, boot: Duration) -> Vec<IssuerAhead> {
        let lines = self.lines.iter().map_while(|line| Some((Some(*line.issuer.get()?), line)));
        let lines = lines.chain([(None, &self.others)]);
        let ahead = lines.map(|(issuer, line)| IssuerAhead {
            issuer,
            latest: Timestamp::from_nanos(line.latest.load(Ordering::SeqCst)),
            ahead: line.ahead(nanos(boot)),
        });
        ahead.filter(|line| line.ahead > 0 || line.latest > now).collect()
    }

    /// A peer has let in such a stamp of an issuer.
    pub(super) fn hear(&self, issuer: Option<(u64, Digest)>, stamp: Timestamp) {
        let line = issuer.map_or(&self.others, |(key, digest)| self.line(key, || digest));
        line.note(stamp, None, Duration::ZERO);
    }

    /// Where the lines of issuers stand that lie beyond a time, for peers.
    pub(super) fn told(&self, now: Timestamp, boot: Duration) -> Vec<(Option<(u64, Digest)>, Timestamp)> {
        let lines = self.lines.iter().map_while(|line| Some((Some(*line.issuer.get()?), line)));
        let lines = lines.chain([(None, &self.others)]).map(|(issuer, line)| (issuer, line.stands_at(now, boot)));
        lines.filter(|(_, line)| *line > now).collect()
    }

    /// Takes up what was kept on disk.
    pub(super) fn restore(&self, issuers: &[IssuerAhead], boot: Duration) {
        for IssuerAhead { issuer, latest, ahead } in issuers {
            let line = issuer.map_or(&self.others, |(key, digest)| self.line(key, || digest));
            line.note(*latest, Some(Duration::from_nanos(*ahead)).filter(|ahead| !ahead.is_zero()), boot);
        }
    }

    fn line(&self, key: u64, digest: impl FnOnce() -> Digest) -> &Line {
        let mut digest = Some(digest);
        for line in &self.lines {
            let (known, _) = line.issuer.get_or_init(|| (key, digest.take().map_or(NOBODY, |digest| digest())));
            if *known == key {
                return line;
            }
        }
        &self.others
    }

    /// The lines that lie beyond the present time, but no further than `latest`: of every issuer (none) or of one.
    pub(super) fn beyond(&self, now: Timestamp, latest: Timestamp, boot: Duration) -> Vec<(Option<Digest>, Timestamp)> {
        let lines = self.lines.iter().map_while(|line| Some((Some(line.issuer.get()?.1), line)));
        let lines = lines.chain([(None, &self.others)]);
        let stand = lines.map(|(issuer, line)| (issuer, line.stands_at(now, boot)));
        stand.filter(|(_, line)| *line > now).map(|(issuer, line)| (issuer, line.min(latest))).collect()
    }
}

/// The latest line that a store makes at a time, for an issuer that is ahead as far as credentials are let in.
pub(super) fn latest_line(time: Timestamp, leeway: Duration) -> Timestamp {
    time.saturating_add(leeway).saturating_add(MARGIN)
}

/// What stands for no issuer at all.
const NOBODY: Digest = Digest::from_bytes([0; 16]);

impl fmt::Debug for Belief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Belief").field("seen", &self.seen()).finish_non_exhaustive()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn issuer(number: u8) -> (u64, impl FnOnce() -> Digest) {
        (number.into(), move || Digest::from_bytes([number; 16]))
    }

    #[test]
    fn claims_within_the_skew_are_believed_and_those_beyond_it_put_the_time_in_doubt() {
        let mut time = Time::new(NOW, NOW, secs(60));
        time.hear(NOW.saturating_sub(secs(5)));
        time.hear(NOW.saturating_add(secs(60)));
        assert_eq!((time.believed, time.is_in_doubt()), (NOW.saturating_add(secs(60)), false));
        time.hear(NOW.saturating_add(secs(61)));
        assert_eq!((time.believed, time.is_in_doubt()), (NOW.saturating_add(secs(60)), true));
        assert_eq!(time.horizon(), NOW.saturating_add(secs(120)), "what is not believed makes nothing possible");
        assert!(Time::new(Timestamp::MIN, Timestamp::MIN, secs(60)).is_in_doubt(), "it is not 1970");
    }

    #[test]
    fn issuer_that_is_ahead_moves_its_own_line_for_an_hour() {
        let belief = Belief::new(NOW, secs(0));
        let lines = |at| {
            let now = NOW.saturating_add(secs(at));
            belief.beyond(now, latest_line(now, secs(60)), secs(at))
        };
        belief.note(issuer(1), NOW.saturating_add(secs(20)), secs(20), secs(0));
        // Of one that a peer has seen, the stamp counts and no more.
        let (key, digest_of) = issuer(2);
        belief.hear(Some((key, digest_of())), NOW.saturating_add(secs(1)));
        let digest = |number| Some(Digest::from_bytes([number; 16]));
        let expected = vec![(digest(1), NOW.saturating_add(secs(22))), (digest(2), NOW.saturating_add(secs(1)))];
        assert_eq!(lines(0), expected);
        assert_eq!(lines(2), [(digest(1), NOW.saturating_add(secs(24)))]);
        assert_eq!(lines(3600), [(digest(1), NOW.saturating_add(secs(3622)))]);
        assert_eq!(lines(3601), [], "not seen for an hour");
        belief.note(issuer(1), NOW.saturating_add(secs(4003)), secs(3), secs(4000));
        assert_eq!(lines(4000), [(digest(1), NOW.saturating_add(secs(4005)))]);
        belief.hear(Some((key, issuer(2).1())), NOW.saturating_add(secs(9000)));
        assert_eq!(lines(4000).last(), Some(&(digest(2), NOW.saturating_add(secs(4062)))), "nothing later is let in");
    }

    #[test]
    fn more_issuers_than_there_is_room_for_share_a_line() {
        let belief = Belief::new(NOW, secs(0));
        for number in 0..=ISSUERS_MAX as u8 {
            belief.note(issuer(number), NOW.saturating_add(secs(3)), secs(3), secs(0));
        }
        let lines = belief.beyond(NOW, latest_line(NOW, secs(60)), secs(0));
        assert_eq!(lines.len(), ISSUERS_MAX + 1);
        assert_eq!(lines.last(), Some(&(None, NOW.saturating_add(secs(5)))));
    }

    #[test]
    fn clock_that_was_set_back_is_believed_after_an_hour() {
        let belief = Belief::new(NOW, secs(0));
        assert!(belief.show(NOW.saturating_add(secs(500)), secs(1)));
        assert!(!belief.show(NOW, secs(2)));
        belief.settle(NOW, secs(3600));
        assert_eq!(belief.seen(), NOW.saturating_add(secs(500)));
        belief.settle(NOW.saturating_add(secs(3601)), secs(3602));
        assert_eq!(belief.seen(), NOW.saturating_add(secs(3601)));
    }
}
