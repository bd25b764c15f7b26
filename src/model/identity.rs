//! Two hashes for two jobs: the digest *is* the identity, the locator only says "certainly absent".
//!
//! The argument for both is written down in [`manual::identity`](crate::manual::identity).

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_secret;
use zeroize::Zeroize;

use super::content::{CONTENT_SECRET_BYTES, ContentHasher};
use super::subject::{Id, Kind, Shape, Subject};

/// Changes whenever the bytes that are digested change.
const DIGEST_VERSION: u8 = 1;
const LOCATOR_SECRET_BYTES: usize = 192;

/// The secret from which a store derives its identities: 32 bytes.
///
/// Replicas that share revocations share the key. It is wiped from memory when dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Key {
    /// The key made of these bytes, which must come from a cryptographic random source and be kept secret.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A new key from the operating system's random source.
    ///
    /// # Errors
    /// When the operating system has no random bytes to give.
    pub fn generate() -> std::io::Result<Self> {
        let mut key = Self([0; 32]);
        getrandom::fill(&mut key.0).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(key)
    }

    /// A key for a store that lives no longer than this process, from the seeds that the standard library gives its hash
    /// tables: for systems without random bytes.
    pub(crate) fn ephemeral() -> Self {
        let mut key = Self([0; 32]);
        for (index, word) in key.0.chunks_mut(8).enumerate() {
            let state = std::hash::RandomState::new();
            word.copy_from_slice(&std::hash::BuildHasher::hash_one(&state, index).to_le_bytes());
        }
        key
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(<redacted>)")
    }
}

/// Which key a store was made with, without telling the key: a derived value, safe to print and to compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyId([u8; 16]);

impl KeyId {
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// The identity of a subject: 128 bits of keyed BLAKE3, a pseudo-random function of (version, kind, tenant, issuer, id).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest([u8; 16]);

/// Tables need no more than a word of it: it is uniformly distributed already.
impl std::hash::Hash for Digest {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(u128::from_le_bytes(self.0) as u64);
    }
}

impl Digest {
    /// The digest with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

fn write_hex(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{:032x}", u128::from_be_bytes(*bytes))
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

/// The fast keyed 64-bit hash of a subject that feeds the filter. Equal subjects have equal locators; unequal ones may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Locator(u64);

impl Locator {
    pub(crate) const fn from_u64(word: u64) -> Self {
        Self(word)
    }

    pub(crate) const fn as_u64(self) -> u64 {
        self.0
    }
}

/// Whose entry it is: all three agree, or it is another subject's.
///
/// The digest alone names a subject. But where to look for its entry, and whether to look at all, is asked of the other
/// two, and what comes from a file or from a peer may name a digest with a locator or a shape that do not belong to it:
/// such an entry is nobody's, and must not stand in the way of the one that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) locator: Locator,
    pub(crate) digest: Digest,
    pub(crate) shape: Shape,
}

impl std::hash::Hash for Identity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

/// What one text, in its role, adds to a locator.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Part(u64);

impl Part {
    /// Both texts, in any order.
    #[inline]
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    /// The locator of a subject, of which these are all parts.
    #[inline]
    pub(crate) const fn locator(self) -> Locator {
        Locator(self.0)
    }
}

/// Everything derived from one [`Key`].
pub(crate) struct Keyring {
    digest_key: [u8; 32],
    locator_secret: [u8; LOCATOR_SECRET_BYTES],
    /// One odd number per role that a part can have in a locator.
    locator_salts: [u64; ROLES],
    content: ContentHasher,
    /// From which the successors of refresh tokens are made.
    successor_key: [u8; 32],
    id: KeyId,
}

impl Drop for Keyring {
    fn drop(&mut self) {
        self.digest_key.zeroize();
        self.successor_key.zeroize();
        self.locator_secret.zeroize();
        self.locator_salts.zeroize();
    }
}

/// The roles of a part in a locator: the nine kinds and two more. A power of two, so that the hot path needs no look
/// whether a number is one of them.
const ROLES: usize = 16;
const SALT_TENANT: usize = Kind::ALL.len();
const SALT_ISSUER: usize = Kind::ALL.len() + 1;

impl Keyring {
    pub(crate) fn new(key: &Key) -> Self {
        let derive = |context: &str, out: &mut [u8]| {
            let mut hasher = blake3::Hasher::new_derive_key(context);
            hasher.update(key.as_bytes());
            hasher.finalize_xof().fill(out);
        };
        let mut ring = Self {
            digest_key: [0; 32],
            locator_secret: [0; LOCATOR_SECRET_BYTES],
            locator_salts: [0; ROLES],
            content: ContentHasher::new([0; CONTENT_SECRET_BYTES]),
            successor_key: [0; 32],
            id: KeyId([0; 16]),
        };
        derive("rescind 2026-11 digest key", &mut ring.digest_key);
        derive("rescind 2026-11 successor key", &mut ring.successor_key);
        derive("rescind 2026-11 locator secret", &mut ring.locator_secret);
        for (index, salt) in ring.locator_salts.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            derive(&format!("rescind 2026-11 locator salt {index}"), &mut bytes);
            *salt = u64::from_le_bytes(bytes) | 1;
        }
        let mut content = [0; CONTENT_SECRET_BYTES];
        derive("rescind 2026-11 content secret", &mut content);
        ring.content = ContentHasher::new(content);
        content.zeroize();
        let mut id = [0; 16];
        derive("rescind 2026-11 key id", &mut id);
        ring.id = KeyId(id);
        ring
    }

