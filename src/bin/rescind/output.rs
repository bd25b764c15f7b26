//! What people and programs are told.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::Path;
use std::time::Duration;

use rescind::storage::DirectoryError;
use rescind::{CloseError, CopyError, Kind, OpenError, SalvageError, SnapshotError, VerifyError, WriteError};
use serde_json::{Value, json};

/// Why a command was not carried out.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// A process holds the directory.
    Held(String),
    /// Something cannot be opened, read or made. Nothing has changed.
    Cannot(String),
    /// It is not on disk.
    NotDurable(String),
    /// Nobody can be told.
    Output(io::Error),
}

impl Failure {
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Held(_) => 3,
            Self::Cannot(_) | Self::Output(_) => 4,
            Self::NotDurable(_) => 5,
        }
    }
}

impl From<DirectoryError> for Failure {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::InUse { path, pid } => {
                let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
                Self::Held(format!("{} is held by {who}: have that process do it, or stop it first", path.display()))
            }
            // What may be a token is not repeated.
            DirectoryError::Missing { path } if is_subject(&path) => {
                Self::Usage("the store's directory comes first, and then who or what".to_owned())
            }
            other => Self::Cannot(chain(&other)),
        }
    }
}

/// Whether a path looks like `kind:id`.
fn is_subject(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.split_once(':')
        .is_some_and(|(kind, _)| kind == "opaque-token" || Kind::ALL.into_iter().any(|known| known.as_str() == kind))
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Directory(error) => error.into(),
            other => Self::Cannot(chain(&other)),
        }
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Directory(error) => error.into(),
            other => Self::Cannot(chain(&other)),
        }
    }
}

impl From<SalvageError> for Failure {
    fn from(error: SalvageError) -> Self {
        match error {
            SalvageError::Source(error) => error.into(),
            SalvageError::Target(CopyError::Directory(error)) => error.into(),
            other => Self::Cannot(chain(&other)),
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            // The process ends, and with it what is in memory only.
            WriteError::NotDurable(error) => Self::NotDurable(format!("not on disk, and so not done: {error}")),
            other => Self::Cannot(chain(&other)),
        }
    }
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        Self::NotDurable(chain(&error))
    }
}

impl From<CloseError> for Failure {
    fn from(error: CloseError) -> Self {
        Self::NotDurable(chain(&error))
    }
}

/// An error, with what it comes from where it does not say so itself.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// Says on standard error what went wrong, in a line.
pub(crate) fn complain(failure: &Failure, is_json: bool) {
    let text = match failure {
        Failure::Usage(text) | Failure::Held(text) | Failure::Cannot(text) | Failure::NotDurable(text) => text.clone(),
        Failure::Output(error) => format!("the answer cannot be written, though what was asked is done: {error}"),
    };
    let line = if is_json {
        json!({ "error": text, "code": failure.code() }).to_string()
    } else {
        format!("rescind: {}", printable(&text))
    };
    // There is nobody else to tell.
    writeln!(io::stderr(), "{line}").ok();
}

/// Standard output, for people or for programs.
pub(crate) struct Out {
    is_json: bool,
    /// Whether whoever reads has had enough: `| head`.
    is_closed: bool,
    out: BufWriter<StdoutLock<'static>>,
}

impl Out {
    pub(crate) fn new(is_json: bool) -> Self {
        Self { is_json, is_closed: false, out: BufWriter::new(io::stdout().lock()) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.is_json
    }

    /// The answer for programs, if they asked.
    pub(crate) fn json(&mut self, value: impl FnOnce() -> Value) -> Result<bool, Failure> {
        if self.is_json {
            self.raw(format!("{}\n", value()).as_bytes())?;
        }
        Ok(self.is_json)
    }

    /// A line for people.
    pub(crate) fn line(&mut self, text: impl std::fmt::Display) -> Result<(), Failure> {
        self.raw(format!("{}\n", printable(&text.to_string())).as_bytes())
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.out.write_all(bytes);
        self.note(written)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        let flushed = self.out.flush();
        self.note(flushed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Nobody reading on is no failure: the exit code is the answer all the same.
    fn note(&mut self, result: io::Result<()>) -> Result<(), Failure> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            result => result.map_err(Failure::Output),
        }
    }

    /// Rows under a heading, in columns that are as wide as they must be; numbers stand to the right.
    pub(crate) fn table<const N: usize>(&mut self, heading: [&str; N], rows: &[[String; N]]) -> Result<(), Failure> {
        let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| printable(cell))).collect();
        let width = |text: &str| text.chars().count();
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell));
            cells.chain(heading.get(column).map(|name| width(name))).max().unwrap_or(0)
        });
        let is_number: [bool; N] = std::array::from_fn(|column| {
            let cells = || rows.iter().filter_map(|row| row.get(column));
            let has_digits = |cell: &String| cell.chars().any(|c| c.is_ascii_digit());
            cells().any(has_digits)
                && cells().all(|cell| cell.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '-'))
        });
        let mut line = |cells: [&str; N]| {
            let mut text = String::new();
            for ((cell, width), is_number) in cells.iter().zip(widths).zip(is_number) {
                let cell = if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
                text.push_str(&cell);
                text.push_str("  ");
            }
            self.line(text.trim_end())
        };
        line(heading)?;
        rows.iter().try_for_each(|row| line(row.each_ref().map(String::as_str)))
    }
}

/// The text without what would move a terminal's cursor, change its colours or reorder a line: names, actors and notes are
/// what somebody wrote.
fn printable(text: &str) -> String {
    let is_harmful = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if is_harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// A duration for people, in whole seconds.
pub(crate) fn duration(duration: Duration) -> String {
    let whole = Duration::from_secs(duration.as_secs());
    humantime::format_duration(if duration < Duration::from_secs(1) { duration } else { whole }).to_string()
}

/// A difference between clocks for people: its two largest parts.
pub(crate) fn roughly(difference: Duration) -> String {
    duration(difference).split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A number, with a comma before every three digits.
pub(crate) fn number(number: impl Into<u64>) -> String {
    let digits = number.into().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
