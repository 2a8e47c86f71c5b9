//! Standard output, without the panic of `println!` when the reader has gone away (`… | head`).

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Prints a line.
pub fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Whether an error only says that nobody reads any more.
pub fn nobody_reads(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe))
}
