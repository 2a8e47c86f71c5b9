//! What `scripts/services` promises to the tests that need a real server.

use std::net::TcpStream;
use std::time::Duration;

use reqwest::Url;

use crate::support::data::server;

#[test]
fn every_server_is_there_and_on_loopback_only() {
    for name in ["MAPX_TEST_AMQP_URL", "MAPX_TEST_AMQPS_URL", "MAPX_TEST_RABBITMQ_API", "MAPX_TEST_POSTGRES_URL"] {
        let address = server(name);
        let url = Url::parse(&address).unwrap_or_else(|error| panic!("{name} is {address}: {error}"));
        let addresses = url.socket_addrs(|| None).unwrap_or_else(|error| panic!("{name} is {address}: {error}"));
        assert!(addresses.iter().all(|a| a.ip().is_loopback()), "{name}: {addresses:?}");
        let answers = |a| TcpStream::connect_timeout(a, Duration::from_secs(5)).is_ok();
        assert!(addresses.iter().any(answers), "nothing listens at {address}");
    }
}

#[test]
fn the_authority_of_amqps_can_be_read() {
    let path = server("MAPX_TEST_AMQPS_CA");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(text.starts_with("-----BEGIN CERTIFICATE-----"), "{path}");
}
