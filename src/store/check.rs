//! The check: which subjects a credential names, what is known of each, and which rules hold for all.
//!
//! First every subject that the credential names, and of whose shape anything was revoked, is asked of the filter: all
//! hashes, all loads, one branch. What the filter does not know is not revoked, and then only the rules are left. Where
//! it says "maybe", the subjects are looked up one by one.

use std::cell::OnceCell;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use crate::denylist::FilterView;
use crate::model::{
    Cause, Claimant, Credential, Denial, Digest, IdRef, Identity, Kind, Locator, Part, Shape, Subject, Timestamp,
    Verdict,
};

use super::Shared;
use super::belief::ROUNDING;

/// How many credentials are asked of the filter together, so that the loads of all of them are under way at once.
const BATCH: usize = 32;
/// How many subjects they may name between them, to be asked together.
const BATCH_PROBES: usize = 128;
/// How many plain shapes there are, and so how many subjects one of them can name the short way.
const PLAIN_MAX: usize = Shape::PLAIN.count_ones() as usize;

/// A credential, as it is presented: the handle of a tenant supplies that where the credential names none.
#[derive(Clone, Copy)]
pub(super) struct Presented<'a> {
    credential: &'a Credential<'a>,
    supplied: Option<&'a str>,
}

impl<'a> Presented<'a> {
    #[inline]
    pub(super) fn alone(credential: &'a Credential<'_>) -> Self {
        Self { credential, supplied: None }
    }

    pub(super) fn within(credential: &'a Credential<'_>, tenant: &'a str) -> Self {
        Self { credential, supplied: Some(tenant).filter(|_| credential.tenant_name().is_none()) }
    }

    fn tenant(self) -> Option<&'a str> {
        self.supplied.or(self.credential.tenant_name())
    }

    fn issuer(self) -> Option<&'a str> {
        self.credential.issuer.as_deref()
    }

    /// One bit per shape that it can match.
    #[inline]
    fn shapes(self) -> u64 {
        if self.supplied.is_some() { self.credential.shapes_in_tenant() } else { self.credential.shapes() }
    }

    /// Whether what it names of these shapes can be taken the short way.
    #[inline]
    fn is_plain(self, shapes: u64) -> bool {
        shapes & !Shape::PLAIN == 0 && self.supplied.is_none() && self.credential.is_plain()
    }

    /// The digest of a subject of one of these shapes.
    fn digest(self, shared: &Shared, shape: Shape, id: IdRef<'_>) -> Digest {
        let tenant = self.tenant().filter(|_| shape.in_tenant);
        let issuer = self.issuer().filter(|_| shape.at_issuer);
        shared.keyring.digest(shape.kind, id, tenant, issuer)
    }
}

/// A credential, as the entry of one subject sees it. Digests are computed when they are first asked for: by the rare epoch
/// that spares sessions, or concerns one issuer, and binds the credential otherwise.
struct Bearer<'a> {
    shared: &'a Shared,
    presented: Presented<'a>,
    subject: Shape,
    session: OnceCell<Option<Digest>>,
    issuer: OnceCell<Digest>,
}

impl<'a> Bearer<'a> {
    fn new(shared: &'a Shared, presented: Presented<'a>, subject: Shape) -> Self {
        Self { shared, presented, subject, session: OnceCell::new(), issuer: OnceCell::new() }
    }
}

impl Claimant for Bearer<'_> {
    fn is_of_session(&self, session: &Digest) -> bool {
        let Shape { kind, in_tenant, at_issuer } = self.subject;
        let shape = Shape { kind: Kind::Session, in_tenant: in_tenant || kind == Kind::Tenant, at_issuer };
        let digest = || {
            let id = self.presented.credential.id_of(Kind::Session)?;
            Some(self.presented.digest(self.shared, shape, id))
        };
        self.session.get_or_init(digest).as_ref() == Some(session)
    }

    fn is_of_issuer(&self, issuer: &Digest) -> bool {
        self.issuer.get_or_init(|| self.shared.keyring.issuer_digest(self.presented.issuer())) == issuer
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.coarse_wall()
    }
}

