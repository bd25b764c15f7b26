//! A replica in a process of its own, which the harness talks to by lines.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rescind::wire::Engine;
use rescind::wire::gossip::{Credentials, Gossip};
use rescind::{Credential, Freshness, Key, NodeId, Options, Replication, Revocation, Store, Subject, Verdict};

use super::support::{Place, node_name};

/// Says that this process is a node, and which: the fields of [`Setup`], separated by spaces.
pub const SETUP: &str = "RESCIND_WIRES_NODE";

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Setup {
    pub number: usize,
    pub count: usize,
    pub folder: PathBuf,
    pub listen: SocketAddr,
    pub advertised: SocketAddr,
    pub seed: SocketAddr,
    pub heartbeat: Duration,
    pub stale_after: Duration,
}

impl Setup {
    fn to_line(&self) -> String {
        let Self { number, count, folder, listen, advertised, seed, heartbeat, stale_after } = self;
        let (heartbeat, stale_after) = (heartbeat.as_millis(), stale_after.as_millis());
        format!("{number} {count} {} {listen} {advertised} {seed} {heartbeat} {stale_after}", folder.display())
    }

    fn from_line(line: &str) -> Self {
        let fields: Vec<&str> = line.split(' ').collect();
        let millis = |text: &str| Duration::from_millis(text.parse().unwrap());
        Self {
            number: fields[0].parse().unwrap(),
            count: fields[1].parse().unwrap(),
            folder: fields[2].into(),
            listen: fields[3].parse().unwrap(),
            advertised: fields[4].parse().unwrap(),
            seed: fields[5].parse().unwrap(),
            heartbeat: millis(fields[6]),
            stale_after: millis(fields[7]),
        }
    }

    pub fn store(&self) -> PathBuf {
        self.folder.join(node_name(self.number))
    }
}

fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()
}

fn verdict(store: &Store, token: &str) -> Verdict {
    store.check(&Credential::new().token(token))
}

/// What must be denied sooner or later, and since when it must be: nobody may say `Clear` that has not heard of it for so
/// long.
type Expected = Arc<Mutex<Vec<(String, Instant)>>>;

