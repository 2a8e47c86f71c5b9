//! The rate limits of an embedding provider, kept for all processes together: token buckets in one row.
//!
//! A bucket fills continuously, its whole limit in a window. Each change is one statement on one row, so that
//! processes side by side can't both take what is there once. All moments are of the database's clock.

use chrono::{DateTime, Utc};
use sea_orm::{FromQueryResult, Value};

use super::{Db, DbError, sql};

/// The share of a limit that documents leave to queries while there are any.
const RESERVE: f64 = 0.1;
/// What is left over, as a share of a limit and in milliseconds at most: a call that travels faster than the one
/// before comes to the provider earlier than this clock thinks. It costs a moment once and no throughput.
const MARGIN: (f64, f64) = (0.01, 250.0);

/// What a call takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    pub tokens: f64,
    /// A search's: it may use the reserve, and isn't held back by what a provider told the documents.
    pub query: bool,
}

/// What is known after a call.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settlement {
    /// Tokens that were taken and not used; negative when more were used.
    pub give_back: f64,
    /// Limit and what is left, as the provider's answer has them.
    pub requests: (Option<f64>, Option<f64>),
    pub tokens: (Option<f64>, Option<f64>),
}

/// The limits and what is left of them now; a limit of 0 is unknown.
#[derive(Clone, Debug, PartialEq, FromQueryResult)]
pub struct ProviderLimits {
    pub requests_limit: f64,
    pub requests_left: f64,
    pub tokens_limit: f64,
    pub tokens_left: f64,
    /// Milliseconds since 1970.
    pub blocked_until: f64,
    /// Now, by the same clock.
    pub now: f64,
}

impl ProviderLimits {
    /// Until when the provider asked to wait, if that is still to come.
    pub fn waiting_until(&self) -> Option<DateTime<Utc>> {
        (self.blocked_until > self.now)
            .then(|| DateTime::from_timestamp_millis(self.blocked_until as i64))
            .flatten()
    }
}

#[derive(FromQueryResult)]
struct Taken {
    provider: String,
}

/// The SQL that differs.
#[derive(Clone, Copy)]
struct Dialect {
    now: &'static str,
    least: &'static str,
    greatest: &'static str,
}

const SQLITE: Dialect = Dialect { now: "(unixepoch('subsec') * 1000.0)", least: "min", greatest: "max" };
const POSTGRES: Dialect = Dialect {
    // Not now(): that is the transaction's, and one that waited for the row's lock would go back in time.
    now: "(extract(epoch FROM clock_timestamp()) * 1000)::float8",
    least: "least",
    greatest: "greatest",
};

impl Dialect {
    /// What is in the bucket now.
    fn level(self, kind: &str) -> String {
        let Self { now, least, greatest } = self;
        format!(
            "{least}({kind}_limit, {kind}_left + {greatest}(0.0, {now} - refilled_at) * {kind}_limit / window_ms)"
        )
    }

    /// What must be in it for a call that takes `cost`: a limit that is smaller must be all there.
    fn need(self, kind: &str, cost: &str, least_reserve: &str, query: bool) -> String {
        let Self { now, least, greatest } = self;
        let (share, most_ms) = MARGIN;
        let cost = format!("{cost} + {kind}_limit * {least}({share:?}, {most_ms:?} / window_ms)");
        let reserve = match query {
            true => String::new(),
            false => format!(
                " + CASE WHEN {now} - queried_at < window_ms \
                 THEN {greatest}({least_reserve}, {kind}_limit * {RESERVE:?}) ELSE 0.0 END"
            ),
        };
        format!("{least}({kind}_limit, {cost}{reserve})")
    }

    fn take(self, query: bool) -> String {
        let Self { now, least, greatest } = self;
        let (requests, tokens) = (self.level("requests"), self.level("tokens"));
        let (need_one, need_tokens) =
            (self.need("requests", "1.0", "1.0", query), self.need("tokens", "$2", "0.0", query));
        let (mark, blocked) = if query {
            (format!("queried_at = {now}, "), String::new())
        } else {
            (String::new(), format!(" AND blocked_until <= {now}"))
        };
        format!(
            "UPDATE provider_limits SET {mark}requests_left = CASE WHEN requests_limit > 0 THEN {requests} - 1.0 ELSE 0.0 END, \
             tokens_left = CASE WHEN tokens_limit > 0 THEN {tokens} - {least}($2, tokens_limit) ELSE 0.0 END, \
             refilled_at = {greatest}(refilled_at, {now}) WHERE provider = $1 \
             AND (requests_limit <= 0 OR {requests} >= {need_one}) AND (tokens_limit <= 0 OR {tokens} >= {need_tokens})\
             {blocked} RETURNING provider"
        )
    }

    /// Milliseconds until [`Dialect::take`] can succeed.
    fn wait(self, query: bool) -> String {
        let Self { now, greatest, .. } = self;
        let missing = |kind: &str, need: String| {
            let level = self.level(kind);
            format!("CASE WHEN {kind}_limit > 0 THEN ({need} - {level}) * window_ms / {kind}_limit ELSE 0.0 END")
        };
        let requests = missing("requests", self.need("requests", "1.0", "1.0", query));
        let tokens = missing("tokens", self.need("tokens", "$2", "0.0", query));
        let blocked = if query { "0.0".to_owned() } else { format!("blocked_until - {now}") };
        format!("SELECT {greatest}(0.0, {requests}, {tokens}, {blocked}) FROM provider_limits WHERE provider = $1")
    }

