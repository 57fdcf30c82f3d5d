//! Hostile bytes for what the source sends, and for what a person types as a moment.

use super::copy_binary::BinaryRows;
use super::key::KeyShape;
use super::retell::{CompositeAttributes, Doubts, EnumLabel, Retelling, Shape};
use super::{copy_text, pgoutput};
use crate::hostile::throw;
use crate::model::{Column, Grade, Moment, RowIdentity, Storage, Table, moment};

fn messages() -> Vec<Vec<u8>> {
    let seeds: [&[u8]; 9] = [
        b"B\0\0\0\0\x01\0\0\x10\0\0\0\0\0\0\0\x06\0\0\0\x07",
        b"C\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x07",
        b"R\0\0\x40\0public\0orders\0d\0\x02\x01id\0\0\0\0\x17\xff\xff\xff\xff\0note\0\0\0\0\x19\xff\xff\xff\xff",
        b"I\0\0\x40\0N\0\x03t\0\0\0\x017nu",
        b"U\0\0\x40\0K\0\x01t\0\0\0\x017N\0\x02t\0\0\0\x018t\0\0\0\x03new",
        b"U\0\0\x40\0O\0\x02t\0\0\0\x017nN\0\x02t\0\0\0\x018u",
        b"D\0\0\x40\0K\0\x01t\0\0\0\x017",
        b"T\0\0\0\x02\x03\0\0\x40\0\0\0\x40\x01",
        b"M\x01\0\0\0\0\0\0\0\x09backwhen.mark\0\0\0\0\x0d{\"name\":\"a\"}",
    ];
    seeds.map(<[u8]>::to_vec).to_vec()
}

#[test]
fn pgoutput_of_any_bytes() {
    throw("pgoutput", messages(), |bytes| {
        let name = pgoutput::stream_name(bytes);
        // Whatever a name holds, it is one piece of SQL.
        let quoted = crate::model::schema::quote_ident(&name);
        assert!(quoted.len() >= name.len());
        match pgoutput::decode(bytes) {
            Ok(message) => format!("{message:?}").chars().take(12).collect(),
            Err(error) => error.to_string(),
        }
    });
}

fn table(identity: RowIdentity) -> Table {
    let column = |name: &str, type_oid| Column {
        number: 0,
        name: name.into(),
        type_oid,
        type_modifier: -1,
        type_name: "x".into(),
    };
    Table {
        oid: 16384,
        schema: "public".into(),
        name: "orders".into(),
        columns: vec![column("id", 23), column("note", 25)],
        identity,
        grade: Grade::Exact,
        storage: Storage::default(),
        generated: Vec::new(),
        in_stream: None,
        partition_of: Vec::new(),
    }
}

#[test]
fn copy_text_of_any_bytes() {
    let seeds: [&[u8]; 5] =
        [b"1\tone", b"-2147483648\t\\N", b"7\t\\H\ta\\\\b\\tc\\nd", b"\t\\", b"9223372036854775807\tx"];
    let shapes =
        [KeyShape::of(&table(RowIdentity::Key(vec![0, 1]))), KeyShape::of(&table(RowIdentity::WholeRow))];
    throw("copy-text", seeds.map(<[u8]>::to_vec).to_vec(), |bytes| {
        let mut outcome = String::new();
        for line in bytes.split(|byte| *byte == b'\n') {
            for column in copy_text::columns(line) {
                if let Some(value) = copy_text::unescape(column) {
                    let mut escaped = Vec::new();
                    copy_text::push_escaped(&mut escaped, &value);
                    // What the server sends comes back to the byte; other bytes to the same value.
                    assert_eq!(copy_text::unescape(&escaped).as_deref(), Some(&*value));
                }
            }
            let filled = copy_text::fill_holes(line, b"0\told");
            for shape in &shapes {
                let mut key = Vec::new();
                outcome += &format!("{:?}", shape.push_key(line, &mut key));
            }
            outcome += &format!("{} {}", copy_text::has_hole(line), filled.is_some());
        }
        outcome
    });
}

