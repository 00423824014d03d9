use std::time::Duration;

use super::Scraped;

#[test]
fn a_histogram_is_read_and_what_was_before_is_taken_off() {
    let scraped = |plan: (f64, u64, u64)| {
        let (sum, quick, all) = plan;
        Scraped(format!(
            "# TYPE imprint_look_duration_seconds histogram\n\
             imprint_look_duration_seconds_sum{{part=\"plan\"}} {sum}\n\
             imprint_look_duration_seconds_count{{part=\"plan\"}} {all}\n\
             imprint_look_duration_seconds_bucket{{le=\"0.5\",part=\"plan\"}} {quick}\n\
             imprint_look_duration_seconds_bucket{{le=\"1.0\",part=\"plan\"}} {all}\n\
             imprint_look_duration_seconds_bucket{{le=\"+Inf\",part=\"plan\"}} {all}\n\
             imprint_look_duration_seconds_sum{{part=\"read\"}} 99.0\n\
             imprint_look_duration_seconds_count{{part=\"read\"}} 1\n"
        ))
    };
    let plan = |scraped: &Scraped| scraped.durations("imprint_look_duration_seconds", "plan");
    let (before, after) = (scraped((1.0, 1, 2)), scraped((1.5, 3, 4)));
    assert_eq!(plan(&before).all_within(), Some(Duration::from_secs(1)));
    let since = plan(&after).since(&plan(&before));
    assert_eq!(since.n, 2);
    assert_eq!(since.mean(), Some(Duration::from_millis(250)));
    assert_eq!(since.all_within(), Some(Duration::from_millis(500)));
    let nothing = plan(&after).since(&plan(&after));
    assert_eq!((nothing.mean(), nothing.all_within()), (None, None));
}
