//! Templates on the target's server: databases that are closed in the statement that makes them, so that nobody was ever
//! connected to one.

use serde::{Deserialize, Serialize};

use super::PostgresSink;
use super::maintenance::{comment_on, let_sessions_end, maintenance};
use super::unfinished::fitting;
use crate::ambient;
use crate::connect::{Conninfo, Session, server_error};
use crate::error::Result;
use crate::history::Identity;
use crate::model::schema::quote_ident;
use crate::recover::template::{KeptTemplate, TemplateRecord};

/// The beginning of the comment on a template.
const COMMENT: &str = "backwhen: a template for recoveries, not a database to use\n";

/// The part of a template's name that stands between the database's name and 16 hexadecimal digits.
const ENDING: &str = ".backwhen-template-";

/// Databases of at least this many bytes are copied file by file, which costs two checkpoints of the server, but no WAL.
const WORTH_CHECKPOINTS: i64 = 128 << 20;

/// Selects the databases with the name of a template. Whoever opens a database or renames it makes a new version of its row.
const TEMPLATES: &str = "SELECT datname::text, oid::text || '/' || xmin::text, datallowconn,
       coalesce(pg_catalog.shobj_description(oid, 'pg_database'), '')
  FROM pg_catalog.pg_database WHERE datname ~ '\\.backwhen-template-[0-9a-f]{16}$' ORDER BY 1";

/// The rest of a template's comment.
#[derive(Serialize, Deserialize)]
struct Label {
    /// The oid of the database and the transaction that made its row.
    row: String,
    record: TemplateRecord,
    seal: String,
}

impl Label {
    fn new(identity: &Identity, row: &str, record: &TemplateRecord) -> Result<Label> {
        let (row, record) = (row.to_owned(), record.clone());
        let seal = seal(identity, &row, &record)?;
        Ok(Label { row, record, seal })
    }

    /// Reads the label of a template, if it says that this history has kept the template.
    fn read(comment: &str, identity: &Identity) -> Option<Label> {
        let label: Label = serde_json::from_str(comment.strip_prefix(COMMENT)?).ok()?;
        (label.record.history == identity.id).then_some(label)
    }

    /// Whether the history has written the label for this version of the database's row.
    fn is_true(&self, identity: &Identity, row: &str) -> bool {
        self.row == row && seal(identity, row, &self.record).is_ok_and(|seal| seal == self.seal)
    }
}

