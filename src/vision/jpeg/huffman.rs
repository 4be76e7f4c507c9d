//! Huffman codes, and the bit reader (T.81 Annex C, F.2.2).
//!
//! ```text
//! bytes ─► Bits: 64 bits ahead, FF 00 unstuffed ─► peek 9 ─► Table::fast: code, run, size and often the value, at once
//!                                                └► peek 11 ─► Table::skip: as many whole AC codes as fit, to be skipped
//! ```
//! Past the end of the data the reader returns zeros and remembers it ([`Bits::overrun`]): the loops that use it need no check at each bit,
//! only one per row.

use super::error::JpegError;
use super::tables::CodeList;

/// Bits that the combined table looks ahead: 2 KiB a table, and more than 95 % of a camera's AC codes are shorter.
const FAST_BITS: u32 = 9;
/// Bits that the skipping table looks ahead: 4 KiB a table.
const SKIP_BITS: u32 = 11;
/// Maximum number of stray bytes before a restart marker. Logitech's C270, C310 and C910 put fewer than ten there; a whole interval that
/// was decoded wrongly leaves hundreds.
const STRAY_BYTES_MAX: usize = 64;
/// What [`Bits::ensure`] guarantees: the longest code (16) and the most extra bits (15) together.
const SYMBOL_BITS_MAX: u32 = 31;

/// The class of a table: the meaning of its symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Dc,
    Ac,
}

/// A decoded symbol, packed for one load from the table.
///
/// `value << 24 | size << 16 | advance << 8 | total`. 0 is "not in this table". `total`: bits of code and extra bits
/// together. `advance`: coefficients that an AC symbol stands for (run + 1, 16 for ZRL, [`END_OF_BLOCK`], 0 for a
/// symbol that sequential JPEG does not have). `size`: extra bits. `value`: the finished coefficient where code and
/// extra bits fitted into the look-ahead, else 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u32);

/// [`Entry::advance`] of EOB.
pub(super) const END_OF_BLOCK: usize = 64;

impl Entry {
    const NONE: Entry = Entry(0);

    fn new(class: Class, code_len: u32, symbol: u8) -> Entry {
        let (run, size) = match class {
            Class::Dc => (0, u32::from(symbol)),
            Class::Ac => (u32::from(symbol >> 4), u32::from(symbol & 15)),
        };
        let advance = match (class, run, size) {
            (Class::Ac, 0, 0) => END_OF_BLOCK as u32,
            (Class::Ac, 1..=14, 0) => 0,
            _ => run + 1,
        };
        Entry(size << 16 | advance << 8 | (code_len + size))
    }

    #[inline(always)]
    pub(super) fn total(self) -> u32 {
        self.0 & 0xff
    }

    #[inline(always)]
    pub(super) fn advance(self) -> usize {
        (self.0 >> 8 & 0xff) as usize
    }

    #[inline(always)]
    pub(super) fn size(self) -> u32 {
        self.0 >> 16 & 0xff
    }

    #[inline(always)]
    pub(super) fn value(self) -> i32 {
        self.0 as i32 >> 24
    }

    fn code_len(self) -> u32 {
        self.total() - self.size()
    }
}

/// A Huffman table, ready to decode.
pub(super) struct Table {
    /// The DHT data that the table was built from: a camera sends the same in every frame, and then nothing is rebuilt.
    counts: [u8; 16],
    symbols: [u8; 256],
    class: Class,
    fast: [Entry; 1 << FAST_BITS],
    /// `end of block << 15 | advance << 5 | bits`, 0 for "look at one code at a time".
    skip: [u16; 1 << SKIP_BITS],
    /// For each length, the first code beyond it, left-aligned in 16 bits (T.81 figure F.16: MAXCODE).
    limit: [u32; 17],
    /// For each length: index of its first symbol minus its first code (VALPTR - MINCODE).
    offset: [i32; 17],
}

