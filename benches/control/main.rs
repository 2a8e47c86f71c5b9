//! What control over a provider's calls is worth, by `scripts/bench control`: the number of calls at once against a
//! limit that nobody tells (simulated time, drawn to `docs/adaptive.svg`), and how busy the pipeline keeps a provider.

#[path = "../../tests/it/support/hidden_limit.rs"]
mod hidden_limit;
mod pipeline;
mod svg;

use std::fmt::Write;
use std::time::Duration;

use hidden_limit::{Beyond, Callers, Phase, Run, run};
use svg::{Line, chart};

const FIXED: [usize; 6] = [1, 2, 4, 8, 16, 32];
const PHASE: Duration = Duration::from_secs(60);
const LIMITS: [usize; 5] = [16, 4, 24, 8, 12];
const SEED: u64 = 7;

/// All runs against one kind of provider, and what they show.
struct Comparison {
    beyond: Beyond,
    fixed: Vec<Run>,
    adaptive: Run,
}

impl Comparison {
    async fn of(beyond: Beyond) -> Self {
        let phases = LIMITS.map(|limit| Phase { lasts: PHASE, limit });
        let mut fixed = Vec::new();
        for calls in FIXED {
            fixed.push(run(beyond, &phases, Callers::Fixed(calls), SEED).await);
        }
        Self { beyond, fixed, adaptive: run(beyond, &phases, Callers::Adaptive, SEED).await }
    }

    fn title(&self) -> &'static str {
        match self.beyond {
            Beyond::Queues => "Beyond the limit, calls queue",
            Beyond::IsRefused => "Beyond the limit, calls are refused (429, retry after 1 s)",
        }
    }

    /// The best fixed number over all, its answers, and the sum of each phase's best.
    fn best(&self) -> (usize, u64, u64) {
        let (calls, answers) = FIXED
            .into_iter()
            .zip(self.fixed.iter().map(Run::total))
            .max_by_key(|(_, answers)| *answers)
            .expect("fixed numbers");
        let best = |phase: usize| self.fixed.iter().map(|run| run.answers[phase]).max().expect("runs");
        (calls, answers, (0..LIMITS.len()).map(best).sum())
    }

    fn summary(&self) -> String {
        let (calls, overall, by_phase) = self.best();
        let total = self.adaptive.total();
        let share = |of: u64| 100.0 * total as f64 / of as f64;
        format!(
            "{total} answers: {:.1} % of the best fixed number ({calls}), {:.1} % of the best for each phase",
            share(overall),
            share(by_phase)
        )
    }

    fn table(&self) -> String {
        let mut table = format!(
            "{}\n\n| calls at once | answers by phase | in all | refused |\n|---|---|---|---|\n",
            self.title()
        );
        let names = FIXED.iter().map(|calls| format!("{calls}")).chain(["adaptive".to_owned()]);
        for (name, run) in names.zip(self.fixed.iter().chain([&self.adaptive])) {
            let phases: Vec<String> = run.answers.iter().map(u64::to_string).collect();
            let _ = writeln!(table, "| {name} | {} | {} | {} |", phases.join(", "), run.total(), run.refused);
        }
        format!("{table}\n{}\n", self.summary())
    }

    fn lines(&self) -> [Line; 2] {
        let seconds = PHASE.as_secs_f64();
        let hidden = LIMITS.iter().enumerate().flat_map(|(phase, limit)| {
            [(phase as f64 * seconds, *limit as f64), ((phase + 1) as f64 * seconds, *limit as f64)]
        });
        let chosen = self.adaptive.trace.iter().map(|(at, calls)| (*at, *calls as f64));
        [
            Line { name: "hidden limit", colour: "#b0b0b0", points: hidden.collect() },
            Line { name: "calls at once", colour: "#1f6feb", points: chosen.collect() },
        ]
    }
}

fn adaptive() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let comparisons = runtime
        .expect("a runtime")
        .block_on(async { [Comparison::of(Beyond::Queues).await, Comparison::of(Beyond::IsRefused).await] });
    println!(
        "## Calls at once against a hidden limit of {LIMITS:?}, {} s each, latency 20–500 ms\n",
        PHASE.as_secs()
    );
    let mut charts = Vec::new();
    for comparison in &comparisons {
        println!("{}", comparison.table());
        charts.push((comparison.title(), comparison.summary(), comparison.lines()));
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/adaptive.svg");
    std::fs::write(path, chart(&charts)).expect("docs/ can be written");
}

fn main() {
    adaptive();
    // Of an unoptimised build it says nothing.
    if !cfg!(debug_assertions) {
        pipeline::busy();
    }
}
