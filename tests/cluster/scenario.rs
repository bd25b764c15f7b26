//! What happens to a cluster, and what must hold all the while.

use std::time::Duration;

use rescind::{Cause, Credential, Replication, Revocation, Subject, Timestamp, Verdict};

use crate::cluster::{Cluster, STALE_AFTER, START};
use crate::network::{Event, Random, Weather};

const SKEW: Duration = Duration::from_secs(60);

/// Something that was revoked, and acknowledged.
struct Revoked {
    what: What,
    number: u64,
    /// When whatever it denies has expired.
    until: Timestamp,
    /// Where, and when by the time of the simulation.
    origin: usize,
    at: Duration,
    /// The latest time in it, by the clock of the origin: its epoch, or when the flag was set, which is not before any time
    /// that the origin has seen.
    latest: Timestamp,
    /// It was lifted or enabled, so that nothing is certain but that all agree in the end.
    undone: bool,
    /// The origin's own disk was lost since.
    origin_lost_it: bool,
    /// And when it was, not every other issuer held it.
    gone: bool,
    /// One bit for each node by whose clock the epoch lay too far in the future, once: it was refused there, or may have
    /// been, and comes when contents are next compared.
    refused: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Token,
    Session,
    User,
    Disabled,
}

impl Revoked {
    /// A credential that it denies, and nothing else of this run does.
    fn credential(&self) -> Credential<'static> {
        let id = format!("{}", self.number);
        let old = Timestamp::from_secs(START - 7 * 24 * 3600);
        let credential = Credential::new().issued_at(old).expires_at(self.until);
        match self.what {
            What::Token => credential.token(id),
            What::Session => credential.session(id),
            What::User | What::Disabled => credential.user(id),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) lost: u64,
    pub(crate) diverged: u64,
    pub(crate) stale_clear: u64,
    pub(crate) failures: Vec<String>,
    pub(crate) trace: u64,
    pub(crate) events: u64,
    revocations: u64,
    checks: u64,
    clear: u64,
    bootstrapping: u64,
    stale: u64,
    crashes: u64,
    wipes: u64,
    partitions: u64,
    bytes: u64,
}

impl Outcome {
    pub(crate) fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.diverged += other.diverged;
        self.stale_clear += other.stale_clear;
        self.events += other.events;
        self.revocations += other.revocations;
        self.checks += other.checks;
        self.clear += other.clear;
        self.bootstrapping += other.bootstrapping;
        self.stale += other.stale;
        self.crashes += other.crashes;
        self.wipes += other.wipes;
        self.partitions += other.partitions;
        self.bytes += other.bytes;
    }

    pub(crate) fn counts(&self) -> String {
        let Self {
            events, revocations, checks, clear, bootstrapping, stale, crashes, wipes, partitions, bytes, ..
        } = self;
        format!(
            "events={events} revocations={revocations} checks={checks} clear={clear} bootstrapping={bootstrapping} \
             stale={stale} crashes={crashes} wipes={wipes} partitions={partitions} bytes={bytes}"
        )
    }

    fn fail(&mut self, count: fn(&mut Self) -> &mut u64, what: String) {
        *count(self) += 1;
        if self.failures.len() < 3 {
            self.failures.push(what);
        }
    }
}

pub(crate) struct Scenario {
    cluster: Cluster,
    /// The first so many nodes issue.
    issuers: usize,
    revoked: Vec<Revoked>,
    outcome: Outcome,
    /// When nodes that are down come back.
    down: Vec<Option<Duration>>,
    numbers: u64,
    has_wild_clocks: bool,
    /// The latest that any honest clock has shown.
    latest: Timestamp,
}

