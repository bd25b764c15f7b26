//! Properties of the public interface, against a naive model that shares no code with the crate.
//!
//! Each runs 10,000 cases; set `PROPTEST_CASES` for another number. Every property also counts what its cases were like
//! and fails if the interesting ones were rare.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a failed test panics"
)]

mod naive;

use naive::arbitrary::{self, START, Step};
use naive::drive::{self, World, property, timestamp};
use naive::{Command, Credential, EpochKind, Kind, Model, Outcome, Rules, SECOND, Subject, Time};
use proptest::collection::vec;
use proptest::prelude::*;
use rescind::{Clock as _, Durability, Effect, ManualClock, Revocation, Store, Timestamp, Verdict, WriteError};

fn credentials(most: usize) -> impl Strategy<Value = Vec<Credential>> {
    vec(arbitrary::credential(), 1..=most)
}

/// A credential, from the start or from up to some minutes later.
fn lately() -> impl Strategy<Value = Credential> {
    let shift = prop_oneof![Just(0), (0_u64..200).prop_map(|secs| secs * SECOND)];
    (arbitrary::credential(), shift).prop_map(|(credential, shift)| arbitrary::later(credential, shift))
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Sync), Just(Durability::Memory)]
}

fn is_revoked(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Revoked(_))
}

/// What a store knows of each subject of a history, in full.
fn explanations(store: &Store, steps: &[Step]) -> Vec<Option<rescind::Explanation>> {
    let subjects = steps.iter().filter_map(|step| match step {
        Step::Do { command, .. } => Some(drive::subject(command.subject())),
        _ => None,
    });
    subjects.map(|subject| store.explain(&subject).unwrap()).collect()
}

#[test]
fn any_match_denies() {
    let credentials = vec(arbitrary::any_credential(), 1..5);
    let strategy = (arbitrary::rules(), arbitrary::history(8), credentials);
    let tally = property("any_match_denies", strategy, |tally, (rules, steps, credentials)| {
        let mut world = World::in_memory(rules);
        let handle = world.store.tenant("a").unwrap();
        for (index, step) in steps.iter().enumerate() {
            world.take(step)?;
            world.agrees_on(tally, &credentials[index % credentials.len()])?;
        }
        for credential in &credentials {
            world.agrees_on(tally, credential)?;
            let through_handle = handle.check(&drive::credential(credential));
            drive::agree(&through_handle, &world.model.verdict_in("a", world.now, credential))?;
        }
        Ok(())
    });
    tally.expect_verdicts(20, 20, 5);
}

#[test]
fn adding_never_un_denies() {
    let additions = vec((arbitrary::addition(), any::<bool>()), 1..4);
    let credentials = vec(arbitrary::any_credential(), 1..8);
    let strategy = (arbitrary::rules(), arbitrary::history(6), additions, credentials);
    let tally = property("adding_never_un_denies", strategy, |tally, (rules, steps, additions, credentials)| {
        let mut world = World::in_memory(rules);
        world.take_all(&steps)?;
        // What is over is forgotten beforehand.
        world.take(&Step::Maintain)?;
        for (command, handle) in &additions {
            let before: Vec<_> = credentials.iter().map(|credential| world.check(credential)).collect();
            world.apply(command, *handle)?;
            world.take(&Step::Maintain)?;
            for (credential, before) in credentials.iter().zip(before) {
                let after = world.check(credential);
                tally.count_verdict(&after);
                match before {
                    Verdict::Revoked(_) => prop_assert!(is_revoked(&after), "{credential:?}: {before:?}, {after:?}"),
                    Verdict::Unknown(_) => prop_assert_ne!(after, Verdict::Clear, "{:?}", credential),
                    Verdict::Clear => tally.count_if("newly denied", is_revoked(&after)),
                }
            }
        }
        Ok(())
    });
    tally.expect_verdicts(20, 20, 5).expect("newly denied", 3, "verdicts");
}

/// The flag, the denial, and the latest epoch of each sort.
fn held(explanation: &Option<rescind::Explanation>) -> [Option<Timestamp>; 4] {
    let mut latest = [None; 4];
    for fact in explanation.iter().flat_map(|explanation| &explanation.facts) {
        let (sort, epoch) = match fact.effect {
            Effect::Reauthenticate { epoch } => (0, epoch),
            Effect::Reissue { epoch } => (1, epoch),
            Effect::Disabled => (2, Timestamp::MAX),
            _ => (3, Timestamp::MAX),
        };
        latest[sort] = latest[sort].max(Some(epoch));
    }
    latest
}

