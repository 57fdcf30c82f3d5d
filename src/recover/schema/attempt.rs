//! Tries once to run a statement as its role, and interprets the server's answer.

use super::GET_ROLES;
use super::failure::ReplayFailure;
use super::replay::Replay;
use super::rewrite::schema_without_roles;
use super::statements::Sql;
use crate::connect::server_error;
use crate::error::Result;
use crate::model::schema::quote_ident;
use crate::signal::DefinitionChange;

impl Replay<'_> {
    /// The role as which a role's statement is replayed; none if the server has no such role that we may act for.
    pub(super) async fn acting_role(&mut self, role: &str) -> Result<String> {
        let nobody = String::new();
        if self.rights.ours {
            return Ok(role.to_owned());
        }
        if !self.rights.owners || role.is_empty() {
            return Ok(nobody);
        }
        if let Some(acted_for) = self.acted_for.get(role) {
            return Ok(if *acted_for { role.to_owned() } else { nobody });
        }
        let acted_for = self.sessions.can_act_for(&self.observer, role).await?;
        self.acted_for.insert(role.to_owned(), acted_for);
        if acted_for {
            return Ok(role.to_owned());
        }
        self.notes.push(format!(
            "statements of role {role} are replayed as the user of --scratch, which cannot act for it; \
             GRANT {} to that user, or leave --scratch away",
            quote_ident(role)
        ));
        Ok(nobody)
    }

    /// Runs a statement as its role. A role that created a schema or a similar object on the source has the right to
    /// do so in the scratch database too, while the object is created again: no event trigger tells which privileges
    /// on a database are granted.
    pub(super) async fn try_run(
        &mut self,
        change: &DefinitionChange,
        sql: &Sql,
        text: &str,
    ) -> Result<Result<(), ReplayFailure>> {
        let role = change.signal.statement.role.clone();
        if role.is_empty() && self.rights.ours {
            return Ok(Err(ReplayFailure::Stopped("nobody told which role ran it".into())));
        }
        let mut ended = self.try_as_role(change, sql, text).await?;
        if self.rights.ours && sql.tag == "ALTER TABLE" && matches!(ended, Err(ReplayFailure::Failed(_))) {
            ended = self.try_uncomputed(change, sql, text).await?;
        }
        let denied = matches!(&ended, Err(ReplayFailure::Failed(error)) if sqlstate(error) == "42501");
        if !(denied && self.rights.ours && IN_DATABASE.contains(&sql.tag.as_str())) {
            return Ok(ended);
        }
        let on = format!("CREATE ON DATABASE {}", quote_ident(&self.database));
        let failed = |error| server_error("cannot change rights in the scratch database", error);
        let role = quote_ident(&role);
        self.observer.batch_execute(&format!("GRANT {on} TO {role}")).await.map_err(failed)?;
        let ended = self.try_as_role(change, sql, text).await;
        self.observer.batch_execute(&format!("REVOKE {on} FROM {role}")).await.map_err(failed)?;
        ended
    }

    /// Runs a statement again while stable functions pass for volatile ones: the server then does not compute the
    /// default of a new column, which may need rows or settings that the scratch database does not have. The table has
    /// no rows for which it would compute one.
    async fn try_uncomputed(
        &mut self,
        change: &DefinitionChange,
        sql: &Sql,
        text: &str,
    ) -> Result<Result<(), ReplayFailure>> {
        let failed = |error| server_error("cannot change functions in the scratch database", error);
        let volatile =
            "UPDATE pg_catalog.pg_proc SET provolatile = 'v' WHERE provolatile = 's' RETURNING oid";
        let rows = self.observer.query(volatile, &[]).await.map_err(failed)?;
        let functions: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
        let ended = self.try_as_role(change, sql, text).await;
        let stable = "UPDATE pg_catalog.pg_proc SET provolatile = 's' WHERE oid = ANY ($1)";
        self.observer.execute(stable, &[&functions]).await.map_err(failed)?;
        ended
    }

    async fn try_as_role(
        &mut self,
        change: &DefinitionChange,
        sql: &Sql,
        text: &str,
    ) -> Result<Result<(), ReplayFailure>> {
        let signal = &change.signal;
        let role = self.acting_role(&signal.statement.role).await?;
        let mut text = text.to_owned();
        // Each turn of the loop creates or skips one missing role.
        for _ in 0..20 {
            let ended = self.sessions.run(&self.observer, &role, &signal.statement, &text).await?;
            let Some(failure) = ReplayFailure::of(ended) else { return Ok(Ok(())) };
            let ReplayFailure::Failed(error) = failure else { return Ok(Err(failure)) };
            match (sqlstate(&error), missing_role(&error)) {
                ("42704", Some(missing)) if self.rights.ours => {
                    if self.observer.batch_execute(&self.roles.creation(missing)).await.is_err() {
                        return Ok(Err(ReplayFailure::Failed(error)));
                    }
                }
                ("42704", Some(missing)) => {
                    let missing = missing.to_owned();
                    let Some(rest) = without_role(sql).filter(|rest| *rest != text) else {
                        return Ok(Err(ReplayFailure::Failed(error)));
                    };
                    self.lacks_roles = true;
                    self.notes.push(format!(
                        "a {} is left out or lacks a part: the server has no role {missing}; {GET_ROLES}",
                        signal.tag
                    ));
                    if rest.is_empty() {
                        return Ok(Err(ReplayFailure::Passed));
                    }
                    text = rest;
                }
                // A statement that an error rolled back, such as CREATE INDEX CONCURRENTLY, fired no event.
                ("42704" | "42P01" | "42883" | "3F000", None) if sql.tag.starts_with("DROP ") => {
                    return Ok(Err(ReplayFailure::Passed));
                }
                // The object was not created either, if its role is missing.
                ("42704", None) if self.lacks_roles && is_of_roles(sql) => {
                    return Ok(Err(ReplayFailure::Passed));
                }
                _ => return Ok(Err(ReplayFailure::Failed(error))),
            }
        }
        Ok(Err(ReplayFailure::Stopped("too many roles are missing".into())))
    }
}

