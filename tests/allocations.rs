//! A check allocates nothing, whatever its verdict.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::time::Duration;

use allocation_counter::measure;
use rescind::{Credential, ManualClock, Options, Revocation, Subject, Timestamp, Verdict};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

#[test]
fn a_check_allocates_nothing_whatever_its_verdict() {
    let clock = ManualClock::at(NOW);
    let store = Options::new()
        .clock(clock)
        .background(false)
        .tenant_max_credential_age("old", Duration::from_secs(60))
        .open_in_memory()
        .unwrap();
    store.revoke_many((0..10_000).map(|n| Revocation::of(Subject::token(format!("t{n}"))))).unwrap();
    store.revoke(Revocation::of(Subject::user("alice").in_tenant("acme"))).unwrap();
    store.revoke(Revocation::of(Subject::tenant("spared")).sparing_session("s1").reissue()).unwrap();
    store.revoke(Revocation::of(Subject::group("g").at_issuer("iss"))).unwrap();
    store.disable(Subject::client("app")).unwrap();
    let groups = ["a", "g", "b"];
    let base =
        || Credential::new().issuer("iss").session("s1").issued_at(Timestamp::from_secs(1_799_999_000)).token("none");
    type IsExpected = fn(&Verdict) -> bool;
    let cases: [(Credential<'_>, IsExpected); 8] = [
        (base().tenant("beta").user("bob").device("d"), |v| *v == Verdict::Clear),
        (base().token("t77"), |v| matches!(v, Verdict::Revoked(_))),
        (base().tenant("acme").user("alice"), |v| matches!(v, Verdict::Revoked(_))),
        (base().tenant("spared"), |v| *v == Verdict::Clear),
        (base().groups(&groups), |v| matches!(v, Verdict::Revoked(_))),
        (base().client("app"), |v| matches!(v, Verdict::Revoked(_))),
        (base().tenant("old"), |v| matches!(v, Verdict::Revoked(_))),
        (base().user(""), |v| matches!(v, Verdict::Unknown(_))),
    ];
    for (credential, is_expected) in &cases {
        let verdict = store.check(credential);
        assert!(is_expected(&verdict), "{credential:?}: {verdict}");
        let allocations = measure(|| _ = std::hint::black_box(store.check(std::hint::black_box(credential))));
        assert_eq!(allocations.count_total, 0, "{credential:?}");
    }
    let building = measure(|| {
        let credential = Credential::new().tenant("acme").user("alice").session("s1").token("t").issued_at(NOW);
        drop(std::hint::black_box(credential));
    });
    assert_eq!(building.count_total, 0, "building one from borrowed text");
    assert!(measure(|| drop(std::hint::black_box("counted".to_owned()))).count_total > 0, "the counter counts");
}
