//! Abbreviations of time zones, as servers write them into their logs.

/// The meaning of an abbreviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// One offset from UTC, written as in RFC 3339.
    Offset(&'static str),
    /// Zones in different parts of the world share the abbreviation: the offset of each, with its place.
    Several(&'static [(&'static str, &'static str)]),
}

/// The abbreviations that the IANA time zone database uses today and that are letters.
const ABBREVIATIONS: &[(&str, Zone)] = &[
    ("UTC", Zone::Offset("+00:00")),
    ("GMT", Zone::Offset("+00:00")),
    ("WET", Zone::Offset("+00:00")),
    ("WEST", Zone::Offset("+01:00")),
    ("CET", Zone::Offset("+01:00")),
    ("CEST", Zone::Offset("+02:00")),
    ("EET", Zone::Offset("+02:00")),
    ("EEST", Zone::Offset("+03:00")),
    ("MSK", Zone::Offset("+03:00")),
    ("WAT", Zone::Offset("+01:00")),
    ("CAT", Zone::Offset("+02:00")),
    ("SAST", Zone::Offset("+02:00")),
    ("EAT", Zone::Offset("+03:00")),
    ("PKT", Zone::Offset("+05:00")),
    ("WIB", Zone::Offset("+07:00")),
    ("WITA", Zone::Offset("+08:00")),
    ("WIT", Zone::Offset("+09:00")),
    ("HKT", Zone::Offset("+08:00")),
    ("AWST", Zone::Offset("+08:00")),
    ("JST", Zone::Offset("+09:00")),
    ("KST", Zone::Offset("+09:00")),
    ("ACST", Zone::Offset("+09:30")),
    ("ACDT", Zone::Offset("+10:30")),
    ("AEST", Zone::Offset("+10:00")),
    ("AEDT", Zone::Offset("+11:00")),
    ("NZST", Zone::Offset("+12:00")),
    ("NZDT", Zone::Offset("+13:00")),
    ("NST", Zone::Offset("-03:30")),
    ("NDT", Zone::Offset("-02:30")),
    ("AST", Zone::Offset("-04:00")),
    ("ADT", Zone::Offset("-03:00")),
    ("EST", Zone::Offset("-05:00")),
    ("EDT", Zone::Offset("-04:00")),
    ("MST", Zone::Offset("-07:00")),
    ("MDT", Zone::Offset("-06:00")),
    ("PDT", Zone::Offset("-07:00")),
    ("AKST", Zone::Offset("-09:00")),
    ("AKDT", Zone::Offset("-08:00")),
    ("HST", Zone::Offset("-10:00")),
    ("HDT", Zone::Offset("-09:00")),
    ("BST", Zone::Offset("+01:00")),
    ("CST", Zone::Several(&[("-06:00", "North America"), ("-05:00", "Cuba"), ("+08:00", "China")])),
    ("CDT", Zone::Several(&[("-05:00", "North America"), ("-04:00", "Cuba")])),
    ("PST", Zone::Several(&[("-08:00", "North America"), ("+08:00", "the Philippines")])),
    ("SST", Zone::Offset("-11:00")),
    ("IST", Zone::Several(&[("+05:30", "India"), ("+02:00", "Israel"), ("+01:00", "Ireland")])),
    ("IDT", Zone::Offset("+03:00")),
];

impl Zone {
    /// Finds what an abbreviation means; none if it is not known.
    pub fn of(abbreviation: &str) -> Option<Zone> {
        ABBREVIATIONS.iter().find(|(name, _)| *name == abbreviation).map(|(_, zone)| *zone)
    }
}
