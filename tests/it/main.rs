//! The integration tests: one binary, so that it links once.

mod adoption;
mod broker_conformance;
mod broker_properties;
mod calibration;
mod contract;
mod embedder;
mod kill;
mod postgres_trouble;
mod promises;
mod search_conformance;
mod services;
mod smoke;
mod support;
