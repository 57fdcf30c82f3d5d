//! Whatever a session sets, its statements succeed and are told as without the setting.

use crate::ddl_triggers::told::Source;
use crate::support::{Server, versions};

/// Settings that end or forbid the statement by themselves, that fill the log, or that switch event triggers off.
const NOT_TRIED: &str = "^(default_)?transaction_read_only$|^max_stack_depth$|^event_triggers$|^log_|^debug_print|^trace_|^post_auth_delay$|\
                         ^statement_timeout$|^transaction_timeout$|^temp_file_limit$|^wal_debug$|^role$|^session_authorization$";

/// Values of settings that are texts, or that the server lists only once a library is loaded.
const TEXTS: &[(&str, &str)] = &[
    ("search_path", ""),
    ("search_path", "information_schema, pg_temp, public"),
    ("DateStyle", "German"),
    ("TimeZone", "Pacific/Apia"),
    ("client_encoding", "LATIN1"),
    ("client_encoding", "SQL_ASCII"),
    ("restrict_nonsystem_relation_kind", "view, foreign-table"),
    ("plpgsql.extra_errors", "all"),
    ("plpgsql.extra_warnings", "all"),
    ("plpgsql.variable_conflict", "use_column"),
    ("plpgsql.variable_conflict", "use_variable"),
    ("plpgsql.print_strict_params", "on"),
    ("plpgsql.check_asserts", "off"),
];

#[test]
fn no_setting_changes_what_is_told() {
    let all = versions();
    for version in [all[0], all[all.len() - 1]] {
        let source = Source::new(&Server::shared(Some(version)));
        let mut tried: Vec<String> = values(&source).iter().map(|(name, value)| set(name, value)).collect();
        tried.insert(0, String::new());
        // One that unquoted names come through, together with one that backslashes do not.
        tried.push(set("standard_conforming_strings", "off") + &set("quote_all_identifiers", "on"));
        let script: String = tried.iter().enumerate().map(|(number, set)| session(number, set)).collect();
        let server = source.backwhen.server();
        let output = server.client("psql", source.backwhen.database(), &["-Xq"], &script);
        let said = String::from_utf8_lossy(&output.stderr);
        let told = source.told();
        let facts = |number: usize| {
            let of = format!("made_{number}");
            let tables = told.signals.iter().flat_map(|signal| &signal.tables);
            let tables = tables.filter(|table| table.facts.name == of);
            let columns = |column: &backwhen::model::ColumnFacts| {
                (column.name.clone(), column.type_name.clone(), column.missing.clone())
            };
            let facts: Vec<_> = tables
                .map(|table| (table.published, table.facts.columns.iter().map(columns).collect::<Vec<_>>()))
                .collect();
            let about = told.signals.iter().filter(|signal| {
                signal.objects.iter().any(|it| it.identity.contains(&of))
                    || signal.dropped_identities.iter().any(|it| it.1.contains(&of))
            });
            (facts, about.map(|signal| (signal.tag.clone(), signal.trouble.clone())).collect::<Vec<_>>())
        };
        let expected = facts(0);
        assert_eq!((expected.0.len(), expected.1.len()), (3, 3), "{expected:?}");
        for (number, set) in tried.iter().enumerate() {
            assert_eq!(facts(number), expected, "{version}: {set}: {said}");
        }
        assert!(!said.contains("WARNING"), "{said}");
    }
}

/// Each in a session of its own, since functions are parsed under a session's settings.
fn session(number: usize, set: &str) -> String {
    format!(
        "\\connect\n{set} CREATE TABLE public.made_{number} (id int PRIMARY KEY, \"A b\" text DEFAULT 'x');\n\
         INSERT INTO public.made_{number} VALUES (1);\n\
         ALTER TABLE public.made_{number} ADD COLUMN w text DEFAULT 'y', DROP COLUMN \"A b\";\n\
         DROP TABLE public.made_{number};\n"
    )
}

fn set(name: &str, value: &str) -> String {
    format!("SET {name} = '{value}';")
}

/// The settings that a session may change, with their extreme values.
fn values(source: &Source) -> Vec<(String, String)> {
    let query = format!(
        "SELECT name || '=' || v FROM pg_settings, unnest(CASE vartype WHEN 'bool' THEN '{{on,off}}'
                WHEN 'enum' THEN enumvals ELSE ARRAY[min_val, max_val] END) v
          WHERE context IN ('user', 'superuser') AND vartype <> 'string' AND name !~ '{NOT_TRIED}'"
    );
    let listed = source.psql(&query);
    let listed = listed.lines().filter_map(|line| line.split_once('='));
    let listed = listed.chain(TEXTS.iter().copied());
    listed.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
