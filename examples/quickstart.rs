//! Real signed tokens, real revocations and a real `kill -9`: every case that a newcomer asks about, played and timed.
//!
//! `cargo run --release --example quickstart`
//!
//! Read it from the top: `main`, then one function for each case. Below them is what your own program has already: an
//! issuer that mints tokens, and a verifier that checks them. rescind comes *after* the verifier: it never parses a
//! token, it is told the verified claims and says whether any of them was revoked.
//!
//! Each check states the verdict that it expects. If one comes out differently, the example says so and ends with 1.
#![expect(clippy::print_stdout, reason = "the example talks to a person")]

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, io};

use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rescind::{Change, Credential, Denial, Durability, Effect, Options, Reason, Revocation, Store, Subject, Verdict};
use serde::{Deserialize, Serialize};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

fn main() -> Result {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [command, directory, jti] = arguments.as_slice()
        && command == REVOKE_AND_WAIT
    {
        return revoke_and_wait(Path::new(directory), jti);
    }

    let directory = tempfile::tempdir()?;
    let store = Options::new()
        .durability(Durability::Sync) // the default: `revoke` returns once it is on disk
        .tenant_max_credential_age("vault", Duration::from_secs(15 * MINUTE))
        .open(directory.path().join("revocations"))?;

    // The store of an ordinary day: many other people have logged out. One batch is one commit.
    let logouts = (0..OTHER_LOGOUTS).map(|n| {
        let token = Subject::token(format!("someone-else-{n}"));
        Revocation::of(token).until_secs(now() + HOUR).because(Reason::Logout)
    });
    store.revoke_many(logouts)?;

    let mut play = Play { issuer: Issuer::new()?, store, rows: Vec::new() };
    forged_token(&play)?;
    leaked_token(&mut play)?;
    offboarding(&mut play)?;
    stolen_session(&mut play)?;
    role_change(&mut play)?;
    project_end(&mut play)?;
    tenant_logout(&mut play)?;
    disable_and_enable(&mut play)?;
    maximum_age(&mut play)?;
    play.print_table();
    play.compare_with_expectations()?;

    kill_after_acknowledgement(&play.issuer, &directory.path().join("killed"))
}

// ── The cases ────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What the verifier refuses is no case for rescind: here, a token that somebody else signed.
fn forged_token(play: &Play) -> Result {
    let forged = Issuer::new()?.mint(&Login::of("amy", "acme", "amy-laptop", now()), now())?;
    match play.issuer.verify(&forged) {
        Ok(_) => Err("the verifier accepted a forged token".into()),
        Err(_) => Ok(()),
    }
}

/// One token is dead, by its `jti`. Everything else of that person lives.
fn leaked_token(play: &mut Play) -> Result {
    let case = "leaked token";
    let amy = Login::of("amy", "acme", "amy-laptop", now() - HOUR);
    let leaked = play.token(&amy, now() - 2 * MINUTE)?;
    let next = play.token(&amy, now() - MINUTE)?;
    play.expect("nothing revoked", "amy's token", &leaked, Outcome::Clear);

    // It need be remembered until it would have expired, and no longer.
    let token = Subject::token(&leaked.jti).at_issuer(&leaked.iss);
    play.store.revoke(Revocation::of(token).until_secs(leaked.exp).because(Reason::Compromise).by("secops"))?;

    play.expect(case, "amy's token", &leaked, Outcome::Revoked);
    play.expect(case, "next token, same session", &next, Outcome::Clear);
    Ok(())
}

/// Whatever a user holds in one tenant is dead: an *epoch*, which every credential from before it runs into.
fn offboarding(play: &mut Play) -> Result {
    let case = "offboarding";
    let alice = Login::of("alice", "acme", "alice-acme", now() - HOUR);
    let token = play.token(&alice, now() - HOUR)?;
    let namesake = play.token(&Login::of("alice", "globex", "alice-globex", now() - HOUR), now() - HOUR)?;
    let colleague = play.token(&Login::of("bob", "acme", "bob-laptop", now() - HOUR), now() - HOUR)?;

    let user = Subject::user("alice").in_tenant("acme");
    play.store.revoke(Revocation::of(user).because(Reason::Offboarding).by("hr-system"))?;

    // An epoch compares when the *person* authenticated, so a token that was silently refreshed does not escape.
    let refreshed = play.token(&alice, play.fresh_second(&token))?;
    // Someone who logs in later is admitted. To keep alice out for good, disable her: see below.
    let rehired = Login { auth_time: play.fresh_second(&token), ..alice };
    let rehired = play.token(&rehired, rehired.auth_time)?;

    play.expect(case, "alice in acme", &token, Outcome::LogInAgain);
    play.expect(case, "alice in acme, refreshed", &refreshed, Outcome::LogInAgain);
    play.expect(case, "alice in acme, new login", &rehired, Outcome::Clear);
    play.expect(case, "alice in globex, same sub", &namesake, Outcome::Clear);
    play.expect(case, "bob in acme", &colleague, Outcome::Clear);
    Ok(())
}