impl Table {
    /// A table without codes.
    pub(super) fn empty(class: Class) -> Table {
        Table {
            counts: [0; 16],
            symbols: [0; 256],
            class,
            fast: [Entry::NONE; 1 << FAST_BITS],
            skip: [0; 1 << SKIP_BITS],
            limit: [0; 17],
            offset: [0; 17],
        }
    }

    /// Builds the table from `list`. Does nothing if it already is that table.
    ///
    /// # Errors
    /// More codes than their lengths allow, more than 256, or a DC symbol that T.81 does not have.
    pub(super) fn set(&mut self, list: CodeList<'_>) -> Result<(), JpegError> {
        let CodeList { counts, symbols } = list;
        let have = self.symbols.get(..symbols.len());
        if *counts == self.counts && have == Some(symbols) {
            return Ok(());
        }
        let count: usize = counts.iter().map(|&n| usize::from(n)).sum();
        if count != symbols.len() || count > 256 {
            return Err(JpegError::BadSegment("DHT has the wrong number of symbols"));
        }
        // F.1.2.1.1: differences have up to 11 bits with 8-bit samples. 15 would still fit our arithmetic.
        if self.class == Class::Dc && symbols.iter().any(|&s| s > 15) {
            return Err(JpegError::BadSegment("DHT has a DC symbol above 15"));
        }
        let mut code = 0u32;
        for (len, &n) in (1..=16u32).zip(counts) {
            code = (code << 1) + u32::from(n);
            if code > 1 << len {
                return Err(JpegError::BadSegment("DHT has more codes than their lengths allow"));
            }
        }
        self.counts = *counts;
        self.symbols[..count].copy_from_slice(symbols);
        self.build();
        Ok(())
    }

    /// Annex C: codes count up in the order of the symbols; one bit is appended when the length grows.
    fn build(&mut self) {
        let (mut code, mut index) = (0u32, 0usize);
        let mut wide = [Entry::NONE; 1 << SKIP_BITS];
        self.fast.fill(Entry::NONE);
        for len in 1..=16u32 {
            self.offset[len as usize] = index as i32 - code as i32;
            for _ in 0..self.counts[len as usize - 1] {
                let entry = Entry::new(self.class, len, self.symbols[index]);
                spread(&mut self.fast, FAST_BITS, code, len, entry);
                spread(&mut wide, SKIP_BITS, code, len, entry);
                (code, index) = (code + 1, index + 1);
            }
            self.limit[len as usize] = code << (16 - len);
            code <<= 1;
        }
        for (ahead, entry) in (0u32..).zip(&mut self.fast) {
            let (size, total) = (entry.size(), entry.total());
            if (1..=7).contains(&size) && total <= FAST_BITS {
                let extra = ahead >> (FAST_BITS - total) & ((1 << size) - 1);
                // Up to 7 bits and a sign: fits the byte.
                entry.0 |= (extend(extra, size) as u32) << 24;
            }
        }
        if self.class == Class::Ac {
            for (ahead, skip) in (0u32..).zip(&mut self.skip) {
                *skip = whole_codes(&wide, ahead);
            }
        }
    }

    /// The entry for the next code in `bits`; requires [`Bits::ensure`]. Does not consume it.
    ///
    /// # Errors
    /// No such code.
    #[inline(always)]
    pub(super) fn look(&self, bits: &Bits<'_>) -> Result<Entry, JpegError> {
        let entry = self.fast[bits.peek(FAST_BITS) as usize];
        if entry == Entry::NONE { self.look_long(bits) } else { Ok(entry) }
    }

    #[cold]
    fn look_long(&self, bits: &Bits<'_>) -> Result<Entry, JpegError> {
        let ahead = bits.peek(16);
        for len in FAST_BITS + 1..=16 {
            if ahead < self.limit[len as usize] {
                let index = (ahead >> (16 - len)) as i32 + self.offset[len as usize];
                let symbol = usize::try_from(index).ok().and_then(|i| self.symbols.get(i));
                return symbol.map(|&s| Entry::new(self.class, len, s)).ok_or(JpegError::BadCode);
            }
        }
        Err(JpegError::BadCode)
    }

