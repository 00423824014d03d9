use super::*;

const EXTENT: Extent = Extent {
    file: 0,
    start: 64,
    n_bytes: 24,
};

fn storages(key: &str) -> Option<Extent> {
    (key == "0").then_some(EXTENT)
}

fn read_with(bytes: &[u8], inert: bool) -> Result<Plain, String> {
    let known = Known {
        storages: Some(&storages),
        inert,
    };
    read(bytes, &known)
}

#[track_caller]
fn holds(bytes: &[u8], want: &Plain) {
    assert_eq!(read_with(bytes, false).as_ref(), Ok(want));
}

#[track_caller]
fn refuses(bytes: &[u8], want: &str) {
    let reason = read_with(bytes, false).expect_err("it is refused");
    assert!(reason.contains(want), "{reason}");
}

#[test]
fn reads_scalars_of_every_protocol() {
    holds(b"\x80\x02N.", &Plain::None);
    holds(b"\x80\x02\x88.", &Plain::Bool(true));
    holds(b"\x80\x02K\x05.", &Plain::Int(5));
    holds(b"\x80\x02M\x00\x01.", &Plain::Int(256));
    holds(b"\x80\x02J\xff\xff\xff\xff.", &Plain::Int(-1));
    holds(b"\x80\x02\x8a\x00.", &Plain::Int(0));
    holds(b"\x80\x02\x8a\x02\x00\xff.", &Plain::Int(-256));
    holds(b"\x80\x02G\x3f\xf8\0\0\0\0\0\0.", &Plain::Float(1.5));
    holds(b"\x80\x02X\x02\0\0\0ab.", &Plain::Str("ab".to_owned()));
    let framed = b"\x80\x04\x95\x05\0\0\0\0\0\0\0\x8c\x02ab\x94.";
    holds(framed, &Plain::Str("ab".to_owned()));
    holds(b"\x80\x05C\x01\xff.", &Plain::Bytes(vec![0xff]));
}

#[test]
fn reads_containers_that_are_filled_after_they_are_remembered() {
    let one_two = || Plain::List(vec![Plain::Int(1), Plain::Int(2)]);
    holds(b"\x80\x02]q\x00(K\x01K\x02e.", &one_two());
    holds(b"\x80\x02K\x01K\x02\x86.", &one_two());
    // [x, x] of one list that gets its items last.
    holds(
        b"\x80\x02]q\x00]q\x01(h\x00h\x00e0h\x00K\x01ah\x01\x86.",
        &Plain::List(vec![
            Plain::List(vec![Plain::Int(1)]),
            Plain::List(vec![Plain::List(vec![Plain::Int(1)]); 2]),
        ])
        .clone(),
    );
    holds(
        b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\0\0\0aK\x01X\x01\0\0\0bK\x02u}b.",
        &Plain::Dict(vec![
            (Plain::Str("a".to_owned()), Plain::Int(1)),
            (Plain::Str("b".to_owned()), Plain::Int(2)),
        ]),
    );
}

