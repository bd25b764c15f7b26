//! Replicas whose clocks disagree.

use rescind::{Cause, Revocation, Subject, Verdict};

use super::group::Group;
use super::{alice, at, is_clear, is_revoked, revocation, secs};

/// What each place says of a credential.
fn verdicts(group: &Group, credential: &rescind::Credential<'_>) -> Vec<Verdict> {
    (0..group.nodes.len()).map(|place| group.store(place).check(credential)).collect()
}

#[test]
fn replica_behind_within_the_skew_revokes_up_to_what_the_others_let_in() {
    for behind in [-5, -50] {
        let group = Group::of(&[behind, 0]);
        group.pass(secs(3));
        let old = alice(at(3));
        assert!(is_clear(group.store(0), &old) && is_clear(group.store(1), &old));
        let receipt = group.store(0).revoke(revocation()).unwrap();
        assert_eq!(receipt.pending, 0);
        group.deliver();
        assert!(verdicts(&group, &old).iter().all(|verdict| matches!(verdict, Verdict::Revoked(_))), "{behind}");
        // A login at the one whose clock is right is let in at once.
        group.pass(secs(1));
        assert_eq!(verdicts(&group, &alice(at(4))), [Verdict::Clear; 2], "{behind}");
        group.pass(secs(20));
        assert!(verdicts(&group, &old).iter().all(|verdict| matches!(verdict, Verdict::Revoked(_))), "{behind}");
    }
}

#[test]
fn replica_beyond_the_skew_of_a_single_other_denies_outright_until_their_clocks_agree() {
    // Behind, and ahead: with two, nobody can say which is right.
    for off in [-120, -600, 120, 600] {
        let group = Group::of(&[off, 0]);
        group.pass(secs(3));
        let old = alice(at(off.max(0) + 3));
        for place in [0, 1] {
            assert!(group.store(place).stats().time_in_doubt);
            assert_eq!(group.store(place).revoke(revocation()).unwrap().pending, 1, "{off}");
        }
        group.pass(secs(3));
        for place in [0, 1] {
            assert!(is_revoked(group.store(place), &old), "{off}, at {place}");
            let new = alice(rescind::Clock::wall(&group.nodes[place].clock));
            assert!(is_revoked(group.store(place), &new), "{off}, at {place}: whatever it says");
        }
        // Somebody sets the clock right.
        group.nodes[0].clock.set_wall(rescind::Clock::wall(&group.nodes[1].clock));
        group.pass(secs(3));
        let login = alice(at(10));
        assert!(is_clear(group.store(1), &login));
        if off > 0 {
            // What it has forgotten by that clock stays dead: it answers for nobody until that time has come.
            assert_eq!(group.store(0).check(&login), Verdict::Unknown(Cause::Clock));
            group.pass(secs(off.unsigned_abs()));
        }
        for place in [0, 1] {
            assert!(!group.store(place).stats().time_in_doubt, "{off}, at {place}");
            assert_eq!(group.store(place).stats().pending_epochs, 0, "{off}, at {place}");
            assert!(is_revoked(group.store(place), &alice(at(3))), "{off}, at {place}");
            assert!(is_clear(group.store(place), &login), "{off}, at {place}");
        }
    }
}

#[test]
fn majority_gives_the_epochs_of_one_whose_clock_is_off_their_time() {
    for off in [-600, 600] {
        let group = Group::of(&[off, 0, 1]);
        group.pass(secs(3));
        let old = alice(at(3));
        // Who is outvoted answers for nobody.
        assert_eq!(group.store(0).check(&alice(at(off + 3))), Verdict::Unknown(Cause::Clock), "{off}");
        assert!(group.nodes[0].replica.stats().is_clock_contradicted);
        assert!(is_clear(group.store(1), &old) && is_clear(group.store(2), &old));
        assert_eq!(group.store(0).revoke(revocation()).unwrap().pending, 1, "{off}");
        group.deliver();
        assert!((0..3).all(|place| is_revoked(group.store(place), &old)), "{off}");
        assert!((1..3).all(|place| is_revoked(group.store(place), &alice(at(4)))), "{off}: pending");
        group.pass(secs(3));
        for place in 1..3 {
            assert_eq!(group.store(place).stats().pending_epochs, 0, "{off}, at {place}");
            assert!(is_revoked(group.store(place), &old) && is_clear(group.store(place), &alice(at(8))), "{off}");
        }
        // Theirs are plain from the start.
        let receipt = group.store(1).revoke(Revocation::of(Subject::user("bob"))).unwrap();
        assert_eq!(receipt.pending, 0);
    }
}

