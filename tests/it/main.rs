//! The integration tests: one binary, so that it links once.

mod broker_conformance;
mod broker_properties;
mod calibration;
mod chaos;
mod contract;
mod embedder;
mod healthcheck;
mod kill;
mod live;
mod promises;
mod rabbitmq;
mod services;
mod smoke;
mod support;
