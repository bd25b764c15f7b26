//! Networks to break: namespaces behind a bridge, and a relay that delays and reorders.

use std::collections::{BinaryHeap, HashMap};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::support::Place;

const BRIDGE: &str = "rescind-br";

/// Namespaces, each with one address of `10.77.0.0/24`. Gone when dropped.
pub struct Network {
    count: usize,
}

fn run(line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    let command = Command::new(words[0]).args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    command.is_ok_and(|status| status.success())
}

fn namespace(number: usize) -> String {
    format!("rescind-{number}")
}

impl Network {
    /// None where namespaces cannot be made: that takes root, and `ip`, `nft` and `tc`.
    pub fn new(count: usize) -> Option<Self> {
        let network = Self { count };
        network.remove();
        let is_made = run("nft --version") && run("tc -V") && run(&format!("ip link add {BRIDGE} type bridge"));
        let is_made = is_made
            && run(&format!("ip link set {BRIDGE} up"))
            && (0..count).all(|number| {
                let (name, link) = (namespace(number), format!("rescind-v{number}"));
                run(&format!("ip netns add {name}"))
                    && run(&format!("ip link add {link} type veth peer name eth0 netns {name}"))
                    && run(&format!("ip link set {link} master {BRIDGE}"))
                    && run(&format!("ip link set {link} up"))
                    && network.inside(number, &format!("ip addr add {}/24 dev eth0", Self::host(number)))
                    && network.inside(number, "ip link set eth0 up")
                    && network.inside(number, "ip link set lo up")
                    && network.inside(number, "nft add table ip faults")
                    && network.inside(number, "nft add chain ip faults input { type filter hook input priority 0 ; }")
            });
        is_made.then_some(network)
    }

    fn remove(&self) {
        for number in 0..self.count {
            run(&format!("ip netns del {}", namespace(number)));
            run(&format!("ip link del rescind-v{number}"));
        }
        run(&format!("ip link del {BRIDGE}"));
    }

    fn host(number: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, u8::try_from(number + 1).unwrap())
    }

    pub fn address(number: usize) -> SocketAddr {
        (Self::host(number), 7946).into()
    }

    pub fn place(number: usize) -> Place {
        Place::Namespace(namespace(number))
    }

    /// Runs a command in a namespace.
    fn inside(&self, number: usize, line: &str) -> bool {
        run(&format!("ip netns exec {} {line}", namespace(number)))
    }

    fn rule(&self, number: usize, rule: &str) {
        assert!(self.inside(number, &format!("nft add rule ip faults input {rule}")), "nft: {rule}");
    }

    /// Loses so many of a hundred packets that arrive anywhere.
    pub fn lose(&self, percent: usize) {
        for number in 0..self.count {
            self.rule(number, &format!("meta l4proto udp numgen random mod 100 < {percent} drop"));
        }
    }

    /// Cuts all connections between the first so many and the others.
    pub fn part(&self, first: usize) {
        for number in 0..self.count {
            for other in (0..self.count).filter(|other| (*other < first) != (number < first)) {
                self.rule(number, &format!("ip saddr {} drop", Self::host(other)));
            }
        }
    }

    pub fn heal(&self) {
        for number in 0..self.count {
            assert!(self.inside(number, "nft flush chain ip faults input"));
        }
    }

    /// Lets only so much through, in kbit/s, in each direction of one namespace.
    pub fn narrow(&self, number: usize, kbit: usize) {
        let filter = format!("root tbf rate {kbit}kbit burst 8k latency 100ms");
        assert!(self.inside(number, &format!("tc qdisc add dev eth0 {filter}")));
        assert!(run(&format!("tc qdisc add dev rescind-v{number} {filter}")));
    }

    /// Bytes that a namespace has received and sent.
    pub fn bytes(&self, number: usize) -> (u64, u64) {
        let output = Command::new("ip").args(["netns", "exec", &namespace(number), "cat", "/proc/net/dev"]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
        let fields: Vec<u64> = line.split_whitespace().map(|field| field.parse().unwrap()).collect();
        (fields[0], fields[8])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A UDP relay in front of one node: it holds each datagram for a random time, so that they overtake each other.
pub struct Relay {
    address: SocketAddr,
    done: Arc<AtomicBool>,
}

/// A datagram that waits: until when, by which socket, to whom. Ordered by time, the earliest first.
struct Waiting(Instant, Arc<UdpSocket>, SocketAddr, Vec<u8>);

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

fn udp() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    socket
}

impl Relay {
    /// To a node at `to`; each way takes between `delay.0` and `delay.1` milliseconds.
    pub fn start(to: SocketAddr, delay: (u64, u64)) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let front = Arc::new(udp());
        let address = front.local_addr().unwrap();
        let waiting: Arc<Mutex<BinaryHeap<Waiting>>> = Arc::default();
        let random = Arc::new(Mutex::new(0x9e37_79b9_7f4a_7c15_u64));
        let hold = {
            let waiting = Arc::clone(&waiting);
            move |by: &Arc<UdpSocket>, to: SocketAddr, bytes: &[u8]| {
                let mut state = random.lock().unwrap();
                // xorshift64
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                let at = Instant::now() + Duration::from_millis(delay.0 + *state % (delay.1 - delay.0));
                waiting.lock().unwrap().push(Waiting(at, Arc::clone(by), to, bytes.to_vec()));
            }
        };
        let is_done = Arc::clone(&done);
        thread::spawn(move || {
            while !is_done.load(Ordering::Relaxed) {
                let mut heap = waiting.lock().unwrap();
                while heap.peek().is_some_and(|next| next.0 <= Instant::now()) {
                    let Waiting(_, by, to, bytes) = heap.pop().unwrap();
                    by.send_to(&bytes, to).ok();
                }
                drop(heap);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let is_done = Arc::clone(&done);
        thread::spawn(move || {
            // One socket for each who sends, so that answers find their way back.
            let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            let mut buffer = [0; 65_536];
            while !is_done.load(Ordering::Relaxed) {
                let Ok((length, from)) = front.recv_from(&mut buffer) else { continue };
                let back = backs.entry(from).or_insert_with(|| {
                    let back = Arc::new(udp());
                    let (socket, front, hold, is_done) =
                        (Arc::clone(&back), Arc::clone(&front), hold.clone(), Arc::clone(&is_done));
                    thread::spawn(move || {
                        let mut buffer = [0; 65_536];
                        while !is_done.load(Ordering::Relaxed) {
                            if let Ok((length, _)) = socket.recv_from(&mut buffer) {
                                hold(&front, from, &buffer[..length]);
                            }
                        }
                    });
                    back
                });
                hold(back, to, &buffer[..length]);
            }
        });
        Self { address, done }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}
