//! Whose processor time a run takes, as Linux accounts for it. On few cores it says more than the rate: a neighbour on
//! the machine changes that one, too.

use std::fmt;
use std::fs;

/// Processor time so far, in ticks of ten milliseconds.
#[derive(Clone, Copy)]
pub struct Spent {
    postgres: u64,
    rabbitmq: u64,
    own: u64,
}

/// Microseconds for each of some tasks.
pub struct PerTask {
    postgres: f64,
    rabbitmq: f64,
    own: f64,
}

impl Spent {
    /// Of all servers of these names on the machine, and of this process.
    pub fn now() -> Self {
        let mut spent = Self { postgres: 0, rabbitmq: 0, own: 0 };
        for process in fs::read_dir("/proc").expect("Linux").flatten() {
            // One that has ended meanwhile, and what is no process.
            let Ok(stat) = fs::read_to_string(process.path().join("stat")) else { continue };
            let Some((name, ticks)) = name_and_ticks(&stat) else { continue };
            if process.file_name().to_str() == Some(&std::process::id().to_string()) {
                spent.own += ticks;
            } else if name == "postgres" {
                spent.postgres += ticks;
            } else if name.starts_with("beam") {
                spent.rabbitmq += ticks;
            }
        }
        spent
    }

    pub fn per_task(self, since: Self, tasks: usize) -> PerTask {
        let each = |now: u64, then: u64| now.saturating_sub(then) as f64 * 10_000.0 / tasks as f64;
        PerTask {
            postgres: each(self.postgres, since.postgres),
            rabbitmq: each(self.rabbitmq, since.rabbitmq),
            own: each(self.own, since.own),
        }
    }
}

/// The name stands in brackets and may hold anything; user and system time are the 14th and 15th field.
fn name_and_ticks(stat: &str) -> Option<(&str, u64)> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut times = tail.split_whitespace().skip(11).map(str::parse::<u64>);
    Some((name, times.next()?.ok()? + times.next()?.ok()?))
}

impl fmt::Display for PerTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { postgres, rabbitmq, own } = self;
        write!(f, "PostgreSQL {postgres:.0} µs, RabbitMQ {rabbitmq:.0} µs, this program {own:.0} µs")
    }
}
