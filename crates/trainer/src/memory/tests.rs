use imprint_core::{ModelSpec, ResourcesSpec};

use super::*;

const GIB: u64 = 1 << 30;

/// OLMo-1B on rows of 2048 tokens, as `docs/memory.md` has it.
fn question(device: &str) -> MemoryQuestion {
    MemoryQuestion {
        model: ModelSource::Scratch(ModelSpec {
            vocab_size: Some(50_304),
            hidden_size: 2048,
            intermediate_size: 8192,
            num_hidden_layers: 16,
            num_attention_heads: 16,
            tie_word_embeddings: true,
            max_position_embeddings: Some(2048),
            rope_theta: 10_000.0,
        }),
        batch_size: 128,
        seq_len: 2048,
        micro_batch_rows: None,
        resources: ResourcesSpec {
            device: device.to_owned(),
            ..ResourcesSpec::default()
        },
    }
}

#[test]
fn the_rows_and_the_memory_are_those_of_a_run() {
    let on_gpu = question("cuda:0");
    let open = answer(&on_gpu).unwrap();
    assert_eq!(open.n_parameters, 1_176_764_416);
    assert_eq!(open.micro_batch_rows, None, "nobody says what fits");
    assert_eq!(open.bytes / GIB, 35, "of one row");

    let given = answer(&MemoryQuestion {
        micro_batch_rows: Some(16),
        ..on_gpu.clone()
    });
    let given = given.unwrap();
    assert_eq!((given.micro_batch_rows, given.bytes / GIB), (Some(16), 147));

    for gib in [36.0, 60.0, 80.0, 150.0, 1000.0] {
        let mut limited = on_gpu.clone();
        limited.resources.memory_gib = Some(gib);
        let fits = answer(&limited).unwrap();
        let rows = fits.micro_batch_rows.unwrap();
        assert!(fits.bytes as f64 <= gib * GIB as f64, "{gib} GiB: {fits:?}");
        // Fewer micro-batches would not fit.
        let n = 128_u32.div_ceil(rows);
        if n > 1 {
            let more = answer(&MemoryQuestion {
                micro_batch_rows: Some(128_u32.div_ceil(n - 1)),
                ..on_gpu.clone()
            });
            assert!(
                more.unwrap().bytes as f64 > gib * GIB as f64,
                "{gib} GiB: {fits:?}"
            );
        }
    }
    // Each thread of a CPU has a micro-batch of its own, while there are enough.
    let mut threads = question("cpu");
    threads.micro_batch_rows = Some(64);
    let one = answer(&threads).unwrap().bytes;
    threads.resources.threads = 2;
    let two = answer(&threads).unwrap().bytes;
    threads.resources.threads = 8;
    assert!(one < two);
    assert_eq!(two, answer(&threads).unwrap().bytes);
}

#[test]
fn a_model_that_cannot_be_told_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut nowhere = question("cpu");
    nowhere.model = ModelSource::Directory(dir.path().to_owned());
    let problem = format!("{:#}", answer(&nowhere).unwrap_err());
    assert!(problem.contains("config.json"), "{problem}");
    let nonsense = answer(&question("tpu")).unwrap_err().to_string();
    assert!(nonsense.contains("tpu"), "{nonsense}");
}
