//! The real servers that `scripts/services` starts, found through the variables that its `env` prints.

/// A server's address. `None` when a test is run by itself and nobody has started the servers: it then says so
/// and has nothing to test. Under `scripts/test` a missing server is a failure.
pub fn address(name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        assert!(!required(), "{name} is missing though MAPX_TEST_SERVICES says that the servers run");
        eprintln!("not tested without {name}: scripts/services && set -a && eval \"$(scripts/services env)\"");
    }
    value
}

fn required() -> bool {
    std::env::var("MAPX_TEST_SERVICES").is_ok_and(|value| value == "required")
}
