//! What the tests share.

pub mod app;
pub mod broker;
pub mod provider;
pub mod rabbit;
pub mod stored;
