//! The integration tests: one binary, so that it links once.

mod adoption;
mod backlog;
mod broker_conformance;
mod broker_properties;
mod calibration;
mod chaos;
mod contract;
mod control;
mod embedder;
mod healthcheck;
mod kill;
mod live;
mod operate;
mod postgres_trouble;
mod promises;
mod providers;
mod rabbitmq;
mod regenerate;
mod search_conformance;
mod secrets;
mod services;
mod smoke;
mod support;
mod tls;
mod webhooks;