impl Scenario {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let honest = match random.below(20) {
            0 => 8 + random.below(43) as usize,
            _ => 3 + random.below(4) as usize,
        };
        let issuers = 1 + random.below(honest.min(3) as u64) as usize;
        let has_hostile = random.chance(300);
        let by_anchors = random.chance(250);
        // Whoever anchors alone has nobody to agree with.
        let issuers = if by_anchors { issuers.max(2) } else { issuers };
        let options = move |node| {
            let issuers = (0..issuers).map(Cluster::id);
            let options = match by_anchors {
                true => Replication::agreeing_with(
                    "simulated",
                    node,
                    others(node, issuers.clone()).len(),
                    others(node, issuers),
                ),
                false => Replication::trusting_issuers("simulated", node, issuers),
            };
            options.stale_after(STALE_AFTER)
        };
        let mut cluster = Cluster::new(random, options);
        let has_wild_clocks = cluster.random.chance(300);
        for _ in 0..honest {
            let off = cluster.random.below(40);
            let has_disk = honest < 8 && cluster.random.chance(600);
            cluster.add(Timestamp::from_secs(START + off), has_disk, false);
        }
        if has_hostile {
            let years = 10 * 365 * 24 * 3600;
            cluster.add(Timestamp::from_secs(START + years), false, true);
        }
        cluster.weather = match cluster.random.below(4) {
            0 => Weather::FAIR,
            1 => Weather { loss: 50, repeats: 20, damage: 5, delay: (1, 300) },
            2 => Weather { loss: 250, repeats: 100, damage: 20, delay: (1, 2_000) },
            _ => Weather { loss: 10, repeats: 0, damage: 0, delay: (20, 80) },
        };
        let down = vec![None; cluster.nodes.len()];
        Self {
            cluster,
            issuers,
            revoked: Vec::new(),
            outcome: Outcome::default(),
            down,
            numbers: 0,
            has_wild_clocks,
            latest: Timestamp::MIN,
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        for node in 0..self.cluster.nodes.len() {
            assert!(self.cluster.start(node));
        }
        self.cluster.agenda.add(Duration::from_millis(500), Event::Act);
        let length = Duration::from_secs(20 + self.cluster.random.below(40));
        self.pass(length, true);
        self.heal();
        let Self { cluster, mut outcome, .. } = self;
        outcome.trace = cluster.trace;
        outcome.events = cluster.events;
        outcome.bytes = cluster.bytes;
        outcome
    }

    /// Lets everything happen until a time.
    fn pass(&mut self, until: Duration, acts: bool) {
        while let Some((event, node)) = self.cluster.step(until) {
            if event == Event::Act && acts {
                self.act();
                let pause = Duration::from_millis(100 + self.cluster.random.below(900));
                self.cluster.agenda.add(self.cluster.now + pause, Event::Act);
            }
            if let Some(node) = node {
                for _ in 0..3 {
                    let index = self.cluster.random.below(self.revoked.len() as u64) as usize;
                    self.check(node, index);
                }
            }
        }
        self.cluster.advance_to(until);
    }

    /// Tells what happens, where one seed is run by hand.
    fn tell(&self, what: impl FnOnce() -> String) {
        if crate::first_seed().is_some() {
            println!("{:?} {}", self.cluster.now, what());
        }
    }

    fn pick(&mut self, of: usize) -> usize {
        self.cluster.random.below(of as u64) as usize
    }

    fn act(&mut self) {
        let now = self.cluster.now;
        for node in 0..self.down.len() {
            if self.down[node].is_some_and(|until| until <= now) && self.cluster.start(node) {
                self.down[node] = None;
            }
        }
        match self.cluster.random.below(100) {
            0..55 => self.revoke(),
            55..60 => self.undo(),
            60..70 => self.partition(),
            70..75 => self.cluster.cut.clear(),
            75..83 => self.crash(),
            83..86 => self.wipe(),
            86..90 if self.has_wild_clocks => self.step_clock(),
            90..94 => self.disk_fault(),
            _ => {}
        }
    }

    fn revoke(&mut self) {
        let has_hostile = self.cluster.nodes.last().is_some_and(|node| node.is_hostile);
        if has_hostile && self.cluster.random.chance(200) {
            let hostile = self.cluster.nodes.len() - 1;
            // An epoch in ten years, on everyone; by the clock over there it is now.
            if let Some(store) = self.cluster.nodes[hostile].store() {
                store.revoke(Revocation::of(Subject::everyone())).unwrap();
            }
            return self.cluster.settle(hostile);
        }
        let origin = self.pick(self.issuers);
        let count = if self.cluster.random.chance(50) { 1 + self.cluster.random.below(300) } else { 1 };
        let mut batch = Vec::new();
        for _ in 0..count {
            self.numbers += 1;
            let what = [What::Token, What::Token, What::Session, What::User, What::Disabled][self.pick(5)];
            batch.push((what, self.numbers));
        }
        let node = &self.cluster.nodes[origin];
        let Some(store) = node.store() else { return };
        let mut done = Vec::new();
        let mut until = Timestamp::from_secs(START + 30 * 24 * 3600);
        let now = rescind::Clock::wall(&node.clock);
        if count > 1 {
            batch.iter_mut().for_each(|(what, _)| *what = What::Token);
            let tokens = batch.iter().map(|(_, number)| Revocation::of(Subject::token(number.to_string())));
            if store.revoke_many(tokens).is_ok() {
                done = batch;
            }
        } else if let Some((what, number)) = batch.pop() {
            let id = number.to_string();
            if what == What::Token {
                until = Timestamp::from_secs(START + 3600 * (1 + number % 5));
            }
            let result = match what {
                What::Token => store.revoke(Revocation::of(Subject::token(id)).until(until)),
                What::Session => store.revoke(Revocation::of(Subject::session(id))),
                What::User => store.revoke(Revocation::of(Subject::user(id))),
                What::Disabled => store.disable(Subject::user(id)),
            };
            if result.is_ok() {
                done = vec![(what, number)];
            }
        }
        for (what, number) in done {
            let at = self.cluster.now;
            // As late as any clock has shown: that of the origin may have been set, and a peer's may have been taken for right.
            let latest = if what == What::Disabled { now.max(self.latest) } else { now };
            self.outcome.revocations += 1;
            self.revoked.push(Revoked {
                what,
                number,
                until,
                origin,
                at,
                latest,
                undone: false,
                origin_lost_it: false,
                gone: false,
                refused: 0,
            });
        }
        self.note_refusals();
        self.cluster.settle(origin);
    }

