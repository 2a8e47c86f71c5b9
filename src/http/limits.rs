//! How much one client may ask, and how much all of them together.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::error::ApiError;
use super::identity;
use super::state::AppState;
use crate::auth::{Caller, Rank};
use crate::config::sections::ServerSettings;

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Who is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    User(Uuid),
    /// The bearer of a token that is no user's.
    Token(u8),
    Address(IpAddr),
    /// All others, when there are more clients than can be told apart.
    Rest,
}

impl Client {
    /// By whom the token names, else by the address. Where the header is believed, it is whom that names: the address
    /// is then that of the proxy which sets it.
    pub fn of(caller: Option<&Caller>, request: &Request) -> Self {
        match caller {
            Some(Caller { user: Some(user), .. }) => Self::User(*user),
            Some(Caller { rank: rank @ (Rank::Admin | Rank::Reader | Rank::Scraper), .. }) => {
                Self::Token(*rank as u8)
            }
            Some(Caller { rank, .. }) if rank.believes() => {
                let stated = identity::stated(request.headers()).ok().flatten();
                stated.map_or_else(|| Self::at(request), Self::User)
            }
            _ => Self::at(request),
        }
    }

    /// By the address, of which an IPv6 client has a whole network's.
    pub fn at(request: &Request) -> Self {
        match request.extensions().get::<Peer>().map(|peer| peer.0.ip().to_canonical()) {
            None => Self::Rest,
            Some(IpAddr::V6(ip)) => Self::Address(IpAddr::V6((u128::from(ip) >> 64 << 64).into())),
            Some(ip) => Self::Address(ip),
        }
    }
}

/// Clients that are told apart, of some 64 bytes each.
const MAX_CLIENTS: usize = 50_000;
/// Between two looks for clients that have long been silent.
const SWEEP: Duration = Duration::from_secs(1);
/// What a burst of 0 stands for, in seconds of the rate.
const BURST_SECONDS: u32 = 10;

/// What is left to each client, and to all together.
pub struct Limits {
    rate: Option<Rate>,
    running: Semaphore,
    /// For which a request waits for its turn.
    patience: Duration,
}

struct Rate {
    left: DefaultKeyedRateLimiter<Client>,
    clock: DefaultClock,
    max_clients: usize,
    swept: Mutex<Option<Instant>>,
}

impl Limits {
    pub fn new(settings: &ServerSettings) -> Self {
        let per_second = NonZeroU32::new(settings.rate_limit_per_second);
        let rate = per_second.map(|rate| Rate::new(rate, settings.rate_limit_burst, MAX_CLIENTS));
        let patience = Duration::from_millis(settings.request_timeout_ms);
        Self { rate, running: Semaphore::new(settings.max_concurrent_requests), patience }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// When the client has none left.
    pub fn count(&self, client: Client) -> Result<(), ApiError> {
        self.rate.as_ref().map_or(Ok(()), |rate| rate.count(client).map_err(ApiError::RateLimited))
    }
}

impl Rate {
    fn new(per_second: NonZeroU32, burst: u32, max_clients: usize) -> Self {
        let burst = NonZeroU32::new(burst).unwrap_or(per_second.saturating_mul(TEN));
        let left = RateLimiter::keyed(Quota::per_second(per_second).allow_burst(burst));
        Self { left, clock: DefaultClock::default(), max_clients, swept: Mutex::new(None) }
    }

    /// The seconds to wait, where the client has none left.
    fn count(&self, client: Client) -> Result<(), u64> {
        let client = if self.is_full() { Client::Rest } else { client };
        self.left.check_key(&client).map_err(|until| {
            let wait = until.wait_time_from(self.clock.now());
            wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
        })
    }

    /// Whether there are as many clients as are told apart, when those that have all of theirs left are forgotten.
    fn is_full(&self) -> bool {
        if self.left.len() < self.max_clients {
            return false;
        }
        if let Ok(mut swept) = self.swept.try_lock()
            && swept.is_none_or(|at| at.elapsed() >= SWEEP)
        {
            *swept = Some(Instant::now());
            self.left.retain_recent();
            self.left.shrink_to_fit();
        }
        self.left.len() >= self.max_clients
    }
}

const TEN: NonZeroU32 = NonZeroU32::MIN.saturating_add(BURST_SECONDS - 1);

/// Lets so many requests be worked on at once as the settings say; more wait for their turn.
pub async fn turn(State(state): State<AppState>, request: Request, next: Next) -> Result<Response, ApiError> {
    // Who asks whether the service is alive asks most when it is busy.
    if request.uri().path().starts_with("/health/") {
        return Ok(next.run(request).await);
    }
    let turn = tokio::time::timeout(state.limits.patience, state.limits.running.acquire()).await;
    let _turn = turn.ok().and_then(Result::ok).ok_or(ApiError::Overloaded)?;
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> Client {
        Client::Address(IpAddr::from([10, 0, 0, n]))
    }

    #[test]
    fn each_client_has_a_burst_of_its_own_and_is_told_how_long_to_wait() {
        let rate = Rate::new(NonZeroU32::MIN, 2, 100);
        for client in [address(1), address(2), Client::User(Uuid::from_u128(1))] {
            assert_eq!([rate.count(client), rate.count(client), rate.count(client)], [Ok(()), Ok(()), Err(1)]);
        }
    }

    #[test]
    fn clients_beyond_the_limit_are_counted_together_and_take_no_memory() {
        let rate = Rate::new(NonZeroU32::MIN, 2, 3);
        let refused = (0..=255).filter(|n| rate.count(address(*n)).is_err()).count();
        assert_eq!(refused, 256 - 3 - 2);
        assert!(rate.left.len() <= 4, "{}", rate.left.len());
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let at = |ip: &str| {
            let mut request = Request::new(axum::body::Body::empty());
            request.extensions_mut().insert(Peer(SocketAddr::new(ip.parse().unwrap(), 1)));
            Client::at(&request)
        };
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:10.0.0.1"), address(1));
        assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
    }
}