/// One session is dead with every token of it, those to come included. The others live.
fn stolen_session(play: &mut Play) -> Result {
    let case = "stolen phone";
    let phone = Login::of("carol", "acme", "carol-phone", now() - HOUR);
    let laptop = Login { session: "carol-laptop", ..phone };
    let on_phone = play.token(&phone, now() - 10 * MINUTE)?;
    let on_laptop = play.token(&laptop, now() - 10 * MINUTE)?;

    let session = Subject::session(phone.session).in_tenant("acme");
    play.store.revoke(Revocation::of(session).because(Reason::Device).by("carol"))?;

    let refreshed = play.token(&phone, now())?;
    play.expect(case, "carol on her phone", &on_phone, Outcome::Revoked);
    play.expect(case, "the thief, refreshed", &refreshed, Outcome::Revoked);
    play.expect(case, "carol on her laptop", &on_laptop, Outcome::Clear);
    Ok(())
}

/// Only the claims are out of date: tokens from before are dead, but a refresh is enough and nobody types a password.
fn role_change(play: &mut Play) -> Result {
    let case = "role change";
    let dave = Login::of("dave", "acme", "dave-laptop", now() - HOUR);
    let old = play.token(&dave, now() - 10 * MINUTE)?;

    let user = Subject::user("dave").in_tenant("acme");
    play.store.revoke(Revocation::of(user).reissue().because(Reason::ClaimsChange).by("admin"))?;

    let refreshed = play.token(&dave, play.fresh_second(&old))?;
    play.expect(case, "dave, the old token", &old, Outcome::FreshToken);
    play.expect(case, "dave, refreshed", &refreshed, Outcome::Clear);
    Ok(())
}

/// Everyone whose token names a group is out, whoever they are.
fn project_end(play: &mut Play) -> Result {
    let case = "project end";
    let contractors: &[&str] = &["staff", "apollo-contractors"];
    let erin = Login { groups: contractors, ..Login::of("erin", "acme", "erin-laptop", now() - HOUR) };
    let namesake = Login { tenant: "globex", ..erin };
    let frank = Login { groups: &["staff"], ..Login::of("frank", "acme", "frank-laptop", now() - HOUR) };
    let erin = play.token(&erin, now() - 10 * MINUTE)?;
    let namesake = play.token(&namesake, now() - 10 * MINUTE)?;
    let frank = play.token(&frank, now() - 10 * MINUTE)?;

    let group = Subject::group("apollo-contractors").in_tenant("acme");
    play.store.revoke(Revocation::of(group).because(Reason::Ended).by("project-office"))?;

    play.expect(case, "erin, contractor", &erin, Outcome::LogInAgain);
    play.expect(case, "frank, staff only", &frank, Outcome::Clear);
    play.expect(case, "erin in globex, same group", &namesake, Outcome::Clear);
    Ok(())
}

/// A whole tenant is logged out, but for the session of the administrator who does it.
fn tenant_logout(play: &mut Play) -> Result {
    let case = "tenant logout";
    let acting = Login::of("heidi", "initech", "heidi-laptop", now() - HOUR);
    let phone = Login { session: "heidi-phone", ..acting };
    let ivan = Login::of("ivan", "initech", "ivan-laptop", now() - HOUR);
    let admin = play.token(&acting, now() - 10 * MINUTE)?;
    let on_phone = play.token(&phone, now() - 10 * MINUTE)?;
    let member = play.token(&ivan, now() - 10 * MINUTE)?;
    let neighbour = play.token(&Login::of("ivan", "acme", "ivan-acme", now() - HOUR), now() - 10 * MINUTE)?;

    let everyone = Revocation::of(Subject::tenant("initech")).sparing_session(acting.session);
    play.store.revoke(everyone.because(Reason::Compromise).by("heidi"))?;

    let back = Login { auth_time: play.fresh_second(&member), ..ivan };
    let back = play.token(&back, back.auth_time)?;
    play.expect(case, "ivan, member", &member, Outcome::LogInAgain);
    play.expect(case, "ivan, new login", &back, Outcome::Clear);
    play.expect(case, "heidi, the acting admin", &admin, Outcome::Clear);
    play.expect(case, "heidi, her other session", &on_phone, Outcome::LogInAgain);
    play.expect(case, "ivan in acme", &neighbour, Outcome::Clear);
    Ok(())
}

