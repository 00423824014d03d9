use super::*;

#[test]
fn pieces_come_back_in_order_for_any_number_of_threads() {
    for threads in [1, 2, 3, 8] {
        let workers = Workers::new(threads).expect("threads start");
        for n in [0, 1, 2, 5, 16] {
            let expected: Vec<usize> = (0..n).map(|i| i * i).collect();
            assert_eq!(workers.map(n, |i| i * i), expected, "{n} on {threads}");
        }
    }
}

#[test]
fn a_piece_among_several_has_one_thread() {
    let workers = Workers::new(3).expect("threads start");
    assert_eq!(workers.run(rayon::current_num_threads), 3);
    assert_eq!(workers.map(4, |_| rayon::current_num_threads()), [1; 4]);
}