    pub(crate) const fn id(&self) -> KeyId {
        self.id
    }

    /// What replicas hash entries with, to compare what they hold.
    pub(crate) fn content_hasher(&self) -> ContentHasher {
        self.content.clone()
    }

    /// 256 bits that follow from a refresh token and its family, and that nobody can tell who has not got the key.
    pub(crate) fn successor(&self, token: Digest, family: Digest) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.successor_key);
        hasher.update(&token.0).update(&family.0);
        hasher.finalize().to_hex().as_str().to_owned()
    }

    /// What an id adds to the locator of a subject of a kind, given by its number. A credential hashes every text once,
    /// whatever the number of shapes.
    #[inline(always)]
    pub(crate) fn id_part(&self, kind: usize, id: &[u8]) -> Part {
        Part(self.hash(id) ^ self.salt(kind))
    }

    /// What a tenant adds.
    pub(crate) fn tenant_part(&self, tenant: &str) -> Part {
        Part(fold(self.hash(tenant.as_bytes()), self.salt(SALT_TENANT)))
    }

    /// What an issuer adds.
    pub(crate) fn issuer_part(&self, issuer: &str) -> Part {
        Part(fold(self.hash(issuer.as_bytes()), self.salt(SALT_ISSUER)))
    }

    #[inline(always)]
    fn hash(&self, text: &[u8]) -> u64 {
        xxh3_64_with_secret(text, &self.locator_secret)
    }

    #[inline(always)]
    fn salt(&self, role: usize) -> u64 {
        self.locator_salts.get(role % ROLES).copied().unwrap_or(1)
    }

    pub(crate) fn identity_of(&self, subject: &Subject) -> Identity {
        let (locator, digest) = (self.locator_of(subject), self.digest_of(subject));
        Identity { locator, digest, shape: subject.shape() }
    }

    pub(crate) fn locator_of(&self, subject: &Subject) -> Locator {
        let id = match &subject.id {
            Id::Name(name) => name.as_bytes(),
            Id::Opaque(hash) => hash.as_bytes(),
        };
        let mut part = self.id_part(subject.kind as usize, id);
        if let Some(tenant) = &subject.tenant {
            part = part.and(self.tenant_part(tenant));
        }
        if let Some(issuer) = &subject.issuer {
            part = part.and(self.issuer_part(issuer));
        }
        part.locator()
    }

    pub(crate) fn digest_of(&self, subject: &Subject) -> Digest {
        let id = match &subject.id {
            Id::Name(name) => IdRef::Name(name),
            Id::Opaque(hash) => IdRef::Opaque(hash.as_bytes()),
        };
        self.digest(subject.kind, id, subject.tenant.as_deref(), subject.issuer.as_deref())
    }

    /// A number by which an issuer, or credentials that name none, are told apart at a glance.
    pub(crate) fn issuer_key(&self, issuer: Option<&str>) -> u64 {
        issuer.map_or(0, |issuer| self.issuer_part(issuer).locator().as_u64())
    }

    /// What stands for an issuer, or for credentials that name none: the digest of everyone under it.
    pub(crate) fn issuer_digest(&self, issuer: Option<&str>) -> Digest {
        self.digest(Kind::Everyone, IdRef::Name(""), None, issuer)
    }

    /// The digest of a subject given in parts.
    pub(crate) fn digest(&self, kind: Kind, id: IdRef<'_>, tenant: Option<&str>, issuer: Option<&str>) -> Digest {
        // Nearly every subject is short, and gathered first: one call then hashes it, which a revoked credential waits for.
        let mut gathered = [0; GATHERED_BYTES];
        let mut room = gathered.as_mut_slice();
        let mut fits = true;
        for_each_part(kind, id, tenant, issuer, |part| {
            match std::mem::take(&mut room).split_at_mut_checked(part.len()) {
                Some((place, rest)) => {
                    place.copy_from_slice(part);
                    room = rest;
                }
                None => fits = false,
            }
        });
        let unused = room.len();
        let hash = match gathered.get(..GATHERED_BYTES - unused) {
            Some(bytes) if fits => blake3::keyed_hash(&self.digest_key, bytes),
            _ => {
                let mut hasher = blake3::Hasher::new_keyed(&self.digest_key);
                for_each_part(kind, id, tenant, issuer, |part| _ = hasher.update(part));
                hasher.finalize()
            }
        };
        let mut digest = [0; 16];
        digest.copy_from_slice(hash.as_slice().get(..16).unwrap_or_default());
        Digest(digest)
    }
}

