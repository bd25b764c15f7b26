//! Who is there: SWIM, as `foca` does it. Time and bytes are arguments; what follows is asked for afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use foca::{AccumulatingRuntime, Codec, Foca, NoCustomBroadcast, PostcardCodec};
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use serde::{Deserialize, Serialize};

use crate::NodeId;

/// Every path carries QUIC datagrams of this length.
const PACKET_BYTES_MAX: usize = 1_100;
/// For how many members timeouts and retransmissions are made; more are served, a little later.
const MEMBERS_EXPECTED: u32 = 64;
/// More members than this are not taken for peers: no cluster is so large, and whoever tells of more is ill.
pub(super) const MEMBERS_MAX: usize = 4_096;

/// A life of a member at an address. Of two with one id, the later counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) id: NodeId,
    pub(super) address: SocketAddr,
    /// In milliseconds since 1970, or one more than that of the life before: whatever is higher.
    pub(super) life: u64,
}

impl foca::Identity for Member {
    type Addr = NodeId;

    /// It was taken for dead, and says that it is not.
    fn renew(&self) -> Option<Self> {
        Some(Self { life: self.life.saturating_add(1), ..*self })
    }

    fn addr(&self) -> NodeId {
        self.id
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        (self.life, self.address) > (other.life, other.address)
    }
}

/// Every few seconds, to so many members.
fn often(members: usize) -> foca::PeriodicParams {
    let num_members = NonZeroUsize::new(members).unwrap_or(NonZeroUsize::MIN);
    foca::PeriodicParams { frequency: Duration::from_secs(5), num_members }
}

/// What a membership wants done.
pub(super) struct Wanted {
    /// Datagrams to be sent.
    pub(super) datagrams: Vec<(Member, Vec<u8>)>,
    /// What to call [`Membership::expire`] with, and when.
    pub(super) timers: Vec<(Duration, Timer)>,
    /// Whether members have come, gone or begun another life.
    pub(super) has_changed: bool,
}

pub(super) type Timer = foca::Timer<Member>;

/// The members of a cluster, as one of them sees them.
pub(super) struct Membership {
    foca: Foca<Member, PostcardCodec, StdRng, NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Member>,
}

impl Membership {
    pub(super) fn new(own: Member) -> Self {
        let mut config = foca::Config::new_lan(NonZeroU32::new(MEMBERS_EXPECTED).unwrap_or(NonZeroU32::MIN));
        config.max_packet_size = NonZeroUsize::new(PACKET_BYTES_MAX).unwrap_or(NonZeroUsize::MIN);
        // Who has joined is told by few, and for a short time: whoever missed it learns it from the list that answers this.
        config.periodic_announce = Some(often(1));
        // Whoever was taken for dead is asked again soon, so that the halves of a cluster find each other.
        config.periodic_announce_to_down_members = Some(often(3));
        // Only which member is asked next depends on it.
        let random = StdRng::try_from_rng(&mut SysRng).unwrap_or_else(|_| StdRng::seed_from_u64(own.life));
        Self { foca: Foca::new(own, config, random, PostcardCodec), runtime: AccumulatingRuntime::new() }
    }

    /// Whoever is there, but for this one.
    pub(super) fn members(&self) -> BTreeMap<NodeId, Member> {
        let members = self.foca.iter_members().map(foca::Member::id);
        members.take(MEMBERS_MAX).map(|member| (member.id, *member)).collect()
    }

    /// Asks somebody to be let in.
    pub(super) fn announce(&mut self, id: NodeId, address: SocketAddr) {
        // Whoever it is, it answers to any life of its own.
        self.foca.announce(Member { id, address, life: 0 }, &mut self.runtime).ok();
    }

    /// Takes in a datagram of a member.
    ///
    /// # Errors
    /// When it is not one, or is not that member's. Nothing has changed.
    pub(super) fn receive(&mut self, from: NodeId, datagram: &[u8]) -> Result<(), String> {
        let header: foca::Header<Member> =
            PostcardCodec.decode_header(datagram).map_err(|error| format!("not a datagram: {error}"))?;
        if header.src.id != from {
            return Err(format!("a datagram of {} that {from} sent", header.src.id));
        }
        match self.foca.handle_data(datagram, &mut self.runtime) {
            Ok(()) | Err(foca::Error::DataFromOurselves) => Ok(()),
            Err(error) => Err(format!("not a datagram: {error}")),
        }
    }

    /// A timer has run out.
    pub(super) fn expire(&mut self, timer: Timer) {
        // It fails where a timer is told of late; the next probe makes up for that.
        self.foca.handle_timer(timer, &mut self.runtime).ok();
    }

    /// Says goodbye.
    pub(super) fn leave(&mut self) {
        self.foca.leave_cluster(&mut self.runtime).ok();
    }

    /// What is to be done after any of these.
    pub(super) fn wanted(&mut self) -> Wanted {
        let mut wanted = Wanted { datagrams: Vec::new(), timers: Vec::new(), has_changed: false };
        while let Some((to, bytes)) = self.runtime.to_send() {
            wanted.datagrams.push((to, bytes.to_vec()));
        }
        while let Some(timer) = self.runtime.to_schedule() {
            wanted.timers.push(timer);
        }
        while self.runtime.to_notify().is_some() {
            wanted.has_changed = true;
        }
        wanted
    }

