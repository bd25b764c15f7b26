//! Signed tokens, by the real clock: a login right after a revocation works at once where clocks agree.

use std::collections::HashSet;
use std::sync::mpsc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use rescind::{Clock, Credential, Options, Revocation, Store, Subject, SystemClock, Timestamp};
use serde_json::{Value, json};

use super::{is_clear, is_revoked};

const SECRET: &[u8] = b"a secret that is of no other use";
const ISSUER: &str = "https://id.example";

/// An identity provider that stamps whole seconds, or fractions.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stamps {
    Whole,
    Fractions,
}

fn number(time: Timestamp, stamps: Stamps) -> Value {
    match stamps {
        Stamps::Whole => json!(time.as_secs()),
        // A double has some 200 ns left at this time. It may round up to what lies ahead by as much.
        Stamps::Fractions => json!(time.as_nanos() as f64 / 1e9),
    }
}

fn sign(stamp: Timestamp, stamps: Stamps) -> String {
    let claims =
        json!({ "iss": ISSUER, "sub": "alice", "iat": number(stamp, stamps), "auth_time": number(stamp, stamps) });
    encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

/// What a service does with it.
fn verified(token: &str) -> Value {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.required_spec_claims = HashSet::new();
    validation.set_issuer(&[ISSUER]);
    decode(token, &DecodingKey::from_secret(SECRET), &validation).unwrap().claims
}

fn credential(claims: &Value) -> Credential<'_> {
    let time = |claim: &str| claims[claim].as_f64().unwrap();
    Credential::new()
        .issuer(claims["iss"].as_str().unwrap())
        .user(claims["sub"].as_str().unwrap())
        .issued_at_secs(time("iat"))
        .auth_time_secs(time("auth_time"))
}

fn stamp_of(store: &Store, stamps: Stamps) -> Timestamp {
    match stamps {
        // An issuer that keeps no fractions asks for the first second that is not dead.
        Stamps::Whole => store.admissible_from(&Credential::new().issuer(ISSUER).user("alice")),
        Stamps::Fractions => SystemClock::new().wall(),
    }
}

/// The clock is the machine's here: time passes by itself.
fn wait(time: Duration) {
    let (_open, never) = mpsc::channel::<()>();
    never.recv_timeout(time).ok();
}

#[test]
fn login_right_after_a_revocation_works_at_once_and_all_before_it_are_dead() {
    for stamps in [Stamps::Whole, Stamps::Fractions] {
        let store = Options::new().background(false).open_in_memory().unwrap();
        let mut sessions: Vec<Value> = Vec::new();
        for round in 0..40 {
            let login = verified(&sign(stamp_of(&store, stamps), stamps));
            assert!(is_clear(&store, &credential(&login)), "{stamps:?}, round {round}");
            sessions.push(login);
            store.revoke(Revocation::of(Subject::user("alice"))).unwrap();
            for session in &sessions {
                assert!(is_revoked(&store, &credential(session)), "{stamps:?}, round {round}: {session}");
            }
            // No faster than anybody logs in.
            wait(Duration::from_millis(2));
        }
    }
}

/// An issuer with whole seconds that does not ask: the second of the revocation is dead to its end.
#[test]
fn issuer_of_whole_seconds_that_does_not_ask_is_let_in_with_the_next_second() {
    let store = Options::new().background(false).open_in_memory().unwrap();
    store.revoke(Revocation::of(Subject::user("alice"))).unwrap();
    let revoked_at = SystemClock::new().wall();
    loop {
        let now = SystemClock::new().wall();
        let login = verified(&sign(now, Stamps::Whole));
        if is_clear(&store, &credential(&login)) {
            break;
        }
        assert!(now.saturating_since(revoked_at) < Duration::from_millis(1100));
        wait(Duration::from_millis(5));
    }
}
