//! Names as the server's own output functions write them: between quotes only where SQL needs it.
//! Source: PostgreSQL documentation, "SQL Key Words", and `pg_get_keywords()` of versions 14 to 18.

/// All words that are no plain name in every version.
const KEYWORDS: &str = "\
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both \
    case cast char character check coalesce collate collation column concurrently constraint create cross \
    current_catalog current_date current_role current_schema current_time current_timestamp current_user dec \
    decimal default deferrable desc distinct do else end except exists extract false fetch float for foreign \
    freeze from full grant greatest group grouping having ilike in initially inner inout int integer \
    intersect interval into is isnull join lateral leading least left like limit localtime localtimestamp \
    national natural nchar none normalize not notnull null nullif numeric offset on only or order out outer \
    overlaps overlay placing position precision primary real references returning right row select \
    session_user setof similar smallint some substring symmetric table tablesample then time timestamp to \
    trailing treat trim true union unique user using values varchar variadic verbose when where window with \
    xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize \
    xmltable";

/// From 16 on also these.
const SINCE_16: &str = "\
    json_array json_arrayagg json_object json_objectagg system_user";

/// From 17 on also these.
const SINCE_17: &str = "\
    json json_exists json_query json_scalar json_serialize json_table json_value merge_action";

/// The name as `quote_ident` of a server of that version writes it.
pub fn written_ident(name: &str, server_major: u32) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let safe =
        name.bytes().next().is_some_and(plain) && name.bytes().all(|it| plain(it) || it.is_ascii_digit());
    let lists = [(0, KEYWORDS), (16, SINCE_16), (17, SINCE_17)];
    let mut known = lists.iter().filter(|(since, _)| *since <= server_major);
    if safe && !known.any(|(_, list)| list.split(' ').any(|word| word == name)) {
        name.to_owned()
    } else {
        super::schema::quote_ident(name)
    }
}

/// Schema and name, as they are written, of a relation that is written with its schema.
pub fn written_parts(identity: &str) -> Option<(&str, &str)> {
    let mut quoted = false;
    let dot = identity.bytes().position(|byte| {
        quoted ^= byte == b'"';
        byte == b'.' && !quoted
    })?;
    Some((&identity[..dot], &identity[dot + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_quotes_where_sql_needs_them() {
        for (name, major, written) in [
            ("plain_1", 14, "plain_1"),
            ("1st", 14, "\"1st\""),
            ("Upper", 14, "\"Upper\""),
            ("od\"d", 14, "\"od\"\"d\""),
            ("ä", 14, "\"ä\""),
            ("order", 14, "\"order\""),
            ("time", 18, "\"time\""),
            ("name", 18, "name"),
            ("json", 16, "json"),
            ("json", 17, "\"json\""),
        ] {
            assert_eq!(written_ident(name, major), written);
        }
    }

    #[test]
    fn a_dot_between_quotes_ends_no_schema() {
        assert_eq!(written_parts("public.a"), Some(("public", "a")));
        assert_eq!(written_parts(r#""a"".b"."c.d""#), Some((r#""a"".b""#, r#""c.d""#)));
        assert_eq!(written_parts("a"), None);
    }
}
