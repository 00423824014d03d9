//! A tensor's place in a file, whatever the file's format, and its values as float32.

use half::{bf16, f16};

use super::file::StableFile;
use crate::error::Error;

/// Bytes that are cast at a time: reading a tensor takes no more memory than this beside its values.
const CAST_BYTES: usize = 1 << 20;

/// Type of a tensor's elements in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    F8E4M3,
    F8E5M2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

impl Dtype {
    /// Name in a safetensors header, and size of an element in bytes.
    const ALL: [(Self, &'static str, usize); 15] = [
        (Self::F64, "F64", 8),
        (Self::F32, "F32", 4),
        (Self::F16, "F16", 2),
        (Self::BF16, "BF16", 2),
        (Self::F8E4M3, "F8_E4M3", 1),
        (Self::F8E5M2, "F8_E5M2", 1),
        (Self::I64, "I64", 8),
        (Self::I32, "I32", 4),
        (Self::I16, "I16", 2),
        (Self::I8, "I8", 1),
        (Self::U64, "U64", 8),
        (Self::U32, "U32", 4),
        (Self::U16, "U16", 2),
        (Self::U8, "U8", 1),
        (Self::Bool, "BOOL", 1),
    ];

    fn entry(self) -> (Self, &'static str, usize) {
        *(Self::ALL.iter().find(|(dtype, ..)| *dtype == self)).expect("every type is listed")
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        (Self::ALL.iter()).find_map(|&(dtype, known, _)| (known == name).then_some(dtype))
    }

    pub(crate) fn name(self) -> &'static str {
        self.entry().1
    }

    pub(crate) fn n_bytes(self) -> usize {
        self.entry().2
    }
}

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    /// Index of the file.
    pub(super) file: usize,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Elements from one index of a dimension to the next.
    strides: Vec<usize>,
    /// Byte of the file at which the first element lies.
    start: u64,
}

/// Bytes of a file that elements lie in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Extent {
    pub(crate) file: usize,
    pub(crate) start: u64,
    pub(crate) n_bytes: u64,
}

impl Tensor {
    /// A tensor that lies in an extent, which lies in its file.
    ///
    /// # Errors
    /// In words, when it does not, or when its elements overlap: a small file could otherwise call
    /// for any amount of memory.
    pub(crate) fn new(
        dtype: Dtype,
        shape: Vec<usize>,
        strides: Vec<usize>,
        offset: usize,
        extent: Extent,
    ) -> Result<Self, String> {
        let n_available = extent.n_bytes / dtype.n_bytes() as u64;
        let too_big = || {
            format!(
                "shape {shape:?} with strides {strides:?} at element {offset} does not fit the \
                 {n_available} elements that the file has for it"
            )
        };
        if shape.len() != strides.len() {
            return Err(too_big());
        }
        let is_empty = shape.contains(&0);
        let mut n_elements: u64 = 1;
        let mut last = offset as u64;
        for (&size, &stride) in shape.iter().zip(&strides) {
            n_elements = n_elements.checked_mul(size as u64).ok_or_else(too_big)?;
            let reach = (size.saturating_sub(1) as u64).checked_mul(stride as u64);
            last = (reach.and_then(|reach| last.checked_add(reach))).ok_or_else(too_big)?;
        }
        if !is_empty && (last >= n_available || n_elements > n_available) {
            return Err(too_big());
        }
        let start = match is_empty {
            true => extent.start,
            false => extent.start + offset as u64 * dtype.n_bytes() as u64,
        };
        let mut tensor = Self {
            file: extent.file,
            dtype,
            shape,
            strides,
            start,
        };
        // One index has no next one: its stride says nothing, and may be anything.
        if let Some(usual) = row_major(&tensor.shape) {
            let dims = tensor.shape.iter().zip(&mut tensor.strides).zip(usual);
            for ((_, stride), usual) in dims.filter(|((size, _), _)| **size <= 1) {
                *stride = usual;
            }
        }
        Ok(tensor)
    }

    /// A tensor in row-major order that fills an extent from its start.
    pub(crate) fn contiguous(
        dtype: Dtype,
        shape: Vec<usize>,
        extent: Extent,
    ) -> Result<Self, String> {
        let strides = row_major(&shape).ok_or_else(|| format!("shape {shape:?} is too big"))?;
        Self::new(dtype, shape, strides, 0, extent)
    }

