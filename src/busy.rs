//! How much is under way, for those who would rather go with others than alone beside it.

use std::sync::Arc;

use tokio::sync::watch;

/// Clones share the count.
#[derive(Clone, Debug)]
pub struct Busy(Arc<watch::Sender<usize>>);

/// Something under way, for as long as it lives.
#[derive(Debug)]
pub struct UnderWay(Busy);

impl Default for Busy {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Busy {
    pub fn begin(&self) -> UnderWay {
        self.0.send_modify(|under_way| *under_way += 1);
        UnderWay(self.clone())
    }

    /// Waits until nothing is.
    pub async fn quiet(&self) {
        // It can't be closed, as `self` is a sender.
        let _ = self.0.subscribe().wait_for(|under_way| *under_way == 0).await;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.send_modify(|under_way| *under_way -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn it_is_quiet_once_all_have_ended() {
        let busy = Busy::default();
        assert!(busy.quiet().now_or_never().is_some());
        let (first, second) = (busy.begin(), busy.clone().begin());
        drop(first);
        assert!(busy.quiet().now_or_never().is_none());
        drop(second);
        assert!(busy.quiet().now_or_never().is_some());
    }
}
