use proptest::prelude::*;

use super::*;

/// A field of a column of this kind, as Postgres would send it.
fn field(kind: Kind) -> BoxedStrategy<Option<Vec<u8>>> {
    let scalar = move || -> BoxedStrategy<Vec<u8>> {
        match kind.scalar {
            Scalar::Bool => any::<bool>().prop_map(|b| vec![b.into()]).boxed(),
            Scalar::Int2 => any::<i16>().prop_map(|v| v.to_be_bytes().to_vec()).boxed(),
            Scalar::Int4 => any::<i32>().prop_map(|v| v.to_be_bytes().to_vec()).boxed(),
            Scalar::Int8 | Scalar::Time => {
                any::<i64>().prop_map(|v| v.to_be_bytes().to_vec()).boxed()
            }
            // Any bits: NaNs keep theirs.
            Scalar::Float4 => any::<u32>().prop_map(|v| v.to_be_bytes().to_vec()).boxed(),
            Scalar::Float8 => any::<u64>().prop_map(|v| v.to_be_bytes().to_vec()).boxed(),
            Scalar::Text | Scalar::Bytes => prop::collection::vec(any::<u8>(), 0..9).boxed(),
            Scalar::Json => prop::collection::vec(any::<u8>(), 0..9)
                .prop_map(|text| [&[1], &text[..]].concat())
                .boxed(),
        }
    };
    if !kind.is_list {
        return prop::option::of(scalar()).boxed();
    }
    prop::option::of(prop::collection::vec(scalar(), 0..5))
        .prop_map(move |list| {
            let list = list?;
            let n = list.len() as i32;
            let words = match n {
                0 => vec![0, 0, kind.scalar.oid()],
                n => vec![1, 0, kind.scalar.oid(), n, 1],
            };
            let mut field: Vec<u8> = words.iter().flat_map(|w: &i32| w.to_be_bytes()).collect();
            for element in list {
                field.extend((element.len() as i32).to_be_bytes());
                field.extend(element);
            }
            Some(field)
        })
        .boxed()
}

fn kind() -> impl Strategy<Value = Kind> {
    let scalar = prop::sample::select(vec![
        Scalar::Bool,
        Scalar::Int2,
        Scalar::Int4,
        Scalar::Int8,
        Scalar::Float4,
        Scalar::Float8,
        Scalar::Text,
        Scalar::Json,
        Scalar::Bytes,
        Scalar::Time,
    ]);
    (scalar, any::<bool>()).prop_map(|(scalar, is_list)| Kind { scalar, is_list })
}

proptest! {
    #[test]
    fn fields_come_back_to_the_byte(
        (kind, fields) in kind().prop_flat_map(|k| {
            (Just(k), prop::collection::vec(field(k), 0..20))
        }),
    ) {
        let mut column = ColumnRows::new(kind);
        for field in &fields {
            column.push(field.as_deref()).unwrap();
        }
        let (mut at, mut out) = (Cursor::default(), Vec::new());
        for field in &fields {
            out.clear();
            column.put(&mut at, &mut out).unwrap();
            let (length, bytes) = out.split_at(4);
            let length = i32::from_be_bytes(length.try_into().unwrap());
            match field {
                Some(field) => prop_assert_eq!((length as usize, bytes), (field.len(), &field[..])),
                None => prop_assert_eq!((length, bytes.len()), (-1, 0)),
            }
        }
        prop_assert!(column.put(&mut at, &mut out).is_err(), "there are no more");
    }

    #[test]
    fn a_copy_is_read_in_pieces_of_any_size(
        rows in prop::collection::vec(
            prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..20)), 0..4),
            0..6,
        ),
        piece in 1..50_usize,
    ) {
        let mut copy = COPY_HEADER.to_vec();
        for row in &rows {
            copy.extend((row.len() as i16).to_be_bytes());
            for field in row {
                match field {
                    Some(bytes) => {
                        copy.extend((bytes.len() as i32).to_be_bytes());
                        copy.extend(bytes);
                    }
                    None => copy.extend((-1_i32).to_be_bytes()),
                }
            }
        }
        copy.extend(COPY_TRAILER);
        let (mut reader, mut read) = (CopyRows::default(), Vec::new());
        for piece in copy.chunks(piece) {
            reader.push(piece);
            while let Some(row) = reader.next().unwrap() {
                let row: Vec<Option<Vec<u8>>> =
                    row.into_iter().map(|f| f.map(<[u8]>::to_vec)).collect();
                read.push(row);
            }
        }
        prop_assert_eq!(read, rows);
    }

    /// Whatever is sent, the answer is an error and not a panic.
    #[test]
    fn garbage_is_refused(kind in kind(), bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = ColumnRows::new(kind).push(Some(&bytes));
        let mut reader = CopyRows { begun: true, ..CopyRows::default() };
        reader.push(&bytes);
        let _ = reader.next();
    }
}
