//! The source's roles on a server of our own. A superuser of the source is a superuser here, and no other role is;
//! the other roles have the rights that matter within a database, and none that reach beyond it.

use std::collections::{BTreeMap, BTreeSet};

use super::statements::{Sql, split};
use crate::connect::{Session, server_error};
use crate::error::Result;
use crate::model::schema::quote_ident;

/// The name of our own server's superuser, if no superuser of the source is known to have this name.
const USUAL: &str = "postgres";
const OTHER: &str = "backwhen_replay";

/// The predefined roles that give rights only within databases. No other predefined role is granted: the others reach
/// files, programs, other sessions or the server as a whole.
const WITHIN_DATABASES: &[&str] = &["pg_read_all_data", "pg_write_all_data"];

/// The history's list of the source's roles.
#[derive(Debug, Default)]
pub struct SourceRoles {
    /// The roles of the list with their attributes; `None` if the history has no list.
    listed: Option<BTreeMap<String, RoleAttributes>>,
    memberships: Vec<Membership>,
    tablespaces: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RoleAttributes {
    superuser: bool,
    without_inheritance: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Membership {
    role: String,
    member: String,
    /// The values of `INHERIT` and `SET` in the list, from PostgreSQL 16 on.
    options: Vec<(&'static str, bool)>,
}

impl SourceRoles {
    /// Parses a list in the form that pg_dumpall writes.
    pub fn read(globals: Option<&str>) -> SourceRoles {
        let Some(globals) = globals else { return SourceRoles::default() };
        let statements = split(globals, true);
        let (mut listed, mut tablespaces) = (BTreeMap::new(), Vec::new());
        for sql in &statements {
            match (sql.tag.as_str(), name(sql, 2)) {
                ("CREATE ROLE", Some(name)) => drop(listed.entry(name).or_insert(RoleAttributes::default())),
                ("CREATE TABLESPACE", Some(name)) => tablespaces.push(name),
                ("ALTER ROLE", Some(name)) if sql.words.get(3).is_some_and(|word| word.is("with")) => {
                    listed.insert(name, RoleAttributes::of(sql));
                }
                _ => {}
            }
        }
        let memberships =
            statements.iter().filter(|sql| sql.tag == "GRANT").filter_map(Membership::of).collect();
        SourceRoles { listed: Some(listed), memberships, tablespaces }
    }

    pub fn are_known(&self) -> bool {
        self.listed.is_some()
    }

    /// Whether the list has a role of this name.
    pub fn has(&self, role: &str) -> bool {
        self.listed.as_ref().is_some_and(|listed| listed.contains_key(role))
    }

    /// Only the list can tell.
    pub fn is_superuser(&self, role: &str) -> bool {
        self.attributes(role).superuser
    }

    fn attributes(&self, role: &str) -> RoleAttributes {
        self.listed.as_ref().and_then(|listed| listed.get(role)).copied().unwrap_or_default()
    }

    /// Chooses a name for the superuser of our own server: the name of one of the source's superusers, or a name that
    /// no role there has.
    pub fn bootstrap(&self) -> String {
        if self.is_superuser(USUAL) {
            return USUAL.to_owned();
        }
        let mut name = OTHER.to_owned();
        while self.listed.as_ref().is_some_and(|listed| listed.contains_key(&name)) {
            name.push('_');
        }
        name
    }

    /// Creates the roles of the list, and `further` ones that the list does not have.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub(super) async fn create(&self, session: &Session, further: BTreeSet<&str>) -> Result<()> {
        let failed = |error| server_error("cannot make the source's roles on a server of our own", error);
        let listed = self.listed.iter().flat_map(|listed| listed.keys().map(String::as_str));
        let names: BTreeSet<&str> = listed.chain(further).collect();
        let missing = missing(session, names.into_iter()).await?;
        let statements: Vec<_> = missing.iter().map(|name| self.creation(name)).collect();
        session.batch_execute(&statements.join("; ")).await.map_err(failed)?;
        for membership in self.memberships.iter().filter(|it| self.is_harmless(it)) {
            if let Err(error) = session.batch_execute(&membership.statement()).await {
                let error = server_error(format!("not done: {}", membership.statement()), error);
                tracing::debug!("{error}");
            }
        }
        Ok(())
    }

    /// Creates the source's tablespaces, inside of the server's own folder.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server fails.
    pub(super) async fn create_tablespaces(&self, session: &Session) -> Result<()> {
        let failed =
            |error| server_error("cannot make the source's tablespaces on a server of our own", error);
        let there = "SELECT spcname::text FROM pg_catalog.pg_tablespace";
        let there = session.query(there, &[]).await.map_err(failed)?;
        let there: BTreeSet<String> = there.iter().map(|row| row.get(0)).collect();
        let missing = self.tablespaces.iter().filter(|name| !there.contains(*name));
        for name in missing.map(|name| quote_ident(name)) {
            let create = format!(
                "SET allow_in_place_tablespaces = on; CREATE TABLESPACE {name} LOCATION ''; \
                 GRANT CREATE ON TABLESPACE {name} TO PUBLIC"
            );
            // CREATE TABLESPACE must be the only statement of its transaction.
            for statement in create.split("; ") {
                session.batch_execute(statement).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    pub(super) fn creation(&self, name: &str) -> String {
        let RoleAttributes { superuser, without_inheritance } = self.attributes(name);
        let superuser = if superuser { " SUPERUSER" } else { "" };
        let inherit = if without_inheritance { " NOINHERIT" } else { "" };
        format!("CREATE ROLE {} LOGIN{superuser}{inherit}", quote_ident(name))
    }

    fn is_harmless(&self, membership: &Membership) -> bool {
        let role = membership.role.as_str();
        let predefined = role.starts_with("pg_");
        !self.is_superuser(role) && (!predefined || WITHIN_DATABASES.contains(&role))
    }
}

impl RoleAttributes {
    /// Returns `ALTER ROLE name WITH …`.
    fn of(sql: &Sql) -> RoleAttributes {
        let says = |keyword: &str| sql.words[4..].iter().any(|word| word.is(keyword));
        RoleAttributes { superuser: says("superuser"), without_inheritance: says("noinherit") }
    }
}

impl Membership {
    /// Returns `GRANT role TO member …`.
    fn of(sql: &Sql) -> Option<Membership> {
        sql.words.get(2).filter(|word| word.is("to"))?;
        let (role, member) = (name(sql, 1)?, name(sql, 3)?);
        let option = |keyword: &'static str| {
            let at = sql.words.iter().skip(4).position(|word| word.is(keyword))?;
            let value = sql.words.get(at + 5)?;
            (value.is("true") || value.is("false")).then(|| (keyword, value.is("true")))
        };
        Some(Membership {
            role,
            member,
            options: ["inherit", "set"].into_iter().filter_map(option).collect(),
        })
    }

    fn statement(&self) -> String {
        let option = |(keyword, value): &(&str, bool)| format!("{keyword} {value}");
        let options: Vec<_> = self.options.iter().map(option).collect();
        let with = if options.is_empty() { String::new() } else { format!(" WITH {}", options.join(", ")) };
        format!("GRANT {} TO {}{with}", quote_ident(&self.role), quote_ident(&self.member))
    }
}

fn name(sql: &Sql, at: usize) -> Option<String> {
    Some(sql.words.get(at)?.name()?.to_owned())
}

/// Lists the roles among `roles` that the server lacks.
///
/// # Errors
/// `Unavailable` if the server fails.
pub(in crate::recover) async fn missing<'a>(
    session: &Session,
    wanted: impl Iterator<Item = &'a str>,
) -> Result<BTreeSet<&'a str>> {
    let failed = |error| server_error("cannot read the server's roles", error);
    let rows = session.query("SELECT rolname::text FROM pg_catalog.pg_roles", &[]).await.map_err(failed)?;
    let there: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(wanted.filter(|name| !name.is_empty() && !there.contains(*name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLOBALS: &str = "
        CREATE ROLE postgres; ALTER ROLE postgres WITH SUPERUSER INHERIT LOGIN;
        CREATE ROLE \"Odd; one\"; ALTER ROLE \"Odd; one\" WITH NOSUPERUSER NOINHERIT CREATEROLE;
        ALTER ROLE \"Odd; one\" SET x TO superuser; CREATE ROLE superuser;
        ALTER ROLE superuser WITH NOSUPERUSER INHERIT REPLICATION;
        GRANT \"Odd; one\" TO superuser WITH ADMIN OPTION, INHERIT FALSE, SET TRUE GRANTED BY postgres;
        GRANT postgres TO superuser; GRANT pg_execute_server_program TO superuser;
        GRANT pg_read_all_data TO superuser; GRANT superuser TO \"Odd; one\";";

    #[test]
    fn nobody_becomes_more_than_the_list_says() {
        let roles = SourceRoles::read(Some(GLOBALS));
        assert!(roles.is_superuser("postgres") && !roles.is_superuser("superuser"));
        assert_eq!(roles.creation("Odd; one"), "CREATE ROLE \"Odd; one\" LOGIN NOINHERIT");
        assert_eq!(roles.creation("superuser"), "CREATE ROLE \"superuser\" LOGIN");
        assert_eq!(roles.creation("unknown"), "CREATE ROLE \"unknown\" LOGIN");
        let granted: Vec<_> =
            roles.memberships.iter().filter(|it| roles.is_harmless(it)).map(Membership::statement).collect();
        assert_eq!(
            granted,
            [
                "GRANT \"Odd; one\" TO \"superuser\" WITH inherit false, set true",
                "GRANT \"pg_read_all_data\" TO \"superuser\"",
                "GRANT \"superuser\" TO \"Odd; one\"",
            ]
        );
    }

    #[test]
    fn a_name_makes_nobody_a_superuser() {
        let unknown = SourceRoles::read(None);
        assert!(!unknown.is_superuser("postgres") && !unknown.are_known());
        assert_eq!(unknown.bootstrap(), "backwhen_replay");
        let managed =
            "CREATE ROLE postgres; ALTER ROLE postgres WITH NOSUPERUSER; CREATE ROLE backwhen_replay;";
        assert_eq!(SourceRoles::read(Some(managed)).bootstrap(), "backwhen_replay_");
        assert_eq!(SourceRoles::read(Some(GLOBALS)).bootstrap(), "postgres");
    }
}
