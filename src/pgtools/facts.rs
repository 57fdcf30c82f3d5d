//! Reads a database's properties, apart from its contents, and tells how to create another database with them.

use tokio_postgres::Client;

use crate::connect::server_error;
use crate::error::{Context, Kind, Result};
use crate::model::DatabaseFacts;
use crate::model::schema::{quote_ident, quote_literal};

impl DatabaseFacts {
    /// Reads the properties of the database that `client` is connected to.
    ///
    /// # Errors
    /// Fails with `Unavailable` if the server does not answer.
    pub async fn read(client: &Client) -> Result<DatabaseFacts> {
        let server_major = server_major(client).await?;
        // Columns of later versions are read as JSON keys: a missing key means NULL.
        let sql = "SELECT pg_catalog.pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text, \
                   coalesce(j->>'datlocprovider', 'c'), coalesce(j->>'datlocale', j->>'daticulocale'), \
                   j->>'daticurules' \
                   FROM pg_catalog.pg_database, LATERAL (SELECT pg_catalog.to_jsonb(pg_database) AS j) AS json \
                   WHERE datname = pg_catalog.current_database()";
        let row = client
            .query_one(sql, &[])
            .await
            .map_err(|error| server_error("cannot read pg_database", error))?;
        Ok(DatabaseFacts {
            server_major,
            encoding: row.get(0),
            collate: row.get(1),
            ctype: row.get(2),
            provider: row.get(3),
            locale: row.get(4),
            icu_rules: row.get(5),
        })
    }

    /// Returns the options of CREATE DATABASE that create a database with these properties.
    pub(crate) fn create_options(&self) -> String {
        let mut options = format!(
            "TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
            quote_literal(&self.encoding),
            quote_literal(&self.collate),
            quote_literal(&self.ctype)
        );
        let locale = self.locale.as_deref().map(quote_literal).unwrap_or_default();
        match self.provider.as_str() {
            "i" => options.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {locale}")),
            "b" => options.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {locale}")),
            // The option is given although it names the default: template0 may have another value.
            _ if self.server_major >= 15 => options.push_str(" LOCALE_PROVIDER libc"),
            _ => {}
        }
        if let Some(rules) = &self.icu_rules {
            options.push_str(&format!(" ICU_RULES {}", quote_literal(rules)));
        }
        options
    }

    /// Whether text sorts and compares alike in both databases; the names are compared, not the libraries.
    pub fn same_locale(&self, other: &DatabaseFacts) -> bool {
        (&self.collate, &self.ctype, &self.provider, &self.locale, &self.icu_rules)
            == (&other.collate, &other.ctype, &other.provider, &other.locale, &other.icu_rules)
    }

    /// Returns the locale in a form for people.
    pub fn locale_name(&self) -> &str {
        self.locale.as_deref().unwrap_or(&self.collate)
    }

    /// Returns the command that creates such a database by hand.
    pub fn create_command(&self, name: &str) -> String {
        format!("CREATE DATABASE {} {}", quote_ident(name), self.create_options())
    }
}

/// Returns the server's major version.
///
/// # Errors
/// Fails with `Unavailable` if the server does not answer.
pub(crate) async fn server_major(client: &Client) -> Result<u32> {
    let row = client
        .query_one("SELECT pg_catalog.current_setting('server_version_num')", &[])
        .await
        .map_err(|error| server_error("cannot read the server's version", error))?;
    let number: u32 = row
        .get::<_, &str>(0)
        .parse()
        .context(Kind::Unavailable, || "the server's version is no number".into())?;
    Ok(number / 10_000)
}
