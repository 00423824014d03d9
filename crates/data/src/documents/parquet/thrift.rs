//! Thrift's compact protocol, read only.

const MAX_DEPTH: u32 = 32;

/// The wire type of a field or list element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    True,
    False,
    Byte,
    /// Of 16, 32 or 64 bits, in zigzag form.
    Int,
    Double,
    Binary,
    List,
    Map,
    Struct,
}

impl Wire {
    fn of(nibble: u8) -> Result<Self, String> {
        Ok(match nibble {
            1 => Self::True,
            2 => Self::False,
            3 => Self::Byte,
            4..=6 => Self::Int,
            7 => Self::Double,
            8 => Self::Binary,
            9 | 10 => Self::List,
            11 => Self::Map,
            12 => Self::Struct,
            _ => return Err(format!("unknown Thrift type {nibble}")),
        })
    }
}

/// What is left of a message.
#[derive(Debug)]
pub(super) struct Thrift<'a> {
    rest: &'a [u8],
    depth: u32,
}

impl<'a> Thrift<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            depth: 0,
        }
    }

    /// The bytes that have not been read.
    pub(super) fn n_left(&self) -> usize {
        self.rest.len()
    }

    /// Reads a struct: `field` is shown every field's number and type, and reads it and returns
    /// true, or returns false.
    pub(super) fn structure(
        &mut self,
        mut field: impl FnMut(&mut Self, i16, Wire) -> Result<bool, String>,
    ) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("it is nested too deeply".to_owned());
        }
        let mut number = 0_i16;
        loop {
            let header = self.byte()?;
            if header == 0 {
                break;
            }
            number = match header >> 4 {
                0 => zigzag(self.varint()?) as i16,
                delta => number.wrapping_add(i16::from(delta)),
            };
            let wire = Wire::of(header & 0xf)?;
            if !field(self, number, wire)? {
                self.skip(wire)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads a list, whose elements `element` reads.
    pub(super) fn list(
        &mut self,
        wire: Wire,
        mut element: impl FnMut(&mut Self, Wire) -> Result<(), String>,
    ) -> Result<(), String> {
        expect(wire, Wire::List)?;
        let header = self.byte()?;
        let n = match header >> 4 {
            15 => self.varint()?,
            n => u64::from(n),
        };
        if n > self.rest.len() as u64 {
            return Err("a list is longer than the data".to_owned());
        }
        let wire = Wire::of(header & 0xf)?;
        for _ in 0..n {
            element(self, wire)?;
        }
        Ok(())
    }

    pub(super) fn int(&mut self, wire: Wire) -> Result<i64, String> {
        match wire {
            Wire::Byte => Ok(i64::from(self.byte()? as i8)),
            other => {
                expect(other, Wire::Int)?;
                Ok(zigzag(self.varint()?))
            }
        }
    }

    /// An integer that counts something.
    pub(super) fn count(&mut self, wire: Wire) -> Result<u64, String> {
        let number = self.int(wire)?;
        u64::try_from(number).map_err(|_| format!("a count is {number}"))
    }

    pub(super) fn text(&mut self, wire: Wire) -> Result<&'a str, String> {
        expect(wire, Wire::Binary)?;
        let n = self.varint()?;
        str::from_utf8(self.bytes(n)?).map_err(|_| "a name is not UTF-8".to_owned())
    }

    fn skip(&mut self, wire: Wire) -> Result<(), String> {
        match wire {
            Wire::True | Wire::False => Ok(()),
            Wire::Byte | Wire::Int => self.int(wire).map(drop),
            Wire::Double => self.bytes(8).map(drop),
            Wire::Binary => {
                let n = self.varint()?;
                self.bytes(n).map(drop)
            }
            Wire::Struct => self.structure(|_, _, _| Ok(false)),
            Wire::List => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err("it is nested too deeply".to_owned());
                }
                self.list(wire, |thrift, wire| thrift.skip_element(wire))?;
                self.depth -= 1;
                Ok(())
            }
            Wire::Map => Err("an unexpected map".to_owned()),
        }
    }

    /// In lists, unlike in structs, a truth value is a byte of its own.
    fn skip_element(&mut self, wire: Wire) -> Result<(), String> {
        match wire {
            Wire::True | Wire::False => self.byte().map(drop),
            other => self.skip(other),
        }
    }

    fn byte(&mut self) -> Result<u8, String> {
        let (&byte, rest) = self.rest.split_first().ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(byte)
    }

    fn bytes(&mut self, n: u64) -> Result<&'a [u8], String> {
        let n = usize::try_from(n).map_err(|_| cut_short())?;
        let (bytes, rest) = self.rest.split_at_checked(n).ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number has no end".to_owned())
    }
}

fn expect(wire: Wire, expected: Wire) -> Result<(), String> {
    match wire == expected {
        true => Ok(()),
        false => Err(format!("{wire:?} where {expected:?} should be")),
    }
}

fn cut_short() -> String {
    "it is cut short".to_owned()
}

/// A signed number from its zigzag form.
pub(super) fn zigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}