#[test]
fn partitioned_replica_whose_clock_is_right_is_heard_once_healed() {
    let group = Group::of(&[0, 0, 0]);
    group.pass(secs(3));
    group.isolate(0, true);
    group.pass(secs(20));
    let old = alice(at(23));
    group.store(0).revoke(revocation()).unwrap();
    assert!(is_revoked(group.store(0), &old));
    group.pass(secs(20));
    group.isolate(0, false);
    group.pass(secs(5));
    for place in 0..3 {
        assert!(is_revoked(group.store(place), &old) && is_clear(group.store(place), &alice(at(30))), "at {place}");
    }
}

/// What remains, as the manual says: a replica that is cut off and whose clock is wrong cannot know it.
#[test]
fn partitioned_replica_that_is_behind_revokes_too_little_by_as_much() {
    let group = Group::of(&[0, 0, 0]);
    group.pass(secs(3));
    group.isolate(0, true);
    group.pass(secs(20));
    group.nodes[0].clock.set_wall(at(23 - 50));
    group.store(0).revoke(revocation()).unwrap();
    group.isolate(0, false);
    group.pass(secs(5));
    // It has shown a later time itself, by less than the skew.
    assert!(is_revoked(group.store(1), &alice(at(22))));
}

/// What has been heard of the clocks of others counts also when they have been silent for long.
#[test]
fn replica_that_is_behind_and_cut_off_revokes_up_to_what_the_others_had_let_in_when_they_were_heard() {
    for behind in [-50, -600] {
        let group = Group::of(&[behind, 0]);
        group.pass(secs(3));
        let old = alice(at(2));
        assert!(is_clear(group.store(1), &old));
        group.pass(secs(1));
        group.isolate(0, true);
        group.pass(secs(30));
        let receipt = group.store(0).revoke(revocation()).unwrap();
        assert_eq!(receipt.pending, usize::from(behind == -600), "{behind}");
        group.isolate(0, false);
        group.pass(secs(5));
        assert!(verdicts(&group, &old).iter().all(|verdict| matches!(verdict, Verdict::Revoked(_))), "{behind}");
    }
}

/// It cannot know that its clock is wrong. Those that hear of it later refuse the time, and revoke now.
#[test]
fn revocation_of_a_replica_that_is_ahead_and_cut_off_takes_effect_elsewhere_once_it_is_heard() {
    for ahead in [150, 600, 10 * 365 * 24 * 3600] {
        for revoke in [
            |store: &rescind::Store| _ = store.revoke(revocation()).unwrap(),
            |store: &rescind::Store| _ = store.revoke(revocation().reissue().sparing_session("mine")).unwrap(),
            |store: &rescind::Store| {
                store.disable(Subject::user("alice")).unwrap();
                store.enable(Subject::user("alice")).unwrap();
            },
        ] {
            let group = Group::of(&[0, 0, 0]);
            group.pass(secs(3));
            group.isolate(0, true);
            group.pass(secs(20));
            group.nodes[0].clock.set_wall(at(ahead));
            revoke(group.store(0));
            let old = alice(at(20));
            group.isolate(0, false);
            group.pass(secs(5));
            let refused = |place: usize| group.nodes[place].replica.stats().refused;
            assert!(refused(1) > 0 && refused(2) > 0);
            for place in 0..3 {
                assert!(is_revoked(group.store(place), &old), "{ahead}, at {place}");
            }
            let new = alice(at(29));
            group.pass(secs(3));
            assert!(is_clear(group.store(1), &new) && is_clear(group.store(2), &new), "{ahead}");
            // What it says again and again is one revocation, also after a restart of who hears it.
            group.pass(secs(20));
            assert!(is_clear(group.store(1), &new) && is_clear(group.store(2), &new), "{ahead}");
        }
    }
}