#[test]
fn order_does_not_matter() {
    let shuffled = vec(arbitrary::addition(), 1..7).prop_flat_map(|additions| {
        let twice = additions.iter().chain(additions.iter().take(2)).cloned().collect::<Vec<_>>();
        (Just(additions), Just(twice).prop_shuffle())
    });
    let tally = property("order_does_not_matter", (shuffled, credentials(6)), |tally, ((one, other), credentials)| {
        let [one, other] = [one, other].map(|commands| {
            let clock = ManualClock::at(timestamp(START));
            let store = drive::options(&arbitrary::lenient(), &clock).open_in_memory().unwrap();
            for command in &commands {
                // Epochs in the future are refused in either order.
                drive::give(&store, command, false).ok();
            }
            let steps = commands.into_iter().map(|command| Step::Do { command, handle: false });
            (store, steps.collect::<Vec<_>>())
        });
        for credential in &credentials {
            let presented = drive::credential(credential);
            let verdicts = (one.0.check(&presented), other.0.check(&presented));
            tally.count_verdict(&verdicts.0);
            prop_assert_eq!(is_revoked(&verdicts.0), is_revoked(&verdicts.1), "{:?}: {:?}", credential, verdicts);
        }
        prop_assert_eq!(one.0.len(), other.0.len());
        // What is held comes to the same: the flag, and the latest epoch of each sort.
        for (a, b) in explanations(&one.0, &one.1).iter().zip(explanations(&other.0, &one.1)) {
            prop_assert_eq!(held(a), held(&b));
        }
        Ok(())
    });
    tally.expect("clear", 20, "verdicts").expect("revoked", 20, "verdicts");
}

#[test]
fn snapshot_plus_replay_equals_the_state_before() {
    let others = prop_oneof![3 => Just(Step::Snapshot), 1 => Just(Step::Reopen), 1 => Just(Step::Kill)];
    let steps = arbitrary::interleaved(arbitrary::history(8), others, 3);
    let strategy = (arbitrary::rules(), durability(), steps, any::<bool>(), credentials(4));
    let tally = property("snapshot_plus_replay", strategy, |tally, (rules, durability, steps, kill, credentials)| {
        let mut world = World::on_disk(rules, durability);
        world.take_all(&steps)?;
        let state = |world: &World| {
            let verdicts: Vec<_> = credentials.iter().map(|credential| world.check(credential)).collect();
            (verdicts, world.store.len(), explanations(&world.store, &steps))
        };
        let before = state(&world);
        world.take(if kill { &Step::Kill } else { &Step::Reopen })?;
        let after = state(&world);
        prop_assert_eq!(before, after);
        tally.count_if("snapshots", steps.iter().any(|step| matches!(step, Step::Snapshot)));
        credentials.iter().try_for_each(|credential| world.agrees_on(tally, credential))
    });
    tally.expect("clear", 20, "verdicts").expect("revoked", 20, "verdicts").expect("snapshots", 50, "cases");
}

#[test]
fn a_crash_loses_nothing_that_was_acknowledged() {
    let others = prop_oneof![Just(Step::Snapshot), Just(Step::Reopen)];
    let steps = || arbitrary::interleaved(arbitrary::history(6), others.clone(), 2);
    // The crash comes between two commands, or in the midst of an operation on the disk.
    let crash = (any::<u64>(), prop_oneof![Just(None), (0_u64..12).prop_map(Some)]);
    let strategy = (steps(), crash, steps(), any::<u64>(), credentials(4));
    let tally = property("crash", strategy, |tally, (first, (seed, midst), second, second_seed, credentials)| {
        let mut world = World::on_disk(arbitrary::lenient(), Durability::Sync);
        world.take_all(&first)?;
        let disk = world.disk.clone().unwrap();
        // Without a crash in the midst, the model with and without the command that was cut off are the same.
        let mut with_cut_off = None;
        if let Some(operations) = midst {
            disk.crash_at(disk.operations() + operations);
            for step in &second {
                match step {
                    Step::Do { command, handle } => {
                        let mut model = world.model.clone();
                        model.apply(world.now, command);
                        let result = drive::give(&world.store, command, *handle);
                        match result {
                            Err(WriteError::NotDurable(_)) => {
                                with_cut_off = Some(model);
                                tally.count("cut off");
                                break;
                            }
                            _ => world.model = model,
                        }
                    }
                    Step::Snapshot => _ = world.store.snapshot(),
                    Step::Reopen => {}
                    other => world.take(other)?,
                }
            }
        }
        world.open_on(disk.crash_image(seed));
        for credential in &credentials {
            let verdict = world.check(credential);
            tally.count_verdict(&verdict);
            let agrees = |model: &Model| drive::agree(&verdict, &model.verdict(world.now, credential));
            match &with_cut_off {
                Some(model) if agrees(model).is_ok() => {}
                _ => agrees(&world.model)?,
            }
        }
        if with_cut_off.is_none() {
            // Recovery left a store that goes on, and that survives the next crash.
            world.take_all(&second)?;
            world.open_on(world.disk.clone().unwrap().crash_image(second_seed));
            credentials.iter().try_for_each(|credential| world.agrees_on(tally, credential))?;
        }
        Ok(())
    });
    tally.expect("clear", 20, "verdicts").expect("revoked", 20, "verdicts").expect("cut off", 10, "cases");
}

