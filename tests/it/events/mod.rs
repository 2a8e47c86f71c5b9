//! Live events from outside: what is told, to whom, and what listeners cost.

mod crowd;
mod limits;
mod told;

const EVENTS: &str = "/api/recommendations/embedding-queue/events";
