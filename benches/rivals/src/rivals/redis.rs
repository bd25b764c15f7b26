//! A Redis server of our own, on a unix socket: the nearest that a shared denylist can be.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use redis::{Client, Connection, ConnectionAddr};

use super::{Rival, TTL};

/// How many entries go to the server at once.
const PIPELINED: usize = 10_000;
const START_TIME_MAX: Duration = Duration::from_secs(10);

pub struct Redis {
    connection: RefCell<Connection>,
    _server: Server,
}

/// Ends the server, then removes the directory of its socket.
struct Server {
    process: Child,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // If it has ended already, that is as good.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Rival for Redis {
    const NAME: &'static str = "Redis";

    fn build(ids: impl Iterator<Item = String>, _: usize) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let socket = directory.path().join("redis.sock");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => "redis-server not found".to_owned(),
                _ => error.to_string(),
            })?;
        let server = Server { process, _directory: directory };
        let client = Client::open(ConnectionAddr::Unix(socket)).map_err(|error| error.to_string())?;
        let started = Instant::now();
        let mut connection = loop {
            match client.get_connection() {
                Ok(connection) => break connection,
                Err(error) if started.elapsed() > START_TIME_MAX => return Err(error.to_string()),
                Err(_) => sleep(Duration::from_millis(10)),
            }
        };
        let mut ids = ids.peekable();
        while ids.peek().is_some() {
            let mut pipeline = redis::pipe();
            for id in ids.by_ref().take(PIPELINED) {
                pipeline.cmd("SET").arg(id).arg(1).arg("EX").arg(TTL.as_secs()).ignore();
            }
            pipeline.query::<()>(&mut connection).map_err(|error| error.to_string())?;
        }
        Ok(Self { connection: RefCell::new(connection), _server: server })
    }

    fn contains(&self, id: &str) -> bool {
        self.contains_any(&[id])
    }

    /// One round trip for all of them.
    fn contains_any<const N: usize>(&self, ids: &[&str; N]) -> bool {
        let found: u64 =
            redis::cmd("EXISTS").arg(&ids[..]).query(&mut self.connection.borrow_mut()).expect("the server is there");
        found > 0
    }
}