    /// Those of `candidates` who are no members.
    pub(super) fn strangers(
        &self,
        candidates: impl Iterator<Item = (NodeId, SocketAddr)>,
    ) -> Vec<(NodeId, SocketAddr)> {
        let members: BTreeSet<NodeId> = self.foca.iter_members().map(|member| member.id().id).collect();
        candidates.filter(|(id, _)| !members.contains(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u8, life: u64) -> Member {
        Member {
            id: NodeId::from_bytes([number; 16]),
            address: ([127, 0, 0, 1], 1000 + u16::from(number)).into(),
            life,
        }
    }

    /// Hands over what is to be sent until nothing is, and lets no time pass.
    fn deliver(memberships: &mut [(Member, Membership)]) {
        loop {
            let mut sent = Vec::new();
            for (own, membership) in memberships.iter_mut() {
                sent.extend(membership.wanted().datagrams.into_iter().map(|(to, bytes)| (own.id, to, bytes)));
            }
            if sent.is_empty() {
                return;
            }
            for (from, to, bytes) in sent {
                // A life that is over is at another address, or nowhere.
                if let Some((_, membership)) = memberships.iter_mut().find(|(own, _)| own.id == to.id) {
                    membership.receive(from, &bytes).unwrap();
                }
            }
        }
    }

    #[test]
    fn who_announces_itself_is_a_member_and_a_later_life_takes_the_place_of_an_earlier() {
        let mut all: Vec<_> = (1..=3).map(|n| (member(n, 5), Membership::new(member(n, 5)))).collect();
        for index in [1, 2] {
            let seed = all[0].0;
            all[index].1.announce(seed.id, seed.address);
            deliver(&mut all);
        }
        assert_eq!(all[0].1.members().len(), 2);
        let stranger = (NodeId::from_bytes([9; 16]), member(9, 0).address);
        let known = (member(2, 0).id, member(2, 0).address);
        assert_eq!(all[0].1.strangers([stranger, known].into_iter()), [stranger]);

        // The same replica, started anew elsewhere.
        let moved = Member { address: ([127, 0, 0, 1], 2002).into(), ..member(2, 6) };
        all[1] = (moved, Membership::new(moved));
        all[1].1.announce(member(1, 0).id, member(1, 0).address);
        deliver(&mut all);
        assert_eq!(all[0].1.members().get(&moved.id), Some(&moved));
        assert!(member(2, 6).addr() == member(2, 5).addr());
        use foca::Identity;
        assert!(moved.win_addr_conflict(&member(2, 5)) && !member(2, 5).win_addr_conflict(&moved));
    }

    #[test]
    fn who_sends_in_anothers_name_is_refused() {
        let (mut one, mut two) = (Membership::new(member(1, 5)), Membership::new(member(2, 5)));
        two.announce(member(1, 0).id, member(1, 0).address);
        let datagram = two.wanted().datagrams.remove(0).1;
        assert!(one.receive(member(3, 0).id, &datagram).unwrap_err().contains("that"));
        assert!(one.members().is_empty());
        assert!(one.receive(member(2, 0).id, b"\xff\xff").unwrap_err().contains("not a datagram"));
        one.receive(member(2, 0).id, &datagram).unwrap();
        assert_eq!(one.members().len(), 1);
    }

    /// Real datagrams of three members, each of a kind of its own.
    fn datagrams() -> Vec<Vec<u8>> {
        let mut all: Vec<_> = (1..=3).map(|n| (member(n, 5), Membership::new(member(n, 5)))).collect();
        let mut taken = Vec::new();
        for index in [1, 2] {
            all[index].1.announce(member(1, 0).id, member(1, 0).address);
            for _ in 0..3 {
                for from in 0..3 {
                    for (to, bytes) in all[from].1.wanted().datagrams {
                        let sender = all[from].0.id;
                        all.iter_mut().find(|(own, _)| own.id == to.id).unwrap().1.receive(sender, &bytes).unwrap();
                        taken.push(bytes);
                    }
                }
            }
        }
        all[2].1.leave();
        taken.extend(all[2].1.wanted().datagrams.into_iter().map(|(_, bytes)| bytes));
        taken
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(20_000))]

        /// Whatever a member sends, it is refused or taken in, and nobody is there twice.
        #[test]
        fn no_datagram_does_harm(
            which in 0_usize..64,
            edits in proptest::collection::vec((0_usize..1200, proptest::prelude::any::<u8>()), 0..6),
            length in proptest::option::of(0_usize..1200),
        ) {
            static VALID: std::sync::LazyLock<Vec<Vec<u8>>> = std::sync::LazyLock::new(datagrams);
            let mut bytes = VALID[which % VALID.len()].clone();
            for (place, byte) in edits {
                let place = place % bytes.len();
                bytes[place] = byte;
            }
            if let Some(length) = length {
                bytes.resize(length, 7);
            }
            let mut membership = Membership::new(member(1, 5));
            for from in [1, 2, 3] {
                membership.receive(member(from, 0).id, &bytes).ok();
                let wanted = membership.wanted();
                proptest::prop_assert!(wanted.datagrams.iter().all(|(_, bytes)| bytes.len() <= PACKET_BYTES_MAX));
            }
            proptest::prop_assert!(!membership.members().contains_key(&member(1, 0).id), "not oneself");
        }
    }
}