/// Runs the node, if this process is one.
pub fn run_if_asked() -> Option<ExitCode> {
    let setup = Setup::from_line(&std::env::var(SETUP).ok()?);
    let store = Options::new().key(Key::from_bytes([7; 32])).open(setup.store()).unwrap();
    let issuers = (0..setup.count).map(|number| NodeId::named(&node_name(number)));
    let replication = Replication::trusting_issuers("wires", NodeId::named(&node_name(setup.number)), issuers);
    let replica = store.replicate(replication.heartbeat(setup.heartbeat).stale_after(setup.stale_after)).unwrap();
    let file = |what: &str| setup.folder.join(format!("{}.{what}", node_name(setup.number)));
    let credentials = Credentials::from_files(file("pem"), file("key"), file("ca")).unwrap();
    let gossip = Gossip::new(setup.listen, credentials).advertise(setup.advertised).seed(setup.seed.to_string());
    let wire = gossip.start(&replica).unwrap();

    let expected = Expected::default();
    let stale_clear = Arc::new(Mutex::new(0_u64));
    {
        let (store, expected, stale_clear) = (store.clone(), Arc::clone(&expected), Arc::clone(&stale_clear));
        let stale_after = setup.stale_after;
        thread::spawn(move || {
            loop {
                let now = Instant::now();
                let due = |(_, at): &&(String, Instant)| now.duration_since(*at) > stale_after;
                let old: Vec<String> = expected
                    .lock()
                    .unwrap()
                    .iter()
                    .rev()
                    .filter(due)
                    .take(500)
                    .map(|(token, _)| token.clone())
                    .collect();
                let clear = old.iter().filter(|token| verdict(&store, token) == Verdict::Clear).count();
                *stale_clear.lock().unwrap() += clear as u64;
                thread::sleep(Duration::from_millis(5));
            }
        });
    }
    let observed: Arc<Mutex<Vec<u128>>> = Arc::default();
    println!("ready");
    for line in io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words[index].parse::<usize>().unwrap();
        let reply = match words[0] {
            // Token after token, each acknowledged before the next; and when each was, if they are paced.
            "revoke" => {
                let (first, count, pause) = (number(2), number(3), number(4));
                let mut times = String::new();
                for n in first..first + count {
                    let begun = micros();
                    store.revoke(Revocation::of(Subject::token(format!("{}-{n}", words[1])))).unwrap();
                    if pause > 0 {
                        write!(times, " {begun}").unwrap();
                        thread::sleep(Duration::from_micros(pause as u64));
                    }
                }
                format!("ok{times}")
            }
            "expect" => {
                let now = Instant::now();
                let tokens = (number(2)..number(2) + number(3)).map(|n| (format!("{}-{n}", words[1]), now));
                expected.lock().unwrap().extend(tokens);
                "ok".to_owned()
            }
            // How many of what is expected is denied, how many answers of `Clear` were too late, whether it is fresh.
            "report" => {
                let expected = expected.lock().unwrap();
                let denied = expected.iter().filter(|(token, _)| matches!(verdict(&store, token), Verdict::Revoked(_)));
                let is_fresh = matches!(replica.freshness(), Freshness::Fresh { .. });
                let (denied, late) = (denied.count(), *stale_clear.lock().unwrap());
                format!("{} {denied} {late} {}", expected.len(), u8::from(is_fresh))
            }
            "check" => match verdict(&store, words[1]) {
                Verdict::Clear => "clear".to_owned(),
                Verdict::Revoked(_) => "revoked".to_owned(),
                Verdict::Unknown(cause) => format!("unknown {cause:?}"),
            },
            // Watches for tokens in their order, and takes down when each was first denied.
            "observe" => {
                let (store, observed) = (store.clone(), Arc::clone(&observed));
                let (name, first, count) = (words[1].to_owned(), number(2), number(3));
                thread::spawn(move || {
                    for n in first..first + count {
                        let token = format!("{name}-{n}");
                        while !matches!(verdict(&store, &token), Verdict::Revoked(_)) {
                            thread::sleep(Duration::from_micros(500));
                        }
                        observed.lock().unwrap().push(micros());
                    }
                });
                "ok".to_owned()
            }
            "observed" => observed.lock().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            "stats" => format!("{:?} {:?}", wire.stats(), replica.stats()),
            "peers" => wire.stats().peers.to_string(),
            other => panic!("no command: {other}"),
        };
        println!("{reply}");
        io::stdout().flush().unwrap();
    }
    Some(ExitCode::SUCCESS)
}

/// A node, as the harness sees it. Killed when dropped.
pub struct Process {
    pub setup: Setup,
    pub place: Place,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(setup: Setup, place: Place) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = match &place {
            Place::Here => Command::new(program),
            Place::Namespace(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name]).arg(program);
                command
            }
        };
        command.env(SETUP, setup.to_line()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Self { setup, place, child, input, output };
        assert_eq!(process.read(), "ready");
        process
    }

    fn read(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.read()
    }

    pub fn pid(&self) -> u32 {
        // `ip netns exec` becomes the program that it starts.
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(mut self) -> (Setup, Place) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.setup.clone(), self.place.clone())
    }

    /// Tokens expected, denied, answers of `Clear` that came too late, and whether it is fresh.
    pub fn report(&mut self) -> (usize, usize, u64, bool) {
        let reply = self.ask("report");
        let fields: Vec<u64> = reply.split(' ').map(|field| field.parse().unwrap()).collect();
        (fields[0] as usize, fields[1] as usize, fields[2], fields[3] != 0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Writes the certificates of so many nodes into a folder.
pub fn write_certificates(folder: &Path, count: usize) {
    let authority = rescind::wire::gossip::TestAuthority::new().unwrap();
    for name in (0..count).map(node_name) {
        let issued = authority.issue_pem(&name).unwrap();
        let texts = [("pem", issued.certificate.as_str()), ("key", issued.key.as_str()), ("ca", authority.pem())];
        for (what, text) in texts {
            std::fs::write(folder.join(format!("{name}.{what}")), text).unwrap();
        }
    }
}