/// `torch._utils._rebuild_tensor_v2(storage of n float32, offset, size, stride, False, OrderedDict())`
fn tensor(n: u8, offset: u8, size: [u8; 2], stride: [u8; 2]) -> Vec<u8> {
    let mut bytes = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    bytes.extend(b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK");
    bytes.push(n);
    bytes.extend(b"tQ");
    bytes.extend([b'K', offset]);
    bytes.extend([b'K', size[0], b'K', size[1], 0x86]);
    bytes.extend([b'K', stride[0], b'K', stride[1], 0x86]);
    bytes.extend(b"\x89ccollections\nOrderedDict\n)RtR.");
    bytes
}

#[test]
fn a_tensor_is_a_place_in_its_storage() {
    let Ok(Plain::Tensor(found)) = read_with(&tensor(6, 2, [2, 2], [2, 1]), false) else {
        panic!("it is a tensor");
    };
    let extent = Extent {
        file: 0,
        start: 64,
        n_bytes: 24,
    };
    let expected = Tensor::new(Dtype::F32, vec![2, 2], vec![2, 1], 2, extent);
    assert_eq!(Ok(*found), expected);
}

#[test]
fn a_tensor_lies_within_its_storage() {
    refuses(&tensor(7, 0, [2, 3], [3, 1]), "should have 7 elements");
    refuses(&tensor(6, 1, [2, 3], [3, 1]), "does not fit");
    refuses(&tensor(6, 0, [2, 3], [4, 1]), "does not fit");
    // Every element the same one: of a small file, a big tensor.
    refuses(&tensor(6, 0, [200, 200], [0, 0]), "does not fit");
    refuses(&tensor(3, 0, [2, 3], [3, 1]), "does not fit");
}

#[test]
fn what_is_not_known_is_named_and_nothing_is_done() {
    refuses(
        b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.",
        "it names `os.system`; only tensors and plain containers are read, and nothing was executed",
    );
    refuses(
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        "`builtins.eval`",
    );
    refuses(b"\x80\x02ctorch\nload\n.", "`torch.load`");
    refuses(b"\x80\x02cpathlib\nPosixPath\n)R.", "`pathlib.PosixPath`");
    refuses(b"\x80\x02ca\x1b[31m\nb\n.", "`a\u{fffd}[31m.b`");
}

#[test]
fn a_trainers_state_passes_over_paths_and_arrays() {
    let path = b"\x80\x02cpathlib\nPosixPath\nX\x01\0\0\0/\x85R.";
    assert_eq!(
        read_with(path, true),
        Ok(Plain::Opaque("pathlib.PosixPath".to_owned()))
    );
    assert!(read_with(b"\x80\x02cos\nsystem\n)R.", true).is_err());
}

#[test]
fn without_storages_there_are_no_tensors() {
    let known = Known::default();
    assert!(read(&tensor(6, 0, [2, 3], [3, 1]), &known).is_err());
    assert_eq!(read(b"\x80\x02K\x05.", &known), Ok(Plain::Int(5)));
}

#[test]
fn damage_is_an_error() {
    for bytes in [
        &b""[..],
        b"\x80",
        b"\x80\x02",
        b"\x80\x09N.",
        b"\x80\x02.",
        b"\x80\x02t.",
        b"\x80\x02(0N.",
        b"\x80\x02K\x01(\x85.",
        b"\x80\x02h\x00.",
        b"\x80\x02NNs.",
        b"\x80\x02}(Nu.",
        b"\x80\x02NNa.",
        b"\x80\x02NNR.",
        b"\x80\x02NNb.",
        b"\x80\x02NQ.",
        b"\x80\x02X\xff\xff\xff\xffab.",
        b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.",
        b"\x80\x02X\x01\0\0\0\xff.",
        b"\x80\x02cos",
        b"\x80\x02I1\n.",
    ] {
        assert!(read_with(bytes, true).is_err(), "{bytes:?}");
    }
}

#[test]
fn what_holds_itself_ends() {
    // x = []; x.append(x)
    refuses(b"\x80\x02]q\x00h\x00a.", "deep");
    // The same twice.
    refuses(b"\x80\x02]q\x00(h\x00h\x00e.", "deep");
}

#[test]
fn a_few_bytes_cannot_make_much() {
    // Each list holds the one before it twice.
    let mut bytes = b"\x80\x02]q\x00".to_vec();
    for n in 1..60 {
        bytes.extend([b']', b'q', n, b'(', b'h', n - 1, b'h', n - 1, b'e']);
    }
    bytes.push(b'.');
    refuses(&bytes, "too many places");
    // A long string in many places.
    let mut bytes = b"\x80\x02(X\x00\x00\x01\x00".to_vec();
    bytes.extend(vec![b'a'; 65_536]);
    bytes.extend(b"q\x00");
    bytes.extend(b"h\x00".repeat(100_000));
    bytes.extend(b"l.");
    refuses(&bytes, "too many places");
}

#[test]
fn deep_containers_are_refused() {
    let mut bytes = b"\x80\x02".to_vec();
    bytes.extend(vec![b')'; 1]);
    bytes.extend(vec![0x85; 100_000]);
    bytes.push(b'.');
    refuses(&bytes, "deep");
}
