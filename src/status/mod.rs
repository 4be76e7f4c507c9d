//! The device's figures for programs and people nearby: a small HTTP server, OpenMetrics pages, and the resource log as CSV.
//!
//! ```text
//!   run: Pages ──► server ──► scraper, load balancer, browser      /metrics, /healthz, …: a copy of the figures, on request
//!                    ├─ request, exchange, access                   bounded in connections, bytes, time and processor time
//!                    └─ socket ──► flytrap top, kpi, reload         the same on a Unix socket, for who may write to it
//!   run: rows  ──► csv ──► resources.csv, resources.csv.1           a row at a time, bounded in bytes
//! ```
//! This module knows no counters, and of the settings only the socket's place: [`crate::run`] fills the pages and rows. A client over TCP
//! can read, and change nothing; one on the socket can ask for a reload too.
//!
//! - [`server`]: sockets, the table of connections, the thread.
//! - [`page`]: what a handler gets and fills: [`Pages`], [`Request`], [`Page`].
//! - [`access`]: which address may be listened on, and who may read: loopback, or a token.
//! - [`socket`]: the Unix socket: where it is, and who has it.
//! - [`openmetrics`]: the text of `/metrics`.
//! - [`csv`]: the resource log (S11).
//! - [`client`], [`socket`]: how a command finds a running program and reads its pages.

pub mod access;
pub mod client;
pub mod csv;
mod exchange;
pub mod openmetrics;
pub mod page;
mod request;
pub mod server;
pub mod socket;

pub use page::{Page, Pages, Request, Status};
