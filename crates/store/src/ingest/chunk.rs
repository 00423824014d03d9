//! The derived table `probe_chunk`: 64 readings of one probe side by side.

use sqlx::PgConnection;

use super::CHUNK_READINGS;

/// Removes the chunks that hold a reading from `next_reading` on, or would.
pub(crate) async fn cut(
    db: &mut PgConnection,
    run_id: i32,
    next_reading: u32,
) -> Result<(), sqlx::Error> {
    let next_chunk = (next_reading / CHUNK_READINGS) as i32;
    sqlx::query("delete from imprint.probe_chunk where run_id = $1 and chunk >= $2")
        .bind(run_id)
        .bind(next_chunk)
        .execute(&mut *db)
        .await?;
    set_head(db, run_id, next_chunk).await
}

/// Makes the chunks whose readings are all below `next_reading`.
pub(crate) async fn make(
    db: &mut PgConnection,
    run_id: i32,
    next_reading: u32,
) -> Result<(), sqlx::Error> {
    let from: i32 =
        sqlx::query_scalar("select next_chunk from imprint.chunk_head where run_id = $1")
            .bind(run_id)
            .fetch_one(&mut *db)
            .await?;
    let to = (next_reading / CHUNK_READINGS) as i32;
    for chunk in from..to {
        make_one(db, run_id, chunk).await?;
    }
    set_head(db, run_id, to).await
}

async fn set_head(db: &mut PgConnection, run_id: i32, next_chunk: i32) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into imprint.chunk_head (run_id, next_chunk) values ($1, $2)
         on conflict (run_id) do update set next_chunk = excluded.next_chunk",
    )
    .bind(run_id)
    .bind(next_chunk)
    .execute(db)
    .await
    .map(drop)
}

async fn make_one(db: &mut PgConnection, run_id: i32, chunk: i32) -> Result<(), sqlx::Error> {
    let first = chunk * CHUNK_READINGS as i32;
    let readings: Vec<[Vec<f32>; 3]> = sqlx::query_as::<_, (Vec<f32>, Vec<f32>, Vec<f32>)>(
        "select first_sum_nats, target_sum_nats, full_sum_nats from imprint.step_reading
             where run_id = $1 and reading between $2 and $3 order by reading",
    )
    .bind(run_id)
    .bind(first)
    .bind(first + CHUNK_READINGS as i32 - 1)
    .fetch_all(&mut *db)
    .await?
    .into_iter()
    .map(|(first, target, full)| [first, target, full])
    .collect();
    let n_probes = readings.first().map_or(0, |r| r[0].len());
    // Binary COPY: transposing in the database costs ten times as much.
    let mut copy = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for probe in 0..n_probes {
        copy.extend_from_slice(&6_i16.to_be_bytes());
        for key in [run_id, probe as i32, chunk] {
            copy.extend_from_slice(&4_i32.to_be_bytes());
            copy.extend_from_slice(&key.to_be_bytes());
        }
        for span in 0..3 {
            put_array(&mut copy, readings.iter().map(|r| r[span][probe]));
        }
    }
    copy.extend_from_slice(&(-1_i16).to_be_bytes());
    let mut sink = db
        .copy_in_raw("copy imprint.probe_chunk from stdin (format binary)")
        .await?;
    sink.send(copy).await?;
    sink.finish().await.map(drop)
}

/// Postgres' binary form of a one-dimensional `float4[]`, with its length in bytes before it.
fn put_array(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = f32>) {
    const FLOAT4_OID: i32 = 700;
    const HEADER_BYTES: i32 = 20;
    let n = values.len() as i32;
    // Bytes; dimensions, whether there are nulls, element type; length and lower bound.
    for word in [HEADER_BYTES + 8 * n, 1, 0, FLOAT4_OID, n, 1] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    for value in values {
        out.extend_from_slice(&4_i32.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}
