//! What a relay does on the side: carries on orders over dead letters, keeps the broker's dead letters in step with
//! the ledger, forgets attempts that nobody needs, and learns which lanes are paused.

use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Relay, RelayError};
use crate::broker::{Consumer, Delivery, Unavailable};
use crate::config::broker::MAX_BUNDLE;
use crate::domain::task::EmbedTask;

/// How often to look.
const LOOK: Duration = Duration::from_secs(1);
/// How often to forget what the history and the journal keep no longer.
const FORGET: Duration = Duration::from_secs(60);
/// Steps of an order before the next thing has its turn.
const STEPS: usize = 40;
/// Dead letters that are taken and compared together.
const BATCH: usize = 500;
/// Dead letters that one subscription holds: AMQP's prefetch has sixteen bits.
const HELD: usize = 50_000;
/// After this without another one there are no more; and after this, once as many have been seen as there were: one that
/// carries several tasks is taken apart meanwhile.
const SILENCE: Duration = Duration::from_secs(2);
const SHORT_SILENCE: Duration = Duration::from_millis(300);

/// What a round remembers for the next one.
struct Upkeep {
    /// Where to go on with attempts that nobody needs.
    attempts_after: i64,
    /// Letters beyond those of the ledger that the last sweep found to be no tasks of ours.
    foreign: u64,
    compared: Instant,
    forgot: Instant,
}

impl Relay {
    pub(super) async fn keep_up(&self, shutdown: &CancellationToken) {
        let mut upkeep = Upkeep { attempts_after: 0, foreign: 0, compared: Instant::now(), forgot: Instant::now() };
        while timeout(LOOK, shutdown.cancelled()).await.is_err() {
            let round = async {
                self.learn_pauses().await?;
                self.carry_on_orders().await?;
                upkeep.attempts_after = self.db.forget_attempts(upkeep.attempts_after).await?.unwrap_or(0);
                if upkeep.forgot.elapsed() >= FORGET {
                    upkeep.forgot = Instant::now();
                    self.db.forget_history().await?;
                }
                self.sweep_if_due(&mut upkeep).await
            };
            let ended = tokio::select! {
                ended = round => ended,
                () = shutdown.cancelled() => return,
            };
            if let Err(error) = ended {
                // The next round begins with what this one did not get done.
                tracing::debug!(%error, "upkeep has to wait");
            }
        }
    }

    async fn carry_on_orders(&self) -> Result<(), RelayError> {
        for order in self.db.open_orders().await? {
            for _ in 0..STEPS {
                if self.db.carry_on(order).await?.finished {
                    break;
                }
            }
        }
        Ok(())
    }

    /// After a replay or a discard at once; and whenever the broker has more dead letters than it should, as some
    /// were edited or deleted, or moved back and came again.
    async fn sweep_if_due(&self, upkeep: &mut Upkeep) -> Result<(), RelayError> {
        let mark = self.db.unswept().await?;
        let compare = upkeep.compared.elapsed() >= self.reconcile_every;
        if mark.is_none() && !compare {
            return Ok(());
        }
        upkeep.compared = Instant::now();
        let there = self.broker.depths().await?.dead;
        let known = async || self.db.count_dead_letters(&Default::default()).await;
        if mark.is_some() || there > known().await? + upkeep.foreign {
            // What somebody has in hand is not counted, and a person who looks puts it back in no time.
            let kept = self.sweep(there.max(1)).await?;
            upkeep.foreign = kept.saturating_sub(known().await?);
        }
        if let Some(mark) = mark {
            self.db.swept(mark).await?;
        }
        Ok(())
    }

    /// Looks once through so many dead letters and removes those of which the ledger knows nothing any more. Returns
    /// how many stay. What stays is held until the end, or the same ones would come again and again.
    async fn sweep(&self, there: u64) -> Result<u64, RelayError> {
        let (mut held, mut seen, mut removed) = (Vec::new(), 0, 0);
        let mut full = Vec::new();
        let mut consumer = self.broker.review_dead_letters(HELD).await?;
        loop {
            // Others may die meanwhile, without an end.
            let silence = match seen {
                seen if seen >= there * MAX_BUNDLE => break,
                seen if seen >= there => SHORT_SILENCE,
                _ => SILENCE,
            };
            if held.len() / HELD > full.len() {
                full.push(std::mem::replace(&mut consumer, self.broker.review_dead_letters(HELD).await?));
            }
            let letters = match receive(consumer.as_mut(), silence).await? {
                letters if letters.is_empty() => break,
                letters => letters,
            };
            seen += letters.len() as u64;
            let kept = self.remove_outdated(letters).await?;
            removed += kept.1;
            held.extend(kept.0);
        }
        let kept = held.len() as u64;
        // Before their subscriptions end.
        drop(held);
        if removed > 0 {
            tracing::info!(removed, kept, "removed from the dead letters what the ledger has no more");
        }
        Ok(kept)
    }

    /// Returns those that stay, and how many don't.
    async fn remove_outdated(&self, letters: Vec<Delivery>) -> Result<(Vec<Delivery>, usize), RelayError> {
        let task = |letter: &Delivery| EmbedTask::decode(&letter.message.body).ok();
        let (tasks, mut kept): (Vec<_>, Vec<_>) = letters.into_iter().partition(|letter| task(letter).is_some());
        let of_tasks = tasks.iter().filter_map(|letter| Some((task(letter)?, letter.message.published_at)));
        let outdated = self.db.outdated(&of_tasks.collect::<Vec<_>>()).await?;
        let mut removed = 0;
        for (mut letter, outdated) in tasks.into_iter().zip(outdated) {
            if outdated {
                removed += 1;
                letter.ack();
            } else {
                // Its receipt is all that is needed of it.
                letter.message.body = Vec::new();
                kept.push(letter);
            }
        }
        Ok((kept, removed))
    }

    async fn learn_pauses(&self) -> Result<(), RelayError> {
        let pauses = self.db.pauses().await?;
        self.paused.send_replace(pauses);
        Ok(())
    }
}

/// What comes next; nothing after a silence.
async fn receive(consumer: &mut dyn Consumer, silence: Duration) -> Result<Vec<Delivery>, Unavailable> {
    match timeout(silence, consumer.receive(BATCH)).await {
        Ok(letters) => letters,
        Err(_) => Ok(Vec::new()),
    }
}
