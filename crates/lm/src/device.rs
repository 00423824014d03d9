//! Where a model is computed.

use std::fmt;

use burn::tensor::Device;

use crate::Error;

/// A device by name: `cpu` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    Cpu,
    Cuda(usize),
}

impl DeviceChoice {
    /// The device that `cpu` or `cuda:N` names; it is not opened.
    ///
    /// # Errors
    /// When the name is neither.
    pub fn parse(name: &str) -> Result<Self, Error> {
        match name.strip_prefix("cuda:") {
            None if name == "cpu" => Some(Self::Cpu),
            None => None,
            Some(index) => index.parse().ok().map(Self::Cuda),
        }
        .ok_or_else(|| Error::UnknownDevice {
            name: name.to_owned(),
        })
    }

    /// The device, opened.
    ///
    /// # Errors
    /// When this binary was built without CUDA, or there is no such GPU.
    pub(crate) fn open(self) -> Result<Device, Error> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(index) => open_cuda(index),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.pad("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(index: usize) -> Result<Device, Error> {
    Err(Error::NoCuda {
        index,
        reason: "this binary was built without CUDA; build it with `--features cuda`, or use `cpu`"
            .to_owned(),
    })
}

/// The list is asked for first: to open a device that is not there panics in a thread of the
/// runtime's own, and the list of a machine without a driver is empty.
#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Result<Device, Error> {
    use burn::tensor::DeviceType;

    let n_devices = Device::enumerate(DeviceType::Cuda).iter().count();
    if index < n_devices {
        return Ok(Device::cuda(index));
    }
    let reason = match n_devices {
        0 => "no NVIDIA driver or no GPU was found on this machine; use `cpu`".to_owned(),
        n => format!("this machine has {n} GPU(s), numbered from 0"),
    };
    Err(Error::NoCuda { index, reason })
}

#[cfg(test)]
mod tests;