/// A disabled user is out until enabled again, new logins included. Enabling lets in new logins, not the old tokens.
fn disable_and_enable(play: &mut Play) -> Result {
    let judy = Login::of("judy", "acme", "judy-laptop", now() - HOUR);
    let old = play.token(&judy, now() - 10 * MINUTE)?;
    let user = Subject::user("judy").in_tenant("acme");
    play.store.disable(Change::of(user.clone()).because(Reason::Policy).by("fraud-team"))?;

    let again = Login { auth_time: play.fresh_second(&old), session: "judy-again", ..judy };
    let while_disabled = play.token(&again, again.auth_time)?;
    play.expect("user disabled", "judy", &old, Outcome::Disabled);
    play.expect("user disabled", "judy, new login", &while_disabled, Outcome::Disabled);

    let receipt = play.store.enable(Change::of(user).because(Reason::Administrative).by("fraud-team"))?;
    if !receipt.is_changed() {
        return Err("judy was not disabled, so enabling her did nothing".into());
    }

    let after = Login { auth_time: play.fresh_second(&old), session: "judy-enabled", ..judy };
    let after = play.token(&after, after.auth_time)?;
    play.expect("user enabled", "judy, token from before", &old, Outcome::LogInAgain);
    play.expect("user enabled", "judy, new login", &after, Outcome::Clear);
    Ok(())
}

/// One tenant allows sessions of 15 minutes at most. No revocation is needed: age alone denies.
fn maximum_age(play: &mut Play) -> Result {
    let case = "15 minutes max";
    let kim = Login::of("kim", "vault", "kim-laptop", now() - 16 * MINUTE);
    let lee = Login::of("lee", "vault", "lee-laptop", now() - 14 * MINUTE);
    let elsewhere = Login { tenant: "acme", ..kim };
    for (who, login, expected) in [
        ("kim, logged in 16 min ago", kim, Outcome::TooOld),
        ("lee, logged in 14 min ago", lee, Outcome::Clear),
        ("kim in acme, 16 min ago", elsewhere, Outcome::Clear),
    ] {
        // The token itself is a minute old: what counts is when the person logged in.
        let token = play.token(&login, now() - MINUTE)?;
        play.expect(case, who, &token, expected);
    }
    Ok(())
}

/// What was acknowledged is remembered: a child process revokes, says so, and is killed before it can do anything else.
///
/// This shows that nothing was still on its way inside the process. That nothing is still on its way inside the
/// operating system either, when the power fails, is for the crash tests under `tests/`: they can fail the disk.
fn kill_after_acknowledgement(issuer: &Issuer, directory: &Path) -> Result {
    let login = Login::of("niaj", "acme", "niaj-laptop", now() - HOUR);
    let revoked = issuer.token(&login, now() - MINUTE)?;
    let other = issuer.token(&login, now() - MINUTE)?;

    let mut child = Command::new(env::current_exe()?)
        .arg(REVOKE_AND_WAIT)
        .arg(directory)
        .arg(&revoked.jti)
        .stdin(Stdio::piped()) // kept open: the child would end by itself if it were closed
        .stdout(Stdio::piped())
        .spawn()?;
    let heard = first_line(&mut child);
    child.kill()?; // SIGKILL
    let status = child.wait()?;
    if heard? != ACKNOWLEDGED || !was_killed(status) {
        return Err(format!("the child was to acknowledge and be killed, and ended with {status}").into());
    }
    println!("A child process revoked a token in a store of its own, said so, and was killed: {status}.");

    let store = Store::open(directory)?;
    let verdicts = [&revoked, &other].map(|token| Outcome::from(store.check(&token.credential())));
    if verdicts != [Outcome::Revoked, Outcome::Clear] {
        return Err(format!("after kill -9 the verdicts are {verdicts:?}, not [Revoked, Clear]").into());
    }
    println!("still revoked after kill -9");
    Ok(())
}

const REVOKE_AND_WAIT: &str = "--revoke-and-wait-to-be-killed";
const ACKNOWLEDGED: &str = "acknowledged";

