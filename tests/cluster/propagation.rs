//! How fast news spread in large clusters, next to the figures that Serf's own simulator gives.

use std::time::Duration;

use rescind::{Clock, Credential, Replication, Revocation, Subject, Timestamp, Verdict};

use crate::cluster::{Cluster, START};
use crate::is_full_scale;
use crate::network::{Random, Weather};

/// Some news, from being issued until all have them: how long until half, and so many more, of the nodes had each.
fn spread(nodes: usize, loss: u64, rounds: usize) -> [Duration; 4] {
    let options = |node| Replication::answering_when_stale("propagation", node).fanout(6);
    let mut cluster = Cluster::new(Random(nodes as u64 + loss), options);
    for _ in 0..nodes {
        cluster.add(Timestamp::from_secs(START), false, false);
    }
    for node in 0..nodes {
        assert!(cluster.start(node));
    }
    // As on a wide network: each hop takes up to 200 ms.
    cluster.weather = Weather { loss, repeats: 0, damage: 0, delay: (20, 200) };
    let start = cluster.now + Duration::from_secs(2);
    while cluster.step(start).is_some() {}
    cluster.advance_to(start);
    let mut delays = Vec::new();
    for round in 0..rounds {
        let origin = cluster.random.below(nodes as u64) as usize;
        let token = format!("news-{round}");
        let store = cluster.nodes[origin].store().unwrap().clone();
        store.revoke(Revocation::of(Subject::token(token.as_str()))).unwrap();
        let begun = cluster.now;
        let credential = Credential::new().token(token.as_str());
        let mut missing: Vec<usize> = (0..nodes).filter(|node| *node != origin).collect();
        cluster.settle(origin);
        while !missing.is_empty() {
            let (_, node) = cluster.step(begun + Duration::from_secs(60)).unwrap();
            let Some(place) = node.and_then(|node| missing.iter().position(|other| *other == node)) else { continue };
            let store = cluster.nodes[missing[place]].store().unwrap();
            if matches!(store.check(&credential), Verdict::Revoked(_)) {
                missing.swap_remove(place);
                delays.push(cluster.now - begun);
            }
        }
    }
    assert!(cluster.nodes.iter().all(|node| node.clock.wall() > Timestamp::from_secs(START)));
    delays.sort_unstable();
    [500, 990, 999, 1000].map(|share| delays[(delays.len() * share / 1000).saturating_sub(1)])
}

#[test]
fn propagation() {
    let (sizes, rounds): (&[usize], usize) = if is_full_scale() { (&[100, 1_000], 20) } else { (&[100], 5) };
    for &nodes in sizes {
        for loss in [0, 250] {
            let [half, most, nearly, all] = spread(nodes, loss, rounds);
            println!(
                "propagation nodes={nodes} loss={}% p50_ms={} p99_ms={} p99.9_ms={} max_ms={} serf_99.99_ms={}",
                loss / 10,
                half.as_millis(),
                most.as_millis(),
                nearly.as_millis(),
                all.as_millis(),
                if loss == 0 { "1000-1200" } else { "1200-1600" },
            );
            assert!(most < Duration::from_millis(1_200), "{most:?}");
        }
    }
}
