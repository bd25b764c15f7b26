//! What somebody should know of at once.

use crate::replication::NodeId;

use super::CanaryAlarm;

/// Something is wrong in a cluster, and revocations may not reach everyone: see [`Replica::alarms`](crate::Replica::alarms).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Alarm {
    /// A [canary](crate::Replica::start_canary) was not denied everywhere in time.
    Canary(CanaryAlarm),
    /// Two processes speak under one name: a machine that was cloned or resumed, or a deployment that overlaps. What one of
    /// them revokes may not reach everyone. End one of them.
    Twins {
        /// The name; it may be that of this replica.
        node: NodeId,
    },
    /// Most peers contradict the wall clock of this replica by more than the allowed skew. Until that is mended, checks of what
    /// is not revoked give [`Unknown`](crate::Verdict::Unknown).
    ClockContradicted,
}
