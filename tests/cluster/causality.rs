//! Clocks, issuers, limits and names that disagree: what was let in before a revocation is not let in after it.
//!
//! Replicas and issuers each have a clock, which is off by some seconds and is set forward and back; one replica's may be off by
//! minutes. Limits differ and are changed, hours pass, and a second process starts under the name of another. The oracle knows the
//! true time and who has heard whom, and nothing of how it is done.

use std::time::Duration;

use rescind::{Clock, Credential, Effect, Options, Replication, Revocation, Store, Subject, Timestamp, Verdict};

use crate::cluster::{Cluster, Heard, Node, STALE_AFTER, START};
use crate::network::{Event, Random, Weather};

const SKEW: Duration = Duration::from_secs(60);
/// By how many seconds the clocks of replicas are off, at most, but for one.
const OFF_MAX: u64 = 25;
const USERS: u64 = 4;
const CREDENTIALS_MAX: usize = 60;
const TENANT: &str = "acme";

/// Those who log people in.
struct Issuer {
    name: &'static str,
    /// By how many milliseconds its clock is ahead.
    ahead: i64,
    /// It stamps whole seconds.
    is_whole: bool,
    /// It asks a store from when on credentials are admissible.
    asks: bool,
}

struct Presented {
    user: u64,
    issuer: usize,
    stamp: Timestamp,
    /// Who let it in, and when.
    let_in: Vec<LetIn>,
    /// One bit for each node where a definite mark has denied it.
    denied: u64,
}

#[derive(Clone, Copy)]
struct LetIn {
    node: usize,
    /// Which process of the node.
    process: u64,
    at: Duration,
    /// The clock there was not minutes ahead.
    is_right: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    User(u64),
    Tenant,
    Everyone,
}

/// A revocation that was acknowledged.
struct Revoked {
    whom: Whom,
    origin: usize,
    process: u64,
    at: Duration,
    /// What the origin had last heard of each node.
    heard: Vec<Option<Heard>>,
    /// What it kills for sure may say that it was issued at this time or before.
    until: Timestamp,
    /// A token that was revoked with it.
    witness: u64,
    undone: bool,
    gone: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// A credential was let in before a revocation, and after it: guarantee 12, and 11.
    pub(crate) void: u64,
    /// What was denied is not, and nobody has undone anything: guarantee 3.
    pub(crate) un_denied: u64,
    /// Somebody logged in anew and is not let in.
    pub(crate) locked_out: u64,
    /// In the end not all say the same.
    pub(crate) diverged: u64,
    pub(crate) failures: Vec<String>,
    events: u64,
    logins: u64,
    let_in: u64,
    revocations: u64,
    pending: u64,
    demands: u64,
    refused: u64,
    forgotten: u64,
    twins: u64,
    steps: u64,
    ages: u64,
}

impl Outcome {
    pub(crate) fn violations(&self) -> u64 {
        self.void + self.un_denied + self.locked_out + self.diverged
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.void += other.void;
        self.un_denied += other.un_denied;
        self.locked_out += other.locked_out;
        self.diverged += other.diverged;
        self.events += other.events;
        self.logins += other.logins;
        self.let_in += other.let_in;
        self.revocations += other.revocations;
        self.pending += other.pending;
        self.demands += other.demands;
        self.refused += other.refused;
        self.forgotten += other.forgotten;
        self.twins += other.twins;
        self.steps += other.steps;
        self.ages += other.ages;
    }

