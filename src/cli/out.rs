//! Standard output, without the panic of `println!` when the reader has gone away (`… | head`), and questions, which
//! go to standard error.

use std::fmt::Display;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};

use anyhow::{Context, bail};

/// Prints a line.
pub fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Asks the person at the terminal whether to do `what`.
///
/// # Errors
/// When there is no terminal to ask at: then it must have been said beforehand.
pub fn agreed(what: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("this would {what}; without a terminal to ask at, say --yes");
    }
    let mut error = io::stderr().lock();
    write!(error, "{what}? [y/N] ")?;
    error.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("the answer can't be read")?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

/// Whether an error only says that nobody reads any more.
pub fn nobody_reads(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe))
}
