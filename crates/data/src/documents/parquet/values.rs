//! The values of a page, however they are encoded.

use super::metadata::Column;
use super::thrift::zigzag;
use super::{MAX_DOCUMENT_BYTES, little_endian, too_long};

const PLAIN: i64 = 0;
const PLAIN_DICTIONARY: i64 = 2;
const RLE: i64 = 3;
const DELTA_LENGTH_BYTE_ARRAY: i64 = 6;
const DELTA_BYTE_ARRAY: i64 = 7;
const RLE_DICTIONARY: i64 = 8;

/// The texts that the pages of a column chunk refer to.
#[derive(Debug, Default)]
pub(super) struct Dictionary {
    data: Vec<u8>,
    /// Where each text begins and ends.
    texts: Vec<(u32, u32)>,
}

impl Dictionary {
    pub(super) fn new(data: Vec<u8>, n_values: u64, encoding: i64) -> Result<Self, String> {
        if !matches!(encoding, PLAIN | PLAIN_DICTIONARY) {
            return Err(unknown(encoding));
        }
        let mut texts = Vec::new();
        let mut at = 0;
        for _ in 0..n_values {
            let (start, end) = plain(&data, &mut at)?;
            texts.push((start as u32, end as u32));
        }
        Ok(Self { data, texts })
    }

    fn get(&self, index: u32) -> Result<&[u8], String> {
        let (start, end) = self
            .texts
            .get(index as usize)
            .ok_or("a page refers to a text that its dictionary does not have")?;
        Ok(&self.data[*start as usize..*end as usize])
    }
}

/// A page whose values are handed out one by one.
#[derive(Debug)]
pub(super) struct Page {
    data: Vec<u8>,
    /// Values to come, `null` among them.
    n_left: u64,
    /// Which of them are there; absent where all are.
    levels: Option<Hybrid>,
    max_level: u32,
    values: Values,
}

#[derive(Debug)]
enum Values {
    Plain {
        at: usize,
    },
    Dictionary {
        indices: Hybrid,
    },
    Lengths {
        lengths: std::vec::IntoIter<u32>,
        at: usize,
    },
    Prefixed {
        prefixes: std::vec::IntoIter<u32>,
        lengths: std::vec::IntoIter<u32>,
        at: usize,
        last: Vec<u8>,
    },
}

impl Page {
    /// A page whose levels are compressed together with its values.
    pub(super) fn v1(
        data: Vec<u8>,
        n_values: u64,
        encoding: i64,
        level_encoding: i64,
        column: &Column,
    ) -> Result<Self, String> {
        if column.max_level == 0 {
            return Self::new(data, n_values, encoding, None, 0, column);
        }
        if level_encoding != RLE {
            return Err(unknown(level_encoding));
        }
        let (length, rest) = data.split_at_checked(4).ok_or_else(cut_short)?;
        let n_bytes = little_endian(length) as usize;
        let end = 4 + rest.get(..n_bytes).ok_or_else(cut_short)?.len();
        let levels = Hybrid::new(4, end, bits_of(column.max_level));
        Self::new(data, n_values, encoding, Some(levels), end, column)
    }

    /// A page whose levels lie apart from its values.
    pub(super) fn v2(
        levels: &[u8],
        values: &[u8],
        n_values: u64,
        encoding: i64,
        column: &Column,
    ) -> Result<Self, String> {
        let data = [levels, values].concat();
        let end = levels.len();
        let levels = match column.max_level {
            0 => None,
            max => Some(Hybrid::new(0, end, bits_of(max))),
        };
        Self::new(data, n_values, encoding, levels, end, column)
    }

