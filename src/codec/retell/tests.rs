use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

const MOOD: u32 = 1;
const MOODS: u32 = 2;
const FEELING: u32 = 3;
const SPAN: u32 = 4;
const SPANS: u32 = 5;
const PAIR: u32 = 6;
const PAIRS: u32 = 7;
const NEST: u32 = 8;
const COVER: u32 = 9;
const INT: u32 = 23;

/// Old and new names of labels.
const LABELS: [(&str, &str); 8] = [
    ("sad", "b \"l\" \\u"),
    ("", "NULL"),
    ("null", ""),
    ("a,b", "ab"),
    ("(x)", "[y]"),
    ("{z}", "z;"),
    ("tab\there", "\\"),
    ("same", "same"),
];

fn attributes(now: &[(u32, Option<usize>)]) -> CompositeAttributes {
    CompositeAttributes { now: now.to_vec(), doubtful: false }
}

/// `PAIR` has lost its first attribute of two and gained one.
fn retelling() -> Retelling {
    let label = |(old, now): &(&str, &str)| {
        (old.as_bytes().to_vec(), EnumLabel { now: now.as_bytes().to_vec(), doubtful: false })
    };
    let labels = LABELS.iter().filter(|(old, now)| old != now).map(label).collect();
    let types = [
        (MOOD, Shape::Labels(labels)),
        (MOODS, Shape::Array { element: MOOD, delimiter: b',' }),
        (FEELING, Shape::Domain(MOOD)),
        (SPAN, Shape::Range(MOOD)),
        (SPANS, Shape::Multirange(SPAN)),
        (PAIR, Shape::Composite([(2, attributes(&[(FEELING, Some(1)), (INT, None)]))].into())),
        (PAIRS, Shape::Array { element: PAIR, delimiter: b';' }),
        (
            NEST,
            Shape::Composite(
                [(3, attributes(&[(PAIR, Some(0)), (PAIRS, Some(1)), (SPANS, Some(2))]))].into(),
            ),
        ),
        (COVER, Shape::Range(NEST)),
    ];
    Retelling { types: types.into() }
}

fn value(type_oid: u32, text: &str) -> String {
    let mut doubts = Doubts::default();
    let now = retelling().value(type_oid, text.as_bytes(), &mut doubts).into_owned();
    assert_eq!(doubts, Doubts::default(), "{text}");
    String::from_utf8(now).unwrap()
}