/// A subject that a credential names.
struct Probe<'a> {
    shape: Shape,
    id: IdRef<'a>,
    locator: Locator,
}

impl Shared {
    /// The verdict on a credential.
    #[inline]
    pub(super) fn check(&self, presented: Presented<'_>) -> Verdict {
        let seen = self.belief.seen();
        let may_be_held = self.may_hold(presented);
        // Most credentials are let in here. What is left costs more in any case.
        let now = || self.clock.coarse_wall();
        if !may_be_held && self.is_surely_clear(presented, seen, now, || self.clock.boot()) {
            return Verdict::Clear;
        }
        self.judge(presented, seen, may_be_held, now)
    }

    /// The verdicts on many credentials.
    pub(super) fn check_many(&self, credentials: &[Credential<'_>], verdicts: &mut Vec<Verdict>) {
        verdicts.clear();
        verdicts.reserve(credentials.len());
        let now = OnceCell::new();
        let now = || *now.get_or_init(|| self.clock.coarse_wall());
        let boot = OnceCell::new();
        let boot = || *boot.get_or_init(|| self.clock.boot());
        for batch in credentials.chunks(BATCH) {
            let seen = self.belief.seen();
            let held = self.may_hold_each(batch);
            for (index, credential) in batch.iter().enumerate() {
                let presented = Presented::alone(credential);
                let may_be_held = held >> index & 1 != 0;
                let is_clear = !may_be_held && self.is_surely_clear(presented, seen, now, boot);
                verdicts.push(if is_clear { Verdict::Clear } else { self.judge(presented, seen, may_be_held, now) });
            }
        }
    }

    /// Whether there may be an entry of any subject that the credential names. `false` is certain.
    #[inline]
    fn may_hold(&self, presented: Presented<'_>) -> bool {
        let shapes = self.shapes_in_use(presented);
        if shapes == 0 {
            return false;
        }
        let filter = self.denylist.filter();
        let mut found = false;
        if presented.is_plain(shapes) {
            self.probe_plain(presented.credential, shapes, |locator| found |= filter.may_contain(locator));
        } else {
            found = self.may_hold_any(presented, shapes, filter);
        }
        found || !filter.is_current()
    }

    /// The same for shapes of all sorts.
    #[inline(never)]
    fn may_hold_any(&self, presented: Presented<'_>, mut shapes: u64, filter: FilterView<'_>) -> bool {
        let mut found = false;
        if shapes & !Shape::NAMED_BY_ONE_TEXT != 0 || !presented.credential.is_plain() || presented.supplied.is_some() {
            self.probe(presented, shapes, |probe| {
                found |= filter.may_contain(probe.locator);
                None::<()>
            });
            return found;
        }
        let scopes = self.scopes(presented, shapes);
        while shapes != 0 {
            let kind = shapes.trailing_zeros() as usize / 4;
            let id = presented.credential.text_of(kind).unwrap_or_default();
            let part = self.keyring.id_part(kind, id.as_bytes());
            let mut of_kind = shapes & 0b1111 << (kind * 4);
            shapes ^= of_kind;
            while of_kind != 0 {
                let scope = scopes.get(of_kind.trailing_zeros() as usize % 4).copied().unwrap_or_default();
                of_kind &= of_kind - 1;
                found |= filter.may_contain(part.and(scope).locator());
            }
        }
        found
    }

    /// The same of each credential of a batch, one bit for each.
    fn may_hold_each(&self, batch: &[Credential<'_>]) -> u32 {
        let filter = self.denylist.filter();
        let (mut locators, mut ends) = ([Locator::from_u64(0); BATCH_PROBES], [0; BATCH]);
        let (mut asked, mut held) = (0, 0);
        for ((index, credential), end) in (0..).zip(batch).zip(&mut ends) {
            let presented = Presented::alone(credential);
            let shapes = self.shapes_in_use(presented);
            match locators.get_mut(asked..asked + PLAIN_MAX) {
                Some(room) if presented.is_plain(shapes) => {
                    let mut places = room.iter_mut();
                    self.probe_plain(credential, shapes, |locator| _ = places.next().map(|place| *place = locator));
                    asked += PLAIN_MAX - places.len();
                }
                _ => held |= u32::from(self.may_hold_any(presented, shapes, filter)) << index,
            }
            *end = asked;
        }
        // Nothing in this loop waits for a load, so that all are under way at once.
        let mut missing = [0; BATCH_PROBES];
        for (missing, locator) in missing.iter_mut().zip(&locators).take(asked) {
            *missing = filter.missing(*locator);
        }
        let mut start = 0;
        for (index, end) in ends.into_iter().take(batch.len()).enumerate() {
            let own = missing.get(start..end).unwrap_or_default();
            held |= own.iter().fold(0, |found, missing| found | u32::from(*missing == 0)) << index;
            start = end;
        }
        if filter.is_current() { held } else { u32::MAX }
    }

    /// Whether a quick look settles that a credential that no entry denies is clear by every rule. `seen` is the latest time
    /// that the wall clock had shown before entries were looked for.
    #[inline]
    fn is_surely_clear(
        &self,
        presented: Presented<'_>,
        seen: Timestamp,
        now: impl FnOnce() -> Timestamp,
        boot: impl FnOnce() -> Duration,
    ) -> bool {
        if self.is_doubtful(presented, boot) {
            return false;
        }
        // The time matters to what is dated, and to everything where age is limited.
        if !presented.credential.is_dated() {
            return !self.policy.limits_age();
        }
        let now = now();
        let is_from_before = presented.credential.latest() <= seen.min(now);
        is_from_before
            && !self.is_clock_behind(now)
            && self.policy.surely_admits(presented.credential, now, self.expired())
    }

    /// Whether the wall clock is behind a time that was seen already.
    #[inline]
    fn is_clock_behind(&self, now: Timestamp) -> bool {
        now.saturating_add(self.policy.skew) < self.high_water()
    }

    /// Whether "nothing denies it" may not be enough to let it in.
    #[inline]
    fn is_doubtful(&self, presented: Presented<'_>, boot: impl FnOnce() -> Duration) -> bool {
        self.is_closed() || !presented.credential.is_whole(self.policy.required) || self.gate.doubt(boot).is_some()
    }

    /// What entries and rules say of a credential.
    #[inline(never)]
    fn judge(
        &self,
        presented: Presented<'_>,
        seen: Timestamp,
        may_be_held: bool,
        now: impl FnOnce() -> Timestamp,
    ) -> Verdict {
        // What we hold binds, whatever else is wrong with the credential or with us.
        if may_be_held && let Some(denial) = self.denial(presented) {
            return Verdict::Revoked(denial);
        }
        let mut shown = seen;
        if presented.credential.is_dated() || self.policy.limits_age() {
            let now = now();
            shown = seen.min(now);
            if self.is_clock_behind(now) {
                return Verdict::Unknown(self.fault(presented).unwrap_or(Cause::Clock));
            }
            if let Some(denial) = self.policy.denies(presented.credential, presented.tenant(), now, self.expired()) {
                return Verdict::Revoked(denial);
            }
        }
        if let Some(cause) = self.doubt(presented) {
            return Verdict::Unknown(cause);
        }
        let stamp = presented.credential.latest();
        if stamp > shown { self.judge_from_beyond(presented, stamp) } else { Verdict::Clear }
    }

    /// A credential that would be let in says that it is from after the time that the clock had shown, or shows. An epoch that
    /// is made from here on must bind it: so that is noted, and then it is looked again whether one was made meanwhile.
    /// Who makes an epoch denies first, and then looks what was noted. One of the two sees the other.
    #[cold]
    #[inline(never)]
    fn judge_from_beyond(&self, presented: Presented<'_>, stamp: Timestamp) -> Verdict {
        let time = self.believed_time();
        if stamp > time.wall {
            self.note_from_beyond(presented, stamp, stamp.saturating_since(time.believed));
        }
        fence(Ordering::SeqCst);
        self.denial(presented).map_or(Verdict::Clear, Verdict::Revoked)
    }

    fn note_from_beyond(&self, presented: Presented<'_>, stamp: Timestamp, ahead: Duration) {
        // The first second that no epoch binds may be from `admissible_from`, and says nothing of the issuer's clock.
        let is_given_out = || self.latest_epoch(presented).is_some_and(|epoch| stamp <= epoch.next_whole_second());
        if ahead > ROUNDING && !is_given_out() {
            let issuer = presented.issuer();
            let digest = || self.keyring.issuer_digest(issuer);
            let issuer = (self.keyring.issuer_key(issuer), digest);
            if self.belief.note(issuer, stamp, ahead, self.clock.boot()) {
                self.news.announce();
            }
        } else {
            self.note_stamp(presented, stamp);
        }
    }

    /// Notes the stamp of a credential from beyond for each wide subject that it names.
    fn note_stamp(&self, presented: Presented<'_>, stamp: Timestamp) {
        let plain = presented.shapes() & Shape::PLAIN_AND_WIDE;
        self.probe(presented, plain, |probe| {
            self.stamps.note(probe.locator, stamp);
            None::<()>
        });
    }

    /// Why "nothing denies it" is not enough to let it in. What lies with the credential takes precedence: it is what is left
    /// once the store can say again.
    #[inline(never)]
    fn doubt(&self, presented: Presented<'_>) -> Option<Cause> {
        let of_store = || if self.is_closed() { Some(Cause::Closed) } else { self.gate.doubt(|| self.clock.boot()) };
        self.fault(presented).or_else(of_store)
    }

    /// What is wrong with the credential itself: a claim that is malformed, or missing.
    fn fault(&self, presented: Presented<'_>) -> Option<Cause> {
        let malformed = presented.credential.malformed_claim().map(Cause::MalformedClaim);
        let missing = || self.policy.missing_claim(presented.credential, presented.supplied.is_some());
        malformed.or_else(|| missing().map(Cause::MissingClaim))
    }

    /// The first entry that denies the credential, from the narrowest subject to the widest.
    #[inline(never)]
    fn denial(&self, presented: Presented<'_>) -> Option<Denial> {
        self.find(presented, |probe| {
            let digest = || presented.digest(self, probe.shape, probe.id);
            let bearer = Bearer::new(self, presented, probe.shape);
            self.denylist.judge(probe.shape, probe.locator, digest, presented.credential, &bearer)
        })
    }

    /// The first whole second from now on that no epoch binds. If it is ahead of the clock it is noted, as a credential
    /// that is let in from beyond is.
    pub(super) fn admissible_from(&self, presented: Presented<'_>) -> Timestamp {
        let wall = self.clock.wall();
        let this_second = Timestamp::from_secs(wall.as_secs());
        let admissible = || {
            let epoch = self.latest_epoch(presented).map(Timestamp::next_whole_second);
            epoch.map_or(this_second, |after| after.max(this_second))
        };
        let mut stamp = admissible();
        // An epoch that is made while the stamp is noted may not bind it.
        while stamp > wall {
            self.note_stamp(presented, stamp);
            // What is not named may be in the credential all the same.
            for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_narrow()) {
                let is_named = presented.shapes() & kind.shapes() != 0;
                if !is_named {
                    self.stamps.note(self.keyring.id_part(kind as usize, b"").locator(), stamp);
                }
            }
            self.news.announce();
            fence(Ordering::SeqCst);
            let again = admissible();
            if again <= stamp {
                break;
            }
            stamp = again;
        }
        stamp
    }

    /// The latest stamp from beyond the clock that is known of credentials that name a wide subject, or may name it.
    pub(super) fn stamp_of(&self, subject: &Subject) -> Timestamp {
        let own = self.keyring.id_part(subject.kind() as usize, subject.label().unwrap_or_default().as_bytes());
        let unnamed = self.keyring.id_part(subject.kind() as usize, b"");
        self.stamps.of(own.locator()).max(self.stamps.of(unnamed.locator()))
    }

    /// The latest epoch that binds the credential.
    fn latest_epoch(&self, presented: Presented<'_>) -> Option<Timestamp> {
        let mut latest = None;
        self.find(presented, |probe| {
            let Probe { shape, locator, .. } = probe;
            let subject = Identity { locator, digest: presented.digest(self, shape, probe.id), shape };
            latest = latest.max(self.denylist.binding_epoch(subject, &Bearer::new(self, presented, shape)));
            None::<()>
        });
        latest
    }

    /// Gives each subject that the credential names and that may have an entry to `visit`, until that finds something.
    fn find<'a, T>(&self, presented: Presented<'a>, mut visit: impl FnMut(Probe<'a>) -> Option<T>) -> Option<T> {
        let filter = self.denylist.filter();
        self.probe(presented, self.shapes_in_use(presented), |probe| {
            let is_absent = !filter.may_contain(probe.locator) && filter.is_current();
            if is_absent { None } else { visit(probe) }
        })
    }

    /// The shapes of the subjects that the credential names, as far as anything of them was revoked.
    #[inline]
    fn shapes_in_use(&self, presented: Presented<'_>) -> u64 {
        self.denylist.shapes() & presented.shapes()
    }

    /// The locators of the subjects of these shapes, which are all plain.
    #[inline(always)]
    fn probe_plain(&self, credential: &Credential<'_>, mut shapes: u64, mut visit: impl FnMut(Locator)) {
        while shapes != 0 {
            let kind = shapes.trailing_zeros() as usize / 4;
            shapes &= shapes - 1;
            let id = credential.text_of(kind).unwrap_or_default();
            visit(self.keyring.id_part(kind, id.as_bytes()).locator());
        }
    }

    /// Gives each subject of these shapes that the credential names to `visit`, from the narrowest kind to the widest,
    /// until that finds something.
    fn probe<'a, T>(
        &self,
        presented: Presented<'a>,
        mut shapes: u64,
        mut visit: impl FnMut(Probe<'a>) -> Option<T>,
    ) -> Option<T> {
        let scopes = self.scopes(presented, shapes);
        while shapes != 0 {
            let kind = Kind::ALL.get(shapes.trailing_zeros() as usize / 4).copied()?;
            let shapes_of_kind = shapes & kind.shapes();
            shapes &= !kind.shapes();
            let mut visit_id = |id: IdRef<'a>| {
                let part = self.keyring.id_part(kind as usize, id.as_bytes());
                let mut rest = shapes_of_kind;
                while rest != 0 {
                    let scope = rest.trailing_zeros() as usize % 4;
                    rest &= rest - 1;
                    let locator = part.and(scopes.get(scope).copied().unwrap_or_default()).locator();
                    let found = visit(Probe { shape: Shape::of(kind, scope), id, locator });
                    if found.is_some() {
                        return found;
                    }
                }
                None
            };
            let found = match kind {
                Kind::Group => presented.credential.groups.iter().find_map(|group| visit_id(IdRef::Name(group))),
                Kind::Tenant => presented.tenant().and_then(|tenant| visit_id(IdRef::Name(tenant))),
                kind => presented.credential.id_of(kind).and_then(visit_id),
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// What each of the four scopes adds to a locator: none, the tenant, the issuer, both; as far as these shapes ask.
    fn scopes(&self, presented: Presented<'_>, shapes: u64) -> [Part; 4] {
        let tenant = presented.tenant().filter(|_| shapes & Shape::IN_TENANT != 0);
        let issuer = presented.issuer().filter(|_| shapes & Shape::AT_ISSUER != 0);
        let tenant = tenant.map_or_else(Part::default, |tenant| self.keyring.tenant_part(tenant));
        let issuer = issuer.map_or_else(Part::default, |issuer| self.keyring.issuer_part(issuer));
        [Part::default(), tenant, issuer, tenant.and(issuer)]
    }
}