/// Subjects up to this length in bytes are gathered before they are hashed.
const GATHERED_BYTES: usize = 192;

/// What is digested. Each part is length-prefixed, so that no two subjects share their bytes.
#[inline]
fn for_each_part(kind: Kind, id: IdRef<'_>, tenant: Option<&str>, issuer: Option<&str>, mut add: impl FnMut(&[u8])) {
    add(&[DIGEST_VERSION, kind as u8]);
    for scope in [tenant, issuer] {
        match scope {
            None => add(&[0]),
            Some(text) => {
                add(&[1]);
                add(&(text.len() as u64).to_le_bytes());
                add(text.as_bytes());
            }
        }
    }
    add(&[matches!(id, IdRef::Opaque(_)).into()]);
    add(&(id.as_bytes().len() as u64).to_le_bytes());
    add(id.as_bytes());
}

/// A borrowed id.
#[derive(Clone, Copy)]
pub(crate) enum IdRef<'a> {
    Name(&'a str),
    Opaque(&'a [u8]),
}

impl<'a> IdRef<'a> {
    pub(crate) const fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Name(name) => name.as_bytes(),
            Self::Opaque(hash) => hash,
        }
    }
}

/// The 128-bit product of two words, folded: one multiplication spreads every input bit over the result.
const fn fold(word: u64, salt: u64) -> u64 {
    let product = (word ^ salt.rotate_left(32)) as u128 * salt as u128;
    (product as u64) ^ ((product >> 64) as u64)
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(byte: u8) -> Keyring {
        Keyring::new(&Key::from_bytes([byte; 32]))
    }

    #[test]
    fn parts_do_not_run_together() {
        let ring = ring(1);
        let subjects = [
            Subject::user("c").in_tenant("ab"),
            Subject::user("bc").in_tenant("a"),
            Subject::user("abc"),
            Subject::user("c").at_issuer("ab"),
            Subject::user("c").in_tenant("ab").at_issuer("ab"),
            Subject::client("c").in_tenant("ab"),
            Subject::token("x"),
            Subject::opaque_token("x"),
        ];
        for (i, a) in subjects.iter().enumerate() {
            for b in subjects.iter().skip(i + 1) {
                assert_ne!(ring.digest_of(a), ring.digest_of(b), "{a:?} {b:?}");
                assert_ne!(ring.locator_of(a), ring.locator_of(b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn another_key_gives_other_identities() {
        let subject = Subject::user("alice");
        assert_ne!(ring(1).digest_of(&subject), ring(2).digest_of(&subject));
        assert_ne!(ring(1).locator_of(&subject), ring(2).locator_of(&subject));
        assert_ne!(ring(1).id(), ring(2).id());
    }

    /// Frozen: stores on disk hold these values. Key id and digest were computed by another implementation of BLAKE3.
    #[test]
    fn digests_are_frozen() {
        let ring = ring(7);
        let subject = Subject::user("alice").in_tenant("acme").at_issuer("https://id.example");
        assert_eq!(ring.id().to_string(), "a547ec765dc8ba1fe72a604a0e73ec14");
        assert_eq!(ring.digest_of(&subject).to_string(), "b26a1dc06e1883dc62c975265894c508");
        assert_eq!(format!("{:016x}", ring.locator_of(&subject).as_u64()), "bd241d45a21711cf");
    }

    #[test]
    fn what_is_too_long_to_be_gathered_is_digested_alike() {
        let ring = ring(3);
        // 1 + 1 + 1 + 1 + 1 + 8 bytes come before the id.
        for len in [1, 36, GATHERED_BYTES - 14, GATHERED_BYTES - 13, GATHERED_BYTES - 12, 1024] {
            let id = "x".repeat(len);
            let mut hasher = blake3::Hasher::new_keyed(&ring.digest_key);
            for_each_part(Kind::Token, IdRef::Name(&id), None, None, |part| _ = hasher.update(part));
            let expected = hasher.finalize();
            let digest = ring.digest(Kind::Token, IdRef::Name(&id), None, None);
            assert_eq!(digest.as_bytes(), &expected.as_bytes()[..16], "{len}");
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let key = Key::from_bytes([0x41; 32]);
        assert_eq!(format!("{key:?}"), "Key(<redacted>)");
        assert!(!format!("{:?}", Keyring::new(&key)).contains("65, 65"));
    }

    #[test]
    fn digests_and_key_ids_are_shown_in_hex() {
        let (digest, key_id) = (Digest::from_bytes([0x0a; 16]), KeyId::from_bytes([0xf1; 16]));
        assert_eq!((format!("{digest}"), format!("{digest:?}")), ("0a".repeat(16), "0a".repeat(16)));
        assert_eq!((format!("{key_id}"), format!("{key_id:?}")), ("f1".repeat(16), "f1".repeat(16)));
    }
}
