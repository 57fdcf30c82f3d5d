//! The settings that every session gets, whatever the server, database or role would set.

/// These settings give values one text form everywhere, prevent waiting and timeouts, and make names resolve only by
/// their full path. `row_security=off` turns a read that a policy would filter into an error instead of a silent
/// loss.
pub const PINNED_SETTINGS: &[(&str, &str)] = &[
    ("datestyle", "ISO, MDY"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "3"),
    ("timezone", "UTC"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("lock_timeout", "0"),
    ("search_path", ""),
    ("xmloption", "content"),
    ("standard_conforming_strings", "on"),
    ("quote_all_identifiers", "off"),
    ("row_security", "off"),
];

/// Sets the timeouts that only newer servers have (14 and 17), where they exist: an idle session may hold a snapshot
/// from which other sessions copy. This is a statement of its own, since it returns rows.
pub const NEWER_TIMERS: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
     WHERE name IN ('idle_session_timeout', 'transaction_timeout')";

/// The pinned settings as one batch of statements.
pub fn set_statements() -> String {
    PINNED_SETTINGS.iter().map(|(name, value)| format!("SET {name} = '{value}'; ")).collect()
}

/// Puts a name or a value between quotes of the given kind, and doubles these quotes inside.
pub fn quoted(text: &str, quote: char) -> String {
    let doubled = text.replace(quote, &format!("{quote}{quote}"));
    format!("{quote}{doubled}{quote}")
}
