//! Two processes under one name.

use rescind::{Alarm, Cause, Credential, Revocation, Subject, Verdict};

use super::group::{Group, id};
use super::{at, is_clear, is_revoked, secs};

fn token(name: &str) -> Credential<'_> {
    Credential::new().token(name).issued_at(at(0))
}

/// Three replicas, and a second process under the name of the first, as after an overlapping deployment.
fn with_a_twin(issuers: usize) -> (Group, usize) {
    let mut group = Group::of(&[0, 0, 0][..issuers]);
    if issuers < 3 {
        group.start(3, 0, issuers, |options| options);
        group.meet();
    }
    group.pass(secs(5));
    let twin = group.start(1, 5, issuers, |options| options);
    group.meet();
    (group, twin)
}

#[test]
fn entries_of_both_lives_are_taken() {
    for issuers in [1, 2, 3] {
        let (group, twin) = with_a_twin(issuers);
        group.pass(secs(5));
        for round in 0..5 {
            let (older, newer) = (format!("older-{round}"), format!("newer-{round}"));
            group.store(0).revoke(Revocation::of(Subject::token(&*older))).unwrap();
            group.store(twin).revoke(Revocation::of(Subject::token(&*newer))).unwrap();
            group.pass(secs(3));
            for place in 0..group.nodes.len() {
                assert!(is_revoked(group.store(place), &token(&older)), "{issuers} issuers: {older} at {place}");
                assert!(is_revoked(group.store(place), &token(&newer)), "{issuers} issuers: {newer} at {place}");
            }
        }
    }
}

#[test]
fn twins_are_noticed_by_others_and_by_themselves_and_an_alarm_is_raised() {
    let (group, twin) = with_a_twin(2);
    group.pass(secs(5));
    for place in [0, twin] {
        let stats = group.nodes[place].replica.stats();
        assert!(stats.has_twins && stats.twins_noticed >= 1, "at {place}");
    }
    for place in 1..3 {
        let stats = group.nodes[place].replica.stats();
        assert!(!stats.has_twins && stats.twins_noticed == 1, "at {place}");
        let peers: Vec<_> = stats.peers.iter().filter(|peer| peer.has_twins).map(|peer| peer.node).collect();
        assert_eq!(peers, [id(1)], "at {place}");
    }
    for node in &group.nodes {
        assert!(node.replica.alarms().try_iter().any(|alarm| alarm == Alarm::Twins { node: id(1) }));
    }
}

/// What one of both issues, and does not arrive, is missed.
#[test]
fn replica_that_lacks_what_one_life_has_issued_is_not_fresh() {
    let (group, twin) = with_a_twin(2);
    group.pass(secs(5));
    for (speaks, other) in [(0, twin), (twin, 0)] {
        // Its heartbeats arrive at the third, and its news do not: they differ in length.
        group.store(speaks).revoke(Revocation::of(Subject::token("t"))).unwrap();
        while group.nodes[speaks].replica.poll_transmit().is_some() {}
        assert!(!is_revoked(group.store(2), &token("t")));
        let clear_before = is_clear(group.store(2), &token("t"));
        for _ in 0..80 {
            // Nothing but heartbeats from that one.
            for node in &group.nodes {
                node.clock.advance(super::millis(250));
                node.replica.tick();
            }
            for (from, sender) in group.nodes.iter().enumerate() {
                while let Some(message) = sender.replica.poll_transmit() {
                    for receiver in group.nodes.iter().filter(|node| node.replica.node() == message.to) {
                        let is_heartbeat = message.bytes[48] == 0;
                        if is_heartbeat || from != speaks && !std::ptr::eq(receiver, &group.nodes[speaks]) {
                            receiver.replica.receive(sender.replica.node(), &message.bytes).unwrap();
                        }
                    }
                }
            }
        }
        assert!(clear_before || group.nodes[2].replica.stats().has_twins || other < 4);
        assert_eq!(group.store(2).check(&token("t")), Verdict::Unknown(Cause::Stale), "from {speaks}");
        group.pass(secs(8));
        assert!(is_revoked(group.store(2), &token("t")));
        group.store(1).lift(Subject::token("t")).unwrap();
        group.pass(secs(5));
        assert!(is_clear(group.store(2), &token("t")), "{:?}", group.nodes[2].replica.stats());
    }
}

#[test]
fn it_is_over_once_one_of_them_is_silent() {
    let (mut group, twin) = with_a_twin(2);
    group.pass(secs(5));
    assert!(group.nodes[2].replica.stats().peers[0].has_twins);
    let gone = group.nodes.remove(0);
    drop(gone);
    group.pass(secs(15));
    for place in 0..group.nodes.len() {
        let stats = group.nodes[place].replica.stats();
        assert!(!stats.has_twins && stats.peers.iter().all(|peer| !peer.has_twins), "at {place}");
        assert!(group.is_fresh(place), "at {place}");
    }
    assert_eq!(twin, 3);
}

/// Neither is a restart, nor messages of the life before that come late.
#[test]
fn restart_raises_no_alarm() {
    let mut group = Group::of(&[0, 0, 0]);
    group.pass(secs(5));
    for _ in 0..5 {
        let late: Vec<_> = std::iter::from_fn(|| group.nodes[0].replica.poll_transmit()).collect();
        let wall = rescind::Clock::wall(&group.nodes[0].clock).as_secs();
        group.nodes.remove(0);
        let place = group.start(1, i64::try_from(wall - super::T0).unwrap(), 3, |options| options);
        group.nodes.swap(0, place);
        group.meet();
        group.pass(secs(1));
        for message in late {
            let to = group.nodes.iter().find(|node| node.replica.node() == message.to).unwrap();
            to.replica.receive(id(1), &message.bytes).unwrap();
        }
        group.pass(secs(5));
        assert!((0..3).all(|place| group.is_fresh(place)));
        assert!(group.nodes.iter().all(|node| node.replica.stats().twins_noticed == 0));
    }
}

/// Over a bus each hears the other by itself.
#[test]
fn life_that_hears_another_under_its_own_name_knows() {
    let (group, twin) = with_a_twin(1);
    for _ in 0..80 {
        for node in &group.nodes {
            node.clock.advance(super::millis(250));
            node.replica.tick();
        }
        for sender in &group.nodes {
            while let Some(message) = sender.replica.poll_transmit() {
                for receiver in &group.nodes {
                    receiver.replica.receive(sender.replica.node(), &message.bytes).unwrap();
                }
            }
        }
    }
    assert!(group.nodes[0].replica.stats().has_twins && group.nodes[twin].replica.stats().has_twins);
}

#[test]
fn news_of_both_lives_are_taken_at_once() {
    let (group, twin) = with_a_twin(2);
    group.pass(secs(5));
    for (place, name) in [(0, "older"), (twin, "newer"), (0, "older again")] {
        group.store(place).revoke(Revocation::of(Subject::token(name))).unwrap();
        group.deliver();
        for other in [1, 2] {
            assert!(is_revoked(group.store(other), &token(name)), "{name} at {other}");
        }
    }
}