/// Returns what only the holder of the history's secret can write.
fn seal(identity: &Identity, row: &str, record: &TemplateRecord) -> Result<String> {
    let record =
        serde_json::to_vec(record).map_err(|error| crate::error::Error::internal(error.to_string()))?;
    let mut hasher = blake3::Hasher::new_derive_key("backwhen 2026-11-28 the seal of a template");
    for part in [identity.id.as_bytes(), identity.secret.as_bytes(), row.as_bytes(), &record] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Lists the templates of a history on a server, with those that a killed recovery left without a label.
///
/// # Errors
/// `Unavailable` if the server fails.
pub async fn kept_templates(info: &Conninfo, identity: &Identity) -> Result<Vec<KeptTemplate>> {
    let session = maintenance(info).await?;
    let rows = session.query(TEMPLATES, &[]).await;
    let rows = rows.map_err(|error| server_error("cannot list the templates", error))?;
    let template = |row: &tokio_postgres::Row| {
        let (name, version, is_open, comment): (String, String, bool, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        if comment.is_empty() && !is_open {
            return Some(KeptTemplate { name, record: None, is_as_kept: true });
        }
        let label = Label::read(&comment, identity)?;
        Some(KeptTemplate {
            name,
            is_as_kept: !is_open && label.is_true(identity, &version),
            record: Some(label.record),
        })
    };
    Ok(rows.iter().filter_map(template).collect())
}

/// Drops a template.
///
/// # Errors
/// `Refused` or `Unavailable` with the server's words.
pub async fn drop_template(info: &Conninfo, name: &str) -> Result<()> {
    let session = maintenance(info).await?;
    let dropped = session.batch_execute(&format!("DROP DATABASE IF EXISTS {}", quote_ident(name))).await;
    dropped.map_err(|error| server_error(format!("cannot drop template {name}"), error))
}

/// Makes a copy of a database, to which nobody can connect. Nobody may be connected to the original.
///
/// # Errors
/// `Refused` or `Unavailable` with the server's words.
pub(super) async fn copy_closed(session: &Session, original: &str, copy: &str) -> Result<()> {
    let failed = |error| server_error(format!("cannot copy database {original} to {copy}"), error);
    let_sessions_end(session, original).await;
    let sql = "SELECT pg_catalog.current_setting('server_version_num')::int4 / 10000, \
               pg_catalog.pg_database_size($1::text::name)";
    let row = session.query_one(sql, &[&original]).await.map_err(failed)?;
    let (major, size): (i32, i64) = (row.get(0), row.get(1));
    let by_files = if major >= 15 && size >= WORTH_CHECKPOINTS { " STRATEGY file_copy" } else { "" };
    let create = format!(
        "CREATE DATABASE {} TEMPLATE {} ALLOW_CONNECTIONS false{by_files}",
        quote_ident(copy),
        quote_ident(original)
    );
    // A file system that can share blocks between files copies at once; any other refuses, or copies them.
    let can_share = major >= 18 && !by_files.is_empty();
    if can_share
        && session.batch_execute("SET file_copy_method = clone").await.is_ok()
        && session.batch_execute(&create).await.is_ok()
    {
        return Ok(());
    }
    if can_share {
        session.batch_execute("RESET file_copy_method").await.map_err(failed)?;
    }
    session.batch_execute(&create).await.map_err(failed)
}

impl PostgresSink {
    /// Keeps a copy of the database, with functions that are lent to nobody and without event triggers. Returns its name.
    ///
    /// # Errors
    /// `Refused` or `Unavailable` with the server's words, if this session is lost. A copy that cannot be made is a note.
    pub async fn keep_template(
        &mut self,
        identity: &Identity,
        record: &TemplateRecord,
    ) -> Result<Option<String>> {
        if !self.refused.is_empty() {
            self.notes.push("no template is kept: the target refused some objects".to_owned());
            return Ok(None);
        }
        self.lift_guard().await?;
        let random = u64::from_ne_bytes(ambient::random()?);
        let name = fitting("", &identity.source.database, &format!("{ENDING}{random:016x}"));
        let maintenance = maintenance(&self.info).await?;
        self.idle().clear();
        self.makers().clear();
        // A database with sessions cannot be copied.
        drop(std::mem::replace(&mut self.session, maintenance));
        let kept = keep(&self.session, identity, record, (self.info.dbname(), &name)).await;
        let session = Session::connect_utf8(&self.info, "recover").await?;
        self.place.settle(&session).await?;
        self.session = session;
        match kept {
            Ok(()) => Ok(Some(name)),
            Err(error) => {
                self.notes.push(format!("no template is kept: {error}"));
                Ok(None)
            }
        }
    }
}

async fn keep(
    session: &Session,
    identity: &Identity,
    record: &TemplateRecord,
    (original, name): (&str, &str),
) -> Result<()> {
    copy_closed(session, original, name).await?;
    ambient::pass("recover.copied")?;
    let failed = |error| server_error(format!("cannot label template {name}"), error);
    let sql = "SELECT oid::text || '/' || xmin::text FROM pg_catalog.pg_database WHERE datname = $1::text";
    let row: String = session.query_one(sql, &[&name]).await.map_err(failed)?.get(0);
    let label = Label::new(identity, &row, record)?;
    let label =
        serde_json::to_string(&label).map_err(|error| crate::error::Error::internal(error.to_string()))?;
    session.batch_execute(&comment_on(name, Some(&format!("{COMMENT}{label}")))).await.map_err(failed)
}
