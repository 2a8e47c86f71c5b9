//! Accepts connections and serves them until shutdown.
//!
//! Not `axum::serve`: that has no limit on connections and waits for ever for a request's head, so that a
//! few thousand clients that send nothing would use up the file descriptors.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::limits::Peer;
use super::stall::Impatient;
use crate::config::sections::ServerSettings;

/// Time for a request's head to arrive, counted anew for each request on a connection. A shorter request
/// timeout holds for the head too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an accept that failed, as when file descriptors are used up: trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes of a head, less than which are always taken and twice as many never. Left to itself the server took one of
/// 500,000 or refused it by how it came in.
const HEAD_BUFFER: usize = 128 * 1024;
/// Bytes that the system keeps at most of what a client hasn't read yet. Left to itself it keeps megabytes for each.
const SEND_BUFFER: u32 = 128 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A bound listener with the routes it will serve.
pub struct Server {
    listener: TcpListener,
    connections: Arc<Semaphore>,
    head_timeout: Duration,
    /// The longest that a client may take nothing of what is sent.
    write_timeout: Duration,
    router: Router,
}

impl Server {
    /// Binds `server.bind`; port 0 takes a free one.
    pub async fn bind(settings: &ServerSettings, router: Router) -> io::Result<Self> {
        let socket = if settings.bind.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        // The connections inherit it.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(settings.bind)?;
        let listener = socket.listen(BACKLOG)?;
        let connections = Arc::new(Semaphore::new(settings.max_connections));
        let write_timeout = Duration::from_millis(settings.request_timeout_ms);
        let head_timeout = HEAD_TIMEOUT.min(write_timeout);
        Ok(Self { listener, connections, head_timeout, write_timeout, router })
    }

    pub fn addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`, then lets the requests under way finish within `grace`.
    pub async fn run(self, shutdown: CancellationToken, grace: Duration) {
        // Said outright: with HTTP/2 as a choice, which another crate's features may bring, it first waits
        // without a limit for the bytes that tell the version.
        let mut builder = Builder::new(TokioExecutor::new()).http1_only();
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.head_timeout).max_buf_size(HEAD_BUFFER);
        let open = GracefulShutdown::new();
        loop {
            // The permit is taken before the accept: what is too much waits in the kernel's queue.
            let permit = tokio::select! {
                permit = self.connections.clone().acquire_owned() => permit,
                () = shutdown.cancelled() => break,
            };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let (Ok(permit), Ok((stream, peer))) = (permit, accepted) else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let io = io_of(stream, self.write_timeout, shutdown.clone());
            let connection = builder.serve_connection(io, service(self.router.clone(), peer)).into_owned();
            let connection = open.watch(connection);
            tokio::spawn(async move {
                // A client that hangs up half-way is its own affair.
                if let Err(error) = connection.await {
                    tracing::debug!(error, "a connection ended early");
                }
                drop(permit);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(grace, open.shutdown()).await.is_err() {
            tracing::warn!("requests were not finished within the grace time");
        }
    }
}

fn io_of(stream: TcpStream, write_timeout: Duration, shutdown: CancellationToken) -> TokioIo<Impatient<TcpStream>> {
    // Small answers must not wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
    TokioIo::new(Impatient::new(stream, write_timeout, shutdown))
}

/// The routes, which see the other end of the connection as an extension.
fn service(
    router: Router,
    peer: SocketAddr,
) -> TowerToHyperService<
    impl tower::Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone + Send,
> {
    TowerToHyperService::new(router.map_request(move |request: Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(Peer(peer));
        request
    }))
}
