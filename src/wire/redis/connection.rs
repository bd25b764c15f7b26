//! A connection to a server: blocking, with a limit on every wait, and given up soon when the engine stops.
//!
//! The crate `redis` writes the commands and reads the replies. Its own connections cannot be told to give up before their
//! limit, and take the TLS that the process has as its default.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use redis::{Cmd, Parser, Value};
use rustls::{ClientConnection, StreamOwned};
use zeroize::Zeroizing;

use super::Stop;
use super::tls::Connector;

/// How long it may take to connect to one address: shorter than an engine may take to stop.
const CONNECT_WITHIN: Duration = Duration::from_millis(900);
/// How long a server may be silent when something was asked.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);
/// How long it may be so when the engine stops.
const LAST_PATIENCE: Duration = Duration::from_millis(300);
/// How often whoever waits looks whether to go on.
const SLICE: Duration = Duration::from_millis(100);

/// Where a server is, and as whom to speak to it.
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Connector>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) database: i64,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A connection, or something on it, has failed.
pub(super) struct Failure {
    text: String,
    /// Whether the server, or its certificate, was refused or refuses us: trying again will not help by itself.
    pub(super) is_refusal: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Failure {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_refusal: false }
    }

    fn io(doing: &str, address: &Address, error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|source| source.downcast_ref::<rustls::Error>());
        let is_refusal = matches!(tls, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)));
        Self { text: format!("{doing} {address}: {error}"), is_refusal }
    }

    fn server(error: &redis::ServerError) -> Self {
        let (code, details) = (error.code(), error.details().unwrap_or_default());
        let is_refusal = matches!(code, "WRONGPASS" | "NOAUTH" | "NOPERM");
        Self { text: format!("the server says: {code} {details}"), is_refusal }
    }
}

/// What the server has said, unless it is an error.
pub(super) fn accepted(reply: Value) -> Result<Value, Failure> {
    match reply {
        Value::ServerError(error) => Err(Failure::server(&error)),
        reply => Ok(reply),
    }
}

/// Bytes to and from a server. No wait is longer than `patience`.
struct Socket {
    tcp: TcpStream,
    patience: Duration,
    /// How long it may still wait once the engine stops.
    last_patience: Duration,
    stop: Stop,
}

impl Socket {
    fn wait_for<T>(&mut self, mut attempt: impl FnMut(&mut TcpStream) -> io::Result<T>) -> io::Result<T> {
        let mut waited = Duration::ZERO;
        loop {
            match attempt(&mut self.tcp) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    waited += SLICE;
                    if self.stop.is_due() {
                        self.last_patience = self.last_patience.saturating_sub(SLICE);
                    }
                    if waited >= self.patience || self.last_patience.is_zero() {
                        return Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait_for(|tcp| tcp.read(buffer))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait_for(|tcp| tcp.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Stream {
    fn socket(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &mut tls.sock,
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            Self::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

/// Keeps the error of a failed read, of which the parser tells less.
struct Noting<'s> {
    stream: &'s mut Stream,
    failed: Option<io::Error>,
}

impl Read for Noting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer).map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            kind.into()
        })
    }
}

/// A connection that has been let in. After any failure but [`Failure::server`] it is of no more use.
pub(super) struct Connection<'a> {
    address: &'a Address,
    stream: Stream,
    parser: Parser,
}

impl<'a> Connection<'a> {
    /// Connects, and logs in.
    pub(super) fn open(address: &'a Address, stop: &Stop) -> Result<Self, Failure> {
        let tcp = connect(address, stop).map_err(|error| Failure::io("cannot connect to", address, &error))?;
        let socket = Socket { tcp, patience: PATIENCE, last_patience: LAST_PATIENCE, stop: stop.clone() };
        let stream = greet(address, socket).map_err(|error| Failure::io("no TLS with", address, &error))?;
        let mut connection = Self { address, stream, parser: Parser::new() };
        let mut commands = Vec::new();
        if let Some(password) = &address.password {
            let mut auth = redis::cmd("AUTH");
            address.username.iter().for_each(|username| {
                auth.arg(username);
            });
            auth.arg(password.as_str());
            commands.push(auth);
        }
        if address.database != 0 {
            commands.push(redis::cmd("SELECT").arg(address.database).take());
        }
        for reply in connection.ask(&commands, PATIENCE)? {
            accepted(reply)?;
        }
        Ok(connection)
    }

