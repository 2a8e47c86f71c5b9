//! The tables that are written column by column, as sea-orm entities.

pub(super) mod place;
pub(super) mod service;