#[test]
fn tenants_never_affect_each_other() {
    let strategy = (arbitrary::rules(), arbitrary::history(4), arbitrary::commands(8), credentials(5));
    let tally = property("tenants", strategy, |tally, (rules, steps, commands, credentials)| {
        let mut world = World::in_memory(rules);
        world.take_all(&steps)?;
        let [ours, theirs] = ["a", "b"].map(|tenant| {
            let of_tenant = |credential: &Credential| Credential { tenant: Some(tenant), ..credential.clone() };
            credentials.iter().map(of_tenant).collect::<Vec<_>>()
        });
        let their_handle = world.store.tenant("b").unwrap();
        let verdicts = |world: &World, credentials: &[Credential]| {
            credentials.iter().map(|credential| world.check(credential)).collect::<Vec<_>>()
        };
        let before = (verdicts(&world, &ours), verdicts(&world, &theirs));
        for (command, handle) in commands {
            // The same command in tenant a, whatever tenant it named.
            world.apply(&in_tenant(command, "a"), handle)?;
            let theirs_now = verdicts(&world, &theirs);
            prop_assert_eq!(&theirs_now, &before.1);
            for (credential, verdict) in theirs.iter().zip(theirs_now) {
                prop_assert_eq!(their_handle.check(&drive::credential(credential)), verdict);
                tally.count_verdict(&verdict);
            }
        }
        tally.count_if("our own changed", verdicts(&world, &ours) != before.0);
        Ok(())
    });
    tally.expect("clear", 20, "verdicts").expect("revoked", 15, "verdicts").expect("our own changed", 25, "cases");
}

fn in_tenant(mut command: Command, tenant: &'static str) -> Command {
    let (Command::Deny { subject, .. }
    | Command::Epoch { subject, .. }
    | Command::Disable(subject)
    | Command::Enable(subject)
    | Command::Lift(subject)) = &mut command;
    match subject.kind {
        Kind::Everyone | Kind::Tenant => *subject = Subject { kind: Kind::Tenant, id: tenant, ..*subject },
        _ => subject.tenant = Some(tenant),
    }
    command
}

#[test]
fn the_same_second_rule() {
    // An epoch at any nanosecond of a second, and a claim around it.
    let claim = prop_oneof![
        (0_u64..5).prop_map(|secs| START + secs * SECOND),
        (0_u64..20).prop_map(|quarters| START + quarters * SECOND / 4),
        (0_u64..5 * SECOND).prop_map(|nanos| START + nanos),
    ];
    let epoch =
        prop_oneof![claim.clone(), (0_u64..5, 1_u64..SECOND).prop_map(|(secs, nanos)| START + secs * SECOND + nanos)];
    let strategy = (epoch, arbitrary::epoch_kind(), claim.clone(), -1_i64..=1, 0_u8..4, any::<bool>(), claim);
    let tally = property("same_second", strategy, |tally, (epoch, kind, claim, nudge, basis, near, other)| {
        let claim = if near { epoch.saturating_add_signed(nudge) } else { claim };
        let mut world = World::in_memory(arbitrary::lenient());
        world.take(&Step::Advance(10 * SECOND))?;
        let subject = Subject { kind: Kind::User, id: "a", tenant: None, issuer: None };
        world.apply(&Command::Epoch { subject, kind, at: Some(epoch), spared: Vec::new() }, false)?;
        let mut credential = nobody();
        credential.user = Some("a");
        // Which claim decides: auth_time before session start before iat; for a reissue only iat.
        match (kind, basis) {
            (EpochKind::Reissue, _) => {
                credential.iat = Time::At(claim);
                credential.auth_time = Time::At(other);
            }
            (EpochKind::Reauthenticate, 0) => credential.iat = Time::At(claim),
            (EpochKind::Reauthenticate, 1) => {
                credential.session_start = Time::At(claim);
                credential.iat = Time::At(other);
            }
            (EpochKind::Reauthenticate, _) => {
                credential.auth_time = Time::At(claim);
                credential.session_start = Time::At(other);
                credential.iat = Time::At(other);
            }
        }
        let is_dead = if claim % SECOND == 0 { claim <= epoch / SECOND * SECOND } else { claim <= epoch };
        let verdict = world.check(&credential);
        tally.count_verdict(&verdict);
        tally.count_if("same second", claim / SECOND == epoch / SECOND);
        prop_assert_eq!(is_revoked(&verdict), is_dead, "{:?}", verdict);
        prop_assert!(is_dead || verdict == Verdict::Clear);

        // What the issuer is told to stamp is alive, and the first such second from now on.
        let alive = world.store.admissible_from(&drive::credential(&credential)).as_nanos();
        let stamped = |at| Credential { iat: Time::At(at), auth_time: Time::At(at), ..credential.clone() };
        prop_assert_eq!(world.check(&stamped(alive)), Verdict::Clear);
        let this_second = world.clock.wall().as_secs() * SECOND;
        prop_assert!(alive == this_second || alive > this_second && is_revoked(&world.check(&stamped(alive - SECOND))));
        Ok(())
    });
    tally.expect("clear", 20, "verdicts").expect("revoked", 20, "verdicts").expect("same second", 20, "cases");
}

fn nobody() -> Credential {
    Credential {
        token: None,
        session: None,
        family: None,
        user: None,
        client: None,
        device: None,
        groups: Vec::new(),
        tenant: None,
        issuer: None,
        iat: Time::Missing,
        auth_time: Time::Missing,
        session_start: Time::Missing,
        exp: Time::Missing,
    }
}