/// An issuer that is ahead, and that only another replica has seen.
#[test]
fn issuer_that_a_peer_has_seen_ahead_is_revoked_up_to_that() {
    let group = Group::of(&[0, 0]);
    group.pass(secs(3));
    let old = alice(at(23));
    assert!(is_clear(group.store(1), &old), "within the leeway");
    group.pass(secs(1));
    group.store(0).revoke(revocation()).unwrap();
    assert!(is_revoked(group.store(0), &old));
    group.deliver();
    assert!(is_revoked(group.store(1), &old));
    assert!(is_clear(group.store(0), &alice(at(5)).issuer("https://other.example")));
    group.pass(secs(3));
    assert!(is_clear(group.store(0), &alice(at(28))) && is_clear(group.store(1), &alice(at(28))));
}

#[test]
fn clocks_and_limits_of_peers_are_told() {
    let mut group = Group::of(&[0, -20]);
    group.start(3, 0, 2, |options| options.leeway(secs(30)));
    group.meet();
    group.pass(secs(3));
    let stats = group.nodes[0].replica.stats();
    let ahead_behind_limits: Vec<_> =
        stats.peers.iter().map(|peer| (peer.clock_ahead, peer.clock_behind, peer.limits_differ)).collect();
    let none = Some(secs(0));
    assert_eq!(ahead_behind_limits, [(none, Some(secs(20)), Some(false)), (none, none, Some(true))]);
}

/// Its own clock has passed the stamp, those of the others have not.
#[test]
fn replica_whose_clock_has_jumped_ahead_still_tells_what_it_let_in_before() {
    let mut group = Group::of(&[0, 0, 0]);
    group.pass(secs(3));
    group.cut(1, 2, true);
    let old = alice(at(33)).issuer("https://ahead.example");
    assert!(is_clear(group.store(1), &old));
    group.nodes[1].clock.set_wall(at(603));
    group.store(1).maintain();
    // The one that has heard of it is replaced by another.
    group.isolate(0, true);
    let new = group.start(1, 3, 3, |options| options);
    group.cut(0, new, true);
    group.meet();
    group.pass(secs(2));
    assert_eq!(group.store(new).revoke(Revocation::of(Subject::everyone())).unwrap().pending, 0);
    assert!(is_revoked(group.store(new), &old));
}

/// Its clock has been set back since, by less than the skew, before anybody heard of it.
#[test]
fn time_that_a_peer_has_shown_before_its_clock_was_set_back_counts() {
    let group = Group::of(&[0, 0]);
    group.pass(secs(3));
    group.nodes[1].clock.set_wall(at(43));
    let old = alice(at(43));
    assert!(is_clear(group.store(1), &old));
    group.nodes[1].clock.set_wall(at(3));
    group.pass(secs(1));
    assert_eq!(group.store(0).revoke(revocation()).unwrap().pending, 0);
    group.pass(secs(50));
    for place in [0, 1] {
        assert!(is_revoked(group.store(place), &old) && is_clear(group.store(place), &alice(at(50))), "at {place}");
    }
}

/// What a peer has let in from within the next second, and the stamps that it has given out.
#[test]
fn stamps_that_a_peer_has_given_out_or_let_in_are_revoked() {
    for gives_out in [true, false] {
        let group = Group::of(&[0, 0]);
        group.pass(secs(3));
        let stamp = if gives_out {
            group.store(1).revoke(revocation()).unwrap();
            group.store(1).admissible_from(&alice(at(3)))
        } else {
            at(4)
        };
        let old = alice(stamp);
        assert!(is_clear(group.store(1), &old));
        // It says so with its next heartbeat.
        group.nodes[1].clock.advance(super::millis(1));
        group.nodes[1].replica.tick();
        group.deliver();
        if !gives_out {
            for node in &group.nodes {
                node.replica.tick();
            }
            group.nodes[1].clock.set_wall(at(3));
            group.pass(super::millis(750));
            group.nodes[0].clock.set_wall(at(3));
        }
        group.store(0).revoke(revocation()).unwrap();
        group.deliver();
        for place in [0, 1] {
            assert!(is_revoked(group.store(place), &old), "{gives_out}, at {place}");
        }
    }
}

