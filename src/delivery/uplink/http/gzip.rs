//! gzip with memory that is allocated once.

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// RFC 1952: deflate, no name, no time, unknown system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Compresses one body after the other.
pub(super) struct Gzip {
    compress: Compress,
    out: Vec<u8>,
}

impl Gzip {
    pub(super) fn new() -> Self {
        Gzip { compress: Compress::new(Compression::default(), false), out: Vec::new() }
    }

    /// Allocates the memory for bodies of up to `bytes`.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.out.reserve(bytes / 2);
    }

    /// `body`, compressed.
    pub(super) fn pack(&mut self, body: &[u8]) -> &[u8] {
        self.compress.reset();
        self.out.clear();
        self.out.extend_from_slice(&HEAD);
        loop {
            self.out.reserve(4096);
            let used = self.compress.total_in() as usize;
            let status = self.compress.compress_vec(&body[used..], &mut self.out, FlushCompress::Finish);
            if status.expect("compressing does not fail") == Status::StreamEnd {
                break;
            }
        }
        let mut crc = Crc::new();
        crc.update(body);
        self.out.extend_from_slice(&crc.sum().to_le_bytes());
        self.out.extend_from_slice(&crc.amount().to_le_bytes());
        &self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_packed_body_unpacks_to_the_original() {
        let mut gzip = Gzip::new();
        let noise = |length: u32| {
            (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>()
        };
        for body in [vec![], b"[]".to_vec(), b"{\"a\":1}".repeat(30_000), noise(100_000), noise(1)] {
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(gzip.pack(&body)).read_to_end(&mut back).unwrap();
            assert_eq!(back, body);
        }
        assert!(gzip.pack(&b"{\"a\":1}".repeat(30_000)).len() < 1000);
    }
}
