//! The detector that ships with the program: our own model, trained by `models/train` on simulated streets. In the program it is packed: its
//! bytes are sorted by their place in a 32-bit number, because the exponents of weights resemble each other, and deflated. That saves 16 %
//! without changing a bit (`src/decisions/0014-size.md`).
//!
//! Tensors begin anywhere in the file, so each block of it says at which place of a number its first byte is.

use std::io::Read as _;

use flate2::read::DeflateDecoder;

/// Bytes of the unpacked file.
const BYTES: usize = 2_926_468;

/// The packed file: inflated, a place for each block, then the planes. `FLYTRAP_RECORD=1 cargo test --lib builtin` writes it again.
static PACKED: &[u8] = include_bytes!("../../../models/street-320.onnx.packed");

/// Bytes of a number, each kind of which is sorted apart.
const PLANES: usize = 4;
/// Bytes of a block.
const BLOCK: usize = 1024;
const _: () = assert!(BYTES & (PLANES - 1) == 0 && BLOCK & (PLANES - 1) == 0, "whole numbers");

/// The bytes of the shipped detector's file.
///
/// # Panics
/// If the packed file is not what the test made: a bug.
pub fn bytes() -> Vec<u8> {
    let blocks = BYTES.div_ceil(BLOCK);
    let mut inflated = Vec::with_capacity(blocks + BYTES);
    DeflateDecoder::new(PACKED).read_to_end(&mut inflated).expect("the packed model is whole, see the test");
    assert_eq!(inflated.len(), blocks + BYTES, "the packed model is whole, see the test");
    let (places, sorted) = inflated.split_at(blocks);
    let byte = |index: usize| {
        let plane = (index + usize::from(places[index / BLOCK])) % PLANES;
        // A block is a whole number of numbers, so each four of its bytes have one in each plane.
        sorted[plane * (BYTES / PLANES) + index / PLANES]
    };
    (0..BYTES).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::read::DeflateEncoder;

    #[test]
    fn the_packed_model_is_the_file() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models");
        let file = std::fs::read(format!("{folder}/street-320.onnx")).unwrap();
        if std::env::var_os("FLYTRAP_RECORD").is_some() {
            let mut inflated: Vec<u8> = file.chunks(BLOCK).map(place).collect();
            for plane in 0..PLANES {
                for (block, place) in file.chunks(BLOCK).zip(inflated.clone()) {
                    inflated.extend(block.iter().skip(first(plane, place)).step_by(PLANES));
                }
            }
            let mut packed = Vec::new();
            DeflateEncoder::new(&inflated[..], Compression::best()).read_to_end(&mut packed).unwrap();
            std::fs::write(format!("{folder}/street-320.onnx.packed"), packed).unwrap();
        }
        assert_eq!(file.len(), BYTES, "set BYTES");
        assert!(bytes() == file, "run it again with FLYTRAP_RECORD=1, twice");
    }

    /// The first byte of a block in this plane.
    fn first(plane: usize, place: u8) -> usize {
        (plane + PLANES - usize::from(place)) % PLANES
    }

    /// The place at which the bytes of the last plane, those of the exponents, are most alike.
    fn place(block: &[u8]) -> u8 {
        let bits = |place: &u8| {
            let mut counts = [0u32; 256];
            let exponents = block.iter().skip(first(PLANES - 1, *place)).step_by(PLANES);
            exponents.for_each(|byte| counts[usize::from(*byte)] += 1);
            // As many bits as an ideal code has; only compared.
            let all = f64::from(counts.iter().sum::<u32>());
            let used = counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count));
            used.map(|count| count * (all / count).log2()).sum::<f64>()
        };
        (0..PLANES as u8).min_by(|a, b| bits(a).total_cmp(&bits(b))).unwrap()
    }
}
