use super::*;

#[test]
fn parses_the_names_it_prints() {
    for (name, device) in [
        ("cpu", DeviceChoice::Cpu),
        ("cuda:0", DeviceChoice::Cuda(0)),
        ("cuda:12", DeviceChoice::Cuda(12)),
    ] {
        assert_eq!(DeviceChoice::parse(name).expect("a device"), device);
        assert_eq!(device.to_string(), name);
    }
    for name in ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
        let err = DeviceChoice::parse(name).expect_err("no device");
        assert_eq!(
            err.to_string(),
            format!("device `{name}`: use `cpu` or `cuda:N`")
        );
    }
}

/// With or without CUDA compiled in: no machine has so many GPUs, and nothing panics.
#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let err = DeviceChoice::Cuda(999).open().expect_err("no such GPU");
    assert!(err.to_string().starts_with("device `cuda:999`: "), "{err}");
}