#[test]
fn labels_change_where_they_are_and_all_else_stays() {
    assert_eq!(value(INT, "sad"), "sad");
    assert_eq!(value(MOOD, "sad"), "b \"l\" \\u");
    assert_eq!(value(MOOD, "other"), "other");
    assert_eq!(value(MOODS, "{}"), "{}");
    assert_eq!(value(MOODS, r#"{sad,NULL,"",other,"null"}"#), r#"{"b \"l\" \\u",NULL,"NULL",other,""}"#);
    assert_eq!(
        value(MOODS, r#"[0:1][-1:0]={{"a,b","(x)"},{NULL,"{z}"}}"#),
        "[0:1][-1:0]={{ab,[y]},{NULL,z;}}"
    );
    assert_eq!(value(SPAN, "empty"), "empty");
    assert_eq!(value(SPAN, r#"["a,b","")"#), r#"[ab,NULL)"#);
    assert_eq!(value(SPAN, "(,sad]"), r#"(,"b ""l"" \\u"]"#);
    assert_eq!(value(SPANS, "{}"), "{}");
    assert_eq!(value(SPANS, r#"{["a,b",other),[sad,)}"#), r#"{[ab,other),["b ""l"" \\u",)}"#);
}

#[test]
fn attributes_come_and_go() {
    assert_eq!(value(PAIR, "(7,other)"), "(other,)");
    assert_eq!(value(PAIR, "(,)"), "(,)");
    assert_eq!(value(PAIR, r#"("a ""b""","a,b")"#), "(ab,)");
    assert_eq!(value(PAIRS, r#"{"(7,\"a,b\")";NULL}"#), r#"{(ab,);NULL}"#);
    let to_none = Shape::Composite([(1, attributes(&[]))].into());
    let from_none = Shape::Composite([(0, attributes(&[(INT, None), (INT, None)]))].into());
    let retelling = Retelling { types: [(PAIR, to_none), (NEST, from_none)].into() };
    let mut doubts = Doubts::default();
    assert_eq!(&*retelling.value(PAIR, b"(1)", &mut doubts), b"()");
    assert_eq!(&*retelling.value(PAIR, b"()", &mut doubts), b"()");
    assert_eq!(&*retelling.value(NEST, b"()", &mut doubts), b"(,)");
    assert!(doubts.is_empty());
}

#[test]
fn what_cannot_be_read_stays_and_is_noted() {
    for (type_oid, text) in [
        (MOODS, ""),
        (MOODS, "{"),
        (MOODS, "{a"),
        (MOODS, "{a}}"),
        (MOODS, "{a,}"),
        (MOODS, "{,a}"),
        (MOODS, "{\"a}"),
        (MOODS, "{\"a\\"),
        (MOODS, "[1:2]"),
        (MOODS, "{{a}b}"),
        (SPAN, "[a,b"),
        (SPAN, "[a,b)x"),
        (SPAN, "emptyx"),
        (SPANS, "{empty"),
        (SPANS, "[a,b)"),
        (PAIR, "(1)"),
        (PAIR, "(1,2,3)"),
        (PAIR, "1,2)"),
        (PAIR, "(1,\"2)"),
        (PAIR, "(1,\"2\"x)"),
        (PAIR, "(1,2)x"),
    ] {
        let mut doubts = Doubts::default();
        assert_eq!(&*retelling().value(type_oid, text.as_bytes(), &mut doubts), text.as_bytes());
        assert!(doubts.unreadable, "{type_oid} {text}");
    }
}

#[test]
fn types_that_are_made_of_themselves_end() {
    let mut doubts = Doubts::default();
    let circle = Retelling { types: [(MOOD, Shape::Domain(FEELING)), (FEELING, Shape::Domain(MOOD))].into() };
    assert_eq!(&*circle.value(MOOD, b"x", &mut doubts), b"x");
    assert!(doubts.unreadable);
}

#[test]
fn doubtful_labels_are_noted_by_their_type() {
    let label = |now: &str| EnumLabel { now: now.into(), doubtful: true };
    let labels = Shape::Labels([(b"a".to_vec(), label("a")), (b"b".to_vec(), label("c"))].into());
    let types = [(MOOD, labels), (MOODS, Shape::Array { element: MOOD, delimiter: b',' })];
    let retelling = Retelling { types: types.into() };
    let mut doubts = Doubts::default();
    assert_eq!(&*retelling.value(MOODS, b"{c,d}", &mut doubts), b"{c,d}");
    assert!(doubts.is_empty());
    assert_eq!(&*retelling.value(MOODS, b"{a,b}", &mut doubts), b"{a,c}");
    assert_eq!(doubts.types, BTreeSet::from([MOOD]));
}

/// A value of a type, written with the old labels and attributes, and with the new ones.
struct Both {
    old: String,
    now: String,
}

impl Both {
    fn new(old: &str, now: &str) -> Both {
        Both { old: old.to_owned(), now: now.to_owned() }
    }

    /// One text of others, each written by the same rule.
    fn of(parts: &[Option<Both>], write: impl Fn(&[Option<&str>]) -> String) -> Both {
        let texts = |of: fn(&Both) -> &str| parts.iter().map(|it| it.as_ref().map(of)).collect::<Vec<_>>();
        Both { old: write(&texts(|it| &it.old)), now: write(&texts(|it| &it.now)) }
    }

    fn random(type_oid: u32, random: &mut StdRng) -> Both {
        let number = random.random_range(0..4);
        let mut part = |oid| random.random_bool(0.8).then(|| Both::random(oid, random));
        match type_oid {
            MOOD | FEELING => {
                let (old, now) = LABELS.choose(random).expect("there are some");
                Both::new(old, now)
            }
            MOODS => Both::of(&(0..number).map(|_| part(MOOD)).collect::<Vec<_>>(), |it| as_array(it, ',')),
            PAIRS => Both::of(&(0..number).map(|_| part(PAIR)).collect::<Vec<_>>(), |it| as_array(it, ';')),
            SPAN => Both::of(&[part(MOOD), part(MOOD)], as_range),
            COVER => Both::of(&[part(NEST), part(NEST)], as_range),
            SPANS => {
                let ranges: Vec<_> = (0..number).map(|_| Some(Both::random(SPAN, random))).collect();
                Both::of(&ranges, |it| {
                    format!("{{{}}}", it.iter().flatten().copied().collect::<Vec<_>>().join(","))
                })
            }
            PAIR => {
                let mood = part(MOOD);
                let Both { old, now } = Both::of(&[mood], as_record);
                Both { old: old.replacen('(', "(7,", 1), now: format!("{},)", &now[..now.len() - 1]) }
            }
            _ => Both::of(&[part(PAIR), part(PAIRS), part(SPANS)], as_record),
        }
    }
}

fn quoted(text: &str, special: &str, escape: fn(char) -> String) -> String {
    let odd = |it: char| special.contains(it) || "\"\\ \t\n\r\u{b}\u{c}".contains(it);
    if text.is_empty() || text.contains(odd) {
        format!("\"{}\"", text.chars().map(escape).collect::<String>())
    } else {
        text.to_owned()
    }
}

fn doubled(letter: char) -> String {
    if "\"\\".contains(letter) { format!("{letter}{letter}") } else { letter.to_string() }
}

fn escaped(letter: char) -> String {
    if "\"\\".contains(letter) { format!("\\{letter}") } else { letter.to_string() }
}

fn as_array(items: &[Option<&str>], delimiter: char) -> String {
    let item = |it: &Option<&str>| match it {
        None => "NULL".to_owned(),
        Some(text) if text.eq_ignore_ascii_case("null") => format!("\"{text}\""),
        Some(text) => quoted(text, &format!("{{}}{delimiter}"), escaped),
    };
    format!("{{{}}}", items.iter().map(item).collect::<Vec<_>>().join(&delimiter.to_string()))
}

fn as_record(fields: &[Option<&str>]) -> String {
    let field = |it: &Option<&str>| it.map_or(String::new(), |text| quoted(text, "(),", doubled));
    format!("({})", fields.iter().map(field).collect::<Vec<_>>().join(","))
}

fn as_range(bounds: &[Option<&str>]) -> String {
    let bound = |it: &Option<&str>| it.map_or(String::new(), |text| quoted(text, "()[],", doubled));
    format!("[{})", bounds.iter().map(bound).collect::<Vec<_>>().join(","))
}

#[test]
fn any_value_becomes_what_it_would_be_if_it_were_written_now() {
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..4000 {
        let type_oid = *[MOODS, FEELING, SPAN, SPANS, PAIR, PAIRS, NEST, COVER].choose(&mut random).unwrap();
        let Both { old, now } = Both::random(type_oid, &mut random);
        assert_eq!(value(type_oid, &old), now, "{old}");
    }
}
