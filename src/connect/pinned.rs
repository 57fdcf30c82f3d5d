//! The settings that every session gets, whatever the server, database or role would set.

/// These settings give values one text form everywhere, prevent waiting and timeouts, and make names resolve only by
/// their full path. `row_security=off` turns a read that a policy would filter into an error instead of a silent
/// loss. `jit=off`: the server would compile the long queries on the catalogs, as soon as there are a thousand tables, which takes
/// many times as long as running them.
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
    ("default_transaction_read_only", "off"),
    ("search_path", ""),
    ("xmloption", "content"),
    ("standard_conforming_strings", "on"),
    ("quote_all_identifiers", "off"),
    ("row_security", "off"),
    ("jit", "off"),
];

/// Sets what not every server has. No timeout ends an idle session, which may hold a snapshot from which other sessions
/// copy. And a server soon ends a statement whose client is gone: it looks every half second whether the connection
/// is closed, and its kernel finds within two minutes a client whose machine lost its power. Without that a statement
/// that waits for a lock would be carried out after its client was killed. This is a statement of its own, since
/// it returns rows. A setting that the server does not have is NULL; `pg_settings` would cost every session 3 ms.
pub const NEWER_TIMERS: &str = "SELECT pg_catalog.set_config(name, value, false) FROM (VALUES \
                  ('idle_session_timeout', '0'), ('transaction_timeout', '0'), \
                  ('client_connection_check_interval', '500'), ('tcp_keepalives_idle', '30'), \
                  ('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '120000')) \
          AS wanted (name, value) WHERE pg_catalog.current_setting(name, true) IS NOT NULL \
     AND (name NOT LIKE 'client\\_%' AND name NOT LIKE 'tcp\\_%' OR pg_catalog.version() LIKE '%linux%')";

/// The pinned settings as one batch of statements.
pub fn set_statements() -> String {
    PINNED_SETTINGS.iter().map(|(name, value)| format!("SET {name} = '{value}'; ")).collect()
}

/// The settings under which values mean what they mean in a history, for the transaction of a script that a person runs.
/// Timeouts and the server's way of running statements are left to that person.
pub fn set_local_statements() -> String {
    let concerns_values =
        |name: &str| !name.ends_with("_timeout") && !["default_transaction_read_only", "jit"].contains(&name);
    let settings = PINNED_SETTINGS.iter().filter(|(name, _)| concerns_values(name));
    settings.map(|(name, value)| format!("SET LOCAL {name} = '{value}';\n")).collect()
}

/// Puts a name or a value between quotes of the given kind, and doubles these quotes inside.
pub fn quoted(text: &str, quote: char) -> String {
    let doubled = text.replace(quote, &format!("{quote}{quote}"));
    format!("{quote}{doubled}{quote}")
}