    /// Skips the AC codes of a block.
    ///
    /// # Errors
    /// No such code, or coefficients beyond the 63rd.
    #[inline(always)]
    pub(super) fn skip_ac(&self, bits: &mut Bits<'_>) -> Result<(), JpegError> {
        let mut next = 1;
        while next < 64 {
            bits.ensure();
            let several = self.skip[bits.peek(SKIP_BITS) as usize];
            let (ends, advance) = (usize::from(several >> 15), usize::from(several >> 5 & 0x7f));
            // At coefficient 63 a block ends without EOB: the codes after it are not its own.
            if several != 0 && next + advance + ends <= 64 {
                bits.consume(u32::from(several & 31));
                next += advance;
                if ends == 1 {
                    return Ok(());
                }
                continue;
            }
            let entry = self.look(bits)?;
            bits.consume(entry.total());
            match entry.advance() {
                0 => return Err(JpegError::BadCode),
                END_OF_BLOCK => return Ok(()),
                advance => next += advance,
            }
        }
        if next == 64 { Ok(()) } else { Err(JpegError::BadCode) }
    }
}

/// Writes `entry` to every index whose next `bits` bits begin with its code.
fn spread(table: &mut [Entry], bits: u32, code: u32, len: u32, entry: Entry) {
    if len <= bits {
        let first = (code << (bits - len)) as usize;
        // `set` checked that the codes fit.
        table[first..first + (1 << (bits - len))].fill(entry);
    }
}

/// As many AC codes as fit into the `ahead` bits; the extra bits of the last may lie beyond.
fn whole_codes(wide: &[Entry; 1 << SKIP_BITS], ahead: u32) -> u16 {
    let (mut used, mut advance) = (0u32, 0usize);
    while used < SKIP_BITS && advance < 63 {
        let entry = wide[((ahead << used) & ((1 << SKIP_BITS) - 1)) as usize];
        if entry == Entry::NONE || used + entry.code_len() > SKIP_BITS || entry.advance() == 0 {
            break;
        }
        if entry.advance() == END_OF_BLOCK {
            return 1 << 15 | (advance as u16) << 5 | (used + entry.total()) as u16;
        }
        used += entry.total();
        advance += entry.advance();
    }
    (advance as u16) << 5 | used as u16
}

/// F.2.2.1, EXTEND: `size` extra bits (1..=15) to a signed value.
#[inline(always)]
fn extend(extra: u32, size: u32) -> i32 {
    let negative = extra >> (size - 1) == 0;
    extra as i32 - if negative { (1 << size) - 1 } else { 0 }
}

/// The bits of entropy-coded data up to the next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// The next byte that is not in `ahead`.
    at: usize,
    /// The next bits, from the top. Bits below `count` are zeros, or are overwritten by the next refill.
    ahead: u64,
    /// Bits of `ahead` that count.
    count: u32,
    /// How many of them, the last ones, are zeros appended after the end.
    made_up: u32,
    /// Appended zeros were consumed.
    overrun: bool,
}