/// It knows neither whether its own clock is right nor what others have let in: the time is not its to give.
#[test]
fn replica_that_hears_nobody_gives_no_time_to_what_others_have_revoked() {
    let group = Group::of(&[-600, 0, 1]);
    group.pass(secs(3));
    group.isolate(2, true);
    group.pass(secs(20));
    let is_pending = |place: usize| group.store(place).stats().pending_epochs == 1;
    group.cut(0, 2, false);
    assert_eq!(group.store(0).revoke(revocation()).unwrap().pending, 1);
    group.deliver();
    group.isolate(2, true);
    assert!(is_pending(2));
    // What it has heard of the clock of the first counts for no longer than it is recent.
    group.nodes[1].replica.store().close().unwrap();
    group.pass(secs(20));
    assert!(!group.store(2).stats().time_in_doubt && is_pending(2));
}

/// News of a subject are of the whole subject: from a part of it a peer might take that it has seen all up to then, and undo it.
#[test]
fn news_of_a_subject_bring_all_that_is_held_of_it() {
    let group = Group::of(&[0, 0]);
    group.pass(secs(3));
    group.isolate(0, true);
    group.store(0).revoke(revocation()).unwrap();
    group.deliver();
    group.isolate(0, false);
    group.store(0).revoke(revocation().sparing_session("mine")).unwrap();
    group.deliver();
    assert!(is_revoked(group.store(1), &alice(at(3)).session("mine")), "the first did not spare it");
}

#[test]
fn issuer_that_is_ahead_as_far_as_the_laxest_replica_admits_is_revoked_up_to_that() {
    let mut group = Group::default();
    group.start(1, 0, 2, |options| options);
    group.start(2, 0, 2, |options| options.leeway(secs(400)));
    group.meet();
    group.pass(secs(3));
    let old = alice(at(303));
    assert!(is_clear(group.store(1), &old));
    group.pass(secs(1));
    group.store(0).revoke(revocation()).unwrap();
    group.pass(secs(3));
    assert!(is_revoked(group.store(1), &old));
    group.pass(secs(300));
    assert!((0..2).all(|place| is_revoked(group.store(place), &old)));
}

/// Two that revoke in the same instant: whoever has seen one of the revocations takes back that one.
#[test]
fn revocations_of_two_replicas_in_one_instant_are_two() {
    // The names of their lives have one order or the other.
    for (seen, unseen) in [(0, 1), (1, 0)] {
        let group = Group::of(&[0, 0, 0]);
        group.pass(secs(3));
        let old = |session| alice(at(3)).session(session);
        group.isolate(unseen, true);
        group.store(seen).revoke(revocation().sparing_session("mine")).unwrap();
        group.store(unseen).revoke(revocation().sparing_session("theirs")).unwrap();
        group.deliver();
        group.isolate(unseen, false);
        group.isolate(2, true);
        group.pass(secs(3));
        assert!(is_revoked(group.store(seen), &old("mine")) && is_revoked(group.store(unseen), &old("theirs")));
        assert!(is_clear(group.store(2), &old("mine")));
        assert!(group.store(2).lift(Subject::user("alice")).unwrap().is_changed());
        group.isolate(2, false);
        group.pass(secs(5));
        for place in 0..3 {
            assert!(is_revoked(group.store(place), &old("mine")), "{unseen}, at {place}");
            assert!(is_clear(group.store(place), &old("theirs")), "{unseen}, at {place}");
        }
    }
}
