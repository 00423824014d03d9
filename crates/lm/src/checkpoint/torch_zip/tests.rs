use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::checkpoint::TensorFiles;

/// `{'x': tensor of 2 float32}` of storage 0.
const PICKLE: &[u8] =
    b"\x80\x02}X\x01\0\0\0xctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage\
    ctorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQK\x00K\x02\x85K\x01\x85\x89}tRs.";
const DATA: [u8; 8] = [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40];

/// A zip archive; each entry has a name, bytes, a method and flags.
fn zip(entries: &[(&str, &[u8], u16, u16)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for (name, data, method, flags) in entries {
        let at = bytes.len() as u32;
        let n = (data.len() as u32).to_le_bytes();
        let common = |out: &mut Vec<u8>| {
            out.extend([20, 0]);
            out.extend(flags.to_le_bytes());
            out.extend(method.to_le_bytes());
            out.extend([0; 8]);
            out.extend(n);
            out.extend(n);
            out.extend((name.len() as u16).to_le_bytes());
            out.extend([0; 2]);
        };
        bytes.extend(LOCAL_HEADER.to_le_bytes());
        common(&mut bytes);
        bytes.extend(name.as_bytes());
        bytes.extend(*data);
        directory.extend(CENTRAL_HEADER.to_le_bytes());
        directory.extend([20, 0]);
        common(&mut directory);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let start = (bytes.len() as u32).to_le_bytes();
    let n = (entries.len() as u16).to_le_bytes();
    bytes.extend(&directory);
    bytes.extend(END.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(n);
    bytes.extend(n);
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start);
    bytes.extend([0; 2]);
    bytes
}

fn saved(pickle: &[u8]) -> Vec<u8> {
    zip(&[
        ("archive/data.pkl", pickle, 0, 0),
        ("archive/byteorder", b"little", 0, 0),
        ("archive/data/0", &DATA, 0, 0),
    ])
}

fn written(dir: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join("model.pt");
    fs::write(&path, bytes).expect("written");
    path
}

fn opened(path: &Path) -> Result<TensorFiles, String> {
    TensorFiles::open_file(path.to_owned()).map_err(|err| err.to_string())
}

#[track_caller]
fn refuses(bytes: &[u8], want: &str) {
    let dir = TempDir::new().expect("temporary directory");
    let path = written(&dir, bytes);
    let reason = opened(&path).err().expect("it is refused");
    assert!(
        reason.contains(want) && reason.contains("model.pt"),
        "{reason}"
    );
}

#[test]
fn reads_what_is_saved() {
    let dir = TempDir::new().expect("temporary directory");
    let path = written(&dir, &saved(PICKLE));
    let mut out = [0.0; 2];
    let files = opened(&path).expect("opened");
    files.read("x", &[2], &mut out).expect("read");
    assert_eq!(out, [1.0, 2.0]);
}

#[test]
fn refuses_what_torch_does_not_write() {
    for (method, flags) in [(8, 0), (0, ENCRYPTED)] {
        let archive = zip(&[
            ("archive/data.pkl", PICKLE, 0, 0),
            ("archive/data/0", &DATA, method, flags),
        ]);
        refuses(
            &archive,
            "`archive/data/0` in it is compressed or encrypted",
        );
    }
    refuses(
        &zip(&[
            ("a/data.pkl", PICKLE, 0, 0),
            ("a/byteorder", b"big", 0, 0),
            ("a/data/0", &DATA, 0, 0),
        ]),
        "its byte order is `big`",
    );
    refuses(
        &zip(&[("a/data.pkl", PICKLE, 0, 0), ("b/data.pkl", PICKLE, 0, 0)]),
        "does not hold one data.pkl",
    );
    refuses(
        &zip(&[("a/data.pkl", PICKLE, 0, 0), ("a/data.pkl", PICKLE, 0, 0)]),
        "twice",
    );
    refuses(&zip(&[("readme", b"", 0, 0)]), "does not hold one data.pkl");
    refuses(
        &zip(&[("a/data.pkl", PICKLE, 0, 0), ("a/constants.pkl", b"", 0, 0)]),
        "TorchScript",
    );
}

#[test]
fn a_storage_is_there_and_long_enough() {
    refuses(
        &zip(&[("a/data.pkl", PICKLE, 0, 0)]),
        "the storage `0` is not in it",
    );
    refuses(
        &zip(&[("a/data.pkl", PICKLE, 0, 0), ("a/data/0", &DATA[..7], 0, 0)]),
        "the storage `0` should have 2 elements of 4 bytes, but has 7 bytes",
    );
}

#[test]
fn weights_are_tensors_under_names() {
    refuses(&saved(b"\x80\x02N."), "does not hold a dict of tensors");
    refuses(
        &saved(b"\x80\x02}X\x01\0\0\0xK\x01s."),
        "`x` in it is a whole number, not a tensor",
    );
    refuses(
        &saved(b"\x80\x02}K\x01K\x01s."),
        "stands where a tensor's name should",
    );
}

#[test]
fn a_file_of_another_kind_says_how_to_go_on() {
    refuses(b"", "not a file that `torch.save` wrote");
    refuses(b"\x80\x02N.", "a bare pickle");
    refuses(
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
        "in the old format of `torch.save`; load it with PyTorch (1.6 or later)",
    );
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    refuses(&tar, "in the old format of `torch.save`");
}

#[test]
fn a_file_that_is_cut_short_is_refused_wherever() {
    let dir = TempDir::new().expect("temporary directory");
    let whole = saved(PICKLE);
    for n in 0..whole.len() {
        let path = written(&dir, &whole[..n]);
        assert!(opened(&path).is_err(), "{n} of {} bytes", whole.len());
    }
    refuses(&whole[..whole.len() - 1], "cut short");
}

#[test]
fn places_beyond_the_file_are_refused() {
    let whole = saved(PICKLE);
    let end = whole.len() - END_BYTES;
    // The directory's length and start, and the first entry's size and place.
    let directory = u32_at(&whole, end + 16).expect("it is there") as usize;
    for at in [end + 12, end + 16, directory + 20, directory + 42] {
        let mut lying = whole.clone();
        lying[at..at + 4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
        let dir = TempDir::new().expect("temporary directory");
        assert!(opened(&written(&dir, &lying)).is_err(), "byte {at}");
    }
}