    fn new(
        data: Vec<u8>,
        n_values: u64,
        encoding: i64,
        levels: Option<Hybrid>,
        at: usize,
        column: &Column,
    ) -> Result<Self, String> {
        let values = match encoding {
            PLAIN => Values::Plain { at },
            PLAIN_DICTIONARY | RLE_DICTIONARY => {
                // A page of nothing but `null` may end here.
                let n_bits = data.get(at).copied().unwrap_or(0);
                if n_bits > 32 {
                    return Err(format!("a dictionary's indices have {n_bits} bits"));
                }
                let from = (at + 1).min(data.len());
                Values::Dictionary {
                    indices: Hybrid::new(from, data.len(), n_bits.into()),
                }
            }
            DELTA_LENGTH_BYTE_ARRAY => {
                let (lengths, at) = delta_binary_packed(&data, at, n_values)?;
                Values::Lengths {
                    lengths: lengths.into_iter(),
                    at,
                }
            }
            DELTA_BYTE_ARRAY => {
                let (prefixes, at) = delta_binary_packed(&data, at, n_values)?;
                let (lengths, at) = delta_binary_packed(&data, at, n_values)?;
                Values::Prefixed {
                    prefixes: prefixes.into_iter(),
                    lengths: lengths.into_iter(),
                    at,
                    last: Vec::new(),
                }
            }
            other => return Err(unknown(other)),
        };
        Ok(Self {
            data,
            n_left: n_values,
            levels,
            max_level: column.max_level,
            values,
        })
    }

    /// The next value, `Some(None)` where it is `null`; `None` after the last.
    pub(super) fn next<'a>(
        &'a mut self,
        dictionary: &'a Dictionary,
    ) -> Result<Option<Option<&'a [u8]>>, String> {
        let Some(n_left) = self.n_left.checked_sub(1) else {
            return Ok(None);
        };
        self.n_left = n_left;
        if let Some(levels) = &mut self.levels
            && levels.next(&self.data)? < self.max_level
        {
            return Ok(Some(None));
        }
        let too_few = || "a page has fewer values than it says".to_owned();
        let data = &self.data;
        let value = match &mut self.values {
            Values::Plain { at } => {
                let (start, end) = plain(data, at)?;
                &data[start..end]
            }
            Values::Dictionary { indices } => dictionary.get(indices.next(data)?)?,
            Values::Lengths { lengths, at } => take(data, at, lengths.next().ok_or_else(too_few)?)?,
            Values::Prefixed {
                prefixes,
                lengths,
                at,
                last,
            } => {
                let prefix = prefixes.next().ok_or_else(too_few)? as usize;
                let suffix = take(data, at, lengths.next().ok_or_else(too_few)?)?;
                if prefix > last.len() {
                    return Err("a text shares more with the one before than there is".to_owned());
                }
                if prefix + suffix.len() > MAX_DOCUMENT_BYTES {
                    return Err(too_long("the text"));
                }
                last.truncate(prefix);
                last.extend_from_slice(suffix);
                last
            }
        };
        Ok(Some(Some(value)))
    }
}

/// The place of a text that stands after its length in four bytes.
fn plain(data: &[u8], at: &mut usize) -> Result<(usize, usize), String> {
    let length = data.get(*at..).and_then(|d| d.get(..4));
    let start = *at + 4;
    let end = start + little_endian(length.ok_or_else(cut_short)?) as usize;
    if end > data.len() {
        return Err(cut_short());
    }
    *at = end;
    Ok((start, end))
}

fn take<'a>(data: &'a [u8], at: &mut usize, n_bytes: u32) -> Result<&'a [u8], String> {
    let end = *at + n_bytes as usize;
    let taken = data.get(*at..end).ok_or_else(cut_short)?;
    *at = end;
    Ok(taken)
}

fn cut_short() -> String {
    "a page is cut short".to_owned()
}

fn unknown(encoding: i64) -> String {
    format!("a page has the encoding {encoding}, which texts do not have")
}

/// The bits of numbers up to `max`.
fn bits_of(max: u32) -> u32 {
    u32::BITS - max.leading_zeros()
}

/// Runs of equal numbers and runs of bit-packed ones, in a part of a page.
#[derive(Debug)]
struct Hybrid {
    at: usize,
    end: usize,
    n_bits: u32,
    run: Run,
}

#[derive(Debug)]
enum Run {
    Equal { value: u32, n_left: u64 },
    Packed { bit: u64, n_left: u64 },
}

impl Hybrid {
    fn new(at: usize, end: usize, n_bits: u32) -> Self {
        Self {
            at,
            end,
            n_bits,
            run: Run::Equal {
                value: 0,
                n_left: 0,
            },
        }
    }

