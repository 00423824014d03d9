//! Compiles the protocol with a compiler written in Rust, so that nobody needs `protoc`.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new("../../proto");
    let files =
        ["metrics", "orchestrator", "attempt", "spool"].map(|f| format!("imprint/v1/{f}.proto"));
    let descriptors = protox::compile(files, [root])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("imprint.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".imprint.v1.Reading")
        // They carry tokens: what is printed of them is written by hand.
        .skip_debug([
            "imprint.v1.BeginAttemptResponse",
            "imprint.v1.HeartbeatResponse",
        ])
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=../../proto");
    Ok(())
}
