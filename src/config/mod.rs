//! The settings: one struct a section.

pub mod embedder;
pub mod secret;