    /// Some of the rows, that is of the first dimension.
    pub(crate) fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let mut part = self.clone();
        part.shape[0] = rows.len();
        part.start += (rows.start * self.strides[0] * self.dtype.n_bytes()) as u64;
        part
    }

    pub(crate) fn n_elements(&self) -> usize {
        // An empty tensor's other sizes may be anything.
        match self.shape.contains(&0) {
            true => 0,
            false => self.shape.iter().product(),
        }
    }

    /// Whether the elements are numbers that are read.
    pub(crate) fn is_numeric(&self) -> bool {
        use Dtype::{BF16, F16, F32, F64};
        matches!(self.dtype, F64 | F32 | F16 | BF16)
    }

    /// The one whole number of a tensor of one element, such as an optimizer's step count.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn read_count(&self, file: &StableFile) -> Result<Option<u64>, Error> {
        if self.n_elements() != 1 {
            return Ok(None);
        }
        let bytes = file.bytes(self.start, self.dtype.n_bytes())?;
        let count = match self.dtype {
            Dtype::I64 => bytes.try_into().ok().map(i64::from_le_bytes),
            Dtype::I32 => bytes.try_into().ok().map(i32::from_le_bytes).map(i64::from),
            Dtype::F64 => (bytes.try_into().ok()).and_then(|le| whole(f64::from_le_bytes(le))),
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => whole(as_float32(self.dtype, &bytes).into()),
            _ => None,
        };
        Ok(count.and_then(|count| u64::try_from(count).ok()))
    }

    /// The elements' bytes as they lie in the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn raw_bytes(&self, file: &StableFile) -> Result<Vec<u8>, Error> {
        file.bytes(self.start, self.n_elements() * self.dtype.n_bytes())
    }

    /// The values in row-major order, as float32.
    ///
    /// # Errors
    /// When the file cannot be read.
    ///
    /// # Panics
    /// When `out` has another length.
    pub(crate) fn read(&self, file: &StableFile, out: &mut [f32]) -> Result<(), Error> {
        assert_eq!(out.len(), self.n_elements(), "the shape was checked");
        if out.is_empty() {
            return Ok(());
        }
        if row_major(&self.shape).as_deref() != Some(&self.strides) {
            return self.gather(file, out);
        }
        if self.dtype == Dtype::F32 {
            file.read_at(self.start, bytemuck::cast_slice_mut(out))?;
            for value in out {
                *value = f32::from_bits(u32::from_le(value.to_bits()));
            }
            return Ok(());
        }
        let size = self.dtype.n_bytes();
        let mut buffer = vec![0; CAST_BYTES.min(out.len() * size)];
        let mut at = self.start;
        for out in out.chunks_mut(CAST_BYTES / size) {
            let bytes = &mut buffer[..out.len() * size];
            file.read_at(at, bytes)?;
            at += bytes.len() as u64;
            for (out, bytes) in out.iter_mut().zip(bytes.chunks_exact(size)) {
                *out = as_float32(self.dtype, bytes);
            }
        }
        Ok(())
    }

    /// A tensor that is stored in another order, such as transposed.
    fn gather(&self, file: &StableFile, out: &mut [f32]) -> Result<(), Error> {
        let reach = self.shape.iter().zip(&self.strides);
        let n_spanned = 1 + reach
            .map(|(size, stride)| (size - 1) * stride)
            .sum::<usize>();
        let size = self.dtype.n_bytes();
        let bytes = file.bytes(self.start, n_spanned * size)?;
        let mut index = vec![0; self.shape.len()];
        let mut at = 0;
        for out in out {
            *out = as_float32(self.dtype, &bytes[at * size..(at + 1) * size]);
            for dim in (0..index.len()).rev() {
                index[dim] += 1;
                at += self.strides[dim];
                if index[dim] < self.shape[dim] {
                    break;
                }
                at -= index[dim] * self.strides[dim];
                index[dim] = 0;
            }
        }
        Ok(())
    }
}

/// Strides of a shape in row-major order; `None` where they overflow.
fn row_major(shape: &[usize]) -> Option<Vec<usize>> {
    let mut strides = vec![1_usize; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim].checked_mul(shape[dim].max(1))?;
    }
    Some(strides)
}

/// A float that is a whole number, which float32 counts up to 2^24 exactly.
pub(crate) fn whole(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64)
}

/// One element, from its little-endian bytes.
fn as_float32(dtype: Dtype, bytes: &[u8]) -> f32 {
    let value = match dtype {
        Dtype::F32 => bytes.try_into().map(f32::from_le_bytes),
        Dtype::BF16 => bytes.try_into().map(|le| bf16::from_le_bytes(le).to_f32()),
        Dtype::F16 => bytes.try_into().map(|le| f16::from_le_bytes(le).to_f32()),
        Dtype::F64 => bytes.try_into().map(|le| f64::from_le_bytes(le) as f32),
        _ => unreachable!("{} is not read as numbers", dtype.name()),
    };
    value.expect("as many bytes as the type has")
}
