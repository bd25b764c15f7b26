//! Bounded encoding of journal records and of the rows of snapshots: the only module that knows bincode.
//!
//! Every decode is limited before it allocates, must be canonical, and must use up exactly its bytes. To replace
//! bincode is to change this file (and the format version).

use bincode::config::{Configuration, Limit};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::{
    ACTOR_BYTES_MAX, Author, Digest, Entry, ID_BYTES_MAX, Item, Life, Locator, Retention, Row, Rows, Timestamp,
};

/// The longest encoded record in bytes: an entry of 65 marks that spare 64 sessions each, and room to spare.
pub(crate) const RECORD_BYTES_MAX: usize = 256 * 1024;

/// One thing that the journal remembers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// Join this entry into a subject.
    Entry(Item),
    /// From here on entries are forgotten by these limits.
    Limits(Limits),
    /// This is ahead of the store's clock, and nothing else.
    Ahead(Ahead),
}

/// What is known to be ahead of the store's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ahead {
    pub(crate) issuers: Vec<IssuerAhead>,
    /// The latest stamps from beyond the clock, of the subjects of credentials.
    pub(crate) stamps: Vec<(Locator, Timestamp)>,
    /// That of all that are not named.
    pub(crate) others: Option<Timestamp>,
}

/// An issuer that is ahead of the store's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IssuerAhead {
    /// The hash by which it is looked up, and the digest that stands for it; none for all that have no line of their own.
    pub(crate) issuer: Option<(u64, Digest)>,
    /// The latest stamp that was let in.
    pub(crate) latest: Timestamp,
    /// By how much it was seen ahead, in nanoseconds; 0 if only by a peer.
    pub(crate) ahead: u64,
}

/// How many issuers, and how many subjects, one record may name.
pub(crate) const AHEAD_MAX: usize = 256;

/// By what entries are forgotten. Durations are in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// The maximum credential age.
    pub(crate) max_age: Option<u64>,
    /// That of single tenants, sorted: the identity of `Subject::tenant`, and the age.
    pub(crate) tenants: Vec<(Digest, Locator, u64)>,
    /// How much longer than its `exp` a credential may live.
    pub(crate) leeway: u64,
    /// How much longer than that, or than a maximum age, an entry is kept: how far a clock may step back unnoticed.
    pub(crate) kept: u64,
    /// Credentials that expire at or before this may have been forgotten.
    pub(crate) expired: Timestamp,
    /// Whether the store is a replica: then nothing is forgotten by these ages, which others may not share, but only by those
    /// that are entries.
    pub(crate) is_replica: bool,
}

impl Limits {
    /// The age that binds in a tenant: the store's or the tenant's, whichever is shorter.
    pub(crate) fn age_in(&self, tenant: Option<Digest>) -> Option<u64> {
        let tenants = tenant.and_then(|tenant| {
            let index = self.tenants.binary_search_by(|(digest, ..)| digest.cmp(&tenant)).ok()?;
            self.tenants.get(index).map(|(.., age)| *age)
        });
        match (self.max_age, tenants) {
            (Some(store), Some(tenant)) => Some(store.min(tenant)),
            (store, tenant) => store.or(tenant),
        }
    }
}

/// Why bytes are not records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They do not decode.
    #[error("not a record: {0}")]
    Malformed(String),
    /// They decode to something that an encoder would never have written.
    #[error("a record that no encoder writes: {0}")]
    NotCanonical(&'static str),
}

/// bincode counts a number against the limit by its full width, of which it may take one byte in eight.
const DECODE_LIMIT: usize = RECORD_BYTES_MAX * 8;

fn config() -> Configuration<bincode::config::LittleEndian, bincode::config::Varint, Limit<DECODE_LIMIT>> {
    bincode::config::standard().with_limit()
}

/// Appends an encoded record.
///
/// # Errors
/// When the record is longer than [`RECORD_BYTES_MAX`]; `out` is as it was.
pub(crate) fn encode(record: &Record, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    encode_record(record, out)
}

fn encode_record<T: Serialize>(record: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    let written = bincode::serde::encode_into_std_write(record, out, bincode::config::standard());
    match written {
        Ok(bytes) if bytes <= RECORD_BYTES_MAX => Ok(()),
        _ => {
            out.truncate(start);
            Err(EncodeError { bytes: written.unwrap_or(0) })
        }
    }
}

