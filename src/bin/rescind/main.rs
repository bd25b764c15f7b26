//! The command line: look at a store, change it, check what it was damaged by, save what is readable.

mod arguments;
mod audit;
mod bench;
mod look;
mod output;
mod progress;
mod write;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use arguments::{Arguments, AuditCommand, Command};
use output::{Failure, Out};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misunderstood(&error),
    };
    let mut out = Out::new(arguments.json);
    let done = run(&arguments, &mut out).and_then(|answer| out.flush().map(|()| answer));
    match done {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Err(failure) => {
            output::complain(&failure, arguments.json);
            ExitCode::from(failure.code())
        }
    }
}

/// A command line that makes no sense; or help, which parses no further.
fn misunderstood(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || !std::env::args_os().any(|argument| argument == "--json") {
        error.exit();
    }
    let text = error.render().to_string();
    let first = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    let failure = Failure::Usage(first.split_whitespace().collect::<Vec<_>>().join(" "));
    output::complain(&failure, true);
    ExitCode::from(failure.code())
}

/// What a command found out, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
}

impl Answer {
    fn of(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
}

fn run(arguments: &Arguments, out: &mut Out) -> Result<Answer, Failure> {
    let key = arguments.key()?;
    match &arguments.command {
        Command::Inspect { directory } => look::inspect(out, directory, key),
        Command::Verify { directory } => look::verify(out, directory, key),
        Command::Salvage { from, into } => look::salvage(out, from, into, key),
        Command::List { directory, kind, denied } => look::list(out, directory, key, *kind, *denied),
        Command::Explain { directory, subjects } => look::explain(out, directory, key, subjects),
        Command::Revoke { directory, subjects, epoch, why } => write::revoke(out, directory, key, subjects, epoch, why),
        Command::Disable { directory, subjects, why } => write::disable(out, directory, key, subjects, why),
        Command::Enable { directory, subjects, why } => write::enable(out, directory, key, subjects, why),
        Command::Lift { directory, subjects, why } => write::lift(out, directory, key, subjects, why),
        Command::Restate { directory, subjects, why } => write::restate(out, directory, key, subjects, why),
        Command::Settle { directory, audit } => write::settle(out, directory, key, audit.as_deref()),
        Command::SetMaxAge { directory, age, subjects, why } => {
            write::set_max_age(out, directory, key, subjects, *age, why)
        }
        Command::ClearMaxAge { directory, subjects, why } => write::clear_max_age(out, directory, key, subjects, why),
        Command::Snapshot { directory } => write::snapshot(out, directory, key),
        Command::Audit { command: AuditCommand::Verify { file, against } } => {
            audit::verify(out, file, against.as_ref())
        }
        Command::Audit { command: AuditCommand::Tail { file, lines, follow } } => {
            audit::tail(out, file, *lines, *follow)
        }
        Command::Bench { entries, directory } => bench::bench(out, *entries, directory.as_deref()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "rescind", &mut script);
            out.raw(&script)?;
            Ok(Answer::Yes)
        }
        Command::Man { directory: None } => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command()).render(&mut page).map_err(Failure::Output)?;
            out.raw(&page)?;
            Ok(Answer::Yes)
        }
        Command::Man { directory: Some(directory) } => {
            std::fs::create_dir_all(directory)
                .and_then(|()| clap_mangen::generate_to(Arguments::command(), directory))
                .map_err(|error| Failure::Cannot(format!("cannot write to {}: {error}", directory.display())))?;
            Ok(Answer::Yes)
        }
    }
}
