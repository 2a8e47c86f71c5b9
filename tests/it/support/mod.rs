//! What the tests share.

pub mod app;
pub mod broker;
pub mod browser;
pub mod data;
pub mod hidden_limit;
pub mod listener;
pub mod process;
pub mod provider;
pub mod rabbit;
pub mod servers;
pub mod stored;
pub mod witness;
