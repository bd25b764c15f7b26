use super::reader::{Extent, Fate, Id, node};
use super::*;

use crate::{Key, Options, Replication};

fn replica() -> Replica {
    let store = Options::new().key(Key::from_bytes([1; 32])).open_in_memory().unwrap();
    let one = NodeId::named("one");
    store.replicate(Replication::trusting_issuers("acme", one, [one])).unwrap()
}

fn refusal(redis: Redis) -> String {
    redis.start(&replica()).unwrap_err().to_string()
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    for (redis, why) in [
        (Redis::new("redis://h").history(Duration::from_millis(999)), "less than a second"),
        (Redis::new("redis://h").prefix(""), "1 to 256 bytes"),
        (Redis::new("redis://h").prefix("a{b"), "no braces"),
        (Redis::new("redis://h").prefix("p".repeat(257)), "1 to 256 bytes"),
        (Redis::new("redis://h").root_certificates("x"), "rediss://"),
        (Redis::new("redis://h").client_certificate("x", "y"), "rediss://"),
        (Redis::new("rediss://h/#insecure"), "root_certificates"),
        (Redis::new("unix:///run/redis.sock"), "over TCP only"),
        (Redis::new("rediss://h").root_certificates("x"), "no certificate in it"),
    ] {
        let refusal = refusal(redis);
        assert!(refusal.contains(why), "{refusal:?} does not say {why:?}");
    }
}

#[test]
fn no_error_and_no_debug_output_tells_a_password() {
    for url in [
        "redis://:hunter2@",
        "redis://:hunter2#@host",
        "redis://user:hunter2@host:hunter2",
        "hunter2",
        "http://user:hunter2@host",
        "redis://user:hunter2@host/hunter2",
        "redis://user:hunter2@host?protocol=hunter2",
    ] {
        let refusal = refusal(Redis::new(url));
        assert!(refusal.contains("not the URL of a Redis server"), "{url}: {refusal}");
        assert!(!refusal.contains("hunter2"), "{refusal}");
        assert!(!format!("{:?}", Redis::new(url)).contains("hunter2"));
    }
    let shown = format!("{:?}", Redis::new("rediss://user:hunter2@host:7000/3").client_certificate("c", "hunter2"));
    assert!(shown.contains("host:7000") && !shown.contains("hunter2") && !shown.contains("user"), "{shown}");
}

#[test]
fn what_a_url_says_is_understood() {
    let address = Redis::new("redis://us%40er:p%40ss%3A%2F@host:7000/3").address().unwrap();
    assert_eq!((address.host.as_str(), address.port, address.database), ("host", 7000, 3));
    assert_eq!(address.username.as_deref(), Some("us@er"));
    assert_eq!(address.password.as_ref().map(|password| password.as_str()), Some("p@ss:/"));
    assert!(address.tls.is_none());
    let address = Redis::new("redis://:word@[::1]").address().unwrap();
    assert_eq!((address.host.as_str(), address.port, address.username), ("::1", 6379, None));
}

#[test]
fn an_unreachable_server_is_told_and_the_engine_stops_soon() {
    // Bound, and not listening: nobody answers there.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let wire = Redis::new(format!("redis://:hunter2@127.0.0.1:{port}")).start(&replica()).unwrap();
    let (_never, wait) = bounded::<()>(0);
    let failed = (0..500).any(|_| {
        wait.recv_timeout(Duration::from_millis(10)).ok();
        wire.stats().last_error.is_some()
    });
    let stats = wire.stats();
    assert!(failed && !stats.connected && stats.connects == 0, "{stats:?}");
    let error = stats.last_error.unwrap();
    assert!(error.contains(&format!("cannot connect to 127.0.0.1:{port}")) && !error.contains("hunter2"), "{error}");
    let clock = crate::SystemClock::new();
    let before = crate::Clock::boot(&clock);
    wire.close();
    assert!(crate::Clock::boot(&clock) - before < Duration::from_secs(1));
}