    pub(crate) fn counts(&self) -> String {
        let Self {
            events, logins, let_in, revocations, pending, demands, refused, forgotten, twins, steps, ages, ..
        } = self;
        format!(
            "events={events} logins={logins} let_in={let_in} revocations={revocations} pending={pending} demands={demands} \
             refused={refused} forgotten={forgotten} twins={twins} steps={steps} ages={ages}"
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
    issuers: Vec<Issuer>,
    /// The first so many nodes revoke, and those that bear their names.
    revokers: usize,
    presented: Vec<Presented>,
    revoked: Vec<Revoked>,
    /// The users of whom something was undone.
    undone: u64,
    disabled: u64,
    /// The one whose clock may be off by minutes.
    wild: Option<usize>,
    down: Vec<Option<Duration>>,
    witnesses: u64,
    pub(crate) outcome: Outcome,
}

/// What the stores of a cluster may be started with.
const LIMITS: [fn(Options) -> Options; 5] = [
    |options| options,
    |options| options.leeway(Duration::from_secs(20)),
    |options| options.tenant_max_credential_age(TENANT, Duration::from_secs(4 * 3600)),
    |options| options.max_credential_age(Duration::from_secs(6 * 3600)),
    |options| options.leeway(Duration::from_secs(120)),
];

impl Scenario {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random(seed ^ 0xca05_a1c1_0c75);
        let count = 1 + random.below(5) as usize;
        let revokers = 1 + random.below(count.min(3) as u64) as usize;
        let options = move |node| {
            Replication::trusting_issuers("simulated", node, (0..revokers).map(Cluster::id)).stale_after(STALE_AFTER)
        };
        let mut cluster = Cluster::new(random, options);
        for _ in 0..count {
            let off = cluster.random.below(2 * OFF_MAX + 1);
            let has_disk = cluster.random.chance(600);
            cluster.add(Timestamp::from_secs(START - OFF_MAX + off), has_disk, false);
        }
        let limits_differ = cluster.random.chance(400);
        for node in &mut cluster.nodes {
            let choice = if limits_differ { cluster.random.below(LIMITS.len() as u64) as usize } else { 0 };
            node.with = LIMITS[choice];
        }
        cluster.weather = match cluster.random.below(3) {
            0 => Weather::FAIR,
            1 => Weather { loss: 100, repeats: 50, damage: 5, delay: (1, 500) },
            _ => Weather { loss: 10, repeats: 0, damage: 0, delay: (20, 80) },
        };
        let names = ["https://a.example", "https://b.example", "https://c.example"];
        let mut issuers = Vec::new();
        for name in names {
            let ahead = [0, 0, 900, -5_000, 20_000, 50_000, -90_000][cluster.random.below(7) as usize];
            let (is_whole, asks) = (cluster.random.chance(500), cluster.random.chance(300));
            issuers.push(Issuer { name, ahead, is_whole, asks });
        }
        let nodes = cluster.nodes.len();
        let wild = cluster.random.chance(500).then(|| cluster.random.below(nodes as u64) as usize);
        Self {
            cluster,
            issuers,
            revokers,
            presented: Vec::new(),
            revoked: Vec::new(),
            undone: 0,
            disabled: 0,
            wild,
            down: vec![None; nodes],
            witnesses: 0,
            outcome: Outcome::default(),
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        for node in 0..self.cluster.nodes.len() {
            assert!(self.cluster.start(node));
        }
        self.cluster.agenda.add(Duration::from_millis(500), Event::Act);
        let length = Duration::from_secs(20 + self.cluster.random.below(40));
        let jumps = self.cluster.random.below(3);
        self.pass(length);
        for _ in 0..jumps {
            // Whoever is told of it is heard again before anything is asked.
            let far = Duration::from_secs(600 + self.cluster.random.below(8 * 3600));
            self.cluster.advance_to(self.cluster.now + far);
            self.maintain();
            self.cluster.agenda.add(self.cluster.now, Event::Act);
            self.pass(self.cluster.now + Duration::from_secs(15));
        }
        self.heal();
        self.outcome.events = self.cluster.events;
        self.outcome
    }

    fn pass(&mut self, until: Duration) {
        while let Some((event, node)) = self.cluster.step(until) {
            if event == Event::Act {
                self.act();
                let pause = Duration::from_millis(50 + self.cluster.random.below(600));
                self.cluster.agenda.add(self.cluster.now + pause, Event::Act);
            }
            if let Some(node) = node {
                for _ in 0..3 {
                    let index = self.cluster.random.below(self.presented.len() as u64) as usize;
                    self.present(node, index);
                }
            }
        }
        self.cluster.advance_to(until);
    }

    fn maintain(&mut self) {
        for node in &self.cluster.nodes {
            if let Some(store) = node.store() {
                self.outcome.forgotten += store.maintain().forgotten as u64;
            }
        }
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if crate::first_seed().is_some() {
            println!("{:?} {}", self.cluster.now, what());
        }
    }

    fn true_time(&self) -> Timestamp {
        Timestamp::from_secs(START).saturating_add(self.cluster.now)
    }

    fn below(&mut self, of: usize) -> usize {
        self.cluster.random.below(of as u64) as usize
    }

    fn act(&mut self) {
        let now = self.cluster.now;
        for node in 0..self.down.len() {
            if self.down[node].is_some_and(|until| until <= now) && self.cluster.start(node) {
                self.down[node] = None;
                self.note_start(node);
                self.tell(|| format!("node {node} starts"));
            }
        }
        match self.cluster.random.below(100) {
            0..38 => self.log_in(),
            38..62 => self.revoke(),
            62..65 => self.undo(),
            65..69 => self.set_age(),
            69..76 => self.partition(),
            76..80 => {
                self.cluster.cut.clear();
                self.tell(|| "mended".to_owned());
            }
            80..85 => self.crash(),
            85..87 => self.wipe(),
            87..93 => self.step_clock(),
            93..96 => self.step_issuer(),
            96..98 => self.start_twin(),
            _ => self.maintain(),
        }
    }

    fn log_in(&mut self) {
        if self.presented.len() >= CREDENTIALS_MAX {
            return;
        }
        let (user, issuer, node) =
            (self.cluster.random.below(USERS), self.below(self.issuers.len()), self.below(self.down.len()));
        let Some(store) = self.cluster.nodes[node].store() else { return };
        let Issuer { name, ahead, is_whole, asks } = self.issuers[issuer];
        let now = self.true_time();
        let millis = Duration::from_millis(ahead.unsigned_abs());
        let now = if ahead < 0 { now.saturating_sub(millis) } else { now.saturating_add(millis) };
        let stamp = match (asks, is_whole) {
            // Whoever asks goes by the clock of whom it asks.
            (true, _) => store.admissible_from(&credential(user, name, now)),
            (false, true) => Timestamp::from_secs(now.as_secs()),
            (false, false) => now,
        };
        self.outcome.logins += 1;
        if asks && let Verdict::Revoked(denial) = store.check(&credential(user, name, stamp)) {
            let is_bound = matches!(denial.effect, Effect::Reauthenticate { .. } | Effect::Reissue { .. });
            if is_bound {
                let what = format!("a stamp that node {node} has just given out, {stamp}: {denial:?}");
                self.outcome.fail(|outcome| &mut outcome.locked_out, what);
            }
        }
        self.tell(|| format!("user {user} logs in at {name}, at {stamp}: credential {}", self.presented.len()));
        self.presented.push(Presented { user, issuer, stamp, let_in: Vec::new(), denied: 0 });
        self.present(node, self.presented.len() - 1);
    }

    fn revoke(&mut self) {
        let origin = self.revoker();
        let Some(store) = self.cluster.nodes[origin].store().cloned() else { return };
        self.witnesses += 1;
        let witness = self.witnesses;
        let user = self.cluster.random.below(USERS);
        let name = user.to_string();
        let alone = Revocation::of(Subject::token(witness.to_string()));
        let whom = match self.cluster.random.below(20) {
            0 => Whom::Everyone,
            1..4 => Whom::Tenant,
            _ => Whom::User(user),
        };
        let subject = match whom {
            Whom::Everyone => Subject::everyone(),
            Whom::Tenant => Subject::tenant(TENANT),
            Whom::User(_) => Subject::user(&*name).in_tenant(TENANT),
        };
        let result = match self.cluster.random.below(10) {
            0..6 => store.revoke_many([alone, Revocation::of(subject)]),
            6..8 => store.revoke_many([alone, Revocation::of(subject).reissue()]),
            _ if whom != Whom::User(user) => store.revoke_many([alone, Revocation::of(subject)]),
            chance => {
                let disabled = store.disable(subject.clone());
                if chance == 8 {
                    // Enabling says nothing of the old credentials.
                    store.enable(subject).ok();
                } else {
                    self.disabled |= 1 << user;
                }
                store.revoke(alone).and(disabled)
            }
        };
        let Ok(receipt) = result else { return self.cluster.settle(origin) };
        self.outcome.revocations += 1;
        self.outcome.pending += receipt.pending as u64;
        let true_time = self.true_time();
        let is_wild = self.is_wild(origin);
        // Whoever gives a time in place of one that is missing, or refused, may have heard of nobody who lets in from beyond.
        let until = match receipt.pending > 0 || is_wild {
            true => true_time.saturating_sub(Duration::from_secs(OFF_MAX + 1)),
            false => Timestamp::MAX,
        };
        let heard = (0..self.down.len()).map(|node| self.cluster.heard[origin].get(&node).copied()).collect();
        self.tell(|| {
            let wall = self.cluster.nodes[origin].clock.wall();
            format!("node {origin}, where it is {wall}, revokes {whom:?}: {receipt:?}")
        });
        self.revoked.push(Revoked {
            whom,
            origin,
            process: self.cluster.nodes[origin].life,
            at: self.cluster.now,
            heard,
            until,
            witness,
            undone: false,
            gone: false,
        });
        self.cluster.settle(origin);
    }

    /// One of those who revoke, or a twin of one.
    fn revoker(&mut self) -> usize {
        let all: Vec<usize> = self.all_revokers().collect();
        all[self.below(all.len())]
    }

    fn undo(&mut self) {
        let node = self.revoker();
        let user = self.cluster.random.below(USERS);
        let Some(store) = self.cluster.nodes[node].store() else { return };
        let subject = Subject::user(user.to_string()).in_tenant(TENANT);
        // Whatever becomes of it, it may be in the log.
        _ = (store.enable(subject.clone()), store.lift(subject));
        self.undone |= 1 << user;
        self.disabled |= 1 << user;
        for revoked in &mut self.revoked {
            revoked.undone |= revoked.whom == Whom::User(user);
        }
        self.tell(|| format!("node {node} takes back what was done to user {user}"));
        self.cluster.settle(node);
    }

    fn set_age(&mut self) {
        let node = self.revoker();
        let Some(store) = self.cluster.nodes[node].store() else { return };
        let hours = [1, 2, 5, 20, 0][self.cluster.random.below(5) as usize];
        let age = Duration::from_secs(hours * 3600);
        let subject = if self.cluster.random.chance(300) { Subject::everyone() } else { Subject::tenant(TENANT) };
        let result = match hours {
            0 => store.clear_max_credential_age(subject),
            _ => store.set_max_credential_age(subject, age),
        };
        self.outcome.ages += u64::from(result.is_ok());
        self.tell(|| format!("node {node} sets a maximum age of {hours} h: {result:?}"));
        self.cluster.settle(node);
    }

    fn partition(&mut self) {
        let count = self.cluster.nodes.len();
        let side: Vec<bool> = (0..count).map(|_| self.cluster.random.chance(500)).collect();
        for a in 0..count {
            for b in 0..count {
                if side[a] != side[b] {
                    self.cluster.cut.insert((a, b));
                }
            }
        }
        self.tell(|| format!("parted: {side:?}"));
    }

    fn crash(&mut self) {
        let node = self.below(self.down.len());
        if self.cluster.is_up(node) {
            if self.cluster.nodes[node].disk.is_none() {
                self.lose(node);
            }
            self.tell(|| format!("node {node} fails"));
            let loses_power = self.cluster.random.chance(300);
            self.cluster.stop(node, loses_power);
            if self.cluster.random.chance(300) {
                self.cluster.nodes[node].with = LIMITS[self.cluster.random.below(LIMITS.len() as u64) as usize];
            }
            self.down[node] = Some(self.cluster.now + Duration::from_millis(self.cluster.random.below(8_000)));
        }
    }

    fn wipe(&mut self) {
        let node = self.below(self.down.len());
        if self.cluster.is_up(node) {
            self.lose(node);
            self.tell(|| format!("node {node} loses its disk"));
            self.cluster.stop(node, true);
            self.cluster.wipe(node);
            self.down[node] = Some(self.cluster.now + Duration::from_millis(self.cluster.random.below(8_000)));
        }
    }

    /// All that a node holds is about to be lost.
    fn lose(&mut self, node: usize) {
        self.give_up(node);
        self.presented.iter_mut().for_each(|presented| presented.denied &= !(1 << node));
    }

    /// A node begins with nothing, or will. What not all hold that revoke under other names may be missed.
    fn give_up(&mut self, node: usize) {
        let id = self.cluster.nodes[node].id;
        let others: Vec<usize> = self.all_revokers().filter(|other| self.cluster.nodes[*other].id != id).collect();
        let gone: Vec<bool> = self.revoked.iter().map(|revoked| !self.is_held(revoked, &others)).collect();
        self.revoked.iter_mut().zip(gone).for_each(|(revoked, gone)| revoked.gone |= gone);
    }

    /// Whether all of these hold a revocation: what was revoked with it, and what kills each credential that it must kill.
    fn is_held(&self, revoked: &Revoked, by: &[usize]) -> bool {
        let witness = Credential::new().token(revoked.witness.to_string());
        let killed = (0..self.presented.len()).filter(|index| self.was_let_in_before(revoked, *index).is_some());
        let killed: Vec<&Presented> = killed.map(|index| &self.presented[index]).collect();
        let holds = |node: &usize| {
            let Some(store) = self.cluster.nodes[*node].store() else { return false };
            let kills = |presented: &&Presented| is_killed(&verdict(store, presented, &self.issuers));
            let holds_witness =
                matches!(store.check(&witness), Verdict::Revoked(denial) if denial.effect == Effect::Revoked);
            holds_witness && killed.iter().all(kills)
        };
        !by.is_empty() && by.iter().all(holds)
    }

    /// Those who revoke, and the twins of such.
    fn all_revokers(&self) -> impl Iterator<Item = usize> {
        let names = 0..self.revokers;
        let is_one = move |node: &Node| names.clone().any(|name| Cluster::id(name) == node.id);
        self.cluster.nodes.iter().enumerate().filter(move |(_, node)| is_one(node)).map(|(index, _)| index)
    }

    /// A process has started. Under a name of several it is not told of what the others hold.
    fn note_start(&mut self, node: usize) {
        let id = self.cluster.nodes[node].id;
        if self.cluster.nodes.iter().filter(|other| other.id == id).count() > 1 {
            self.give_up(node);
        }
    }

    fn is_wild(&self, node: usize) -> bool {
        let wall = self.cluster.nodes[node].clock.wall();
        let off = wall.saturating_since(self.true_time()).max(self.true_time().saturating_since(wall));
        off > Duration::from_secs(OFF_MAX + 1)
    }

    fn step_clock(&mut self) {
        let node = self.below(self.down.len());
        let to = match self.wild {
            Some(wild) if wild == node && self.cluster.random.chance(700) => {
                [-1_200, -600, -100, 100, 600, 1_200][self.cluster.random.below(6) as usize]
            }
            _ => self.cluster.random.below(2 * OFF_MAX + 1) as i64 - OFF_MAX as i64,
        };
        let by = Duration::from_secs(to.unsigned_abs());
        let wall = self.true_time();
        let wall = if to < 0 { wall.saturating_sub(by) } else { wall.saturating_add(by) };
        self.cluster.nodes[node].clock.set_wall(wall);
        self.outcome.steps += 1;
        self.tell(|| format!("the clock of node {node} is set to {wall}, off by {to} s"));
    }

    fn step_issuer(&mut self) {
        let issuer = self.below(self.issuers.len());
        self.issuers[issuer].ahead = [0, 500, -1_500, 15_000, 59_000, 100_000, -60_000][self.below(7)];
    }

    /// A second process under the name of one that revokes, as after an overlapping deployment; or it ends.
    fn start_twin(&mut self) {
        let count = self.cluster.nodes.len();
        if count > self.down.len() || count < 2 {
            return;
        }
        let of = self.below(self.revokers);
        let has_twin = (0..count).any(|node| node >= 1 && self.cluster.nodes[node].id == Cluster::id(of) && node != of);
        if has_twin || count >= 7 {
            return;
        }
        let wall = self.cluster.nodes[of].clock.wall();
        let (id, with) = (self.cluster.nodes[of].id, self.cluster.nodes[of].with);
        self.cluster.add_as(id, wall, false, false);
        self.cluster.nodes[count].with = with;
        self.down.push(None);
        assert!(self.cluster.start(count));
        self.note_start(count);
        self.outcome.twins += 1;
        self.tell(|| format!("node {count} is a twin of node {of}"));
    }

    /// Shows a credential to a node, and looks whether it says what it may.
    fn present(&mut self, node: usize, index: usize) {
        let Some(presented) = self.presented.get(index) else { return };
        let Some(store) = self.cluster.nodes[node].store() else { return };
        let verdict = verdict(store, presented, &self.issuers);
        let (now, user, stamp) = (self.cluster.now, presented.user, presented.stamp);
        let killed = self.revoked.iter().find_map(|revoked| {
            let let_in = self.was_let_in(revoked, index, node)?;
            Some((revoked.whom, revoked.origin, revoked.at, let_in))
        });
        self.outcome.demands += u64::from(killed.is_some());
        match verdict {
            Verdict::Revoked(denial) => {
                let is_definite =
                    matches!(denial.effect, Effect::Reauthenticate { .. } | Effect::Reissue { .. } | Effect::Disabled);
                // What waits for its time, or is from the future, changes by itself.
                if is_definite && denial.effect != Effect::Disabled {
                    self.presented[index].denied |= 1 << node;
                }
                return;
            }
            Verdict::Unknown(_) => return,
            Verdict::Clear => {}
        }
        if self.presented[index].denied >> node & 1 != 0 && self.undone >> user & 1 == 0 {
            let what = format!("credential {index} of user {user}, {stamp}, was denied on node {node}");
            self.outcome.fail(|outcome| &mut outcome.un_denied, what);
        }
        if let Some((whom, origin, at, let_in)) = killed {
            let what = format!(
                "credential {index} of user {user}, {stamp}, let in at node {} at {:?}, is let in at node {node} at {now:?}, \
                 though node {origin} revoked {whom:?} at {at:?}",
                let_in.node, let_in.at
            );
            self.tell(|| {
                let replica = self.cluster.nodes[node].replica.as_ref().unwrap();
                format!("{what}; heard {:?}; {:?}", self.cluster.heard[node], replica.stats())
            });
            self.outcome.fail(|outcome| &mut outcome.void, what);
        }
        let wall = self.cluster.nodes[node].clock.wall();
        let is_right = wall <= self.true_time().saturating_add(Duration::from_secs(OFF_MAX + 1));
        let process = self.cluster.nodes[node].life;
        self.outcome.let_in += 1;
        self.presented[index].let_in.push(LetIn { node, process, at: now, is_right });
    }

    /// Whether a revocation must have killed a credential at a node by now: who had let it in before.
    fn was_let_in(&self, revoked: &Revoked, index: usize, node: usize) -> Option<LetIn> {
        let Revoked { origin, at, .. } = *revoked;
        let knows = node == origin && self.cluster.nodes[node].life == revoked.process
            || self.cluster.now - at > STALE_AFTER && self.has_heard(node, origin, at);
        self.was_let_in_before(revoked, index).filter(|_| knows)
    }

    /// Who had let a credential in that a revocation kills, and was heard where it was made.
    fn was_let_in_before(&self, revoked: &Revoked, index: usize) -> Option<LetIn> {
        let presented = &self.presented[index];
        let Revoked { whom, origin, at, .. } = *revoked;
        let is_of = match whom {
            Whom::User(user) => user == presented.user,
            Whom::Tenant | Whom::Everyone => true,
        };
        if !is_of || revoked.undone || revoked.gone || presented.stamp > revoked.until {
            return None;
        }
        let counts = |let_in: &&LetIn| {
            let is_own = let_in.node == origin && let_in.process == revoked.process;
            let heard = revoked.heard.get(let_in.node).copied().flatten();
            let_in.at < at
                && let_in.is_right
                && (is_own || heard.is_some_and(|heard| heard.process == let_in.process && heard.sent > let_in.at))
        };
        presented.let_in.iter().find(counts).copied()
    }

    /// Whether what a node revoked at a time must be known at another that is fresh: if there are several of its name, only while
    /// it is heard. One that is silent may have been replaced by the other.
    fn has_heard(&self, node: usize, origin: usize, at: Duration) -> bool {
        let id = self.cluster.nodes[origin].id;
        let is_alone = self.cluster.nodes.iter().filter(|other| other.id == id).count() == 1;
        let now = self.cluster.now;
        let is_heard = |heard: &Heard| {
            heard.sent >= at && now - heard.sent < STALE_AFTER && now - heard.since.max(at) > STALE_AFTER
        };
        is_alone || self.cluster.heard[node].get(&origin).is_some_and(is_heard)
    }

    /// Mends everything, sets all clocks right, waits, and looks whether all say the same, and let in whoever logs in anew.
    fn heal(&mut self) {
        self.cluster.cut.clear();
        self.cluster.weather = Weather::FAIR;
        let all = 0..self.cluster.nodes.len();
        let is_twin = |node: &usize| self.cluster.nodes[*node].id != Cluster::id(*node);
        let (twins, nodes): (Vec<usize>, Vec<usize>) = all.partition(is_twin);
        // Twins end.
        for node in twins {
            self.lose(node);
            self.cluster.stop(node, false);
        }
        for &node in &nodes {
            self.cluster.nodes[node].clock.set_wall(self.true_time());
            if !self.cluster.is_up(node) {
                assert!(self.cluster.start(node), "node {node} does not start again");
            }
        }
        // What was shown by a clock that was ahead has to come first.
        for _ in 0..30 {
            self.cluster.advance_to(self.cluster.now + Duration::from_secs(60));
            self.settle(Duration::from_secs(1));
        }
        self.settle(Duration::from_secs(20));
        for &node in &nodes {
            let replica = self.cluster.nodes[node].replica.as_ref().unwrap();
            self.tell(|| format!("node {node} in the end: {:?}", replica.stats()));
        }
        let wall = self.true_time();
        for user in 0..USERS {
            let name = self.issuers[0].name;
            let new = credential(user, name, wall);
            for &node in &nodes {
                let replica = self.cluster.nodes[node].replica.as_ref().unwrap();
                self.outcome.refused += replica.stats().refused;
                let verdict = replica.store().check(&new);
                if verdict != Verdict::Clear && self.disabled >> user & 1 == 0 {
                    let what = format!("a new login of user {user} at node {node}: {verdict}");
                    self.outcome.fail(|outcome| &mut outcome.locked_out, what);
                }
            }
        }
        for index in 0..self.presented.len() {
            nodes.iter().for_each(|node| self.present(*node, index));
            let said = |node: &usize| {
                let store = self.cluster.nodes[*node].store().unwrap();
                verdict(store, &self.presented[index], &self.issuers) == Verdict::Clear
            };
            // One may deny by an age that it was started with.
            let differs = nodes.windows(2).any(|pair| said(&pair[0]) != said(&pair[1]));
            if differs && nodes.windows(2).all(|pair| self.limits(pair[0]) == self.limits(pair[1])) {
                let what = format!("credential {index} in the end: {:?}", nodes.iter().map(said).collect::<Vec<_>>());
                self.outcome.fail(|outcome| &mut outcome.diverged, what);
            }
        }
    }

    fn limits(&self, node: usize) -> usize {
        self.cluster.nodes[node].with as usize
    }

    fn settle(&mut self, time: Duration) {
        let until = self.cluster.now + time;
        while self.cluster.step(until).is_some() {}
        self.cluster.advance_to(until);
        self.maintain();
    }
}

fn credential(user: u64, issuer: &'static str, stamp: Timestamp) -> Credential<'static> {
    Credential::new().user(user.to_string()).tenant(TENANT).issuer(issuer).issued_at(stamp).auth_time(stamp)
}

fn verdict(store: &Store, presented: &Presented, issuers: &[Issuer]) -> Verdict {
    store.check(&credential(presented.user, issuers[presented.issuer].name, presented.stamp))
}

/// Whether an epoch has killed it, which may wait for its time.
fn is_killed(verdict: &Verdict) -> bool {
    let Verdict::Revoked(denial) = verdict else { return false };
    matches!(denial.effect, Effect::Reauthenticate { .. } | Effect::Reissue { .. } | Effect::Pending | Effect::Disabled)
}

const _: () = assert!(2 * OFF_MAX < SKEW.as_secs());
