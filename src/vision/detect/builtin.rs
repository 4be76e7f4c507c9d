//! The detector that ships with the program: our own model, trained by `models/train` on simulated streets. In the program it is packed: its
//! bytes are sorted by their place in a 32-bit number, because the exponents of weights resemble each other, and deflated. That saves 14 %
//! without changing a bit (`src/decisions/0014-size.md`).

use std::io::Read as _;

use flate2::read::DeflateDecoder;

/// Bytes of the unpacked file.
const BYTES: usize = 2_926_468;

/// The packed file. `FLYTRAP_RECORD=1 cargo test --lib builtin` writes it again.
static PACKED: &[u8] = include_bytes!("../../../models/street-320.onnx.packed");

/// Number of bytes that are sorted apart.
const PLANES: usize = 4;
const _: () = assert!(BYTES & (PLANES - 1) == 0, "PLANES is a power of two");

/// The bytes of the shipped detector's file.
///
/// # Panics
/// If the packed file is not what the test made: a bug.
pub fn bytes() -> Vec<u8> {
    let mut sorted = Vec::with_capacity(BYTES);
    DeflateDecoder::new(PACKED).read_to_end(&mut sorted).expect("the packed model is whole, see the test");
    assert_eq!(sorted.len(), BYTES, "the packed model is whole, see the test");
    let plane = BYTES / PLANES;
    (0..BYTES).map(|index| sorted[index % PLANES * plane + index / PLANES]).collect()
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
            let plane = |plane: usize| file.iter().skip(plane).step_by(PLANES).copied();
            let sorted: Vec<u8> = (0..PLANES).flat_map(plane).collect();
            let mut packed = Vec::new();
            DeflateEncoder::new(&sorted[..], Compression::best()).read_to_end(&mut packed).unwrap();
            std::fs::write(format!("{folder}/street-320.onnx.packed"), packed).unwrap();
        }
        assert_eq!(file.len(), BYTES, "set BYTES");
        assert!(bytes() == file, "run it again with FLYTRAP_RECORD=1, twice");
    }
}