    /// Parameters: provider, tokens to give back, then for requests and tokens limit and left, negative when
    /// the provider didn't say. What it says is left can only lower a level: calls that are under way aren't in it.
    fn settle(self) -> String {
        let Self { now, least, greatest } = self;
        let kind = |kind: &str, back: &str, limit: &str, left: &str| {
            let (level, next) =
                (self.level(kind), format!("CASE WHEN {limit} > 0 THEN {limit} ELSE {kind}_limit END"));
            let said = format!("CASE WHEN {left} >= 0 THEN {left} ELSE {next} END");
            format!(
                "{kind}_limit = {next}, {kind}_left = {least}({next}, {said}, \
                 CASE WHEN {kind}_limit > 0 THEN {level} + {back} ELSE {next} END)"
            )
        };
        format!(
            "UPDATE provider_limits SET {}, {}, refilled_at = {greatest}(refilled_at, {now}) WHERE provider = $1",
            kind("requests", "0.0", "$3", "$4"),
            kind("tokens", "$2", "$5", "$6"),
        )
    }
}

impl Db {
    fn dialect(&self) -> Dialect {
        if self.is_postgres() { POSTGRES } else { SQLITE }
    }

    /// Notes the limits of the settings, 0 where they say none, over a window in milliseconds. What another
    /// process has taken stays taken.
    pub async fn declare_provider(
        &self,
        key: &str,
        requests: f64,
        tokens: f64,
        window_ms: f64,
    ) -> Result<(), DbError> {
        let Dialect { now, least, .. } = self.dialect();
        let kept = |kind: &str| {
            format!(
                "{kind}_left = CASE WHEN provider_limits.{kind}_limit > 0 \
                 THEN {least}(provider_limits.{kind}_left, excluded.{kind}_limit) ELSE excluded.{kind}_limit END, \
                 {kind}_limit = excluded.{kind}_limit"
            )
        };
        let upsert = format!(
            "INSERT INTO provider_limits (provider, window_ms, requests_limit, requests_left, tokens_limit, \
             tokens_left, refilled_at) VALUES ($1, $2, $3, $3, $4, $4, {now}) ON CONFLICT (provider) DO UPDATE SET \
             window_ms = excluded.window_ms, {}, {}",
            kept("requests"),
            kept("tokens"),
        );
        self.change(upsert, [key.into(), window_ms.into(), requests.into(), tokens.into()]).await?;
        Ok(())
    }

    /// Takes a request and its tokens, both or neither; returns in how many milliseconds to ask again, or `None`
    /// when they have been taken. A call that needs more than the whole limit takes all of it.
    pub async fn take_budget(&self, key: &str, cost: Cost) -> Result<Option<f64>, DbError> {
        let dialect = self.dialect();
        let values: [Value; 2] = [key.into(), cost.tokens.into()];
        let taken: Vec<Taken> = self.change_returning(dialect.take(cost.query), values.clone()).await?;
        if taken.iter().any(|row| row.provider == key) {
            return Ok(None);
        }
        if cost.query {
            // Documents leave the reserve from now on, although this one came too early.
            let mark = format!("UPDATE provider_limits SET queried_at = {} WHERE provider = $1", dialect.now);
            self.change(mark, [key.into()]).await?;
        }
        let wait: Option<f64> = sql::scalar(self.read(), &dialect.wait(cost.query), values).await?;
        // No row: nobody has declared a limit.
        Ok(wait.map(|ms| ms.max(1.0)))
    }

    /// Gives back what a call didn't use, and learns what the provider said.
    pub async fn settle_budget(&self, key: &str, settlement: Settlement) -> Result<(), DbError> {
        let Settlement { give_back, requests, tokens } = settlement;
        let said = |value: Option<f64>| Value::from(value.unwrap_or(-1.0));
        let values =
            [key.into(), give_back.into(), said(requests.0), said(requests.1), said(tokens.0), said(tokens.1)];
        self.change(self.dialect().settle(), values).await?;
        Ok(())
    }

    /// The provider asked to wait so many milliseconds.
    pub async fn block_provider(&self, key: &str, ms: f64) -> Result<(), DbError> {
        let Dialect { now, greatest, .. } = self.dialect();
        let update = format!(
            "UPDATE provider_limits SET blocked_until = {greatest}(blocked_until, {now} + $2) WHERE provider = $1"
        );
        self.change(update, [key.into(), ms.into()]).await?;
        Ok(())
    }

    /// What is known of a provider; none before it was declared.
    pub async fn provider_limits(&self, key: &str) -> Result<Option<ProviderLimits>, DbError> {
        let dialect = self.dialect();
        let select = format!(
            "SELECT requests_limit, {} AS requests_left, tokens_limit, {} AS tokens_left, blocked_until, {} AS now \
             FROM provider_limits WHERE provider = $1",
            dialect.level("requests"),
            dialect.level("tokens"),
            dialect.now,
        );
        sql::one(self.read(), &select, [key.into()]).await
    }
}
