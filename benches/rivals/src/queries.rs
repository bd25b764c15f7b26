//! What is revoked and what is asked for: ids as UUIDs are written, the same in every run.

/// Bytes of an id.
pub const ID_BYTES: usize = 36;

/// Where an id comes from; ids of two spaces are never equal.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Space {
    Revoked = 1,
    RevokedSession,
    RevokedUser,
    RevokedTenant,
    Token,
    Session,
    User,
    Tenant,
}

/// The finalizer of SplitMix64: a bijection after which every bit depends on every bit.
fn mix(n: u64) -> u64 {
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

/// Number `n` of a space, written as a random UUID is: 122 mixed bits, so that no map is helped or hurt by a pattern.
pub fn id(space: Space, n: u64) -> [u8; ID_BYTES] {
    const HEX: [u8; 16] = *b"0123456789abcdef";
    let seed = (space as u64) << 56 | n;
    let bits = u128::from(mix(seed)) << 64 | u128::from(mix(!seed));
    let bits = bits & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let mut text = [b'-'; ID_BYTES];
    let digits = (0..32).map(|digit| HEX[(bits >> (124 - 4 * digit) & 0xf) as usize]);
    let places = (0..ID_BYTES).filter(|place| ![8, 13, 18, 23].contains(place));
    for (place, digit) in places.zip(digits) {
        text[place] = digit;
    }
    text
}

/// The same as a string.
pub fn id_string(space: Space, n: u64) -> String {
    id(space, n).iter().copied().map(char::from).collect()
}

/// The revoked token ids of a store of `size` entries.
pub fn revoked(size: u64) -> impl Iterator<Item = String> {
    (0..size).map(|n| id_string(Space::Revoked, n))
}

/// The ids of the subjects of other kinds that are revoked too.
pub fn revoked_others() -> [String; 3] {
    [Space::RevokedSession, Space::RevokedUser, Space::RevokedTenant].map(|space| id_string(space, 0))
}

/// Ids to ask for, side by side in one piece of memory.
#[derive(Debug)]
pub struct Ids(String);

impl Ids {
    /// Ids that nothing holds.
    pub fn absent(space: Space, count: usize) -> Self {
        Self::collect((0..count as u64).map(|n| id(space, n)))
    }

    /// Ids of revoked tokens, drawn at random from all of them.
    pub fn present(size: u64, count: usize) -> Self {
        Self::collect((0..count as u64).map(|n| id(Space::Revoked, mix(n.wrapping_add(1)) % size)))
    }

    fn collect(ids: impl Iterator<Item = [u8; ID_BYTES]>) -> Self {
        Self(String::from_utf8(ids.flatten().collect()).expect("hexadecimal digits"))
    }

    fn len(&self) -> usize {
        self.0.len() / ID_BYTES
    }

    /// An id by its place, from the start again after the last.
    pub fn get(&self, place: usize) -> &str {
        let first = place % self.len() * ID_BYTES;
        &self.0[first..first + ID_BYTES]
    }
}
