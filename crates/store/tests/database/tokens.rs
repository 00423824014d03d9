use std::time::Duration;

use imprint_store::Error;
use imprint_store::tokens::{Scope, Standing};
use imprint_testkit::TestDb;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn a_token_is_good_until_it_ends_or_is_revoked() {
    let db = TestDb::start().await;
    let store = &db.store;
    let scopes = [Scope::Read, Scope::Submit];
    let made = store
        .create_token("anna", &[1; 32], &scopes, Some(DAY))
        .await
        .unwrap();
    assert_eq!(
        (made.standing, &made.scopes[..]),
        (Standing::Good, &scopes[..])
    );
    let lasts = made.expires_at.unwrap() - made.created_at;
    assert_eq!(lasts.to_std().unwrap(), DAY);

    // One of each name, while it is not revoked.
    let twice = store.create_token("anna", &[2; 32], &scopes, None).await;
    let Err(Error::Invalid { field: "name", .. }) = twice else {
        panic!("{twice:?}");
    };
    assert!(store.revoke_token("anna").await.unwrap());
    assert!(!store.revoke_token("anna").await.unwrap());
    let again = store
        .create_token("anna", &[2; 32], &scopes, None)
        .await
        .unwrap();
    assert_eq!(again.expires_at, None);

    let standing = async |sha256: [u8; 32]| {
        let found = store.token(&sha256).await.unwrap();
        found.map(|token| token.standing)
    };
    assert_eq!(standing([1; 32]).await, Some(Standing::Revoked));
    assert_eq!(standing([2; 32]).await, Some(Standing::Good));
    assert_eq!(standing([3; 32]).await, None);
    // Its use was noted once, to the hour.
    let used = store.token(&[2; 32]).await.unwrap().unwrap().last_used_at;
    assert!(used.is_some());
    assert_eq!(standing([2; 32]).await, Some(Standing::Good));
    let still = store.token(&[2; 32]).await.unwrap().unwrap().last_used_at;
    assert_eq!(still, used);

    sqlx::query("update imprint.token set expires_at = now() where revoked_at is null")
        .execute(store.pool())
        .await
        .unwrap();
    assert_eq!(standing([2; 32]).await, Some(Standing::Expired));
    let all = store.tokens().await.unwrap();
    let listed: Vec<_> = all.iter().map(|t| t.standing).collect();
    assert_eq!(listed, [Standing::Expired, Standing::Revoked]);
}

#[tokio::test]
async fn the_table_takes_no_other_scope() {
    let db = TestDb::start().await;
    for scopes in ["{}", "{admin}", "{read,admin}"] {
        let put = sqlx::query(
            "insert into imprint.token (name, sha256, scopes) values ('x', $1, $2::text[])",
        )
        .bind([9_u8; 32].as_slice())
        .bind(scopes)
        .execute(db.store.pool())
        .await;
        assert!(put.is_err(), "{scopes}");
    }
}
