//! Who, why, and by which way: what every change carries for the audit record.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The longest actor id in bytes.
pub const ACTOR_BYTES_MAX: usize = 256;
/// The longest free-text note in bytes.
pub const NOTE_BYTES_MAX: usize = 1024;

/// Why something was revoked: a code for programs. Free text goes into [`Revocation::note`](crate::Revocation::note).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
#[non_exhaustive]
pub enum Reason {
    /// No reason was given.
    #[default]
    Unspecified,
    /// The person logged out.
    Logout,
    /// The person left.
    Offboarding,
    /// A password, key or token is in the wrong hands.
    Compromise,
    /// A password or other credential was changed.
    CredentialChange,
    /// Roles, groups or other claims changed.
    ClaimsChange,
    /// A device was lost, stolen, or no longer complies.
    Device,
    /// A used refresh token was presented again (RFC 9700 section 4.14.2).
    TokenReuse,
    /// A policy demanded it.
    Policy,
    /// An administrator decided it.
    Administrative,
    /// A contract, project or subscription ended.
    Ended,
    /// A code that this version has no name for, kept as it came.
    Other(u8),
}

impl Reason {
    const NAMED: [(Self, u8, &'static str); 11] = [
        (Self::Unspecified, 0, "unspecified"),
        (Self::Logout, 1, "logout"),
        (Self::Offboarding, 2, "offboarding"),
        (Self::Compromise, 3, "compromise"),
        (Self::CredentialChange, 4, "credential_change"),
        (Self::ClaimsChange, 5, "claims_change"),
        (Self::Device, 6, "device"),
        (Self::TokenReuse, 7, "token_reuse"),
        (Self::Policy, 8, "policy"),
        (Self::Administrative, 9, "administrative"),
        (Self::Ended, 10, "ended"),
    ];

    /// The name in snake case, as the audit record spells it; `other` for codes without a name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMED.iter().find(|(reason, ..)| *reason == self).map_or("other", |(.., name)| name)
    }
}

impl From<u8> for Reason {
    fn from(code: u8) -> Self {
        Self::NAMED.iter().find(|(_, named, _)| *named == code).map_or(Self::Other(code), |(reason, ..)| *reason)
    }
}

impl From<Reason> for u8 {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Other(code) => code,
            named => Reason::NAMED.iter().find(|(reason, ..)| *reason == named).map_or(0, |(_, code, _)| *code),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(code) => write!(f, "other ({code})"),
            named => f.write_str(named.as_str()),
        }
    }
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Actor {
    /// A name that means something to who reads the audit record. Never a secret.
    pub id: String,
    /// What sort of actor it is.
    #[serde(rename = "type")]
    pub kind: ActorKind,
    /// The session in which the actor acted, as a name that is not itself a bearer secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The address the actor came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
}

/// What sort of actor did it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ActorKind {
    /// A person.
    #[default]
    User,
    /// Another program.
    Service,
    /// This program itself.
    System,
}

impl Actor {
    /// A person.
    #[must_use]
    pub fn user(id: impl Into<String>) -> Self {
        Self { id: id.into(), kind: ActorKind::User, session: None, ip: None }
    }

    /// Another program.
    #[must_use]
    pub fn service(id: impl Into<String>) -> Self {
        Self { kind: ActorKind::Service, ..Self::user(id) }
    }

    /// A part of this program, such as a schedule.
    #[must_use]
    pub fn system(id: impl Into<String>) -> Self {
        Self { kind: ActorKind::System, ..Self::user(id) }
    }

    /// The address the actor came from.
    #[must_use]
    pub fn from_ip(mut self, ip: IpAddr) -> Self {
        self.ip = Some(ip);
        self
    }

    /// The session in which the actor acted, named by something that is not a bearer secret (a hash, a row id).
    #[must_use]
    pub fn in_session(mut self, name: impl Into<String>) -> Self {
        self.session = Some(name.into());
        self
    }
}

impl From<&str> for Actor {
    fn from(id: &str) -> Self {
        Self::user(id)
    }
}

impl From<String> for Actor {
    fn from(id: String) -> Self {
        Self::user(id)
    }
}

/// On whose behalf a change was made: the `initiating_entity` of CAEP 1.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum InitiatingEntity {
    /// An administrator.
    Admin,
    /// The user concerned.
    User,
    /// A policy.
    Policy,
    /// The system.
    System,
}

/// By which way a change came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Channel {
    /// A call of this library.
    #[default]
    Api,
    /// A webhook.
    Webhook,
    /// A tool call of the Model Context Protocol.
    Mcp,
    /// A security event token.
    Event,
    /// A command line.
    Cli,
}

/// Who, why and how: what every command carries for the audit record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Provenance {
    pub(crate) reason: Reason,
    pub(crate) actor: Option<Actor>,
    pub(crate) note: Option<String>,
    pub(crate) initiator: Option<InitiatingEntity>,
    pub(crate) channel: Channel,
    pub(crate) transaction: Option<String>,
}

impl Provenance {
    /// The first text that is too long: which, its length, and the limit.
    pub(super) fn oversized(&self) -> Option<(&'static str, usize, usize)> {
        let actor = self.actor.as_ref();
        let texts = [
            ("actor", actor.map(|actor| &actor.id), ACTOR_BYTES_MAX),
            ("actor's session", actor.and_then(|actor| actor.session.as_ref()), ACTOR_BYTES_MAX),
            ("transaction", self.transaction.as_ref(), ACTOR_BYTES_MAX),
            ("note", self.note.as_ref(), NOTE_BYTES_MAX),
        ];
        let mut sizes = texts.into_iter().filter_map(|(part, text, limit)| Some((part, text?.len(), limit)));
        sizes.find(|(_, bytes, limit)| bytes > limit)
    }
}

/// Gives each variant its name in the audit record, the same in every sink.
macro_rules! names {
    ($type:ident { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The name in the audit record.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

names!(ActorKind { User => "user", Service => "service", System => "system" });
names!(InitiatingEntity { Admin => "admin", User => "user", Policy => "policy", System => "system" });
names!(Channel { Api => "api", Webhook => "webhook", Mcp => "mcp", Event => "event", Cli => "cli" });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_are_of_the_kind_that_they_are_made_as() {
        let kinds = [Actor::user("a"), Actor::service("a"), Actor::system("a")].map(|actor| (actor.kind, actor.id));
        let a = || "a".to_owned();
        assert_eq!(kinds, [(ActorKind::User, a()), (ActorKind::Service, a()), (ActorKind::System, a())]);
    }
}
