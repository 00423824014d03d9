use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(n_texts: usize, batch_size: usize, want: &[usize]) {
    let got: Vec<usize> = rows(n_texts, batch_size).map(|r| r.len()).collect();
    assert_eq!(got, want);
}

#[test]
fn texts_take_a_row_each_while_there_are_rows() {
    check(0, 4, &[]);
    check(3, 4, &[1, 1, 1]);
    check(4, 4, &[1, 1, 1, 1]);
    check(5, 4, &[2, 1, 1, 1]);
    check(7, 4, &[2, 2, 2, 1]);
    check(8, 4, &[2, 2, 2, 2]);
    // The released code drops twenty texts here.
    assert_eq!(rows(120, 100).map(|r| r.len()).sum::<usize>(), 120);
}

proptest! {
    #[test]
    fn no_text_is_dropped_or_moved(n_texts in 0usize..300, batch_size in 1usize..300) {
        let rows: Vec<Range<usize>> = rows(n_texts, batch_size).collect();
        prop_assert_eq!(rows.len(), n_texts.min(batch_size));
        let texts: Vec<usize> = rows.clone().into_iter().flatten().collect();
        prop_assert_eq!(texts, (0..n_texts).collect::<Vec<_>>());
        prop_assert!(rows.is_sorted_by_key(|r| std::cmp::Reverse(r.len())));
        if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
            prop_assert!(first.len() - last.len() <= 1);
        }
    }

    #[test]
    fn a_head_is_replaced_and_the_rest_moves_back(
        row in proptest::collection::vec(any::<u32>(), 0..50),
        knowledge in proptest::collection::vec(any::<u32>(), 0..50),
    ) {
        prop_assume!(knowledge.len() <= row.len());
        let mut changed = row.clone();
        replace_head(&mut changed, &knowledge);
        let want: Vec<u32> = knowledge.iter().chain(&row).copied().take(row.len()).collect();
        prop_assert_eq!(changed, want);
    }
}