/// Appends the record of an entry.
///
/// # Errors
/// As [`encode`].
pub(crate) fn encode_item(item: &Item, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    encode_record(&RecordRef::Entry(item), out)
}

/// The same bytes as [`Record::Entry`].
#[derive(Serialize)]
enum RecordRef<'a> {
    Entry(&'a Item),
}

/// A record is too long to be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of {bytes} bytes, the limit is {RECORD_BYTES_MAX}")]
pub(crate) struct EncodeError {
    bytes: usize,
}

/// Decodes records until the bytes are used up, and gives each to `visit`.
///
/// # Errors
/// At the first record that is malformed; the records before it have been visited.
pub(crate) fn decode_all(mut bytes: &[u8], mut visit: impl FnMut(Record)) -> Result<u64, DecodeError> {
    let mut count = 0;
    while !bytes.is_empty() {
        let (record, used): (Record, usize) = bincode::serde::decode_from_slice(bytes, config())
            .map_err(|error| DecodeError::Malformed(error.to_string()))?;
        if used > RECORD_BYTES_MAX {
            return Err(DecodeError::Malformed(format!("{used} bytes long")));
        }
        check(&record)?;
        bytes = bytes.get(used..).unwrap_or_default();
        count += 1;
        visit(record);
    }
    Ok(count)
}

fn check(record: &Record) -> Result<(), DecodeError> {
    match record {
        Record::Entry(item) => {
            if matches!(item.entry, Entry::Narrow(_)) != item.shape.kind.is_narrow() {
                return Err(DecodeError::NotCanonical("an entry of another kind's sort"));
            }
            if !item.entry.is_canonical() {
                return Err(DecodeError::NotCanonical("marks out of order"));
            }
            match &item.label {
                Some(_) if item.shape.kind.is_narrow() => {
                    Err(DecodeError::NotCanonical("a name on a token, session or family"))
                }
                Some(label) if label.len() > ID_BYTES_MAX => Err(DecodeError::NotCanonical("an oversized name")),
                _ if item.scope.is_some() && item.shape.kind.is_narrow() => {
                    Err(DecodeError::NotCanonical("a tenant's epochs on a token, session or family"))
                }
                _ => Ok(()),
            }
        }
        Record::Ahead(Ahead { issuers, stamps, .. }) if issuers.len().max(stamps.len()) > AHEAD_MAX => {
            Err(DecodeError::NotCanonical("too much that is ahead"))
        }
        Record::Ahead(_) => Ok(()),
        Record::Limits(limits) => match limits.tenants.is_sorted_by(|(a, ..), (b, ..)| a < b) {
            true => Ok(()),
            false => Err(DecodeError::NotCanonical("tenants out of order")),
        },
    }
}

/// The longest encoded message between replicas in bytes: the longest record fits in, and a page of rows.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Appends an encoded message, which may not be longer than [`MESSAGE_BYTES_MAX`].
pub(crate) fn encode_message<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    let written = bincode::serde::encode_into_std_write(message, out, bincode::config::standard());
    match written {
        Ok(bytes) if bytes <= MESSAGE_BYTES_MAX => Ok(()),
        _ => {
            out.truncate(start);
            Err(EncodeError { bytes: written.unwrap_or(0) })
        }
    }
}

/// Decodes a message, which must use up the bytes.
pub(crate) fn decode_message<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let malformed = |what: String| DecodeError::Malformed(what);
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(malformed(format!("{} bytes long", bytes.len())));
    }
    let config = bincode::config::standard().with_limit::<{ MESSAGE_BYTES_MAX * 8 }>();
    let (message, used) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|error| malformed(error.to_string()))?;
    if used == bytes.len() { Ok(message) } else { Err(malformed("bytes after the end".to_owned())) }
}

/// Appends entries of both sorts: the length of the rows in bytes, the rows, the other entries.
///
/// # Errors
/// When one of them is longer than [`RECORD_BYTES_MAX`]; `out` is as it was.
pub(crate) fn encode_entries(rows: &Rows, items: &[Item], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    encode_rows(&rows.authors, &rows.rows, out);
    let length = u32::try_from(out.len() - start - 4).map_err(|_| EncodeError { bytes: out.len() })?;
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    for item in items {
        encode_item(item, out).inspect_err(|_| out.truncate(start))?;
    }
    Ok(())
}