    /// Sends commands, all at once, and gives the reply to each, which may be an error.
    pub(super) fn ask(&mut self, commands: &[Cmd], patience: Duration) -> Result<Vec<Value>, Failure> {
        let mut bytes = Zeroizing::new(Vec::new());
        commands.iter().for_each(|command| command.write_packed_command(&mut bytes));
        self.ask_packed(&bytes, commands.len(), patience)
    }

    /// The same, of commands that are packed already.
    pub(super) fn ask_packed(
        &mut self,
        bytes: &[u8],
        replies: usize,
        patience: Duration,
    ) -> Result<Vec<Value>, Failure> {
        self.stream.socket().patience = patience;
        self.stream.send(bytes).map_err(|error| Failure::io("cannot write to", self.address, &error))?;
        let mut noting = Noting { stream: &mut self.stream, failed: None };
        let replies = (0..replies).map(|_| self.parser.parse_value(&mut noting)).collect::<Result<Vec<_>, _>>();
        replies.map_err(|error| match noting.failed {
            Some(failed) => Failure::io("cannot read from", self.address, &failed),
            None => Failure::new(format!("cannot read from {}: {error}", self.address)),
        })
    }

    /// The reply to one command, unless it is an error.
    pub(super) fn ask_one(&mut self, command: &Cmd) -> Result<Value, Failure> {
        accepted(self.ask(std::slice::from_ref(command), PATIENCE)?.pop().unwrap_or_default())
    }
}

fn connect(address: &Address, stop: &Stop) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for to in (address.host.as_str(), address.port).to_socket_addrs()? {
        if stop.is_due() {
            break;
        }
        match TcpStream::connect_timeout(&to, CONNECT_WITHIN) {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                tcp.set_read_timeout(Some(SLICE))?;
                tcp.set_write_timeout(Some(SLICE))?;
                return Ok(tcp);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Sees to TLS, if there is to be any.
fn greet(address: &Address, mut socket: Socket) -> io::Result<Stream> {
    let Some(tls) = &address.tls else { return Ok(Stream::Plain(socket)) };
    let begun = ClientConnection::new(std::sync::Arc::clone(&tls.config), tls.server.clone());
    let mut connection = begun.map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(Stream::Tls(Box::new(StreamOwned::new(connection, socket))))
}

/// Which server one speaks to: another if it was restarted, or a replica of it took over.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Server {
    run: String,
    replication: String,
}

impl Server {
    /// What to ask to know it, and its clock.
    pub(super) fn questions() -> [Cmd; 3] {
        let info = |section: &str| redis::cmd("INFO").arg(section).take();
        [info("server"), info("replication"), redis::cmd("TIME")]
    }

    /// The server, and the milliseconds of its clock, by its answers.
    pub(super) fn of(answers: &mut impl Iterator<Item = Value>) -> Result<(Self, u64), Failure> {
        let mut next = || accepted(answers.next().unwrap_or_default());
        let (server, replication, time) = (next()?, next()?, next()?);
        let field = |info: &Value, name: &str| {
            let text = text(info).unwrap_or_default();
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::to_owned);
            value.ok_or_else(|| Failure::new(format!("the server does not tell its {name}: it is no Redis server")))
        };
        let known = Self { run: field(&server, "run_id")?, replication: field(&replication, "master_replid")? };
        let clock: Option<Vec<u64>> = list(time).iter().map(|part| text(part)?.parse().ok()).collect();
        match clock.as_deref() {
            Some([secs, micros]) => Ok((known, secs.saturating_mul(1000).saturating_add(micros / 1000))),
            _ => Err(Failure::new("the server does not tell its time: it is no Redis server")),
        }
    }
}

/// The text of a reply; none if it is something else.
pub(super) fn text(reply: &Value) -> Option<&str> {
    match reply {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

/// The elements of a reply; none if it is something else.
pub(super) fn list(reply: Value) -> Vec<Value> {
    match reply {
        Value::Array(elements) => elements,
        _ => Vec::new(),
    }
}