#[test]
fn a_wider_subject_always_binds() {
    let wider = (any::<bool>(), any::<bool>(), 0_u8..4);
    let strategy = (arbitrary::addition(), wider, arbitrary::history(3), credentials(6));
    let tally = property("wider", strategy, |tally, (command, (no_tenant, no_issuer, up), steps, credentials)| {
        let subject = command.subject();
        let mut wide = subject;
        if no_tenant {
            wide.tenant = None;
        }
        if no_issuer {
            wide.issuer = None;
        }
        // Now and then it is the whole tenant, or everyone.
        wide = match (up, wide.tenant) {
            (0, Some(tenant)) => Subject { kind: Kind::Tenant, id: tenant, tenant: None, ..wide },
            (0 | 1, None) if wide.kind != Kind::Everyone => Subject { kind: Kind::Everyone, id: "", ..wide },
            _ => wide,
        };
        let mut wider = command.clone();
        let (Command::Deny { subject: named, .. }
        | Command::Epoch { subject: named, .. }
        | Command::Disable(named)
        | Command::Enable(named)
        | Command::Lift(named)) = &mut wider;
        *named = wide;
        // On the way from a narrow subject to a wide one, a denial becomes an epoch that nobody here is younger than.
        if subject.kind.is_narrow() && !wide.kind.is_narrow() {
            let at = Some(START + 60 * SECOND);
            wider = Command::Epoch { subject: wide, kind: EpochKind::Reauthenticate, at, spared: Vec::new() };
        }
        if let Command::Disable(named) = &wider
            && !named.kind.can_be_disabled()
        {
            wider = Command::Epoch { subject: *named, kind: EpochKind::Reauthenticate, at: None, spared: Vec::new() };
        }
        // Spared sessions belong to the scope that they are spared in; they are another property's.
        let [narrow, wider] = [command, wider].map(|mut command| {
            if let Command::Epoch { spared, .. } = &mut command {
                spared.clear();
            }
            command
        });
        let is_flag = matches!((&narrow, &wider), (Command::Disable(_), Command::Epoch { .. }));
        let [one, other] = [&narrow, &wider].map(|command| {
            let mut world = World::in_memory(Rules { skew: 300 * SECOND, leeway: 300 * SECOND, ..Rules::default() });
            world.take_all(&steps).map(|()| {
                let outcome = world.apply(command, false);
                (world, outcome)
            })
        });
        let ((one, outcome), (other, _)) = (one?, other?);
        if !matches!(outcome?, Outcome::Accepted { .. }) {
            return Ok(());
        }
        for credential in &credentials {
            let verdicts = (one.check(credential), other.check(credential));
            tally.count_verdict(&verdicts.1);
            tally.count_if("by the narrower", is_revoked(&verdicts.0));
            // A flag denies also what comes later, and only some kinds have one.
            let is_by_flag =
                |verdict: &Verdict| matches!(verdict, Verdict::Revoked(denial) if denial.effect == Effect::Disabled);
            if is_revoked(&verdicts.0) && !(is_flag && is_by_flag(&verdicts.0)) {
                prop_assert!(is_revoked(&verdicts.1), "{narrow:?} and {wider:?}: {credential:?}: {verdicts:?}");
            }
        }
        tally.count_if("widened", subject != wide);
        Ok(())
    });
    tally.expect("by the narrower", 10, "verdicts").expect("widened", 50, "cases").expect("clear", 10, "verdicts");
}

#[test]
fn forgetting_never_changes_a_verdict() {
    let others = prop_oneof![
        4 => (1_u64..60).prop_map(|secs| Step::Advance(secs * SECOND)),
        4 => Just(Step::Maintain),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => Just(Step::Reboot),
    ];
    let steps = arbitrary::interleaved(arbitrary::history(7), others, 8);
    let ages = (prop::option::weighted(0.7, arbitrary::max_age()), prop::option::of(arbitrary::max_age()));
    let clocks = (0_u64..3, 0_u64..4);
    let strategy = (ages, clocks, any::<bool>(), steps, vec(lately(), 1..=3));
    let tally =
        property("forgetting", strategy, |tally, ((max_age, of_tenant), clocks, disk, mut steps, credentials)| {
            let rules = Rules {
                leeway: clocks.0 * 2 * SECOND,
                skew: clocks.1 * 2 * SECOND,
                max_age,
                tenant_max_age: of_tenant.map(|age| ("a", age)).into_iter().collect(),
                required: Vec::new(),
            };
            let mut world = if disk { World::on_disk(rules, Durability::Memory) } else { World::in_memory(rules) };
            steps.extend([Step::Advance(130 * SECOND), Step::Maintain]);
            let credentials = arbitrary::concerned(credentials, &steps);
            for step in &steps {
                world.take(step)?;
                for credential in &credentials {
                    let verdict = world.check(credential);
                    tally.count_verdict(&verdict);
                    let expected = world.model.verdict(world.now, credential);
                    // Someone who says "until" promises that no such credential lives longer.
                    let is_promised = world.model.holds_for_its_life(credential);
                    match &expected {
                        naive::Verdict::Revoked(_) if is_promised => {
                            prop_assert!(is_revoked(&verdict), "{:?}: {:?}, not {:?}", credential, verdict, expected);
                            tally.count("held for its life");
                        }
                        naive::Verdict::Revoked(_) if !world.model.held(credential).is_empty() => {}
                        expected => drive::agree(&verdict, expected)?,
                    }
                }
            }
            tally.count_if("forgot something", world.forgotten > 0);
            Ok(())
        });
    tally.expect("forgot something", 30, "cases").expect("clear", 10, "verdicts").expect(
        "held for its life",
        10,
        "verdicts",
    );
}

