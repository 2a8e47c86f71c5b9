//! The HTTP room: parse, call, shape. It knows no broker, no relay and no worker: a save is done when the
//! database has it.

pub mod access;
mod body;
mod dead_filter;
mod described;
mod description;
mod error;
mod events;
mod identity;
mod layers;
mod limits;
mod ndjson;
pub mod origins;
mod params;
mod routes;
mod server;
mod shape;
mod stall;
mod state;
mod traced;

pub use error::ApiError;
pub use events::Events;
pub use routes::{metrics_router, openapi, router};
pub use server::Server;
pub use state::AppState;
