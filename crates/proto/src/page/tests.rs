use super::*;

const SIZES: Sizes = Sizes {
    default: 16,
    most: 256,
};

fn listing<'a>(call: &'a str, of: &'a str) -> Listing<'a, 2> {
    Listing { call, of }
}

#[test]
fn a_token_goes_on_where_it_was_given() {
    let token = listing("ListRuns", "mine").token([3, -1]);
    let page = listing("ListRuns", "mine").page(SIZES, 0, &token).unwrap();
    assert_eq!((page.size, page.after), (16, Some([3, -1])));
}

#[test]
fn a_token_of_elsewhere_is_refused() {
    let token = listing("ListRuns", "mine").token([3, -1]);
    let mut spoilt = token.clone();
    spoilt.replace_range(11..12, "f");
    for (call, of, token) in [
        ("ListRuns", "yours", token.as_str()),
        ("ListProbes", "mine", &token),
        ("ListRuns", "mine", &spoilt),
        ("ListRuns", "mine", &token[2..]),
        ("ListRuns", "mine", "3"),
        ("ListRuns", "mine", "näher"),
        ("ListRuns", "mine", &"é".repeat(13)),
    ] {
        let status = listing(call, of).page(SIZES, 0, token).unwrap_err();
        assert_eq!(
            status.code(),
            tonic::Code::InvalidArgument,
            "{call} {of} {token}"
        );
    }
}

#[test]
fn sizes_are_kept_within_limits() {
    let size = |asked| {
        listing("ListRuns", "")
            .page(SIZES, asked, "")
            .map(|p| p.size)
    };
    assert_eq!(size(0).unwrap(), 16);
    assert_eq!(size(7).unwrap(), 7);
    assert_eq!(size(i32::MAX).unwrap(), 256);
    assert_eq!(size(-1).unwrap_err().code(), tonic::Code::InvalidArgument);
}
