//! Reads the properties of an existing database, so that it can be created again with the same ones.

use crate::connect::{Session, server_error};
use crate::error::{Error, Result};
use crate::model::DatabaseFacts;
use crate::model::schema::{quote_ident, quote_literal};

/// Settings whose value is a list of quoted names, which a second pair of quotes would spoil.
const LISTS: [&str; 6] = [
    "search_path",
    "temp_tablespaces",
    "session_preload_libraries",
    "shared_preload_libraries",
    "local_preload_libraries",
    "unix_socket_directories",
];

/// A database's properties, apart from its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Properties {
    options: String,
    owner: String,
    tablespace: String,
    connection_limit: i32,
    pub comment: Option<String>,
    /// Grantee (`None` for PUBLIC), privilege, with grant option; `None` for the default.
    privileges: Option<Vec<(Option<String>, String, bool)>>,
    /// Role (`None` for all), setting, value.
    settings: Vec<(Option<String>, String, String)>,
}

impl Properties {
    /// Reads the properties of database `name`, from any database of its server.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server does not answer.
    pub async fn read(session: &Session, name: &str, facts: &DatabaseFacts) -> Result<Properties> {
        let fail = |error| server_error(format!("cannot read the properties of database {name}"), error);
        let sql = "SELECT pg_catalog.pg_get_userbyid(datdba)::text, spcname::text, datconnlimit, \
                   pg_catalog.shobj_description(d.oid, 'pg_database'), datacl IS NULL \
                   FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = dattablespace \
                   WHERE datname = $1::text";
        let row = session.query_one(sql, &[&name]).await.map_err(fail)?;
        let sql = "SELECT CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee)::text END, \
                   a.privilege_type, a.is_grantable FROM pg_catalog.pg_database, \
                   LATERAL pg_catalog.aclexplode(datacl) a WHERE datname = $1::text";
        let privileges = session.query(sql, &[&name]).await.map_err(fail)?;
        let privileges = privileges.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let sql = "SELECT CASE WHEN setrole <> 0 THEN pg_catalog.pg_get_userbyid(setrole)::text END, \
                   split_part(c, '=', 1), substr(c, strpos(c, '=') + 1) \
                   FROM pg_catalog.pg_db_role_setting JOIN pg_catalog.pg_database d ON d.oid = setdatabase, \
                   LATERAL unnest(setconfig) c WHERE datname = $1::text";
        let settings = session.query(sql, &[&name]).await.map_err(fail)?;
        Ok(Properties {
            options: facts.create_options(),
            owner: row.get(0),
            tablespace: row.get(1),
            connection_limit: row.get(2),
            comment: row.get(3),
            privileges: (!row.get::<_, bool>(4)).then_some(privileges),
            settings: settings.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect(),
        })
    }

    /// Creates an empty database with these properties.
    ///
    /// # Errors
    /// Fails with `Refused` and the server's words.
    pub async fn create(&self, session: &Session, name: &str) -> Result<()> {
        for statement in self.statements(name) {
            session
                .batch_execute(&statement)
                .await
                .map_err(|error| server_error(format!("cannot make database {name} again"), error))?;
        }
        Ok(())
    }

    fn statements(&self, name: &str) -> Vec<String> {
        let database = quote_ident(name);
        let mut statements = vec![format!(
            "CREATE DATABASE {database} OWNER {} {} TABLESPACE {} CONNECTION LIMIT {}",
            quote_ident(&self.owner),
            self.options,
            quote_ident(&self.tablespace),
            self.connection_limit
        )];
        statements.extend(self.comment_statement(name));
        for (role, setting, value) in &self.settings {
            let value = if LISTS.contains(&&**setting) { value.clone() } else { quote_literal(value) };
            // An extension's setting has a dot in its name.
            let setting = setting.split('.').map(quote_ident).collect::<Vec<_>>().join(".");
            statements.push(match role {
                Some(role) => format!(
                    "ALTER ROLE {} IN DATABASE {database} SET {setting} TO {value}",
                    quote_ident(role)
                ),
                None => format!("ALTER DATABASE {database} SET {setting} TO {value}"),
            });
        }
        if let Some(privileges) = &self.privileges {
            let owner = quote_ident(&self.owner);
            statements.push(format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC, {owner}"));
            statements.extend(privileges.iter().map(|(grantee, privilege, grantable)| {
                let grantee = grantee.as_deref().map_or("PUBLIC".into(), quote_ident);
                let option = if *grantable { " WITH GRANT OPTION" } else { "" };
                format!("GRANT {privilege} ON DATABASE {database} TO {grantee}{option}")
            }));
        }
        statements
    }

    fn comment_statement(&self, name: &str) -> Option<String> {
        let comment = self.comment.as_deref()?;
        Some(format!("COMMENT ON DATABASE {} IS {}", quote_ident(name), quote_literal(comment)))
    }
}

/// Creates a database with the source's properties.
///
/// # Errors
/// Fails with `Refused` if the server does not offer the source's locale, or refuses for its own reasons.
pub(in crate::recover) async fn create_like(
    session: &Session,
    name: &str,
    source: &DatabaseFacts,
) -> Result<()> {
    let Err(error) = session.batch_execute(&source.create_command(name)).await else { return Ok(()) };
    let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
    let error = server_error(format!("cannot create database {name}"), error);
    // 42809 and 22023: an invalid locale name; 0A000: ICU is not compiled in.
    if matches!(code.as_str(), "42809" | "22023" | "0A000" | "42704") {
        return Err(Error::refused(format!(
            "{error}. The source's locale is {}; if the target lacks it, make the database with another one \
             (createdb --template template0 --encoding {} --locale …) and recover without --create",
            source.locale_name(),
            source.encoding
        )));
    }
    Err(error)
}
