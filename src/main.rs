//! `flytrap`: starts, reports, leaves with an exit code. Everything else is in the library.
fn main() {}