    /// To be called whenever there is a new epoch, or a clock has been set.
    fn note_refusals(&mut self) {
        for (index, node) in self.cluster.nodes.iter().enumerate() {
            let horizon = rescind::Clock::wall(&node.clock).saturating_add(SKEW);
            for revoked in &mut self.revoked {
                let is_wide = matches!(revoked.what, What::User | What::Disabled);
                revoked.refused |= u64::from(is_wide && revoked.latest > horizon) << index;
            }
        }
    }

    fn undo(&mut self) {
        if self.revoked.is_empty() {
            return;
        }
        let index = self.pick(self.revoked.len());
        let node = self.pick(self.issuers);
        let Some(store) = self.cluster.nodes[node].store() else { return };
        let id = self.revoked[index].number.to_string();
        let result = match self.revoked[index].what {
            What::Token => store.lift(Subject::token(id)),
            What::Session => store.lift(Subject::session(id)),
            What::User => store.lift(Subject::user(id)),
            What::Disabled => store.enable(Subject::user(id)),
        };
        // One that failed may be in the log all the same.
        _ = result;
        self.revoked[index].undone = true;
        self.cluster.settle(node);
    }

    fn partition(&mut self) {
        self.outcome.partitions += 1;
        let count = self.cluster.nodes.len();
        let side: Vec<bool> = (0..count).map(|_| self.cluster.random.chance(500)).collect();
        let is_one_way = self.cluster.random.chance(200);
        for a in 0..count {
            for b in 0..count {
                if side[a] != side[b] && (!is_one_way || side[a]) {
                    self.cluster.cut.insert((a, b));
                }
            }
        }
    }

    fn crash(&mut self) {
        let node = self.pick(self.cluster.nodes.len());
        if self.cluster.is_up(node) && !self.cluster.nodes[node].is_hostile {
            // What is in memory only is lost with the process: a wiped disk.
            if self.cluster.nodes[node].disk.is_none() {
                self.give_up_what_only_one_has(node);
            }
            self.outcome.crashes += 1;
            let loses_power = self.cluster.random.chance(500);
            self.tell(|| format!("node {node} fails"));
            self.cluster.stop(node, loses_power);
            self.down[node] = Some(self.cluster.now + Duration::from_millis(self.cluster.random.below(15_000)));
        }
    }

    fn wipe(&mut self) {
        let node = self.pick(self.cluster.nodes.len());
        if self.cluster.is_up(node) && !self.cluster.nodes[node].is_hostile {
            self.give_up_what_only_one_has(node);
            self.outcome.wipes += 1;
            self.tell(|| format!("node {node} loses its disk"));
            self.cluster.stop(node, true);
            self.cluster.wipe(node);
            self.down[node] = Some(self.cluster.now + Duration::from_millis(self.cluster.random.below(15_000)));
        }
    }

    /// A disk is about to be lost. What not every other issuer holds may be missed for a while, or for good.
    fn give_up_what_only_one_has(&mut self, node: usize) {
        let others: Vec<usize> = (0..self.issuers).filter(|other| *other != node).collect();
        for revoked in &mut self.revoked {
            revoked.origin_lost_it |= revoked.origin == node;
            let credential = revoked.credential();
            let is_held = |other: &usize| {
                let store = self.cluster.nodes[*other].store();
                store.is_some_and(|store| matches!(store.check(&credential), Verdict::Revoked(_)))
            };
            if others.is_empty() || !others.iter().all(is_held) {
                revoked.gone = true;
            }
        }
    }

    fn step_clock(&mut self) {
        let node = self.pick(self.cluster.nodes.len());
        let by = self.cluster.random.below(1_200);
        if self.cluster.nodes[node].is_hostile {
            return;
        }
        let clock = &self.cluster.nodes[node].clock;
        let wall = rescind::Clock::wall(clock);
        let step = Duration::from_secs(by);
        self.latest = self.latest.max(wall.saturating_add(step));
        clock.set_wall(if by.is_multiple_of(2) { wall.saturating_add(step) } else { wall.saturating_sub(step) });
        self.note_refusals();
    }