impl<'a> Bits<'a> {
    /// Reads from the byte at offset `at`.
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Bits { bytes, at, ahead: 0, count: 0, made_up: 0, overrun: false }
    }

    /// Offset at or before the marker that ends the data; only bytes of this scan lie between.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Makes sure that a whole symbol can be peeked and consumed.
    #[inline(always)]
    pub(super) fn ensure(&mut self) {
        if self.count <= SYMBOL_BITS_MAX {
            self.refill();
        }
    }

    #[inline(always)]
    fn refill(&mut self) {
        if let Some(chunk) = self.bytes[self.at..].first_chunk::<8>() {
            let word = u64::from_be_bytes(*chunk);
            // No byte is 0xFF: a zero byte of the complement would borrow (Mycroft 1987).
            if (!word).wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080 == 0 {
                self.ahead |= word >> self.count;
                let whole = (63 - self.count) >> 3;
                self.at += whole as usize;
                self.count += whole << 3;
                return;
            }
        }
        self.refill_by_bytes();
    }

    /// The slow path, near a 0xFF or the end.
    #[inline(never)]
    fn refill_by_bytes(&mut self) {
        while self.count <= 56 {
            let (byte, step) = match self.bytes[self.at..] {
                [0xff, 0, ..] => (0xff, 2),
                [] | [0xff, ..] => return self.make_up(),
                [byte, ..] => (byte, 1),
            };
            self.ahead |= u64::from(byte) << (56 - self.count);
            self.count += 8;
            self.at += step;
        }
    }

    fn make_up(&mut self) {
        self.overrun |= self.made_up > self.count;
        self.made_up = self.made_up.min(self.count) + (64 - self.count);
        self.count = 64;
    }

    /// The next `n` bits, 1..=16.
    #[inline(always)]
    fn peek(&self, n: u32) -> u32 {
        (self.ahead >> (64 - n)) as u32
    }

    /// Drops `n` bits, at most what [`Bits::ensure`] guarantees.
    #[inline(always)]
    pub(super) fn consume(&mut self, n: u32) {
        self.ahead <<= n & 63;
        // Never wraps: every caller ensured. Checked arithmetic here costs 3 % of a picture.
        self.count = self.count.wrapping_sub(n);
    }

    /// Consumes the symbol of `entry` and returns its value, 0 if it has no extra bits.
    #[inline(always)]
    pub(super) fn value(&mut self, entry: Entry) -> i32 {
        let (value, size, total) = (entry.value(), entry.size(), entry.total());
        if value != 0 || size == 0 {
            self.consume(total);
            return value;
        }
        self.consume(total - size);
        let extra = self.peek(size);
        self.consume(size);
        extend(extra, size)
    }

    /// Whether more bits were consumed than exist.
    pub(super) fn overrun(&self) -> bool {
        self.overrun || self.made_up > self.count
    }

    /// Ends an interval after all its blocks were decoded: continues after RST`n`, which must be the next marker. Returns how many stray
    /// bytes were skipped before it: common webcams put some there, and libjpeg skips them, too.
    ///
    /// # Errors
    /// Data missing, another marker, or more than [`STRAY_BYTES_MAX`] bytes before it: the blocks were not those of this interval.
    pub(super) fn restart(&mut self, n: u8) -> Result<usize, JpegError> {
        if self.overrun() {
            return Err(JpegError::Truncated);
        }
        // The bytes in `ahead` come before the byte at `at`, which comes before the next marker.
        let mut stray = (self.count.saturating_sub(self.made_up) / 8) as usize;
        let mut at = self.at;
        loop {
            if stray > STRAY_BYTES_MAX {
                return Err(JpegError::BadRestart { expected: n });
            }
            match self.bytes[at.min(self.bytes.len())..] {
                [] | [0xff] => return Err(JpegError::Truncated),
                [0xff, 0xff, ..] => at += 1,
                // A stuffed byte counts once, as it does in `ahead`.
                [0xff, 0, ..] => (at, stray) = (at + 2, stray + 1),
                // A code that is not a marker (T.81 table B.1: 02 to BF are reserved).
                [0xff, 1..=0xbf, ..] => (at, stray) = (at + 2, stray + 2),
                [0xff, code, ..] if code == 0xd0 | n => {
                    *self = Bits::new(self.bytes, at + 2);
                    return Ok(stray);
                }
                [0xff, ..] => return Err(JpegError::BadRestart { expected: n }),
                [_, ..] => (at, stray) = (at + 1, stray + 1),
            }
        }
    }
}
