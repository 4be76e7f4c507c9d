//! What every stage may use: errors, limits, geometry, retries, the request to stop. No I/O and no clock.

pub mod error;
pub mod geometry;
pub mod limits;
pub mod mask;
pub mod retry;
pub mod stop;
pub mod text;