#[test]
fn a_denial_is_kept_until_what_it_denies_is_dead_by_itself() {
    // Time moves in steps that are small beside the leeway and the skew, around the end of the retention.
    let clocks = (0_u64..4, 0_u64..4, 4_u64..12);
    let moves = vec((0_u64..8, -6_i64..=6, any::<bool>()), 1..16);
    // Others revoke the same for a shorter time, before and after.
    let shorter = (vec(1_u64..4, 0..2), vec(1_u64..4, 0..2));
    let strategy = (clocks, 0_u8..4, -12_i64..4, moves, any::<bool>(), shorter);
    let tally =
        property("retention", strategy, |tally, ((leeway, skew, length), sort, offset, moves, disk, shorter)| {
            let length = length * SECOND;
            let rules = Rules {
                leeway: leeway * SECOND,
                skew: skew * SECOND,
                max_age: (sort > 0).then_some(length),
                ..Rules::default()
            };
            let mut world = if disk { World::on_disk(rules, Durability::Memory) } else { World::in_memory(rules) };
            let mut credential = nobody();
            let offset = offset.min(0) * SECOND as i64 / 4;
            let (kind, id) = if sort == 0 { (Kind::Session, "a") } else { (Kind::User, "a") };
            let subject = Subject { kind, id, tenant: None, issuer: None };
            credential = arbitrary::naming(credential, subject);
            let born = Time::At(START.saturating_add_signed(offset));
            (credential.iat, credential.auth_time) = (born, born);
            let kind = if sort == 1 { EpochKind::Reauthenticate } else { EpochKind::Reissue };
            let command = match sort {
                0 => {
                    credential.exp = Time::At((START + length).saturating_add_signed(offset));
                    Command::Deny { subject, until: Some(START + length) }
                }
                1 | 2 => Command::Epoch { subject, kind, at: None, spared: Vec::new() },
                _ => Command::Disable(subject),
            };
            let shortly = |secs: &u64| Command::Deny { subject, until: Some(START + secs * SECOND) };
            for command in shorter.0.iter().filter(|_| sort == 0).map(shortly) {
                world.apply(&command, false)?;
            }
            world.apply(&command, false)?;
            for command in shorter.1.iter().filter(|_| sort == 0).map(shortly) {
                world.apply(&command, false)?;
            }
            if sort == 3 {
                world.apply(&Command::Enable(subject), false)?;
            }
            for (quarters, back, reopen) in moves {
                world.take(&Step::Advance(quarters * SECOND / 4))?;
                world.take(&Step::Maintain)?;
                // The clock is set back, by no more than it may be unnoticed or by a little more, and on again.
                let by = back * SECOND as i64 / 4;
                world.take(&Step::SetWall(-by.abs()))?;
                if reopen && disk {
                    world.take(&Step::Snapshot)?;
                    world.take(&Step::Reopen)?;
                }
                let behind = world.check(&credential);
                world.take(&Step::SetWall(by.abs()))?;
                let verdict = world.check(&credential);
                tally.count_verdict(&verdict);
                prop_assert_ne!(behind, Verdict::Clear);
                prop_assert!(is_revoked(&verdict), "{:?}", verdict);
                tally.count("steps");
                tally.count_if("forgotten", world.store.is_empty());
            }
            Ok(())
        });
    tally.expect("forgotten", 10, "steps");
}

#[test]
fn only_clear_lets_in() {
    let required = vec(arbitrary::required(), 0..3);
    let defects = vec(arbitrary::defect(), 1..4);
    let strategy = (required, arbitrary::history(4), arbitrary::credential(), defects);
    let tally = property("only_clear_lets_in", strategy, |tally, (required, steps, sound, defects)| {
        let mut world = World::in_memory(Rules { required: required.clone(), ..arbitrary::lenient() });
        let sound = arbitrary::concerned(vec![sound], &steps).remove(0);
        let spoiled = defects.iter().fold(sound, |credential, defect| arbitrary::spoil(credential, *defect));
        world.agrees_on(tally, &spoiled)?;
        world.take_all(&steps)?;
        world.agrees_on(tally, &spoiled)?;
        // Whatever is missing or malformed in the end, it is not let in.
        let unsound =
            matches!(Model::new(world.model.rules.clone()).verdict(START, &spoiled), naive::Verdict::Unknown(_));
        tally.count_if("unsound", unsound);
        prop_assert!(!unsound || world.check(&spoiled) != Verdict::Clear);
        // What is held binds, whatever else is wrong.
        let held = !world.model.held(&spoiled).is_empty();
        tally.count_if("unsound and held", unsound && held);
        prop_assert!(!held || is_revoked(&world.check(&spoiled)));
        world.store.close().unwrap();
        let closed = world.check(&spoiled);
        prop_assert!(is_revoked(&closed) || !held && closed != Verdict::Clear);
        Ok(())
    });
    tally.expect_verdicts(2, 10, 30).expect("unsound and held", 5, "cases");
}

