//! Compares with another decoder and with the definition, and feeds invalid bytes.

use super::header::JUNK_BYTES_MAX;
use super::*;
use crate::platform::clock::{Clock, SystemClock};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use proptest::prelude::*;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

const PHOTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/photos");

/// Parameters of a test picture.
#[derive(Debug, Clone, Copy)]
struct Recipe {
    width: u16,
    height: u16,
    sampling: SamplingFactor,
    grey: bool,
    quality: u8,
    /// Use tables optimised for the picture. This encoder then writes a scan for each component, and it fails with restarts.
    optimised: bool,
    restart: u16,
    /// Noise on top of the smooth picture, code values: long AC runs and big coefficients.
    noise: u8,
}

const PLAIN: Recipe = Recipe {
    width: 64,
    height: 48,
    sampling: SamplingFactor::F_2_2,
    grey: false,
    quality: 85,
    optimised: false,
    restart: 0,
    noise: 0,
};

fn encode(recipe: Recipe) -> Vec<u8> {
    let Recipe { width, height, .. } = recipe;
    let mut seed = 0x9e37_79b9_u32;
    let mut pixels = Vec::new();
    for y in 0..u32::from(height) {
        for x in 0..u32::from(width) {
            for c in 0..if recipe.grey { 1 } else { 3 } {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let noise = if recipe.noise == 0 { 0 } else { (seed >> 16) % u32::from(recipe.noise) };
                let edge = if (x / 13 + y / 9) % 2 == 0 && recipe.noise > 0 { 60 } else { 0 };
                let smooth = 40 + (x * (c + 1) + y * (3 - c)) * 100 / u32::from(width.max(height)) / 2;
                pixels.push((smooth + noise + edge).min(255) as u8);
            }
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, recipe.quality);
    encoder.set_sampling_factor(recipe.sampling);
    encoder.set_optimized_huffman_tables(recipe.optimised);
    if recipe.restart > 0 {
        encoder.set_restart_interval(recipe.restart);
    }
    let color = if recipe.grey { ColorType::Luma } else { ColorType::Rgb };
    encoder.encode(&pixels, width, height, color).unwrap();
    bytes
}

/// The other decoder's interleaved samples: 1 (grey) or 3 (Y'CbCr, chroma scaled up) a pixel.
fn oracle(bytes: &[u8], grey: bool) -> Vec<u8> {
    let space = if grey { ColorSpace::Luma } else { ColorSpace::YCbCr };
    let options = DecoderOptions::default().jpeg_set_out_colorspace(space);
    zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options).decode().unwrap()
}

fn samples(plane: &Plane<'_>) -> Vec<u8> {
    (0..plane.height()).flat_map(|y| plane.row(y).iter().copied()).collect()
}

/// Maximum and mean difference between `plane`, scaled up by repetition, and channel `c` of `other`.
fn differences(plane: &Plane<'_>, other: &[u8], c: usize, channels: usize, size: (u32, u32)) -> (i32, f64) {
    let (width, height) = (size.0 as usize, size.1 as usize);
    let (fx, fy) = (width.div_ceil(plane.width()), height.div_ceil(plane.height()));
    let (mut greatest, mut sum) = (0, 0i64);
    for y in 0..height {
        let row = plane.row(y / fy);
        for x in 0..width {
            let d = (i32::from(row[x / fx]) - i32::from(other[(y * width + x) * channels + c])).abs();
            greatest = greatest.max(d);
            sum += i64::from(d);
        }
    }
    (greatest, sum as f64 / (width * height) as f64)
}

