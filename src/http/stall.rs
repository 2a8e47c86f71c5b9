//! A connection whose other end doesn't read.
//!
//! A body that streams for ever has no time limit of its own: once the buffers are full, such a client would keep its
//! connection and what is buffered for it until it goes away by itself, and a shutdown waiting.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The patience that is left during a shutdown.
const HURRY: Duration = Duration::from_secs(1);

/// Fails a write that gets nowhere for `patience`, or for a second once `shutdown` has begun.
pub struct Impatient<S> {
    inner: S,
    patience: Duration,
    shutdown: CancellationToken,
    stalled: Option<Stalled>,
}

/// A write that waits.
struct Stalled {
    until: Pin<Box<Sleep>>,
    /// None once it has come.
    shutdown: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<S> Impatient<S> {
    pub fn new(inner: S, patience: Duration, shutdown: CancellationToken) -> Self {
        Self { inner, patience, shutdown, stalled: None }
    }

    fn judge(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Stalled {
            until: Box::pin(sleep(self.patience)),
            shutdown: Some(Box::pin(self.shutdown.clone().cancelled_owned())),
        });
        if let Some(shutdown) = &mut stalled.shutdown
            && shutdown.as_mut().poll(context).is_ready()
        {
            stalled.shutdown = None;
            let soon = Instant::now() + HURRY;
            if soon < stalled.until.deadline() {
                stalled.until.as_mut().reset(soon);
            }
        }
        ready!(stalled.until.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.judge(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, bytes);
        self.judge(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_gets_nowhere_fails_and_one_that_is_slow_does_not() {
        let (mut client, server) = duplex(8);
        let mut server = Impatient::new(server, Duration::from_secs(10), CancellationToken::new());
        let slow = async {
            for _ in 0..4 {
                sleep(Duration::from_secs(9)).await;
                let _ = client.read(&mut [0; 8]).await;
            }
        };
        let (written, ()) = tokio::join!(server.write_all(&[0; 40]), slow);
        written.expect("each piece came in time");
        let stalled = server.write_all(&[0; 40]).await.unwrap_err();
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_has_little_patience_with_a_write_that_gets_nowhere() {
        let (_client, server) = duplex(8);
        let shutdown = CancellationToken::new();
        let mut server = Impatient::new(server, Duration::from_secs(30), shutdown.clone());
        let began = Instant::now();
        let stop = async {
            sleep(Duration::from_secs(5)).await;
            shutdown.cancel();
        };
        let (stalled, ()) = tokio::join!(server.write_all(&[0; 40]), stop);
        assert_eq!(stalled.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 6);
    }
}