#[test]
fn a_spared_session_is_bound_by_earlier_epochs() {
    let scope = || prop_oneof![Just(None), Just(Some("a"))];
    let epoch = (-8_i64..8, prop::bool::weighted(0.25), vec(arbitrary::id(), 0..3));
    let shuffled = vec(epoch, 1..6).prop_shuffle();
    let strategy = (scope(), scope(), shuffled, vec((arbitrary::id(), -9_i64..9), 1..6));
    let tally = property("spared", strategy, |tally, (tenant, issuer, epochs, presented)| {
        let mut world = World::in_memory(arbitrary::lenient());
        world.take(&Step::Advance(10 * SECOND))?;
        let at = |quarters: i64| START.saturating_add_signed(quarters * SECOND as i64 / 4);
        let subject = Subject { kind: Kind::User, id: "a", tenant, issuer };
        for (quarters, reissue, spared) in &epochs {
            let kind = if *reissue { EpochKind::Reissue } else { EpochKind::Reauthenticate };
            let spared = spared.clone();
            world.apply(&Command::Epoch { subject, kind, at: Some(at(*quarters)), spared }, false)?;
        }
        for (session, quarters) in presented {
            let time = Time::At(at(quarters));
            let credential = Credential {
                user: Some("a"),
                session: Some(session),
                tenant: Some("a"),
                issuer: Some("a"),
                iat: time,
                auth_time: time,
                ..nobody()
            };
            let covers = |epoch: &i64| naive::is_from_at_or_before(at(*epoch), Some(at(quarters)));
            let covering: Vec<_> = epochs.iter().filter(|(epoch, ..)| covers(epoch)).collect();
            let is_dead = covering.iter().any(|(.., spared)| !spared.contains(&session));
            let verdict = world.check(&credential);
            tally.count_verdict(&verdict);
            prop_assert_eq!(is_revoked(&verdict), is_dead, "{:?}: {:?}", credential, verdict);
            let is_spared = covering.iter().any(|(.., spared)| spared.contains(&session));
            tally.count_if("spared by one, bound by another", is_spared && is_dead);
            tally.count_if("spared by all", is_spared && !is_dead);
        }
        Ok(())
    });
    tally.expect("spared by one, bound by another", 10, "verdicts").expect("spared by all", 5, "verdicts");
}

#[test]
fn undo_is_explicit() {
    let undo = (any::<prop::sample::Index>(), any::<bool>(), any::<bool>());
    let strategy = (arbitrary::history(7), undo, arbitrary::subject(), credentials(6), durability(), any::<bool>());
    let tally =
        property("undo", strategy, |tally, (steps, (index, lift, handle), stranger, credentials, durability, disk)| {
            let mut world = if disk {
                World::on_disk(arbitrary::lenient(), durability)
            } else {
                World::in_memory(arbitrary::lenient())
            };
            world.take_all(&steps)?;
            let named: Vec<_> = world.model.log.iter().map(|logged| logged.command.subject()).collect();
            let subject = if named.is_empty() { stranger } else { *index.get(&named) };
            let command = if lift { Command::Lift(subject) } else { Command::Enable(subject) };
            let mut credentials = credentials;
            credentials[0] = arbitrary::naming(credentials[0].clone(), subject);
            let before: Vec<_> = credentials.iter().map(|credential| world.check(credential)).collect();
            // `apply` compares the receipt's `changed` with the model's.
            let outcome = world.apply(&command, handle)?;
            let changes = outcome == Outcome::Accepted { changes: true };
            tally.count_if("undone", changes);
            for (credential, before) in credentials.iter().zip(before) {
                let after = world.check(credential);
                if changes && naive::names(credential, subject) {
                    tally.count_if("revived", after == Verdict::Clear && is_revoked(&before));
                } else {
                    prop_assert_eq!(after, before, "{:?} undid more than it says: {:?}", command, credential);
                }
                world.agrees_on(tally, credential)?;
            }
            // Once more it changes nothing, and a new revocation binds again at once.
            if changes {
                prop_assert_eq!(world.apply(&command, handle)?, Outcome::Accepted { changes: false });
                let again = match subject.kind {
                    kind if kind.is_narrow() => Command::Deny { subject, until: None },
                    kind if kind.can_be_disabled() => Command::Disable(subject),
                    _ => Command::Epoch { subject, kind: EpochKind::Reissue, at: None, spared: Vec::new() },
                };
                world.apply(&again, handle)?;
                credentials.iter().try_for_each(|credential| world.agrees_on(tally, credential))?;
            }
            Ok(())
        });
    tally.expect("undone", 15, "cases").expect("revived", 1, "verdicts");
}

#[test]
fn after_enabling_old_credentials_stay_dead() {
    let strategy = (arbitrary::wide(), arbitrary::pause(), arbitrary::pause(), credentials(6));
    let tally = property("enable", strategy, |tally, (subject, before, after, credentials)| {
        let kind = if subject.kind.can_be_disabled() { subject.kind } else { Kind::User };
        let subject = Subject { kind, id: if subject.id.is_empty() { "a" } else { subject.id }, ..subject };
        let mut world = World::in_memory(Rules { leeway: 300 * SECOND, ..Rules::default() });
        world.take(&Step::Advance(before))?;
        let disabled_at = world.now;
        world.apply(&Command::Disable(subject), false)?;
        world.take(&Step::Advance(after))?;
        let credentials: Vec<_> =
            credentials.into_iter().map(|credential| arbitrary::naming(credential, subject)).collect();
        for credential in &credentials {
            prop_assert_eq!(
                is_revoked(&world.check(credential)),
                naive::names(credential, subject) || is_expired(&world, credential)
            );
        }
        world.apply(&Command::Enable(subject), false)?;
        for credential in credentials.iter().filter(|credential| naive::names(credential, subject)) {
            world.agrees_on(tally, credential)?;
            let authenticated = [credential.auth_time, credential.session_start, credential.iat]
                .into_iter()
                .find_map(|time| if let Time::At(at) = time { Some(at) } else { None });
            if naive::is_from_at_or_before(disabled_at, authenticated) {
                prop_assert!(is_revoked(&world.check(credential)));
            }
        }
        Ok(())
    });
    tally.expect("clear", 3, "verdicts").expect("revoked", 30, "verdicts");
}

