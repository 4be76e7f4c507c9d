//! Reads batches in the format "postcard" (`uplink.format = "postcard"`) and counts crossings by line and class.
//!
//! `cargo run --example read_batches -- received.bin …`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example")]

use std::collections::BTreeMap;
use std::process::ExitCode;

use flytrap::delivery::uplink::format::packed;
use flytrap::event::Body;

fn main() -> ExitCode {
    let mut crossings: BTreeMap<(String, String, String), u64> = BTreeMap::new();
    for path in std::env::args().skip(1) {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        };
        // A file may contain many batches, one after the other.
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (batch, behind) = match packed::read_batch(rest) {
                Ok(read) => read,
                Err(why) => {
                    eprintln!("{path}, byte {}: {why}", bytes.len() - rest.len());
                    return ExitCode::FAILURE;
                }
            };
            for event in &batch.events {
                if let Body::Crossing(crossing) = &event.body {
                    let way = (&crossing.line, &crossing.direction_name, &crossing.class);
                    let key = (way.0.to_string(), way.1.to_string(), way.2.to_string());
                    *crossings.entry(key).or_default() += 1;
                }
            }
            rest = behind;
        }
    }
    for ((line, direction, class), count) in &crossings {
        println!("{line}\t{direction}\t{class}\t{count}");
    }
    ExitCode::SUCCESS
}