#[test]
fn a_row_to_be_binary_of_any_bytes() {
    let types = [16, 17, 20, 25, 701, 1082, 1114, 1184, 1700, 2950, 3802];
    let column = |type_oid| Column { type_oid, ..table(RowIdentity::WholeRow).columns[0].clone() };
    let rows = BinaryRows::of(&types.map(column)).unwrap();
    let seeds: [&[u8]; 2] = [
        b"t\t\\\\x0aff\t-7\ta\\tb\t1e-5\t2024-02-29\t2024-02-29 12:00:00.5\t1999-12-31 23:59:59+00\t-12345.6\t\
          00112233-4455-6677-8899-aabbccddeeff\t{}",
        b"\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t\\N\t0.00\t\\N\t\\N",
    ];
    throw("copy-binary", seeds.map(<[u8]>::to_vec).to_vec(), |line| {
        let mut row = b"rows before".to_vec();
        let pushed = rows.push_row(line, &mut row).is_some();
        assert_eq!(pushed, row != b"rows before");
        format!("{pushed} {}", row.len())
    });
}

#[test]
fn values_that_read_otherwise_of_any_bytes() {
    let label = |now: &str| EnumLabel { now: now.into(), doubtful: false };
    let labels =
        Shape::Labels([(b"sad".to_vec(), label("b \"l\" \\u")), (b"".to_vec(), label("NULL"))].into());
    let both = CompositeAttributes { now: vec![(2, Some(1)), (3, Some(0)), (1, None)], doubtful: false };
    let types = [
        (1, labels),
        (2, Shape::Array { element: 1, delimiter: b',' }),
        (3, Shape::Range(1)),
        (4, Shape::Multirange(3)),
        (5, Shape::Composite([(2, both)].into())),
        (6, Shape::Array { element: 5, delimiter: b';' }),
        // In a circle, as no server has it.
        (7, Shape::Array { element: 7, delimiter: b',' }),
        (8, Shape::Domain(8)),
    ];
    let retelling = Retelling { types: types.into() };
    let seeds: [&[u8]; 8] = [
        b"sad",
        b"{sad,NULL,\"\",\"a\\\"b\"}",
        b"[0:1]={{a},{b}}",
        b"[sad,\"a\"\"b\")",
        b"empty",
        b"{[a,b),(,sad]}",
        b"(\"[sad,)\",\"{sad,NULL}\")",
        b"{\"(\\\"[sad,)\\\",{})\";NULL}",
    ];
    throw("retell", seeds.map(<[u8]>::to_vec).to_vec(), |bytes| {
        let mut outcome = String::new();
        for type_oid in 1..=8 {
            let mut doubts = Doubts::default();
            let now = retelling.value(type_oid, bytes, &mut doubts);
            // What cannot be read stays as it is.
            assert!(!doubts.unreadable || *now == *bytes);
            outcome += &format!("{}{} ", doubts.unreadable, *now == *bytes);
        }
        outcome
    });
}

#[test]
fn a_moment_of_any_bytes() {
    let seeds = [
        "2026-11-22T10:00:00.123456Z",
        "2026-11-22 10:00:00+01",
        "10 minutes ago",
        "-90s",
        "0/16B3748",
        "xid:77",
        "mark:x",
        "2026-11-22 10:00",
        "1d 2h",
    ];
    let seeds = seeds.map(|text| text.as_bytes().to_vec()).to_vec();
    throw("moment", seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let duration = moment::parse_duration(&text).is_some();
        match Moment::parse(&text, crate::ambient::now()) {
            Ok(Moment::Time(time)) => format!("time {} {duration}", time.to_string().len()),
            Ok(moment) => format!("{moment:?}").chars().take(5).collect(),
            Err(moment::ParseMomentError::NoZone { .. }) => "no zone".into(),
            Err(moment::ParseMomentError::Unknown(_)) => "unknown".into(),
        }
    });
}