#[test]
fn all_keys_of_a_cluster_are_in_one_slot() {
    let keys = Keys::new("rescind", ClusterId::named("acme"));
    let tag = |key: &str| key[key.find('{').unwrap()..=key.find('}').unwrap()].to_owned();
    assert_eq!(keys.news, format!("rescind:{{{}}}:news", ClusterId::named("acme")));
    let to = keys.to(NodeId::named("one"));
    assert!(to.ends_with(&format!(":to:{}", NodeId::named("one"))));
    assert_eq!(tag(&keys.news), tag(&to));
    assert_eq!(tag(&keys.news), tag(&keys.nodes));
}

#[test]
fn a_name_is_read_as_it_is_written() {
    let one = NodeId::named("one");
    assert_eq!(node(&one.to_string()), Some(one));
    for name in ["", "1", &"g".repeat(32), &"0".repeat(33)] {
        assert_eq!(node(name), None);
    }
}

#[test]
fn what_has_become_of_a_stream_is_seen_from_its_ends() {
    let id = |ms| Id { ms, sequence: 0 };
    let extent =
        |first: Option<u64>, last| Some(Extent { first: first.map(id), last: id(last), length: 0, added: None });
    for (stream, read, fate) in [
        (None, 0, Fate::Whole),
        (extent(Some(5), 9), 0, Fate::Whole),
        (extent(Some(5), 9), 5, Fate::Whole),
        (extent(Some(5), 9), 9, Fate::Whole),
        (extent(None, 9), 9, Fate::Whole),
        (extent(Some(5), 9), 4, Fate::Trimmed),
        (extent(None, 9), 8, Fate::Trimmed),
        (extent(Some(5), 9), 10, Fate::Begun),
        (extent(None, 9), 10, Fate::Begun),
        (None, 1, Fate::Begun),
    ] {
        assert_eq!(Fate::of(stream, (id(read), 0), None), fate, "{stream:?} {read}");
    }
    assert!(id(5) < Id { ms: 5, sequence: 1 } && Id { ms: 5, sequence: 9 } < id(6));
    assert_eq!(Id::parse("5-1").map(|id| id.to_string()).as_deref(), Some("5-1"));
    assert_eq!((Id::parse("5"), Id::parse("-"), Id::parse("")), (None, None, None));
}

#[test]
fn a_stream_that_took_the_place_of_another_is_seen_though_it_has_been_written_to() {
    let id = |ms| Id { ms, sequence: 0 };
    let extent = |first: Option<u64>, length, added| {
        Some(Extent { first: first.map(id), last: id(90), length, added: Some(added) })
    };
    let before = extent(Some(10), 5, 8);
    for (now, fate) in [
        (extent(Some(10), 5, 8), Fate::Whole),
        (extent(Some(10), 9, 12), Fate::Whole),
        (extent(Some(30), 5, 12), Fate::Whole),
        (extent(None, 0, 8), Fate::Whole),
        (extent(Some(30), 7, 7), Fate::Begun),
        (extent(Some(30), 100, 100), Fate::Begun),
        (extent(Some(30), 97, 100), Fate::Begun),
    ] {
        assert_eq!(Fate::of(now, (id(90), 5), before), fate, "{now:?}");
    }
    // Nothing had been trimmed from what was there before.
    let before = extent(Some(10), 5, 5);
    assert_eq!(Fate::of(extent(Some(30), 9, 9), (id(90), 5), before), Fate::Begun);
    assert_eq!(Fate::of(extent(Some(10), 9, 9), (id(90), 5), before), Fate::Whole);
    // It was empty when it was looked at last, and only so many have been read tell.
    for before in [None, extent(None, 0, 0)] {
        assert_eq!(Fate::of(extent(Some(30), 9, 9), (id(90), 9), before), Fate::Whole);
        assert_eq!(Fate::of(extent(Some(30), 9, 9), (id(90), 10), before), Fate::Begun);
    }
}
