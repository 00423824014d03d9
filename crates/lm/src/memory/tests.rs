use super::*;

#[test]
fn micro_batches_are_few_and_alike() {
    let memory = PassMemory {
        fixed_bytes: 100,
        row_bytes: 10,
    };
    for (left_bytes, n_at_a_time, rows) in [
        (u64::MAX, 1, 128),
        (100 + 1280, 1, 128),
        (100 + 1279, 1, 64),
        (100 + 1000, 1, 64),
        (100 + 500, 1, 43),
        (2 * (100 + 640), 2, 64),
        (100, 1, 1),
        (0, 1, 1),
    ] {
        let found = memory.micro_batch_rows(128, n_at_a_time, left_bytes);
        assert_eq!(found, rows, "{left_bytes} bytes, {n_at_a_time} at a time");
    }
}
