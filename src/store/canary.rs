//! The canary: a token that nobody bears is revoked, and every peer is asked whether it denies it.
//!
//! It goes the whole way that a real revocation goes, and tells when that way is broken although all else seems well.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::{Identity, Reason, Revocation, Subject, Timestamp};
use crate::replication::{NodeId, Protocol};

use super::alarm::Alarm;
use super::replica::Replica;

/// How long the entry of a canary is kept.
const RETENTION: Duration = Duration::from_secs(60);

/// What became of the last canary.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CanaryReport {
    /// How many there were, since the store was made a replica.
    pub number: u64,
    /// How long ago it was revoked.
    pub age: Duration,
    /// Whether it is denied here.
    pub denied_here: bool,
    /// How long it took until each peer was known to deny it; none where that is not known yet.
    pub denied_by: Vec<(NodeId, Option<Duration>)>,
}

impl CanaryReport {
    /// Whether everyone denies it.
    #[must_use]
    pub fn is_denied_everywhere(&self) -> bool {
        self.denied_here && self.denied_by.iter().all(|(_, after)| after.is_some())
    }
}

/// A canary was not denied everywhere in time: revocations do not reach everyone, or not as fast as they should.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CanaryAlarm {
    /// Which canary.
    pub number: u64,
    /// How long it was waited for.
    pub after: Duration,
    /// Whether it is denied here.
    pub denied_here: bool,
    /// Who is not known to deny it.
    pub missing: Vec<NodeId>,
}

/// The canary that is out, or was last.
#[derive(Debug, Default)]
pub(super) struct Canary {
    number: u64,
    next: Option<Duration>,
    out: Option<Out>,
}

#[derive(Clone, Debug)]
struct Out {
    subject: Identity,
    since: Duration,
    denied_here: bool,
    denied_by: BTreeMap<NodeId, Option<Duration>>,
    is_over: bool,
}

impl Out {
    fn is_denied_everywhere(&self) -> bool {
        self.denied_here && self.denied_by.values().all(Option::is_some)
    }
}

impl Canary {
    /// Takes in what peers answered, and asks those that have not denied it yet.
    pub(super) fn follow(&mut self, protocol: &mut Protocol, now: Duration) {
        let answers = protocol.take_answers();
        let Some(out) = &mut self.out else { return };
        for (number, from, denied) in answers {
            if let Some(after @ None) = out.denied_by.get_mut(&from)
                && number == self.number
                && denied
            {
                *after = Some(now.saturating_sub(out.since));
            }
        }
        if !out.is_over {
            let open = out.denied_by.iter().filter(|(_, after)| after.is_none());
            let open: Vec<NodeId> = open.map(|(node, _)| *node).collect();
            protocol.probe(&open, self.number, out.subject);
        }
    }
}

impl Replica {
    /// Sends out a canary, unless one is out, and gives its number.
    ///
    /// Its token is revoked as any other is, and each peer is asked at every [`tick`](Self::tick) until it says that it
    /// denies it. With [`Replication::canary`](crate::Replication::canary) this is done by itself.
    pub fn start_canary(&self) -> u64 {
        let (position, peers) = self.with(|protocol, _, _| (protocol.position(), protocol.peers().collect::<Vec<_>>()));
        let shared = &self.store().shared;
        let mut canary = self.state().canary.lock();
        if canary.out.as_ref().is_some_and(|out| !out.is_over) {
            return canary.number;
        }
        canary.number += 1;
        let token = Subject::token(format!("rescind-canary/{}/{}/{}", self.node(), position.0, canary.number));
        let subject = shared.keyring.identity_of(&token);
        let until: Timestamp = shared.clock.wall().saturating_add(RETENTION);
        let revocation = Revocation::of(token).until(until).because(Reason::Policy).by("canary");
        let since = shared.clock.boot();
        // Whether it denies is asked below; that it is logged is not what is tried.
        self.store().submit(revocation).ok();
        let item = shared.denylist.item(subject);
        canary.out = Some(Out {
            subject,
            since,
            denied_here: item.is_some_and(|item| item.entry.denies_outright()),
            denied_by: peers.into_iter().map(|node| (node, None)).collect(),
            is_over: false,
        });
        canary.number
    }

    /// What became of the last canary; none if there was none.
    #[must_use]
    pub fn canary(&self) -> Option<CanaryReport> {
        let now = self.store().shared.clock.boot();
        let canary = self.state().canary.lock();
        let out = canary.out.as_ref()?;
        Some(CanaryReport {
            number: canary.number,
            age: now.saturating_sub(out.since),
            denied_here: out.denied_here,
            denied_by: out.denied_by.iter().map(|(node, after)| (*node, *after)).collect(),
        })
    }

    /// Sends canaries out when they are due, and raises the alarm.
    pub(super) fn tend_canary(&self) {
        let now = self.store().shared.clock.boot();
        let options = self.state().options();
        let is_due = {
            let mut canary = self.state().canary.lock();
            let number = canary.number;
            if let Some(out) = &mut canary.out
                && !out.is_over
            {
                let after = now.saturating_sub(out.since);
                out.is_over = out.is_denied_everywhere();
                if !out.is_over && after > options.stale_after {
                    out.is_over = true;
                    let missing = out.denied_by.iter().filter(|(_, after)| after.is_none()).map(|(node, _)| *node);
                    let alarm = CanaryAlarm { number, after, denied_here: out.denied_here, missing: missing.collect() };
                    // Whoever does not look for alarms has those that fit.
                    self.state().raise(Alarm::Canary(alarm));
                }
            }
            let is_due = options.canary.is_some() && canary.next.is_none_or(|next| now >= next);
            if is_due {
                canary.next = options.canary.map(|period| now.saturating_add(period));
            }
            is_due
        };
        if is_due {
            self.start_canary();
        }
    }
}