    fn next(&mut self, data: &[u8]) -> Result<u32, String> {
        loop {
            match &mut self.run {
                Run::Equal { value, n_left } if *n_left > 0 => {
                    *n_left -= 1;
                    return Ok(*value);
                }
                Run::Packed { bit, n_left } if *n_left > 0 => {
                    let value = bits(&data[..self.end], *bit, self.n_bits);
                    *n_left -= 1;
                    *bit += u64::from(self.n_bits);
                    return Ok(value as u32);
                }
                Run::Equal { .. } | Run::Packed { .. } => self.next_run(data)?,
            }
        }
    }

    fn next_run(&mut self, data: &[u8]) -> Result<(), String> {
        let data = &data[..self.end];
        let header = varint(data, &mut self.at)?;
        let n = header >> 1;
        self.run = if header & 1 == 1 {
            // The last run of a page may lack the bytes of values that nobody asks for.
            let n_there = match self.n_bits {
                0 => u64::MAX,
                n_bits => (data.len() - self.at) as u64 * 8 / u64::from(n_bits),
            };
            let bit = self.at as u64 * 8;
            let n_bytes = n.saturating_mul(u64::from(self.n_bits));
            self.at = (self.at as u64)
                .saturating_add(n_bytes)
                .min(self.end as u64) as usize;
            Run::Packed {
                bit,
                n_left: n.saturating_mul(8).min(n_there),
            }
        } else {
            let value = take(data, &mut self.at, self.n_bits.div_ceil(8))?;
            Run::Equal {
                value: little_endian(value),
                n_left: n,
            }
        };
        Ok(())
    }
}

/// Non-negative numbers by their differences, and the byte after them.
fn delta_binary_packed(
    data: &[u8],
    mut at: usize,
    n_values: u64,
) -> Result<(Vec<u32>, usize), String> {
    let block_values = varint(data, &mut at)?;
    let n_miniblocks = varint(data, &mut at)?;
    let n = varint(data, &mut at)?;
    let mut value = zigzag(varint(data, &mut at)?);
    let wrong = || "a page's lengths are damaged".to_owned();
    let per_miniblock = block_values.checked_div(n_miniblocks).ok_or_else(wrong)?;
    if n > n_values || per_miniblock == 0 || !per_miniblock.is_multiple_of(32) {
        return Err(wrong());
    }
    let mut numbers = Vec::new();
    let mut push = |value: i64| -> Result<(), String> {
        numbers.push(u32::try_from(value).map_err(|_| wrong())?);
        Ok(())
    };
    let mut n_left = n;
    if n_left > 0 {
        push(value)?;
        n_left -= 1;
    }
    while n_left > 0 {
        let least = zigzag(varint(data, &mut at)?);
        let n_miniblocks = u32::try_from(n_miniblocks).map_err(|_| wrong())?;
        let widths = take(data, &mut at, n_miniblocks)?;
        for &n_bits in widths {
            if n_left == 0 {
                break;
            }
            if n_bits > 64 {
                return Err(wrong());
            }
            let n_bytes = per_miniblock
                .checked_mul(n_bits.into())
                .and_then(|bits| u32::try_from(bits / 8).ok());
            let packed = take(data, &mut at, n_bytes.ok_or_else(wrong)?)?;
            let here = n_left.min(per_miniblock);
            for i in 0..here {
                let delta = bits(packed, i * u64::from(n_bits), n_bits.into());
                value = value.wrapping_add(least).wrapping_add(delta as i64);
                push(value)?;
            }
            n_left -= here;
        }
    }
    Ok((numbers, at))
}

/// A number of `n_bits` from a bit on, the lowest first; bits past the end are zero.
fn bits(data: &[u8], bit: u64, n_bits: u32) -> u64 {
    let first = (bit / 8) as usize;
    let mut window = 0_u128;
    // 64 bits that do not begin with a byte reach into nine.
    for (i, &byte) in data.iter().skip(first).take(9).enumerate() {
        window |= u128::from(byte) << (8 * i);
    }
    let number = window >> (bit % 8);
    (number & ((1_u128 << n_bits) - 1)) as u64
}

fn varint(data: &[u8], at: &mut usize) -> Result<u64, String> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let &byte = data.get(*at).ok_or_else(cut_short)?;
        *at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(cut_short())
}