/// Compares a full decode with the other decoder, and the DC plane with the block means of our luma.
fn check_picture(name: &str, bytes: &[u8], decoder: &mut JpegDecoder) {
    let info = probe(bytes).unwrap();
    let grey = info.components == 1;
    let other = oracle(bytes, grey);
    let channels = if grey { 1 } else { 3 };
    let picture = decoder.decode(bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    let size = (picture.width, picture.height);
    assert_eq!(size, (info.width, info.height), "{name}");
    assert_eq!(other.len(), (size.0 * size.1) as usize * channels, "{name}");
    let luma = picture.planes.luma();
    assert_eq!((luma.width(), luma.height()), (size.0 as usize, size.1 as usize), "{name}");
    let (greatest, mean) = differences(&luma, &other, 0, channels, size);
    assert!(greatest <= 2 && mean < 0.1, "{name}: luma differs by {greatest}, {mean} on average");
    match picture.planes {
        Planes::Yuv { u, v, .. } => {
            for (plane, c) in [(u, 1), (v, 2)] {
                let (greatest, mean) = differences(&plane, &other, c, 3, size);
                if info.sampling == Sampling::S444 {
                    assert!(greatest <= 2 && mean < 0.1, "{name}: chroma {c}: {greatest}, {mean}");
                } else {
                    // The other decoder interpolates between chroma samples, we repeat them.
                    assert!(mean < 2.5, "{name}: chroma {c}: {mean}");
                }
            }
        }
        Planes::Grey(_) => assert!(grey, "{name}"),
        Planes::Rgb { .. } => panic!("{name}: RGB"),
    }
    let luma = samples(&luma);
    check_dc(name, bytes, &luma, size, decoder);
}

/// Compares the DC plane with the means of the blocks that lie wholly inside.
fn check_dc(name: &str, bytes: &[u8], luma: &[u8], size: (u32, u32), decoder: &mut JpegDecoder) {
    let (width, height) = (size.0 as usize, size.1 as usize);
    let dc = decoder.decode_dc_luma(bytes).unwrap();
    assert_eq!((dc.width(), dc.height()), (width.div_ceil(8), height.div_ceil(8)), "{name}");
    for by in 0..height / 8 {
        for bx in 0..width / 8 {
            let block = (0..64).map(|i| luma[(by * 8 + i / 8) * width + bx * 8 + i % 8]);
            // Where samples are clamped, their mean is not the block's.
            if block.clone().any(|s| s == 0 || s == 255) {
                continue;
            }
            let mean = block.map(u32::from).sum::<u32>() as f64 / 64.0;
            let ours = f64::from(dc.row(by)[bx]);
            assert!((mean - ours).abs() <= 2.0, "{name}: block {bx},{by}: {ours} for {mean}");
        }
    }
}

#[test]
fn generated_pictures_match_the_other_decoder() {
    let mut decoder = JpegDecoder::new(256, 256);
    let mut checked = 0;
    for (width, height) in [(64, 48), (17, 33), (16, 16), (1, 1), (8, 9), (200, 40), (255, 31)] {
        for sampling in
            [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_1_2, SamplingFactor::F_2_2]
        {
            for (grey, optimised, restart, quality, noise) in [
                (false, false, 0, 85, 0),
                (false, true, 0, 60, 12),
                (false, false, 3, 95, 8),
                (false, false, 1, 30, 4),
                (true, false, 0, 85, 90),
                (true, true, 0, 100, 200),
                (true, false, 2, 100, 200),
            ] {
                let recipe = Recipe { width, height, sampling, grey, quality, optimised, restart, noise };
                let (name, bytes) = (format!("{recipe:?}"), encode(recipe));
                let scans_apart = optimised && !grey;
                if scans_apart {
                    // zune-jpeg 0.5.15 misplaces subsampled components that have scans of their own (ffmpeg
                    // decodes them as we do). The oracle here: the same blocks in one scan, which it checks below.
                    let together = encode(Recipe { optimised: false, ..recipe });
                    let expected = all_samples(&mut decoder, &together).unwrap();
                    assert_eq!(all_samples(&mut decoder, &bytes), Ok(expected), "{name}");
                    check_picture(&name, &together, &mut decoder);
                } else {
                    check_picture(&name, &bytes, &mut decoder);
                }
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 7 * 4 * 7);
}

#[test]
fn photos_match_the_other_decoder() {
    let Ok(folder) = std::fs::read_dir(PHOTOS) else {
        eprintln!("SKIPPED: {PHOTOS} is missing: the decoder was not compared on photographs");
        return;
    };
    let mut decoder = JpegDecoder::new(1280, 1280);
    let mut checked = 0;
    for path in folder.map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|e| e == "jpg") {
            let bytes = std::fs::read(&path).unwrap();
            check_photo(&path.display().to_string(), &bytes, &mut decoder);
            checked += 1;
        }
    }
    assert!(checked > 0, "no photograph in {PHOTOS}");
}

/// As [`check_picture`], but photographs have chroma edges where interpolation and repetition differ.
fn check_photo(name: &str, bytes: &[u8], decoder: &mut JpegDecoder) {
    let other = oracle(bytes, false);
    let picture = decoder.decode(bytes).unwrap();
    let size = (picture.width, picture.height);
    let Planes::Yuv { y, u, v } = picture.planes else { panic!("{name}: not Y'CbCr") };
    let (greatest, mean) = differences(&y, &other, 0, 3, size);
    assert!(greatest <= 2 && mean < 0.1, "{name}: luma differs by {greatest}, {mean} on average");
    for (plane, c) in [(u, 1), (v, 2)] {
        let (_, mean) = differences(&plane, &other, c, 3, size);
        assert!(mean < 2.5, "{name}: chroma {c}: {mean}");
    }
    let luma = samples(&y);
    check_dc(name, bytes, &luma, size, decoder);
}

#[test]
fn sampling_is_detected_and_planes_have_the_right_size() {
    let mut decoder = JpegDecoder::new(64, 64);
    for (sampling, sampling_text, chroma) in [
        (SamplingFactor::F_1_1, Sampling::S444, (17, 33)),
        (SamplingFactor::F_2_1, Sampling::S422, (9, 33)),
        (SamplingFactor::F_1_2, Sampling::S440, (17, 17)),
        (SamplingFactor::F_2_2, Sampling::S420, (9, 17)),
        (SamplingFactor::F_4_1, Sampling::S411, (5, 33)),
        (SamplingFactor::F_4_2, Sampling::Other, (5, 17)),
    ] {
        let bytes = encode(Recipe { width: 17, height: 33, sampling, ..PLAIN });
        let info = probe(&bytes).unwrap();
        let expected = JpegInfo {
            width: 17,
            height: 33,
            components: 3,
            precision: 8,
            sampling: sampling_text,
            process: Process::Baseline,
        };
        assert_eq!(info, expected);
        assert_eq!(info.check(), Ok(()));
        let Planes::Yuv { y, u, v } = decoder.decode(&bytes).unwrap().planes else { panic!() };
        assert_eq!((y.width(), y.height()), (17, 33));
        assert_eq!([(u.width(), u.height()), (v.width(), v.height())], [chroma; 2], "{sampling_text:?}");
    }
    let grey = encode(Recipe { grey: true, ..PLAIN });
    assert_eq!(probe(&grey).unwrap().sampling, Sampling::Grey);
}

/// Offsets of the segments of a picture: (code, start, end), the last being SOS.
fn segments_of(bytes: &[u8]) -> Vec<(u8, usize, usize)> {
    let mut walk = Segments::new(bytes).unwrap();
    let mut list = Vec::new();
    loop {
        let start = walk.position();
        let code = walk.next().unwrap().code;
        list.push((code, start, walk.position()));
        if code == marker::SOS {
            return list;
        }
    }
}

fn without(bytes: &[u8], code: u8) -> Vec<u8> {
    let mut rest = bytes.to_vec();
    let found: Vec<_> = segments_of(bytes).into_iter().filter(|s| s.0 == code).collect();
    assert!(!found.is_empty());
    for (_, start, end) in found.into_iter().rev() {
        rest.drain(start..end);
    }
    rest
}

/// All planes of a picture, row by row.
fn all_samples(decoder: &mut JpegDecoder, bytes: &[u8]) -> Result<Vec<u8>, JpegError> {
    Ok(match decoder.decode(bytes)?.planes {
        Planes::Grey(y) => samples(&y),
        Planes::Yuv { y, u, v } => [y, u, v].iter().flat_map(samples).collect(),
        Planes::Rgb { .. } => unreachable!(),
    })
}

#[test]
fn missing_huffman_tables_are_the_standard_ones() {
    let mut decoder = JpegDecoder::new(64, 64);
    let whole = encode(Recipe { noise: 120, quality: 97, ..PLAIN });
    let bare = without(&whole, marker::DHT);
    let (expected, dc) =
        (all_samples(&mut decoder, &whole).unwrap(), samples(&decoder.decode_dc_luma(&whole).unwrap()));
    // Another picture's tables must not be left over.
    all_samples(&mut decoder, &encode(Recipe { optimised: true, ..PLAIN })).unwrap();
    assert_eq!(all_samples(&mut decoder, &bare), Ok(expected));
    assert_eq!(samples(&decoder.decode_dc_luma(&bare).unwrap()), dc);
}

/// Three scans of one component each hold the same blocks as one scan of all.
#[test]
fn scans_of_single_components_decode() {
    let recipe = Recipe { optimised: true, noise: 30, width: 50, height: 35, ..PLAIN };
    let bytes = encode(recipe);
    let scans = segments_of(&bytes).last().copied().unwrap();
    let mut decoder = JpegDecoder::new(64, 64);
    assert_eq!(bytes[scans.1 + 4], 1, "components of the first scan");
    let dc = samples(&decoder.decode_dc_luma(&bytes).unwrap());
    let interleaved = encode(Recipe { optimised: false, ..recipe });
    let expected = all_samples(&mut decoder, &interleaved).unwrap();
    assert_eq!(all_samples(&mut decoder, &bytes), Ok(expected));
    assert_eq!(samples(&decoder.decode_dc_luma(&interleaved).unwrap()), dc);
}

#[test]
fn harmless_oddities_change_nothing() {
    let plain = encode(Recipe { restart: 2, noise: 50, ..PLAIN });
    let mut decoder = JpegDecoder::new(64, 64);
    let expected = all_samples(&mut decoder, &plain).unwrap();
    let sos = segments_of(&plain).last().copied().unwrap();
    let mut trailing = plain.clone();
    trailing.extend([0x55; 300]);
    let no_eoi = plain[..plain.len() - 2].to_vec();
    let mut fill = plain.clone();
    fill.splice(sos.1..sos.1, [0xff, 0xff, 0xff]);
    let first_restart = plain.windows(2).position(|w| w == [0xff, 0xd0]).unwrap();
    let mut fill_restart = plain.clone();
    fill_restart.splice(first_restart..first_restart, [0xff, 0xff]);
    let mut comments = plain.clone();
    comments.splice(2..2, [0xff, 0xfe, 0, 5, b'a', 0xff, 0xd9, 0xff, 0xe5, 0, 2]);
    let mut wide_quant = without(&plain, marker::DQT);
    for (_, start, end) in segments_of(&plain).into_iter().filter(|s| s.0 == marker::DQT) {
        let tables = plain[start + 4..end].chunks_exact(65);
        let body: Vec<u8> = tables
            .flat_map(|t| [t[0] | 0x10].into_iter().chain(t[1..].iter().flat_map(|&q| [0, q])))
            .collect();
        let len = (body.len() as u16 + 2).to_be_bytes();
        wide_quant.splice(2..2, [0xff, marker::DQT].into_iter().chain(len).chain(body));
    }
    for (name, bytes) in [
        ("bytes after EOI", trailing),
        ("no EOI", no_eoi),
        ("fill bytes before SOS", fill),
        ("fill bytes before RST", fill_restart),
        ("comment and application data", comments),
        ("16-bit quantisation tables", wide_quant),
    ] {
        assert_eq!(all_samples(&mut decoder, &bytes).as_ref(), Ok(&expected), "{name}");
        assert!(decoder.decode_dc_luma(&bytes).is_ok(), "{name}");
    }
}

/// `bytes` with the segment `code` (its first) edited; `edit` sees marker, length and body.
fn edited(bytes: &[u8], code: u8, edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let (_, start, end) = segments_of(bytes).into_iter().find(|s| s.0 == code).unwrap();
    let mut segment = bytes[start..end].to_vec();
    edit(&mut segment);
    [&bytes[..start], &segment, &bytes[end..]].concat()
}

#[test]
fn broken_frames_are_refused_by_name() {
    use JpegError as E;
    const SOF0: u8 = 0xc0;
    let good = encode(PLAIN);
    let restarts = encode(Recipe { restart: 2, ..PLAIN });
    let rst1 = restarts.windows(2).position(|w| w == [0xff, 0xd1]).unwrap();
    let sof = |edit: &dyn Fn(&mut Vec<u8>)| edited(&good, SOF0, edit);
    let dht = |edit: &dyn Fn(&mut Vec<u8>)| edited(&good, marker::DHT, edit);
    let sos = |edit: &dyn Fn(&mut Vec<u8>)| edited(&good, marker::SOS, edit);
    let joined = |a: &[u8], b: &[u8]| [a, b].concat();
    let data = segments_of(&good).last().unwrap().2;
    let second_sof = {
        let (_, start, end) = segments_of(&good).into_iter().find(|s| s.0 == SOF0).unwrap();
        [&good[..end], &good[start..]].concat()
    };
    let table: Vec<(&str, Vec<u8>, JpegError)> = vec![
        ("nothing", vec![], E::NotJpeg),
        ("leading garbage", joined(&[0], &good), E::NotJpeg),
        ("SOI only", vec![0xff, 0xd8], E::Truncated),
        ("SOI and EOI", vec![0xff, 0xd8, 0xff, 0xd9], E::NoPicture),
        ("no marker after SOI", vec![0xff, 0xd8, 7, 0xe0], E::Truncated),
        ("only RST after SOI", vec![0xff, 0xd8, 0xff, 0xd3], E::Truncated),
        ("junk without end", joined(&[0xff, 0xd8], &vec![7; JUNK_BYTES_MAX + 1]), E::Junk { at: 2 }),
        ("length 0", vec![0xff, 0xd8, 0xff, 0xe1, 0, 0, 0, 0], E::Truncated),
        ("length beyond the end", vec![0xff, 0xd8, 0xff, 0xe1, 9, 0, 0, 0], E::Truncated),
        ("cut in the data", good[..good.len() - 30].to_vec(), E::Truncated),
        ("no data", good[..data].to_vec(), E::Truncated),
        ("EOI instead of data", joined(&good[..data], &[0xff, 0xd9]), E::Truncated),
        ("no quantisation table", without(&good, marker::DQT), E::MissingQuantTable(0)),
        ("no SOF", without(&good, SOF0), E::BadSegment("SOS before SOF")),
        ("two SOF", second_sof, E::BadSegment("a second SOF")),
        ("width 0", sof(&|s| (s[7], s[8]) = (0, 0)), E::Empty { width: 0, height: 48 }),
        ("height 0", sof(&|s| (s[5], s[6]) = (0, 0)), E::Empty { width: 64, height: 0 }),
        (
            "too wide",
            sof(&|s| (s[7], s[8]) = (0, 65)),
            E::TooLarge { width: 65, height: 48, width_max: 64, height_max: 64 },
        ),
        (
            "huge",
            sof(&|s| s[5..9].fill(0xff)),
            E::TooLarge { width: 65_535, height: 65_535, width_max: 64, height_max: 64 },
        ),
        ("factor 0", sof(&|s| s[11] = 0x02), E::BadSegment("SOF has a sampling factor outside 1..=4")),
        ("factor 5", sof(&|s| s[11] = 0x25), E::BadSegment("SOF has a sampling factor outside 1..=4")),
        ("18 blocks", sof(&|s| s[11] = 0x44), E::BadSegment("SOF makes more than ten blocks an MCU")),
        ("table 4", sof(&|s| s[12] = 4), E::BadSegment("SOF names a quantisation table above 3")),
        ("one name twice", sof(&|s| s[13] = s[10]), {
            E::BadSegment("SOS names a component that SOF does not")
        }),
        ("12 bits", sof(&|s| s[4] = 12), E::Unsupported("samples of other than 8 bits")),
        ("progressive", sof(&|s| s[1] = 0xc2), E::Unsupported("progressive")),
        ("arithmetic", sof(&|s| s[1] = 0xc9), E::Unsupported("lossless, hierarchical or arithmetic coding")),
        (
            "length and count differ",
            sof(&|s| s[9] = 2),
            E::BadSegment("SOF has the wrong length for its components"),
        ),
        ("DQT above 3", edited(&good, marker::DQT, |s| s[4] = 9), {
            E::BadSegment("DQT has a precision other than 8 or 16 bits, or a number above 3")
        }),
        ("DHT of class 2", dht(&|s| s[4] = 0x20), {
            E::BadSegment("DHT has a class other than DC and AC, or a number above 3")
        }),
        ("over-full codes", dht(&|s| (s[5], s[7]) = (3, 2)), {
            E::BadSegment("DHT has more codes than their lengths allow")
        }),
        ("more symbols than bytes", dht(&|s| s[20] = 255), E::BadSegment("DHT is too short")),
        ("DC symbol 16", dht(&|s| s[21] = 16), E::BadSegment("DHT has a DC symbol above 15")),
        ("unknown component", sos(&|s| s[5] = 77), {
            E::BadSegment("SOS names a component that SOF does not")
        }),
        ("component twice", sos(&|s| s[7] = s[5]), E::BadSegment("SOS names a component twice")),
        ("Huffman table 2", sos(&|s| s[6] = 0x22), E::MissingHuffmanTable(2)),
        ("Huffman table 9", sos(&|s| s[6] = 0x90), E::BadSegment("SOS names a Huffman table above 3")),
        (
            "wrong restart",
            {
                let mut bytes = restarts.clone();
                bytes[rst1 + 1] = 0xd5;
                bytes
            },
            E::BadRestart { expected: 1 },
        ),
        ("no restart", joined(&restarts[..rst1], &restarts[rst1 + 2..]), E::BadRestart { expected: 1 }),
        (
            "an interval's worth of stray bytes",
            [&restarts[..rst1], &[0x3c; 65], &restarts[rst1..]].concat(),
            E::BadRestart { expected: 1 },
        ),
    ];
    let mut decoder = JpegDecoder::new(64, 64);
    for (name, bytes, error) in table {
        assert_eq!(decoder.decode(&bytes).map(|_| ()), Err(error), "{name}");
        assert_eq!(decoder.decode_dc_luma(&bytes).map(|_| ()), Err(error), "{name}, DC");
        let text = error.to_string();
        assert!(text.len() > 10 && !text.contains('\n'), "{text}");
    }
    assert!(decoder.decode(&good).is_ok() && decoder.decode(&restarts).is_ok());
}

#[test]
fn other_kinds_are_probed_and_refused() {
    let mut progressive = Vec::new();
    let mut encoder = Encoder::new(&mut progressive, 80);
    encoder.set_progressive(true);
    encoder.encode(&[90; 32 * 32 * 3], 32, 32, ColorType::Rgb).unwrap();
    assert_eq!(probe(&progressive).unwrap().process, Process::Progressive);
    let mut cmyk = Vec::new();
    Encoder::new(&mut cmyk, 80).encode(&[90; 32 * 32 * 4], 32, 32, ColorType::Cmyk).unwrap();
    assert_eq!(probe(&cmyk).unwrap().components, 4);
    let mut decoder = JpegDecoder::new(64, 64);
    for (bytes, reason) in [(progressive, "progressive"), (cmyk, "CMYK (four components)")] {
        assert_eq!(decoder.decode(&bytes).map(|_| ()), Err(JpegError::Unsupported(reason)));
    }
}

/// Stray bytes before restart markers, as Logitech's C270, C310 and C910 send them: the picture equals the clean one, and the bytes are
/// counted.
#[test]
fn stray_bytes_before_restart_markers_are_skipped_and_counted() {
    let clean = encode(Recipe { restart: 1, noise: 50, sampling: SamplingFactor::F_2_1, ..PLAIN });
    let mut decoder = JpegDecoder::new(64, 64);
    let expected = all_samples(&mut decoder, &clean).unwrap();
    let expected_dc = samples(&decoder.decode_dc_luma(&clean).unwrap());
    assert_eq!(decoder.stray_bytes(), 0);
    for stray in [&[0x5a][..], &[0x3c; 5], &[0; 64], &[0x12, 0xff, 0x00, 0x34], &[0xff, 0x7f], &[0xff, 0x00]]
    {
        let (mut bytes, mut markers) = (Vec::new(), 0);
        for (at, &byte) in clean.iter().enumerate() {
            if byte == 0xff && matches!(clean.get(at + 1), Some(0xd0..=0xd7)) {
                markers += 1;
                bytes.extend(if markers % 3 == 0 { stray } else { &[] });
            }
            bytes.push(byte);
        }
        let stuffed = stray.windows(2).filter(|pair| *pair == [0xff, 0]).count();
        let count = markers / 3 * (stray.len() - stuffed);
        assert_eq!(all_samples(&mut decoder, &bytes).as_ref(), Ok(&expected), "{stray:?}");
        assert!(markers > 10 && decoder.stray_bytes() == count, "{} of {count}", decoder.stray_bytes());
        assert_eq!(samples(&decoder.decode_dc_luma(&bytes).unwrap()), expected_dc, "{stray:?}, DC");
        assert_eq!(decoder.stray_bytes(), count);
    }
}

/// Segments that are longer than their length field (Dahua: a comment by 608 bytes), bytes between segments, a second SOI.
#[test]
fn junk_among_the_headers_is_skipped_and_counted() {
    let plain = encode(Recipe { noise: 50, ..PLAIN });
    let mut decoder = JpegDecoder::new(64, 64);
    let expected = all_samples(&mut decoder, &plain).unwrap();
    let sos = segments_of(&plain).last().copied().unwrap().1;
    let dahua = [&[0xff, 0xfe, 0, 4, b'a', b'b'][..], &[0; 608]].concat();
    for (name, at, junk, count) in [
        ("a comment longer than its length", 2, &dahua[..], 608),
        ("a length of 0", 2, &[0xff, 0xe1, 0, 0, 1, 2, 3], 3),
        ("a length of 1", 2, &[0xff, 0xe1, 0, 1], 0),
        ("a second SOI", 2, &[0xff, 0xd8], 2),
        ("stuffed bytes and restart markers", 2, &[0xff, 0, 0xff, 0xd3, 9], 5),
        ("a reserved marker", 2, &[0xff, 0x02, 0, 2], 4),
        ("bytes before the scan", sos, &[1, 2, 3], 3),
    ] {
        let bytes = [&plain[..at], junk, &plain[at..]].concat();
        assert_eq!(all_samples(&mut decoder, &bytes).as_ref(), Ok(&expected), "{name}");
        assert_eq!(decoder.stray_bytes(), count, "{name}");
        assert!(decoder.decode_dc_luma(&bytes).is_ok(), "{name}");
        assert_eq!(probe(&bytes), probe(&plain), "{name}");
    }
}

/// RGB is identified by Adobe's flag or by the components' names; the samples are those of the same picture read as Y'CbCr.
#[test]
fn rgb_is_read_as_rgb() {
    let plain = encode(Recipe { sampling: SamplingFactor::F_1_1, noise: 60, ..PLAIN });
    let mut decoder = JpegDecoder::new(64, 64);
    let expected = all_samples(&mut decoder, &plain).unwrap();
    let bare = without(&plain, marker::APP0);
    let mut adobe = bare.clone();
    adobe.splice(2..2, *b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00");
    let named = edited(&bare, 0xc0, |s| (s[10], s[13], s[16]) = (b'R', b'G', b'B'));
    let named = edited(&named, marker::SOS, |s| (s[5], s[7], s[9]) = (b'R', b'G', b'B'));
    for (name, bytes) in [("Adobe", &adobe), ("names", &named)] {
        let green = match decoder.decode(bytes).unwrap().planes {
            Planes::Rgb { r, g, b } => {
                assert_eq!([r, g, b].iter().flat_map(samples).collect::<Vec<_>>(), expected, "{name}");
                samples(&g)
            }
            planes @ (Planes::Grey(_) | Planes::Yuv { .. }) => panic!("{name}: {planes:?}"),
        };
        check_dc(name, bytes, &green, (64, 48), &mut decoder);
    }
    // JFIF takes precedence over both: it allows Y'CbCr only.
    let jfif = edited(&plain, 0xc0, |s| (s[10], s[13], s[16]) = (b'R', b'G', b'B'));
    let jfif = edited(&jfif, marker::SOS, |s| (s[5], s[7], s[9]) = (b'R', b'G', b'B'));
    assert!(matches!(decoder.decode(&jfif).unwrap().planes, Planes::Yuv { .. }));
}

/// Components of the same name come in turn, as in libjpeg.
#[test]
fn components_of_one_name_come_in_turn() {
    let mut decoder = JpegDecoder::new(64, 64);
    for recipe in [PLAIN, Recipe { optimised: true, noise: 30, ..PLAIN }] {
        let plain = encode(recipe);
        let expected = all_samples(&mut decoder, &plain).unwrap();
        for names in [[1, 1, 1], [1, 2, 2], [0, 0, 0]] {
            let mut bytes = edited(&plain, 0xc0, |s| (s[10], s[13], s[16]) = (names[0], names[1], names[2]));
            let mut turn = 0;
            for at in 0..bytes.len() - 12 {
                let (is_sos, count) =
                    (bytes[at..].starts_with(&[0xff, marker::SOS, 0]), usize::from(bytes[at + 4]));
                for place in 0..if is_sos { count } else { 0 } {
                    bytes[at + 5 + place * 2] = names[turn];
                    turn += 1;
                }
            }
            assert_eq!(turn, 3);
            assert_eq!(all_samples(&mut decoder, &bytes).as_ref(), Ok(&expected), "{names:?}");
        }
    }
}

/// A picture of flat blocks with any sampling factors: block (x, y) of component c has the mean `level(c, x, y)`.
fn blocks(
    size: (usize, usize),
    factors: [(usize, usize); 3],
    level: impl Fn(usize, usize, usize) -> u8,
) -> Vec<u8> {
    let (width, height) = size;
    let mut bytes = vec![0xff, 0xd8, 0xff, marker::DQT, 0, 67, 0];
    bytes.extend([1; 64]);
    bytes.extend([0xff, 0xc0, 0, 17, 8, 0, height as u8, 0, width as u8, 3]);
    for (name, (h, v)) in (1u8..).zip(factors) {
        bytes.extend([name, (h * 16 + v) as u8, 0]);
    }
    bytes.extend([0xff, marker::SOS, 0, 12, 3, 1, 0, 2, 0, 3, 0, 0, 63, 0]);
    let (h_max, v_max) =
        (factors.map(|f| f.0).into_iter().max().unwrap(), factors.map(|f| f.1).into_iter().max().unwrap());
    let mut bits = String::new();
    let mut last = [0i32; 3];
    for (mcu_y, mcu_x) in
        (0..height.div_ceil(8 * v_max)).flat_map(|y| (0..width.div_ceil(8 * h_max)).map(move |x| (y, x)))
    {
        for (c, (h, v)) in factors.into_iter().enumerate() {
            for (y, x) in (0..v).flat_map(|y| (0..h).map(move |x| (y, x))) {
                // The DC coefficient is eight times the mean (T.81 A.3.3), with quantisation steps of 1.
                let dc = 8 * (i32::from(level(c, mcu_x * h + x, mcu_y * v + y)) - 128);
                let difference = dc - std::mem::replace(&mut last[c], dc);
                let size = 32 - difference.unsigned_abs().leading_zeros();
                bits.push_str(&code(LUMA_DC, size as u8));
                let extra = if difference < 0 { difference + (1 << size) - 1 } else { difference };
                (0..size).rev().for_each(|bit| bits.push(if extra >> bit & 1 == 1 { '1' } else { '0' }));
                bits.push_str(&code(LUMA_AC, 0));
            }
        }
    }
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    for at in (0..bits.len()).step_by(8) {
        let byte = u8::from_str_radix(&bits[at..at + 8], 2).unwrap();
        bytes.push(byte);
        if byte == 0xff {
            bytes.push(0);
        }
    }
    bytes.extend([0xff, 0xd9]);
    bytes
}

/// The code of a symbol in binary digits (T.81 Annex C).
fn code(list: CodeList<'_>, symbol: u8) -> String {
    let (mut code, mut index) = (0u32, 0);
    for (length, &count) in (1..).zip(list.counts) {
        for _ in 0..count {
            if list.symbols[index] == symbol {
                return format!("{code:0length$b}");
            }
            (code, index) = (code + 1, index + 1);
        }
        code <<= 1;
    }
    panic!("no code for {symbol}");
}

/// Factors of 3, chroma finer than luma, and mixtures: each sample is that of its block, in planes of the picture's size.
#[test]
fn any_sampling_factors_are_read() {
    let level = |c: usize, x: usize, y: usize| (40 + 60 * c + 23 * x + 41 * y) as u8 % 200 + 20;
    let mut decoder = JpegDecoder::new(100, 100);
    for factors in [
        [(1, 1), (1, 1), (1, 1)],
        [(2, 2), (1, 1), (1, 1)],
        [(3, 1), (1, 1), (1, 1)],
        [(1, 3), (1, 1), (1, 1)],
        [(3, 2), (2, 1), (1, 2)],
        [(1, 1), (2, 1), (2, 1)],
        [(1, 1), (2, 2), (1, 2)],
        [(4, 2), (1, 1), (1, 1)],
        [(1, 4), (1, 1), (1, 1)],
        [(2, 1), (1, 1), (2, 1)],
        [(1, 2), (1, 2), (1, 2)],
    ] {
        for (width, height) in [(97, 50), (25, 25), (8, 8), (100, 100)] {
            let bytes = blocks((width, height), factors, level);
            let decoded = decoder.decode(&bytes).unwrap_or_else(|error| panic!("{factors:?}: {error}"));
            let Planes::Yuv { y, u, v } = decoded.planes else { panic!("{factors:?}") };
            assert_eq!((y.width(), y.height()), (width, height), "{factors:?}");
            let h_max = factors.iter().map(|f| f.0).max().unwrap();
            let v_max = factors.iter().map(|f| f.1).max().unwrap();
            for (c, plane) in [y, u, v].iter().enumerate() {
                for (at_y, at_x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                    // A plane of halves or quarters keeps its size, all others have the picture's.
                    let y = if plane.height() == height { at_y } else { at_y * factors[c].1 / v_max };
                    let x = if plane.width() == width { at_x } else { at_x * factors[c].0 / h_max };
                    let block = (at_x * factors[c].0 / h_max / 8, at_y * factors[c].1 / v_max / 8);
                    assert_eq!(
                        plane.row(y)[x],
                        level(c, block.0, block.1),
                        "{factors:?}, {width}x{height}, component {c} at {at_x},{at_y}"
                    );
                }
            }
            let dc = decoder.decode_dc_luma(&bytes).unwrap();
            for (y, x) in (0..dc.height()).flat_map(|y| (0..dc.width()).map(move |x| (y, x))) {
                assert_eq!(dc.row(y)[x], level(0, x, y), "{factors:?}: DC at {x},{y}");
            }
        }
    }
}

/// Every truncation of a picture is a truncation error, until only EOI and padding are missing.
#[test]
fn every_cut_is_truncation() {
    let whole = encode(Recipe { width: 40, height: 24, noise: 40, restart: 2, ..PLAIN });
    let mut decoder = JpegDecoder::new(64, 64);
    for len in 2..whole.len() - 3 {
        let error = decoder.decode(&whole[..len]).map(|_| ());
        assert_eq!(error, Err(JpegError::Truncated), "at {len} of {}", whole.len());
        let error = decoder.decode_dc_luma(&whole[..len]).map(|_| ());
        assert_eq!(error, Err(JpegError::Truncated), "DC at {len} of {}", whole.len());
    }
}

/// The most expensive inputs for the fewest bytes: the largest picture without data, endless tables, endless fill bytes.
#[test]
fn hostile_bytes_end_quickly() {
    let mut decoder = JpegDecoder::new(4096, 4096);
    let good = encode(PLAIN);
    let large = edited(&good, 0xc0, |s| s[5..9].copy_from_slice(&[0x10, 0, 0x10, 0]));
    let (_, start, end) = segments_of(&good).into_iter().find(|s| s.0 == marker::DHT).unwrap();
    let tables = [&good[..2], &good[start..end].repeat(100_000)].concat();
    let fill = [&good[..2], &[0xff; 20 << 20]].concat();
    let begin = SystemClock.mono();
    assert_eq!(decoder.decode(&large).map(|_| ()), Err(JpegError::Truncated));
    assert_eq!(decoder.decode(&tables).map(|_| ()), Err(JpegError::BadSegment("too many Huffman tables")));
    assert_eq!(decoder.decode(&fill).map(|_| ()), Err(JpegError::Truncated));
    let took = SystemClock.mono().since(begin);
    assert!(took.as_secs() < 5, "{took:?}");
}

/// A few small pictures of every kind, to mutate.
fn corpus() -> Vec<Vec<u8>> {
    let small = Recipe { width: 40, height: 24, noise: 60, ..PLAIN };
    vec![
        blocks((40, 24), [(3, 2), (1, 1), (2, 1)], |c, x, y| (c * 50 + x * 20 + y) as u8),
        blocks((40, 24), [(1, 1), (2, 2), (1, 2)], |c, x, y| (c * 50 + x * 20 + y) as u8),
        encode(small),
        encode(Recipe { optimised: true, ..small }),
        encode(Recipe { grey: true, quality: 100, ..small }),
        encode(Recipe { sampling: SamplingFactor::F_2_1, quality: 20, ..small }),
        encode(Recipe { sampling: SamplingFactor::F_4_1, restart: 2, ..small }),
        without(&encode(small), marker::DHT),
    ]
}

/// Runs everything; any result is fine, a panic is not.
fn feed(bytes: &[u8]) {
    let mut decoder = JpegDecoder::new(64, 64);
    let probed = probe(bytes);
    if let Ok(picture) = decoder.decode(bytes) {
        assert!(probed.is_ok() && picture.width <= 64 && picture.height <= 64);
        let _any = samples(&picture.planes.luma());
        let dc = decoder.decode_dc_luma(bytes);
        assert!(dc.is_ok(), "a picture that decodes has a DC plane: {dc:?}");
    }
    // Multi-scan pictures may be broken after luma only; so the converse does not hold.
    let _any = decoder.decode_dc_luma(bytes).map(|plane| samples(&plane));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), soi in any::<bool>()) {
        if soi && bytes.len() >= 2 { bytes[..2].copy_from_slice(&[0xff, 0xd8]); }
        feed(&bytes);
    }

    /// Random entropy-coded data below good headers.
    #[test]
    fn random_entropy_coded_data_never_panics(which in 0usize..8, data in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let good = &corpus()[which];
        let at = segments_of(good).last().unwrap().2;
        feed(&[&good[..at], &data].concat());
    }

    #[test]
    fn mutated_pictures_never_panic(
        which in 0usize..8,
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        header_flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..3),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
        copy in proptest::option::of((any::<proptest::sample::Index>(), any::<proptest::sample::Index>())),
    ) {
        let mut bytes = corpus()[which].clone();
        if let Some((from, to)) = copy {
            let list = segments_of(&bytes);
            let (_, start, end) = list[from.index(list.len())];
            let at = list[to.index(list.len())].1;
            let segment = bytes[start..end].to_vec();
            bytes.splice(at..at, segment);
        }
        let headers = segments_of(&bytes).last().unwrap().2;
        for (at, value) in header_flips { bytes[at.index(headers)] ^= value; }
        for (at, value) in flips { let len = bytes.len(); bytes[at.index(len)] ^= value; }
        if let Some(cut) = cut { let len = cut.index(bytes.len()); bytes.truncate(len); }
        feed(&bytes);
    }
}
