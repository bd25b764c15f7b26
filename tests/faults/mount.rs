//! Real file systems of the tests' own, made and mounted where the tests run as root.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Runs a command, and gives what it prints; else what it says of its failure.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<String, String> {
    // Tools for the administrator are not always on the path.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(args).env("PATH", path).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn needs_root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("not root".to_owned()) }
}

/// A mounted file system, gone with this value.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) at: PathBuf,
}

impl Mounted {
    fn new(at: PathBuf, args: &[&str]) -> Result<Self, String> {
        std::fs::create_dir_all(&at).unwrap();
        run("mount", &[args, &[text(&at)]].concat())?;
        Ok(Self { at })
    }

    pub(crate) fn tmpfs(parent: &TempDir, name: &str, kib: u64) -> Result<Self, String> {
        Self::new(parent.path().join(name), &["-t", "tmpfs", "-o", &format!("size={kib}k,mode=700"), "tmpfs"])
    }

    /// Gives a tmpfs another size.
    pub(crate) fn resize(&self, kib: u64) {
        run("mount", &["-o", &format!("remount,size={kib}k"), text(&self.at)]).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if run("umount", &[text(&self.at)]).is_err() {
            run("umount", &["--lazy", text(&self.at)]).ok();
        }
    }
}

/// An ext4 file system in a file, behind a loop device.
#[derive(Debug)]
pub(crate) struct Disk {
    device: String,
    at: PathBuf,
}

impl Disk {
    /// The file is sparse, in a folder that may have less room than it is long.
    pub(crate) fn sparse(folder: &Path, at: PathBuf, mib: u64) -> Result<Self, String> {
        let image = folder.join("disk.img");
        std::fs::File::create(&image).unwrap().set_len(mib * 1024 * 1024).unwrap();
        let options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-J", "size=1", "-b", "1024", "-E", options, text(&image)])?;
        let device = run("losetup", &["--find", "--show", text(&image)])?;
        Ok(Self { device, at })
    }

    pub(crate) fn mount(&self) -> Result<Mounted, String> {
        Mounted::new(self.at.clone(), &["-t", "ext4", &self.device])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.device]).ok();
    }
}

/// Cuts the power of a file system, by the ioctl that its own tests use: whatever is not on the device yet never will
/// be. A helper makes the call, for it takes code that this crate forbids.
#[derive(Debug)]
pub(crate) struct Breaker(Child);

/// The ioctl, and the flag that leaves the journal as it is on the device.
const SHUTDOWN: &str = r#"
    $| = 1;
    while (<STDIN>) {
        chomp;
        open(my $disk, '<', $_) or die $!;
        my $flag = pack('L', 2);
        ioctl($disk, 0x8004587d, $flag) or die $!;
        close $disk;
        print "down\n";
    }
"#;

impl Breaker {
    pub(crate) fn new() -> Result<Self, String> {
        let child = Command::new("perl").args(["-e", SHUTDOWN]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        child.map(Self).map_err(|error| format!("perl: {error}"))
    }

    pub(crate) fn cut(&mut self, disk: &Mounted) -> Result<(), String> {
        writeln!(self.0.stdin.as_mut().unwrap(), "{}", disk.at.display()).unwrap();
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line == "down\n" { Ok(()) } else { Err("this kernel's ext4 has no shutdown".to_owned()) }
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
