//! Writing a log, byte for byte as Python's `json.dump(…, indent=4)` would.

use std::fmt::Write as _;
use std::io::{self, Write};

use imprint_core::{Depth, Span, StepReadings};

use super::{Layout, key};

/// Writes one record after the other.
pub(crate) struct LogWriter<W> {
    out: W,
    layout: Layout,
    /// Tokens of the spans target and full, by position in a reading.
    n_tokens: Vec<[u32; 2]>,
    n_records: usize,
    text: String,
}

impl<W: Write> LogWriter<W> {
    pub(crate) fn new(out: W, layout: Layout, n_tokens: Vec<[u32; 2]>) -> Self {
        Self {
            out,
            layout,
            n_tokens,
            n_records: 0,
            text: String::new(),
        }
    }

    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&mut self, step: u64, reading: &StepReadings) -> io::Result<()> {
        self.text.clear();
        self.text += if self.n_records == 0 { "[" } else { "," };
        self.n_records += 1;
        let _ = write!(self.text, "\n    {{\n        \"step\": {step}");
        for depth in Depth::ALL {
            for span in Span::ALL {
                let _ = write!(self.text, ",\n        \"{}\": ", key(depth, span));
                let sums = match span {
                    Span::First => &reading.first_sum_nats,
                    Span::Target => &reading.target_sum_nats,
                    Span::Full => &reading.full_sum_nats,
                };
                let n_tokens = &self.n_tokens;
                // Minus the mean; 0 is told without a sign.
                let loss = |probe: usize| match span {
                    Span::First => f64::from(sums[probe]).abs(),
                    Span::Target => f64::from(sums[probe]).abs() / f64::from(n_tokens[probe][0]),
                    Span::Full => f64::from(sums[probe]).abs() / f64::from(n_tokens[probe][1]),
                };
                let facts = &self.layout.tables[depth.index()];
                list(&mut self.text, 2, facts, |text, fact| {
                    list(text, 3, fact, |text, probe| match probe {
                        Some(probe) => number(text, loss(*probe)),
                        None => text.push_str("null"),
                    });
                });
            }
        }
        self.text += ",\n        \"def\": ";
        let facts = vec![(); self.layout.n_facts];
        list(&mut self.text, 2, &facts, |text, ()| text.push_str("null"));
        self.text += "\n    }";
        self.out.write_all(self.text.as_bytes())
    }

    /// Ends the list and hands the file back.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        let end: &[u8] = if self.n_records == 0 { b"[]" } else { b"\n]" };
        self.out.write_all(end)?;
        Ok(self.out)
    }
}

fn list<T>(text: &mut String, depth: usize, items: &[T], item: impl Fn(&mut String, &T)) {
    const INDENT: &str = "                ";
    if items.is_empty() {
        text.push_str("[]");
        return;
    }
    for (i, it) in items.iter().enumerate() {
        text.push_str(if i == 0 { "[\n" } else { ",\n" });
        text.push_str(&INDENT[..4 * (depth + 1)]);
        item(text, it);
    }
    text.push('\n');
    text.push_str(&INDENT[..4 * depth]);
    text.push(']');
}

/// A finite number of at least 0 as Python writes it: the fewest digits that mean it alone, with an
/// exponent from 1e16 on and below 1e-4.
pub(super) fn number(text: &mut String, value: f64) {
    // Of two that mean it and are equally near, the even one, as in Python and unlike `Display`.
    let mut buffer = ryu::Buffer::new();
    let shortest = buffer.format_finite(value);
    let (mantissa, exponent) = match shortest.split_once('e') {
        Some((mantissa, exponent)) => (mantissa.to_owned(), exponent.parse().unwrap_or_default()),
        None if value == 0.0 || value >= 1e-4 => {
            text.push_str(shortest);
            return;
        }
        None => {
            // `0.0000123`: without the point and the zeros.
            let digits = shortest.trim_start_matches(['0', '.']);
            let exponent = digits.len() as i32 + 1 - shortest.len() as i32;
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            (format!("{first}{point}{rest}"), exponent)
        }
    };
    let sign = if exponent < 0 { '-' } else { '+' };
    let mantissa = mantissa.strip_suffix(".0").unwrap_or(&mantissa);
    let _ = write!(text, "{mantissa}e{sign}{:02}", exponent.unsigned_abs());
}