/// Statements that need a right on the database.
const IN_DATABASE: &[&str] = &["CREATE SCHEMA", "ALTER SCHEMA", "CREATE EXTENSION", "CREATE PUBLICATION"];

fn sqlstate(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}

/// What is left of a statement without its role, perhaps nothing; `None` if it makes no sense without.
fn without_role(sql: &Sql) -> Option<String> {
    match sql.tag.as_str() {
        "CREATE SCHEMA" => Some(schema_without_roles(sql)),
        _ if sql.is_about_privileges() || is_of_roles(sql) || sql.says(&["owner", "to"]) => {
            Some(String::new())
        }
        _ => None,
    }
}

/// Whether the statement concerns an object that cannot exist without its roles.
fn is_of_roles(sql: &Sql) -> bool {
    sql.tag.ends_with(" POLICY") || sql.tag.ends_with(" USER MAPPING") || sql.says(&["on", "policy"])
}

/// Returns the role that an error reports as missing, whatever the error's language.
fn missing_role(error: &tokio_postgres::Error) -> Option<&str> {
    let error = error.as_db_error()?;
    role_in(error.code().code(), error.routine()?, error.message())
}

/// The quotes, opening and closing, that PostgreSQL's translations put around names.
const QUOTES: &[(char, char)] = &[
    ('"', '"'),
    ('\'', '\''),
    ('»', '«'),
    ('«', '»'),
    ('„', '“'),
    ('„', '”'),
    ('“', '”'),
    ('”', '”'),
    ('‘', '’'),
    ('‚', '‘'),
    ('「', '」'),
    ('『', '』'),
];

/// The name of the server's routine, which no language changes, tells that a role is missing. The message names the
/// role in quotes, which differ between languages.
fn role_in<'a>(sqlstate: &str, routine: &str, message: &'a str) -> Option<&'a str> {
    if sqlstate != "42704" || !routine.to_ascii_lowercase().contains("role") {
        return None;
    }
    let (at, opening) = message.char_indices().find(|(_, c)| QUOTES.iter().any(|(open, _)| open == c))?;
    let closes = |c: char| QUOTES.contains(&(opening, c));
    let (name, _) = message[at + opening.len_utf8()..].rsplit_once(closes)?;
    // French puts a non-breaking space on the inner side of each quote.
    let space = |c| [' ', '\u{a0}', '\u{202f}'].contains(&c);
    let name = if opening == '«' { name.trim_matches(space) } else { name };
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_role_is_known_in_every_language() {
        for (message, role) in [
            ("role \"app\" does not exist", "app"),
            ("Rolle »app« existiert nicht", "app"),
            ("le rôle « app owner » n'existe pas", "app owner"),
            ("no existe el rol «app»", "app"),
            ("ロール\"app\"は存在しません", "app"),
            ("角色 \"app\" 不存在", "app"),
            ("роль \"app\" не существует", "app"),
            ("role „app“ neexistuje", "app"),
            ("role \"it's \"quoted\"\" does not exist", "it's \"quoted\""),
        ] {
            assert_eq!(role_in("42704", "get_role_oid", message), Some(role), "{message}");
        }
        let message = "type \"app\" does not exist";
        assert_eq!(role_in("42704", "typenameType", message), None);
        assert_eq!(role_in("22023", "check_role", message), None);
        assert_eq!(role_in("42704", "get_role_oid", "no name"), None);
    }
}
