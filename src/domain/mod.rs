//! What the service is about, without I/O and without async: everything else may use this room, and
//! it uses none of ours.

pub mod backoff;
pub mod body;
pub mod dead_letter;
pub mod embedding;
mod envelope;
pub mod event;
pub mod fields;
pub mod fusion;
pub mod gradient;
pub mod history;
pub mod intake;
pub mod keywords;
pub mod priority;
pub mod query;
pub mod recommendation;
pub mod regeneration;
pub mod status;
pub mod task;
pub mod text;
pub mod trace;
pub mod usage;
pub mod webhook;
