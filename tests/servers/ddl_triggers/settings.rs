//! A session may set anything: its statements succeed, and are told as without the setting.

use backwhen::signal::DefinedTable;

use crate::ddl_triggers::told::{Source, Told};
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
        tried.push(set("standard_conforming_strings", "off") + &set("quote_all_identifiers", "on"));
        let script: String = tried.iter().enumerate().map(|(number, set)| session(number, set)).collect();
        let output = source.backwhen.server().client("psql", source.backwhen.database(), &["-Xq"], &script);
        let said = String::from_utf8_lossy(&output.stderr);
        let harm = said.lines().find(|line| line.contains("ERROR:") || line.contains("WARNING:"));
        assert_eq!(harm, None, "{said}");
        let told = source.told();
        let expected = facts(&told, 0);
        assert_eq!(expected.len(), 12, "{expected:#?}");
        for (number, set) in tried.iter().enumerate() {
            assert_eq!(facts(&told, number), expected, "PostgreSQL {version}: {set}");
        }
    }
}

/// The facts that were told of a session's statements, without those that differ from session to session.
fn facts(told: &Told, number: usize) -> Vec<String> {
    let (name, mark) = (format!("_{number}"), format!("/*{number}*/"));
    let ours = told.signals.iter().filter(|signal| signal.statement.query.contains(&mark));
    let of_table = |table: &DefinedTable| {
        let columns = table.facts.columns.iter();
        let columns: Vec<_> =
            columns.map(|it| (it.name.clone(), it.type_name.clone(), it.missing.clone())).collect();
        let rows = told.rows.get(&table.facts.oid).map(|rows| String::from_utf8_lossy(rows));
        format!("{} {} {} {columns:?} {rows:?}", table.facts.name, table.published, table.facts.persistence)
    };
    ours.map(|signal| {
        let tables: Vec<_> = signal.tables.iter().map(of_table).collect();
        let objects: Vec<_> = signal.objects.iter().map(|it| it.identity.clone()).collect();
        let dropped: Vec<_> = signal.dropped_identities.iter().map(|it| &it.1).collect();
        let text = format!(
            "{} {:?} {tables:?} {objects:?} {:?} {dropped:?}",
            signal.tag, signal.trouble, signal.dropped_names
        );
        text.replace(&name, "_N")
    })
    .collect()
}

/// Each in a session of its own, since functions are parsed under a session's settings.
fn session(number: usize, set: &str) -> String {
    let statements = [
        "CREATE TYPE public.pair_N AS (a int, b text)",
        "CREATE TABLE public.made_N (id int PRIMARY KEY, \"A b\" text DEFAULT 'x', p public.pair_N, r regproc)",
        "INSERT INTO public.made_N VALUES (1)",
        "ALTER TABLE public.made_N ADD COLUMN w text DEFAULT E'y\\\\z', DROP COLUMN \"A b\"",
        "ALTER TYPE public.pair_N ADD ATTRIBUTE c int",
        "CREATE TABLE public.as_N AS SELECT E'a\\\\b\\tc' AS v, NULL::int AS n",
        "CREATE UNLOGGED TABLE public.u_N (id int PRIMARY KEY, v text)",
        "INSERT INTO public.u_N VALUES (1, E'a\\nb')",
        "ALTER TABLE public.u_N SET LOGGED",
        "ALTER TABLE public.made_N SET UNLOGGED",
        "CREATE INDEX ON public.u_N (v)",
        "DROP TABLE public.made_N, public.as_N",
        "DROP TYPE public.pair_N",
        "ALTER TABLE public.u_N RENAME TO \"u x_N\"",
    ];
    let named = statements.join(&format!(" /*{number}*/;\n")).replace("_N", &format!("_{number}"));
    format!("\\connect\n{set}\n{named} /*{number}*/;\n")
}

fn set(name: &str, value: &str) -> String {
    format!("SET {name} = '{value}';")
}

/// The settings that a session may change, with their extreme values.
fn values(source: &Source) -> Vec<(String, String)> {
    let query = format!(
        "SELECT name || '=' || v FROM pg_settings, unnest(CASE vartype WHEN 'bool' THEN '{{on,off}}'
                WHEN 'enum' THEN enumvals ELSE ARRAY[min_val, max_val] END) v
          WHERE context IN ('user', 'superuser') AND vartype <> 'string' AND v <> setting AND name !~ '{NOT_TRIED}'"
    );
    let listed = source.psql(&query);
    let listed = listed.lines().filter_map(|line| line.split_once('='));
    let listed = listed.chain(TEXTS.iter().copied());
    listed.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