fn is_expired(world: &World, credential: &Credential) -> bool {
    let empty = Model::new(world.model.rules.clone());
    matches!(empty.verdict(world.now, credential), naive::Verdict::Revoked(_))
}

#[test]
fn capacity_never_drops() {
    let batches = vec(vec(arbitrary::addition(), 1..4), 1..8);
    let strategy = (0_usize..6, batches, arbitrary::command(), credentials(5));
    let tally = property("capacity", strategy, |tally, (capacity, batches, last, credentials)| {
        let clock = ManualClock::at(timestamp(START));
        let rules = Rules { skew: 300 * SECOND, ..arbitrary::lenient() };
        let store = drive::options(&rules, &clock).capacity(capacity).open_in_memory().unwrap();
        let mut model = Model::new(rules);
        let mut subjects: Vec<Subject> = Vec::new();
        let batches = batches.into_iter().map(|batch| {
            // A batch is of revocations.
            batch.into_iter().filter(|command| drive::revocation(command).is_some()).collect::<Vec<_>>()
        });
        for batch in batches.filter(|batch| !batch.is_empty()) {
            let mut with_batch = subjects.clone();
            for subject in batch.iter().map(Command::subject) {
                if !with_batch.contains(&subject) {
                    with_batch.push(subject);
                }
            }
            let result = store.revoke_many(batch.iter().filter_map(drive::revocation));
            let fits = with_batch.len() == subjects.len() || with_batch.len() <= capacity;
            if fits {
                prop_assert_eq!(result.unwrap().changed, batch.len());
                subjects = with_batch;
                for command in &batch {
                    model.apply(START, command);
                }
                tally.count("taken");
            } else {
                let is_full = matches!(
                    result,
                    Err(WriteError::CapacityExceeded { entries, capacity: limit })
                        if entries == subjects.len() && limit == capacity
                );
                prop_assert!(is_full, "{:?}", result);
                tally.count("refused");
            }
            tally.count("batches");
            prop_assert_eq!(store.len(), subjects.len());
            store.maintain();
            for credential in &credentials {
                let verdict = store.check(&drive::credential(credential));
                drive::agree(&verdict, &model.verdict(START, credential))?;
                if verdict == Verdict::Clear {
                    model.let_in(START, credential);
                }
            }
        }
        // What undoes needs no room.
        if !last.only_adds() {
            let is_accepted = matches!(model.outcome(START, &last), Outcome::Accepted { .. });
            prop_assert_eq!(drive::give(&store, &last, false).is_ok(), is_accepted);
        }
        Ok(())
    });
    tally.expect("taken", 15, "batches").expect("refused", 15, "batches");
}

#[test]
fn a_batch_equals_single_revocations() {
    let strategy = (vec(arbitrary::addition(), 1..7), credentials(5), prop::option::of(any::<prop::sample::Index>()));
    let tally = property("batch", strategy, |tally, (commands, credentials, spoil)| {
        let rules = Rules { skew: 300 * SECOND, ..arbitrary::lenient() };
        let clock = ManualClock::at(timestamp(START));
        let open = || drive::options(&rules, &clock).open_in_memory().unwrap();
        let (one, other) = (open(), open());
        let mut batch: Vec<_> = commands.iter().filter_map(drive::revocation).collect();
        for revocation in &batch {
            one.revoke(revocation.clone()).unwrap();
        }
        if let Some(index) = spoil {
            // One that makes no sense: then nothing of the batch is done.
            let mut spoiled = batch.clone();
            let index = index.index(spoiled.len() + 1);
            spoiled.insert(index, Revocation::of(rescind::Subject::user("")));
            let refused = other.revoke_many(spoiled);
            prop_assert!(matches!(refused, Err(WriteError::InBatch { index: at, .. }) if at == index), "{:?}", refused);
            prop_assert_eq!(other.len(), 0);
            tally.count("refused");
        }
        let count = batch.len();
        prop_assert_eq!(other.revoke_many(batch.drain(..)).unwrap().changed, count);
        prop_assert_eq!(one.len(), other.len());
        let presented: Vec<_> = credentials.iter().map(drive::credential).collect();
        let (mut verdicts, mut others) = (vec![Verdict::Clear], Vec::new());
        one.check_many(&presented, &mut verdicts);
        other.check_many(&presented, &mut others);
        prop_assert_eq!(verdicts.len(), presented.len());
        for ((a, b), presented) in verdicts.iter().zip(&others).zip(&presented) {
            prop_assert_eq!(is_revoked(a), is_revoked(b));
            prop_assert_eq!(*a, one.check(presented));
            tally.count_verdict(a);
        }
        Ok(())
    });
    tally.expect("clear", 20, "verdicts").expect("revoked", 20, "verdicts").expect("refused", 30, "cases");
}