/// Decodes entries of both sorts, which must use up the bytes.
pub(crate) fn decode_entries(mut bytes: &[u8]) -> Result<(Rows, Vec<Item>), DecodeError> {
    let length = take(&mut bytes).map(u32::from_le_bytes).and_then(|length| usize::try_from(length).ok());
    let rows = length.and_then(|length| bytes.split_at_checked(length));
    let (rows, records) = rows.ok_or_else(|| DecodeError::Malformed("no rows".to_owned()))?;
    let rows = decode_rows(rows)?;
    let mut items = Vec::new();
    let mut only_entries = true;
    decode_all(records, |record| match record {
        Record::Entry(item) => items.push(item),
        Record::Limits(_) | Record::Ahead(_) => only_entries = false,
    })?;
    if only_entries { Ok((rows, items)) } else { Err(DecodeError::NotCanonical("other records among entries")) }
}

/// One row, in the order of its fields.
const ROW_BYTES: usize = 42;

/// The length of an actor that there is not.
const NO_ACTOR: u32 = u32::MAX;

/// Appends rows and their authors: the number of authors, each with its life and the length of its actor, then the rows to
/// the end.
pub(crate) fn encode_rows(authors: &[Author], rows: &[Row], out: &mut Vec<u8>) {
    out.reserve(4 + rows.len() * ROW_BYTES);
    out.extend_from_slice(&(authors.len() as u32).to_le_bytes());
    for Author { life, actor } in authors {
        out.extend_from_slice(life.as_bytes());
        let length = actor.as_ref().map_or(NO_ACTOR, |actor| actor.len() as u32);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(actor.as_deref().unwrap_or_default().as_bytes());
    }
    for row in rows {
        let mut bytes = [0; ROW_BYTES];
        let mut rest = bytes.as_mut_slice();
        let mut put = |field: &[u8]| {
            if let Some((place, after)) = std::mem::take(&mut rest).split_at_mut_checked(field.len()) {
                place.copy_from_slice(field);
                rest = after;
            }
        };
        put(&{ row.locator }.as_u64().to_le_bytes());
        put({ row.digest }.as_bytes());
        put(&{ row.at }.as_nanos().to_le_bytes());
        put(&{ row.until }.as_secs().to_le_bytes());
        put(&{ row.author }.to_le_bytes());
        put(&[row.reason, row.shape_code()]);
        out.extend_from_slice(&bytes);
    }
}

/// Decodes rows and their authors, which must use up the bytes.
pub(crate) fn decode_rows(mut bytes: &[u8]) -> Result<Rows, DecodeError> {
    let malformed = |what: &str| DecodeError::Malformed(what.to_owned());
    let count = take(&mut bytes).map(u32::from_le_bytes).ok_or_else(|| malformed("no number of authors"))?;
    // Each takes twenty bytes at least: nothing is allocated for what is not there.
    if count as usize > bytes.len() / 20 {
        return Err(malformed("more authors than there is room for"));
    }
    let mut authors = Vec::with_capacity(count as usize);
    for _ in 0..count {
        authors.push(decode_author(&mut bytes).ok_or_else(|| malformed("an author"))?);
    }
    let (chunks, rest) = bytes.as_chunks::<ROW_BYTES>();
    if !rest.is_empty() {
        return Err(malformed("a row that is cut short"));
    }
    let mut rows = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        rows.push(decode_row(chunk, count).ok_or(DecodeError::NotCanonical("a row that no entry has"))?);
    }
    Ok(Rows { authors, rows })
}

fn decode_author(bytes: &mut &[u8]) -> Option<Author> {
    let life = Life::from_bytes(take(bytes)?);
    let length = u32::from_le_bytes(take(bytes)?);
    if length == NO_ACTOR {
        return Some(Author { life, actor: None });
    }
    let (actor, rest) = bytes.split_at_checked(length as usize).filter(|(actor, _)| actor.len() <= ACTOR_BYTES_MAX)?;
    *bytes = rest;
    Some(Author { life, actor: Some(std::str::from_utf8(actor).ok()?.into()) })
}

#[inline]
fn decode_row(bytes: &[u8; ROW_BYTES], authors: u32) -> Option<Row> {
    let mut bytes = bytes.as_slice();
    let locator = Locator::from_u64(u64::from_le_bytes(take(&mut bytes)?));
    let digest = Digest::from_bytes(take(&mut bytes)?);
    let at = Timestamp::from_nanos(u64::from_le_bytes(take(&mut bytes)?));
    let until = Retention::from_secs(u32::from_le_bytes(take(&mut bytes)?));
    let author = u32::from_le_bytes(take(&mut bytes)?);
    let [reason, shape] = take(&mut bytes)?;
    Row::from_parts(locator, digest, at, until, author, reason, shape).filter(|_| author < authors)
}