/// What the child does.
fn revoke_and_wait(directory: &Path, jti: &str) -> Result {
    let store = Options::new().durability(Durability::Sync).open(directory)?;
    store.revoke(Revocation::of(Subject::token(jti)).because(Reason::Compromise))?;
    println!("{ACKNOWLEDGED}");
    io::stdout().flush()?;
    // Here it is killed. Should the parent die instead, its end of the pipe closes and the child does not stay behind.
    io::stdin().read_line(&mut String::new())?;
    Ok(())
}

fn first_line(child: &mut Child) -> Result<String> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("the child has no output")?).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

#[cfg(unix)]
fn was_killed(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(9)
}

#[cfg(not(unix))]
fn was_killed(status: ExitStatus) -> bool {
    !status.success()
}

// ── What your program has already: an issuer and a verifier ──────────────────────────────────────────────────────────

/// One login of one person: what all tokens of it have in common.
#[derive(Clone, Copy)]
struct Login {
    user: &'static str,
    tenant: &'static str,
    session: &'static str,
    groups: &'static [&'static str],
    auth_time: u64,
}

impl Login {
    fn of(user: &'static str, tenant: &'static str, session: &'static str, auth_time: u64) -> Self {
        Self { user, tenant, session, groups: &["staff"], auth_time }
    }
}

/// The claims of an access token in the manner of RFC 9068. Times are whole seconds since 1970.
#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    tenant: String,
    sid: String,
    jti: String,
    groups: Vec<String>,
    iat: u64,
    auth_time: u64,
    exp: u64,
}

impl Claims {
    /// What rescind is told. It borrows, so that a check allocates nothing.
    fn credential(&self) -> Credential<'_> {
        Credential::new()
            .issuer(&self.iss)
            .tenant(&self.tenant)
            .user(&self.sub)
            .session(&self.sid)
            .token(&self.jti)
            .groups(&self.groups)
            .issued_at_secs(self.iat)
            .auth_time_secs(self.auth_time)
            .expires_at_secs(self.exp)
    }
}

/// An identity provider and the verifier that trusts it, with a key pair made for this run.
struct Issuer {
    private: EncodingKey,
    public: DecodingKey,
    validation: Validation,
    minted: AtomicU64,
}

impl Issuer {
    const NAME: &str = "https://id.example";
    const AUDIENCE: &str = "https://api.example";

    fn new() -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        let pair = SigningKey::from_bytes(&seed);
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[Self::NAME]);
        validation.set_audience(&[Self::AUDIENCE]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        Ok(Self {
            private: EncodingKey::from_ed_der(pair.to_pkcs8_der()?.as_bytes()),
            public: DecodingKey::from_ed_der(pair.verifying_key().as_bytes()),
            validation,
            minted: AtomicU64::new(0),
        })
    }

    /// A token as it comes in with a request, and what the verifier makes of it.
    fn token(&self, login: &Login, iat: u64) -> Result<Claims> {
        self.verify(&self.mint(login, iat)?)
    }

    fn mint(&self, login: &Login, iat: u64) -> Result<String> {
        let claims = Claims {
            iss: Self::NAME.into(),
            aud: Self::AUDIENCE.into(),
            sub: login.user.into(),
            tenant: login.tenant.into(),
            sid: login.session.into(),
            jti: format!("jti-{}", self.minted.fetch_add(1, Ordering::Relaxed)),
            groups: login.groups.iter().map(|group| (*group).into()).collect(),
            iat,
            auth_time: login.auth_time,
            exp: iat + 2 * HOUR,
        };
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.private)?)
    }

    /// Signature, issuer, audience and expiry. Only what passes here is worth asking rescind about.
    fn verify(&self, token: &str) -> Result<Claims> {
        Ok(jsonwebtoken::decode::<Claims>(token, &self.public, &self.validation)?.claims)
    }
}

#[expect(clippy::disallowed_methods, reason = "an issuer stamps its tokens with real time")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

// ── The play: checks, expectations, and the table ────────────────────────────────────────────────────────────────────

struct Play {
    issuer: Issuer,
    store: Store,
    rows: Vec<Row>,
}

struct Row {
    case: &'static str,
    who: &'static str,
    verdict: Verdict,
    expected: Outcome,
    nanoseconds: u128,
}

/// A verdict without its details: what a case expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Clear,
    Revoked,
    Disabled,
    LogInAgain,
    FreshToken,
    TooOld,
    Other,
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Clear => Self::Clear,
            Verdict::Revoked(Denial { effect: Effect::Revoked, .. }) => Self::Revoked,
            Verdict::Revoked(Denial { effect: Effect::Disabled, .. }) => Self::Disabled,
            Verdict::Revoked(Denial { effect: Effect::Reauthenticate { .. }, .. }) => Self::LogInAgain,
            Verdict::Revoked(Denial { effect: Effect::Reissue { .. }, .. }) => Self::FreshToken,
            Verdict::Revoked(Denial { effect: Effect::TooOld { .. }, .. }) => Self::TooOld,
            Verdict::Revoked(_) | Verdict::Unknown(_) => Self::Other,
        }
    }
}

