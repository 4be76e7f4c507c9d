//! `flytrap decode`: prints what a receiver of the formats "postcard", "postcard2" and "postcard3" has stored, as CloudEvents.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{Failed, print};
use crate::base::error::{Error, Kind};
use crate::delivery::uplink::Batch;
use crate::delivery::uplink::format::cloudevents;
use crate::delivery::uplink::format::packed::{self, Unpacked, Unreadable};

/// Prints every event of every batch in `file`, or on standard input, up to the first damage. Memory: one batch, however long the file.
pub(super) fn decode(file: Option<&Path>) -> Result<(), Failed> {
    match file {
        None => decode_all(io::stdin().lock(), "standard input", |lines| Ok(print(lines)?)),
        Some(path) => {
            let place = format!("'{}'", path.display());
            let file = File::open(path).map_err(|error| read_failed(&place, error))?;
            decode_all(file, &place, |lines| Ok(print(lines)?))
        }
    }
}

fn decode_all(
    mut source: impl Read,
    place: &str,
    mut write: impl FnMut(&str) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let (mut bytes, mut lines) = (Vec::new(), Vec::new());
    // The number of decoded `bytes`, and their offset in the source.
    let (mut at, mut offset, mut ended) = (0, 0, false);
    loop {
        match packed::read_batch(&bytes[at..]) {
            Ok((batch, behind)) => {
                at = bytes.len() - behind.len();
                let Unpacked { origin, calendar, events } = batch;
                cloudevents::write_lines(&Batch::new(&origin, calendar, &events), &mut lines);
                write(String::from_utf8_lossy(&lines).trim_end())?;
            }
            Err(Unreadable::Short) if !ended => {
                bytes.drain(..at);
                (offset, at) = (offset + at, 0);
                let room = packed::BATCH_BYTES_MAX - bytes.len();
                let read = source.by_ref().take(room as u64).read_to_end(&mut bytes);
                ended = read.map_err(|error| read_failed(place, error))? < room;
            }
            Err(_) if ended && at == bytes.len() => return Ok(()),
            Err(why) => {
                let text = format!("{place}, byte {}: {why}", offset + at);
                return Err(Error::fatal(Kind::Config, text).into());
            }
        }
    }
}

fn read_failed(place: &str, error: io::Error) -> Error {
    Error::fatal(Kind::Config, format!("read {place}")).caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that never ends, and counts the bytes taken from it.
    struct Endless<'a> {
        first: &'a [u8],
        taken: u64,
    }

    impl Read for Endless<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.first.read(buffer)?;
            let count = if count == 0 { buffer.len() } else { count };
            self.taken += count as u64;
            Ok(count)
        }
    }

    #[test]
    fn an_endless_source_stops_at_the_first_byte_that_is_not_a_batch() {
        let hex = include_str!("../../tests/data/batch-v1.hex").trim();
        let batch: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let all = batch.repeat(3000); // More than the buffer holds.
        assert!(all.len() > 2 * packed::BATCH_BYTES_MAX);
        let (mut printed, mut source) = (0, Endless { first: &all, taken: 0 });
        let count = |_: &str| -> Result<(), Failed> {
            printed += 1;
            Ok(())
        };
        let failed = decode_all(&mut source, "it", count);
        let Err(Failed::Error(error)) = failed else { panic!("an error") };
        assert!(error.to_string().contains(&format!("it, byte {}:", all.len())), "{error}");
        assert_eq!(printed, 3000);
        assert!(source.taken <= (all.len() + packed::BATCH_BYTES_MAX) as u64, "{}", source.taken);
        assert!(decode_all(&b""[..], "nothing", |_| panic!("nothing")).is_ok());
        assert!(decode_all(&all[..batch.len() + 5], "cut", |_| Ok(())).is_err());
    }
}
