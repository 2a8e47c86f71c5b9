//! Looks names up, and hands out no address that may not be spoken to: what is checked is what is connected to, and a
//! name that answers differently the second time gains nothing.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::domain::webhook::address::refusal;

pub struct Guarded {
    allow_private: bool,
}

/// All addresses of a name are refused.
#[derive(Debug, thiserror::Error)]
#[error("refused: the name has an address that is {0}, see webhook.allow_private")]
struct Refused(&'static str);

impl Guarded {
    pub fn new(allow_private: bool) -> Self {
        Self { allow_private }
    }
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            // The port is the URL's.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let addresses = if allow_private { found } else { public(found)? };
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// One address inside is enough to refuse a name: nobody's public endpoint has any.
fn public(found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
    match found.iter().find_map(|address| refusal(address.ip())) {
        Some(reason) => Err(Refused(reason)),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    #[tokio::test]
    async fn a_name_of_this_machine_is_found_only_where_that_is_allowed() {
        let resolve = |allow_private| Guarded::new(allow_private).resolve(Name::from_str("localhost").unwrap());
        assert!(resolve(true).await.is_ok_and(|mut found| found.next().is_some()));
        let refused = resolve(false).await.err().unwrap().to_string();
        assert!(refused.contains("loopback"), "{refused}");
    }

    #[test]
    fn one_address_inside_is_enough() {
        let addresses =
            |text: &[&str]| text.iter().map(|a| SocketAddr::new(a.parse().unwrap(), 0)).collect::<Vec<_>>();
        assert_eq!(public(addresses(&["8.8.8.8", "2606:4700::1"])).unwrap().len(), 2);
        for inside in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:192.168.0.1", "fd00::1"] {
            assert!(public(addresses(&["8.8.8.8", inside])).is_err(), "{inside}");
        }
    }
}