// A debug build is some fifty times slower: it is for the tests, not for the figures.
const OTHER_LOGOUTS: usize = if cfg!(debug_assertions) { 1_000 } else { 100_000 };
const BATCHES: usize = if cfg!(debug_assertions) { 5 } else { 501 };
const CHECKS_PER_BATCH: u128 = 100;

impl Play {
    fn token(&self, login: &Login, iat: u64) -> Result<Claims> {
        self.issuer.token(login, iat)
    }

    /// The `iat` and `auth_time` with which an issuer stamps what replaces a dead credential.
    ///
    /// Claims are whole seconds, and whatever bears the second of the revocation is dead: it may be from just before.
    /// So a login in that very second is stamped with the next one, and nobody has to wait for it.
    fn fresh_second(&self, old: &Claims) -> u64 {
        self.store.admissible_from(&old.credential()).as_secs()
    }

    fn expect(&mut self, case: &'static str, who: &'static str, token: &Claims, expected: Outcome) {
        let credential = token.credential();
        let verdict = self.store.check(&credential);
        let nanoseconds = median_nanoseconds(&self.store, &credential);
        self.rows.push(Row { case, who, verdict, expected, nanoseconds });
    }

    fn print_table(&self) {
        let header = ["case", "credential", "verdict", "why", "ns"].map(str::to_owned);
        let rows = self.rows.iter().map(|row| {
            let verdict = if row.verdict == Verdict::Clear { "  clear" } else { "✗ revoked" };
            [row.case.to_owned(), row.who.to_owned(), verdict.to_owned(), why(row.verdict), row.nanoseconds.to_string()]
        });
        let table: Vec<_> = std::iter::once(header).chain(rows).collect();
        let widths: [usize; 5] = std::array::from_fn(|column| {
            table.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        });
        let [w0, w1, w2, w3, w4] = widths;
        let rule = widths.map(|width| "─".repeat(width + 2)).join("┼");

        let mut previous = String::new();
        for [case, who, verdict, why, nanoseconds] in table {
            if !previous.is_empty() && case != previous {
                println!("{rule}");
            }
            let shown = if case == previous { "" } else { case.as_str() };
            println!(" {shown:w0$} │ {who:w1$} │ {verdict:w2$} │ {why:w3$} │ {nanoseconds:>w4$}");
            previous = case;
        }

        println!();
        println!("Every token was signed with EdDSA, and verified before rescind was asked.");
        println!("ns: the median of {BATCHES} batches of {CHECKS_PER_BATCH} checks on one thread, caches warm.");
        println!("The store remembers {} revoked subjects, each synced to disk before its check.", self.store.len());
        if cfg!(debug_assertions) {
            println!("This is a debug build: for true figures add --release.");
        }
        println!();
    }

    fn compare_with_expectations(&self) -> Result {
        let wrong: Vec<_> = self.rows.iter().filter(|row| Outcome::from(row.verdict) != row.expected).collect();
        for Row { case, who, verdict, expected, .. } in &wrong {
            println!("DIFFERS: {case}, {who}: expected {expected:?}, got {verdict}");
        }
        if wrong.is_empty() { Ok(()) } else { Err(format!("{} verdicts are not as expected", wrong.len()).into()) }
    }
}

fn why(verdict: Verdict) -> String {
    match verdict {
        Verdict::Clear => "nothing binds it".into(),
        Verdict::Revoked(Denial { subject: Some(subject), effect, reason, .. }) => {
            format!("{subject} {effect} ({reason})")
        }
        Verdict::Revoked(Denial { effect, .. }) => effect.to_string(),
        Verdict::Unknown(cause) => cause.to_string(),
    }
}

#[expect(clippy::disallowed_methods, reason = "the example measures real time")]
fn median_nanoseconds(store: &Store, credential: &Credential<'_>) -> u128 {
    let mut batches = [0; BATCHES];
    for batch in &mut batches {
        let start = Instant::now();
        for _ in 0..CHECKS_PER_BATCH {
            _ = black_box(store.check(black_box(credential)));
        }
        *batch = start.elapsed().as_nanos() / CHECKS_PER_BATCH;
    }
    *batches.select_nth_unstable(BATCHES / 2).1
}
