use super::*;

#[test]
fn logs_come_in_the_order_of_their_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str| fs::write(dir.path().join(name), "said").unwrap();
    // Before jobs had numbers.
    write("trainer-1.log");
    // The first of a job that was asked for twice has the last word.
    for name in [
        "job-10.log",
        "job-9.log",
        "job-2-slurm-10001.log",
        "job-2-slurm-9999.log",
        "notes.txt",
    ] {
        write(name);
    }
    fs::create_dir(dir.path().join("job-11.log")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("job-12.log")).unwrap();
    let names: Vec<String> = list(dir.path()).into_iter().map(|log| log.name).collect();
    assert_eq!(
        names,
        [
            "trainer-1.log",
            "job-2-slurm-9999.log",
            "job-2-slurm-10001.log",
            "job-9.log",
            "job-10.log"
        ]
    );
    assert_eq!(list(&dir.path().join("nothing")), []);
}

#[test]
fn what_is_no_file_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link.log");
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    assert!(open(&link).is_err());
    let pipe = dir.path().join("pipe.log");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(open(&pipe).unwrap_err().to_string(), "it is no file");
    assert!(open(dir.path()).is_err());
}

#[tokio::test]
async fn a_tail_begins_at_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job-1.log");
    let long = "x".repeat(PIECE_BYTES);
    for (text, n_lines, want) in [
        ("", 3, ""),
        ("a\nb\nc\n", 0, ""),
        ("a\nb\nc\n", 1, "c\n"),
        ("a\nb\nc", 1, "c"),
        ("a\nb\nc\n", 2, "b\nc\n"),
        ("a\nb\nc\n", 3, "a\nb\nc\n"),
        ("a\nb\nc\n", u32::MAX, "a\nb\nc\n"),
        ("a\n\n\n", 2, "\n\n"),
        (&format!("a\n{long}\n{long}"), 1, &long),
        (&format!("a\n{long}\n"), 1, &format!("{long}\n")),
    ] {
        fs::write(&path, text).unwrap();
        let mut file = AsyncFile::from_std(open(&path).unwrap());
        let start = tail_start(&mut file, n_lines).await.unwrap();
        assert_eq!(&text[start as usize..], want, "{n_lines}");
    }
}
