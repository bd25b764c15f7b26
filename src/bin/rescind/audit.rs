//! Commands on audit trails.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use rescind::audit::{AuditError, AuditHead, verify as verify_chain, verify_against};
use serde_json::{Value, json};

use crate::Answer;
use crate::output::{Failure, Out, chain, number};

pub(crate) fn verify(out: &mut Out, file: &Path, against: Option<&AuditHead>) -> Result<Answer, Failure> {
    match against.map_or_else(|| verify_chain(file), |anchor| verify_against(file, anchor)) {
        Ok(head) => {
            if !out.json(|| json!({ "sound": true, "records": head.records, "hash": head.hash }))? {
                out.line(format_args!("sound: {} records, the last with hash {}", number(head.records), head.hash))?;
                if against.is_some() {
                    out.line("what was kept elsewhere is in it: nothing before that was changed or cut off")?;
                } else {
                    out.line("keep this elsewhere, to prove later that nothing so far was changed or cut off:")?;
                    out.line(format_args!("  --against {}:{}", head.records, head.hash))?;
                }
            }
            Ok(Answer::Yes)
        }
        Err(error @ (AuditError::Broken { .. } | AuditError::AnchorMissing { .. })) => {
            if !out.json(|| json!({ "sound": false, "error": error.to_string() }))? {
                out.line(&error)?;
            }
            Ok(Answer::No)
        }
        Err(error) => Err(Failure::Cannot(chain(&error))),
    }
}

pub(crate) fn tail(out: &mut Out, path: &Path, lines: usize, follow: bool) -> Result<Answer, Failure> {
    let cannot = |error: io::Error| Failure::Cannot(format!("cannot read {}: {error}", path.display()));
    let mut trail = Trail::open(path).map_err(cannot)?;
    let mut last = VecDeque::new();
    while let Some(line) = trail.next().map_err(cannot)? {
        last.push_back(line);
        if last.len() > lines {
            last.pop_front();
        }
    }
    last.iter().try_for_each(|line| show(out, line))?;
    while follow && !out.is_closed() {
        // What was written before it was rotated comes before what came after.
        let next = trail.rotated(path).map_err(cannot)?;
        while let Some(line) = trail.next().map_err(cannot)? {
            show(out, &line)?;
        }
        match next {
            Some(next) => trail = next,
            None => {
                out.flush()?;
                #[expect(clippy::disallowed_methods, reason = "a person watches, and nothing waits for it")]
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
    Ok(Answer::Yes)
}

/// A file of lines that somebody else writes.
struct Trail {
    reader: BufReader<File>,
    /// The end of the last line that was whole.
    end: u64,
    /// What there is of the next one.
    line: Vec<u8>,
}

impl Trail {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { reader: BufReader::new(File::open(path)?), end: 0, line: Vec::new() })
    }

    /// The next line that is whole, without its end; none until more is written.
    fn next(&mut self) -> io::Result<Option<String>> {
        self.reader.read_until(b'\n', &mut self.line)?;
        if self.line.last() != Some(&b'\n') {
            self.go_back()?;
            return Ok(None);
        }
        self.end += self.line.len() as u64;
        let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        self.line.clear();
        Ok(Some(line))
    }

    /// Whoever opens a trail anew cuts off half a line that a crash left; and some tools empty a file to rotate it.
    fn go_back(&mut self) -> io::Result<()> {
        let len = self.reader.get_ref().metadata()?.len();
        if len < self.end + self.line.len() as u64 {
            self.end = if len < self.end { 0 } else { self.end };
            self.line.clear();
            self.reader.seek(SeekFrom::Start(self.end))?;
        }
        Ok(())
    }

    /// The file that has taken this one's name; none if it still has it, or nobody has it yet.
    fn rotated(&self, path: &Path) -> io::Result<Option<Self>> {
        let next = match Self::open(path) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_same = is_same(&self.reader.get_ref().metadata()?, &next.reader.get_ref().metadata()?);
        Ok((!is_same).then_some(next))
    }
}

#[cfg(unix)]
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// A file that was made later is another one.
#[cfg(not(unix))]
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    one.created().ok() == other.created().ok()
}

/// One record: as it is for programs, in a line for people.
fn show(out: &mut Out, line: &str) -> Result<(), Failure> {
    if out.is_json() {
        return out.raw(format!("{line}\n").as_bytes());
    }
    let Ok(record) = serde_json::from_str::<Value>(line) else {
        return out.line(format_args!("(not a record) {line}"));
    };
    let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str);
    let target =
        text("/target/label").map_or_else(|| format!("#{}", text("/target/digest").unwrap_or("?")), str::to_owned);
    let mut told = format!(
        "{}  {:<9} {} {target}",
        text("/time").unwrap_or("?"),
        text("/action").unwrap_or("?"),
        text("/target/kind").unwrap_or("?"),
    );
    let is_tenant = text("/target/kind") == Some("tenant");
    for (word, pointer) in [("in", "/tenant"), ("by", "/actor/id"), ("for", "/reason")] {
        // A tenant is in no other.
        if let Some(value) = text(pointer).filter(|_| word != "in" || !is_tenant) {
            told.push_str(&format!(" {word} {value}"));
        }
    }
    told.push_str(&format!(": {}", text("/outcome/status").unwrap_or("?")));
    if let Some(note) = text("/note") {
        told.push_str(&format!(" ({note})"));
    }
    out.line(told)
}