    fn disk_fault(&mut self) {
        let node = self.pick(self.cluster.nodes.len());
        let after = 1 + self.cluster.random.below(20);
        if let (Some(disk), true) = (&self.cluster.nodes[node].disk, self.cluster.is_up(node)) {
            disk.fail_at(disk.operations() + after, std::io::ErrorKind::StorageFull, false);
        }
    }

    /// Whether a node says what it may of something that was revoked.
    fn check(&mut self, node: usize, index: usize) {
        let Some(revoked) = self.revoked.get(index) else { return };
        let Some(store) = self.cluster.nodes[node].store() else { return };
        if self.cluster.nodes[node].is_hostile {
            return;
        }
        self.outcome.checks += 1;
        let verdict = store.check(&revoked.credential());
        match verdict {
            Verdict::Revoked(_) => return,
            Verdict::Unknown(Cause::Bootstrapping) => self.outcome.bootstrapping += 1,
            Verdict::Unknown(Cause::Stale) => self.outcome.stale += 1,
            Verdict::Unknown(_) => {}
            Verdict::Clear => self.outcome.clear += 1,
        }
        if revoked.undone || revoked.gone {
            return;
        }
        let told = || {
            let age = self.cluster.now - revoked.at;
            format!("number {} of node {} on node {node}: {verdict} after {age:?}", revoked.number, revoked.origin)
        };
        if node == revoked.origin && !revoked.origin_lost_it {
            let what = told();
            self.outcome.fail(|outcome| &mut outcome.lost, what);
        } else if verdict == Verdict::Clear
            && self.cluster.now - revoked.at > STALE_AFTER
            && revoked.refused >> node & 1 == 0
        {
            let what = told();
            self.tell(|| what.clone());
            self.outcome.fail(|outcome| &mut outcome.stale_clear, what);
        }
    }

    /// Mends everything, waits, and looks whether all have become the same.
    fn heal(&mut self) {
        self.cluster.cut.clear();
        self.cluster.weather = Weather::FAIR;
        for node in 0..self.cluster.nodes.len() {
            if let Some(disk) = &self.cluster.nodes[node].disk {
                disk.clear_faults();
            }
            if !self.cluster.is_up(node) {
                assert!(self.cluster.start(node), "node {node} does not start again");
            }
            // A store that has seen a later time than its clock shows says so, and nothing else.
            let now = Timestamp::from_secs(START + 60).saturating_add(self.cluster.now).max(self.latest);
            if !self.cluster.nodes[node].is_hostile {
                self.cluster.nodes[node].clock.set_wall(now);
            }
        }
        // What was refused because a clock was ahead is no longer once the others have caught up.
        if self.has_wild_clocks {
            for _ in 0..40 {
                self.cluster.advance_to(self.cluster.now + Duration::from_secs(60));
                self.pass(self.cluster.now + Duration::from_secs(1), false);
            }
        }
        self.pass(self.cluster.now + Duration::from_secs(30), false);
        let honest: Vec<usize> =
            (0..self.cluster.nodes.len()).filter(|node| !self.cluster.nodes[*node].is_hostile).collect();
        for (index, node) in self.cluster.nodes.iter().enumerate() {
            let stats = node.replica.as_ref().unwrap().stats();
            self.tell(|| format!("node {index} in the end: {} {stats:?}", rescind::Clock::wall(&node.clock)));
        }
        for &node in &honest {
            if !self.cluster.nodes[node].is_fresh() {
                let freshness = self.cluster.nodes[node].replica.as_ref().unwrap().freshness();
                let what = format!("node {node} is {freshness:?} in the end");
                self.outcome.fail(|outcome| &mut outcome.diverged, what);
            }
        }
        for index in 0..self.revoked.len() {
            honest.iter().for_each(|node| self.check(*node, index));
            let credential = self.revoked[index].credential();
            let verdicts: Vec<Verdict> =
                honest.iter().map(|node| self.cluster.nodes[*node].store().unwrap().check(&credential)).collect();
            // What has expired may be denied by its entry still, or by its own age.
            let said = |verdict: &Verdict| (*verdict == Verdict::Clear, matches!(verdict, Verdict::Revoked(_)));
            if verdicts.iter().any(|verdict| said(verdict) != said(&verdicts[0])) {
                let what = format!("number {}: {verdicts:?}", self.revoked[index].number);
                self.outcome.fail(|outcome| &mut outcome.diverged, what);
            }
        }
    }
}

fn others(node: rescind::NodeId, issuers: impl Iterator<Item = rescind::NodeId>) -> Vec<rescind::NodeId> {
    issuers.filter(|issuer| *issuer != node).collect()
}