#[inline]
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*field)
}

/// For the fuzz target: decodes bytes as records and as rows, and checks that what decodes encodes to the same again.
#[doc(hidden)]
pub fn fuzz_records(bytes: &[u8]) {
    let mut out = Vec::new();
    let mut encodable = true;
    let decoded = decode_all(bytes, |record| encodable &= encode(&record, &mut out).is_ok());
    // Varints have longer spellings than needed, so only the values are compared.
    if decoded.is_ok() && encodable {
        let mut first = Vec::new();
        let mut second = Vec::new();
        _ = decode_all(bytes, |record| first.push(record));
        _ = decode_all(&out, |record| second.push(record));
        assert_eq!(first, second);
    }
    if let Ok(rows) = decode_rows(bytes) {
        let mut out = Vec::new();
        encode_rows(&rows.authors, &rows.rows, &mut out);
        assert_eq!(out, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EntryCause, Epochs, Key, Keyring, Mark, Marks, NarrowEntry, Shape, Subject, WideEntry};

    const LIFE: Life = Life::from_bytes([5; 16]);

    fn item(subject: &Subject, entry: Entry) -> Item {
        let ring = Keyring::new(&Key::from_bytes([3; 32]));
        let (digest, locator) = (ring.digest_of(subject), ring.locator_of(subject));
        Item { digest, locator, shape: subject.shape(), entry, scope: None, label: None }
    }

    fn wide(epochs: Vec<Mark>) -> Item {
        // As an encoder of ours never would: the marks as they come.
        let reauthenticate: Epochs = reencoded(&(epochs, Vec::<(Life, Timestamp)>::new()));
        item(&Subject::user("u"), Entry::Wide(WideEntry { reauthenticate, ..WideEntry::default() }))
    }

    fn narrow() -> Item {
        let entry = NarrowEntry::denied(LIFE, Timestamp::from_nanos(5), EntryCause::default(), Retention::FOR_GOOD);
        item(&Subject::token("t"), Entry::Narrow(entry))
    }

    fn mark(epoch: u64, at: u64, spared: &[u8]) -> Mark {
        let spared = spared.iter().map(|byte| Digest::from_bytes([*byte; 16])).collect();
        let (epoch, at) = (Timestamp::from_nanos(epoch), Timestamp::from_nanos(at));
        Mark { epoch, at, life: LIFE, in_doubt: false, issuer: None, cause: EntryCause::default(), spared }
    }

    /// The same bytes as another type.
    fn reencoded<T: Serialize, U: serde::de::DeserializeOwned>(value: &T) -> U {
        let bytes = bincode::serde::encode_to_vec(value, bincode::config::standard()).unwrap();
        bincode::serde::decode_from_slice(&bytes, bincode::config::standard()).unwrap().0
    }

    fn decode(record: &Record) -> Result<u64, DecodeError> {
        let bytes = bincode::serde::encode_to_vec(record, bincode::config::standard()).unwrap();
        decode_all(&bytes, |decoded| assert_eq!(decoded, *record))
    }

    fn assert_refused(record: Record, what: &str) {
        assert!(matches!(decode(&record), Err(DecodeError::NotCanonical(_))), "{what}");
    }

    #[test]
    fn what_an_encoder_writes_is_taken() {
        for item in [narrow(), wide(vec![mark(9, 9, &[]), mark(5, 10, &[1, 2])]), wide(Vec::new())] {
            assert_eq!(decode(&Record::Entry(item)), Ok(1));
        }
        let limits = Limits { tenants: tenants([1, 2]), ..Limits::default() };
        assert_eq!(decode(&Record::Limits(limits)), Ok(1));
    }

    fn tenants(digests: [u8; 2]) -> Vec<(Digest, Locator, u64)> {
        digests.map(|byte| (Digest::from_bytes([byte; 16]), Locator::from_u64(0), 1)).to_vec()
    }

    #[test]
    fn what_no_encoder_writes_is_refused() {
        assert_refused(Record::Entry(wide(vec![mark(5, 5, &[]), mark(9, 9, &[])])), "an epoch before a later one");
        assert_refused(Record::Entry(wide(vec![mark(9, 9, &[]), mark(5, 5, &[])])), "an epoch that binds nobody");
        assert_refused(Record::Entry(wide(vec![mark(9, 9, &[2, 1])])), "spared sessions out of order");
        assert_refused(Record::Entry(wide(vec![mark(9, 9, &[1, 1])])), "a spared session twice");
        let Entry::Wide(mut entry) = wide(vec![mark(9, 9, &[])]).entry else { unreachable!() };
        entry.reissue = reencoded(&(vec![mark(9, 9, &[2, 1])], Vec::<(Life, Timestamp)>::new()));
        assert_refused(Record::Entry(item(&Subject::user("u"), Entry::Wide(entry))), "the same, of the other sort");

        let lifted: Epochs = reencoded(&(vec![mark(9, 9, &[])], vec![(LIFE, Timestamp::from_nanos(9))]));
        let entry = WideEntry { reauthenticate: lifted, ..WideEntry::default() };
        assert_refused(Record::Entry(item(&Subject::user("u"), Entry::Wide(entry))), "an epoch that is lifted");
        let twice = Marks::one(LIFE, Timestamp::from_nanos(5), EntryCause::default());
        let twice: Vec<_> = twice.iter().chain(twice.iter()).cloned().collect();
        let entry = NarrowEntry { denials: reencoded(&twice), until: Retention::FOR_GOOD };
        assert_refused(Record::Entry(item(&Subject::token("t"), Entry::Narrow(entry))), "a life twice");

        assert_refused(Record::Entry(item(&Subject::user("u"), narrow().entry)), "a token's entry on a user");
        assert_refused(Record::Entry(item(&Subject::token("t"), wide(Vec::new()).entry)), "a user's entry on a token");
        let labelled = |item: Item, label: &str| Record::Entry(Item { label: Some(label.into()), ..item });
        assert_refused(labelled(narrow(), "t"), "a name on a token");
        assert_refused(labelled(wide(Vec::new()), &"u".repeat(ID_BYTES_MAX + 1)), "an oversized name");
        assert_eq!(decode(&labelled(wide(Vec::new()), &"u".repeat(ID_BYTES_MAX))), Ok(1));
        let scoped = Item { scope: Some(Digest::from_bytes([1; 16])), ..narrow() };
        assert_refused(Record::Entry(scoped), "a tenant's epochs on a token");
        for digests in [[2, 1], [1, 1]] {
            let limits = Limits { tenants: tenants(digests), ..Limits::default() };
            assert_refused(Record::Limits(limits), "tenants out of order");
        }
    }

    #[test]
    fn bytes_that_are_cut_short_or_too_many_are_no_records() {
        let mut bytes = Vec::new();
        encode(&Record::Entry(narrow()), &mut bytes).unwrap();
        assert_eq!(decode_all(&bytes.repeat(3), |_| ()), Ok(3));
        for len in 1..bytes.len() {
            assert!(decode_all(&bytes[..len], |_| ()).is_err(), "{len}");
        }
        bytes.push(0xff);
        assert!(decode_all(&bytes, |_| ()).is_err());
    }

    #[test]
    fn a_record_of_the_greatest_length_is_written_and_one_beyond_it_is_not() {
        let shape = Shape { kind: crate::model::Kind::User, in_tenant: false, at_issuer: false };
        let sparing = |sessions: usize| {
            let spared = (0..sessions).map(|n| Digest::from_bytes((n as u128).to_be_bytes())).collect();
            let epochs = Epochs::one(Mark { spared, ..mark(9, 9, &[]) });
            let entry = Entry::Wide(WideEntry { reauthenticate: epochs, ..WideEntry::default() });
            Record::Entry(Item { shape, ..item(&Subject::user("u"), entry) })
        };
        let mut out = vec![7];
        // Far from the limit nothing is tried.
        let most = (16_000..16_500).rev().find(|sessions| encode(&sparing(*sessions), &mut out).is_ok()).unwrap();
        assert!(out.len() - 1 <= RECORD_BYTES_MAX && out.len() + 16 > RECORD_BYTES_MAX, "{most} {}", out.len());
        assert_eq!(decode_all(&out[1..], |_| ()), Ok(1));
        assert!(matches!(decode(&sparing(most + 1)), Err(DecodeError::Malformed(_))), "no longer one is taken");
        let len = out.len();
        assert!(encode(&sparing(most + 1), &mut out).is_err());
        assert_eq!(out.len(), len, "nothing of it is left");
    }
}
