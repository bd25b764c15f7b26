//! Commands on audit trails.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use rescind::audit::{AuditError, verify as verify_chain};
use serde_json::{Value, json};

use crate::Answer;
use crate::output::{Failure, Out, chain, number};

pub(crate) fn verify(out: &mut Out, file: &Path) -> Result<Answer, Failure> {
    match verify_chain(file) {
        Ok(head) => {
            if !out.json(|| json!({ "sound": true, "records": head.records, "hash": head.hash }))? {
                out.line(format_args!("sound: {} records, the last with hash {}", number(head.records), head.hash))?;
                out.line("keep that hash elsewhere: it proves later that nothing before it was changed or cut off")?;
            }
            Ok(Answer::Yes)
        }
        Err(error @ AuditError::Broken { .. }) => {
            if !out.json(|| json!({ "sound": false, "error": error.to_string() }))? {
                out.line(&error)?;
            }
            Ok(Answer::No)
        }
        Err(error) => Err(Failure::Cannot(chain(&error))),
    }
}

pub(crate) fn tail(out: &mut Out, path: &Path, lines: usize, follow: bool) -> Result<Answer, Failure> {
    let cannot = |error: std::io::Error| Failure::Cannot(format!("cannot read {}: {error}", path.display()));
    let mut reader = BufReader::new(File::open(path).map_err(cannot)?);
    let mut last = VecDeque::new();
    let mut line = String::new();
    let mut position = 0;
    while reader.read_line(&mut line).map_err(cannot)? > 0 {
        if !line.ends_with('\n') {
            break;
        }
        position += line.len() as u64;
        last.push_back(std::mem::take(&mut line));
        if last.len() > lines {
            last.pop_front();
        }
    }
    last.iter().try_for_each(|line| show(out, line))?;
    if !follow {
        return Ok(Answer::Yes);
    }
    loop {
        out.flush()?;
        #[expect(clippy::disallowed_methods, reason = "a person watches, and nothing waits for it")]
        std::thread::sleep(Duration::from_millis(200));
        // A file that was rotated is another one.
        if std::fs::metadata(path).is_ok_and(|found| found.len() < position) {
            reader = BufReader::new(File::open(path).map_err(cannot)?);
            position = 0;
        }
        reader.seek(SeekFrom::Start(position)).map_err(cannot)?;
        line.clear();
        while reader.read_line(&mut line).map_err(cannot)? > 0 && line.ends_with('\n') {
            position += line.len() as u64;
            show(out, &line)?;
            line.clear();
        }
    }
}

/// One record: as it is for programs, in a line for people.
fn show(out: &mut Out, line: &str) -> Result<(), Failure> {
    let line = line.trim_end();
    if out.is_json() {
        return out.line(line);
    }
    let Ok(record) = serde_json::from_str::<Value>(line) else {
        return out.line(format_args!("(not a record) {line}"));
    };
    let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str);
    let target =
        text("/target/label").map_or_else(|| format!("#{}", text("/target/digest").unwrap_or("?")), str::to_owned);
    let mut told = format!(
        "{}  {:<7} {} {target}",
        text("/time").unwrap_or("?"),
        text("/action").unwrap_or("?"),
        text("/target/kind").unwrap_or("?"),
    );
    for (word, pointer) in [("in", "/tenant"), ("by", "/actor/id"), ("for", "/reason")] {
        if let Some(value) = text(pointer) {
            told.push_str(&format!(" {word} {value}"));
        }
    }
    told.push_str(&format!(": {}", text("/outcome/status").unwrap_or("?")));
    if let Some(note) = text("/note") {
        told.push_str(&format!(" ({note})"));
    }
    // What somebody had written there must not move the cursor.
    out.line(told.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>())
}
