//! `float4[]` in Postgres' binary form, a run of memory at a time instead of a value at a time.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

const FLOAT4_OID: i32 = 700;

/// Bytes before the first value: dimensions, whether there are nulls, element type, length, lower
/// bound.
const HEADER_BYTES: usize = 20;

/// A value with its own length before it.
const ELEMENT_BYTES: usize = 8;

/// Bytes of an array of so many values.
pub(crate) fn array_bytes(n_values: usize) -> usize {
    HEADER_BYTES + ELEMENT_BYTES * n_values
}

/// Appends an array, without its length in bytes.
pub(crate) fn put_array(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = f32>) {
    let n = values.len();
    for word in [1, 0, FLOAT4_OID, n as i32, 1] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    let first = out.len();
    out.resize(first + ELEMENT_BYTES * n, 0);
    for (element, value) in out[first..].chunks_exact_mut(ELEMENT_BYTES).zip(values) {
        let bits = 4_u64 << 32 | u64::from(value.to_bits());
        element.copy_from_slice(&bits.to_be_bytes());
    }
}

/// Values to be bound to a statement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Float4s<'a>(pub(crate) &'a [f32]);

impl Type<Postgres> for Float4s<'_> {
    fn type_info() -> PgTypeInfo {
        <[f32] as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Float4s<'_> {
    fn encode_by_ref(&self, out: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        put_array(out, self.0.iter().copied());
        Ok(IsNull::No)
    }

    fn size_hint(&self) -> usize {
        array_bytes(self.0.len())
    }
}

/// Values of a row.
#[derive(Clone, Debug)]
pub(crate) struct Float4Vec(pub(crate) Vec<f32>);

impl Type<Postgres> for Float4Vec {
    fn type_info() -> PgTypeInfo {
        <[f32] as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Float4Vec {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let bytes = value.as_bytes()?;
        let word = |at: usize| -> Option<i32> {
            Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        // An empty array has no dimensions, and ends there.
        if word(0) == Some(0) {
            return Ok(Self(Vec::new()));
        }
        let is_plain = (word(0), word(4), word(8)) == (Some(1), Some(0), Some(FLOAT4_OID));
        let elements = bytes.get(HEADER_BYTES..).unwrap_or_default();
        let n_bytes = word(12)
            .and_then(|n| usize::try_from(n).ok())
            .map(|n| n * ELEMENT_BYTES);
        if !is_plain || n_bytes != Some(elements.len()) {
            return Err("not a one-dimensional array of float4 without nulls".into());
        }
        let values = elements.chunks_exact(ELEMENT_BYTES);
        Ok(Self(
            values
                .map(|e| f32::from_be_bytes([e[4], e[5], e[6], e[7]]))
                .collect(),
        ))
    }
}