#[test]
fn wall_clock_steps_never_make_a_denial_go_away() {
    let others = prop_oneof![
        4 => (-400_i64..400).prop_map(|secs| Step::SetWall(secs * SECOND as i64)),
        4 => (-12_i64..12).prop_map(|secs| Step::SetWall(secs * SECOND as i64)),
        5 => (1_u64..200).prop_map(|secs| Step::Advance(secs * SECOND)),
        4 => Just(Step::Maintain),
        2 => Just(Step::Snapshot),
        2 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ];
    let steps = arbitrary::interleaved(arbitrary::history(6), others, 12);
    let strategy = (prop::option::of(arbitrary::max_age()), 0_u64..4, any::<bool>(), steps, credentials(3));
    let tally = property("clock steps", strategy, |tally, (max_age, skew, disk, steps, credentials)| {
        let rules = Rules { skew: skew * 2 * SECOND, leeway: 2 * SECOND, max_age, ..arbitrary::lenient() };
        let mut world = if disk { World::on_disk(rules, Durability::Memory) } else { World::in_memory(rules) };
        let credentials = arbitrary::concerned(credentials, &steps);
        let mut stepped = false;
        for step in &steps {
            world.take(step)?;
            stepped |= matches!(step, Step::SetWall(_));
            for credential in &credentials {
                let verdict = world.check(credential);
                tally.count_verdict(&verdict);
                if world.model.holds_for_its_life(credential) {
                    prop_assert_ne!(verdict, Verdict::Clear, "{:?}: {:?}", credential, world.model.held(credential));
                    tally.count_if("held after a step", stepped);
                }
                // Without a doubt about the clock, whatever is let in is let in by the model too.
                if verdict == Verdict::Clear && world.model.held(credential).is_empty() {
                    prop_assert_eq!(world.model.verdict(world.now, credential), naive::Verdict::Clear);
                }
                // Nothing is forgotten before its time has really passed.
                let is_recent = max_age.is_none_or(|age| world.true_time - START <= age);
                if is_recent
                    && world.model.held(credential).iter().any(|reason| !matches!(reason, naive::Reason::Denied(_)))
                {
                    prop_assert!(is_revoked(&verdict), "{:?}: {:?}", credential, verdict);
                }
            }
        }
        tally.count_if("forgot something", world.forgotten > 0);
        Ok(())
    });
    tally.expect("clear", 5, "verdicts").expect("held after a step", 10, "verdicts").expect(
        "forgot something",
        3,
        "cases",
    );
}

#[test]
fn loosening_a_maximum_age_revives_nobody() {
    let ages = || (prop::option::weighted(0.6, arbitrary::max_age()), prop::option::of(arbitrary::max_age()));
    let others = prop_oneof![
        3 => (1_u64..60).prop_map(|secs| (Step::Advance(secs * SECOND), None)),
        3 => Just((Step::Maintain, None)),
        1 => Just((Step::Snapshot, None)),
        3 => ages().prop_map(|ages| (Step::Reopen, Some(ages))),
        1 => ages().prop_map(|ages| (Step::Reboot, Some(ages))),
    ];
    let additions = vec(arbitrary::addition(), 0..5);
    let strategy = (ages(), additions, vec(others, 3..10), credentials(5));
    let tally = property("loosening", strategy, |tally, (first, additions, steps, credentials)| {
        let of = |ages: (Option<u64>, Option<u64>)| Rules {
            leeway: 2 * SECOND,
            skew: 2 * SECOND,
            max_age: ages.0,
            tenant_max_age: ages.1.map(|age| ("a", age)).into_iter().collect(),
            required: Vec::new(),
        };
        let mut world = World::on_disk(of(first), Durability::Memory);
        for command in additions {
            // Without an end, so that nobody promises what the credentials here do not keep.
            let command = match command {
                Command::Deny { subject, .. } => Command::Deny { subject, until: None },
                other => other,
            };
            world.apply(&command, false)?;
        }
        let mut dead = vec![false; credentials.len()];
        let mut loosened = false;
        for (step, ages) in steps {
            if let Some(ages) = ages {
                let before = world.model.rules.max_age;
                world.model.rules = of(ages);
                loosened |= before.is_some_and(|before| ages.0.is_none_or(|after| after > before));
            }
            world.take(&step)?;
            for (credential, dead) in credentials.iter().zip(&mut dead) {
                let verdict = world.check(credential);
                tally.count_verdict(&verdict);
                prop_assert!(!*dead || is_revoked(&verdict), "{credential:?} lives again: {verdict:?}");
                tally.count_if("dead after loosening", *dead && loosened);
                // What comes from the future is alive once it is the present.
                let is_early = |denial: &rescind::Denial| denial.effect == Effect::FromTheFuture;
                *dead |= matches!(&verdict, Verdict::Revoked(denial) if !is_early(denial));
            }
        }
        tally.count_if("forgot something", world.forgotten > 0);
        Ok(())
    });
    tally.expect("dead after loosening", 10, "verdicts").expect("clear", 5, "verdicts").expect(
        "forgot something",
        5,
        "cases",
    );
}
