//! Recovery into a script for psql. The script is one transaction, so that a script cut short changes nothing.

use std::collections::BTreeSet;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::Mutex;

use crate::error::{Context, Error, Kind, Result};
use crate::model::Table;
use crate::model::schema::quote_ident;
use crate::pgtools::{Installation, Tools};
use crate::recover::archive::{AfterRows, Section};
use crate::store::files;

use super::{ArchiveDefinitions, Opening, Rows, SequenceValue};
use crate::model::spelling::Spelled;

/// Without this setting psql would continue after an error, and read the rows of a failed COPY as statements. The
/// setting comes before every statement that can fail, and before any `\restrict`, which would refuse it.
const BEGINNING: &str =
    "-- Written by backwhen. Apply with: psql --no-psqlrc --file FILE\n\\set ON_ERROR_STOP on\nBEGIN;\n\n";

/// The types whose values can name objects that are created after the rows.
const NAMING: [&str; 3] = ["regclass", "regtype", "regproc"];
/// The first oid of a type that is not the server's own.
const FIRST_OF_APPLICATION: u32 = 16384;

type Out = Box<dyn AsyncWrite + Send + Unpin>;

/// A script that is being written.
pub struct Script {
    definitions: ArchiveDefinitions,
    tool: Installation,
    notes: Vec<String>,
    /// The encoding of the rows, and of pg_restore's text.
    encoding: String,
    out: Mutex<Out>,
    file: Option<TemporaryFile>,
}

/// The file under its temporary name; it is removed when this value is dropped.
struct TemporaryFile {
    temporary: PathBuf,
    path: PathBuf,
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // The temporary file no longer exists if it was renamed.
        files::discard(&self.temporary);
    }
}

impl Script {
    /// Begins a script; `None` writes it to standard output.
    ///
    /// # Errors
    /// Fails with `Refused` if the file exists, and with `Unavailable` if it cannot be created.
    pub fn create(path: Option<&Path>, opening: Opening<'_>) -> Result<Script> {
        let Opening { definitions, tools, source, .. } = opening;
        let tool = script_tool(&definitions, &tools, source.server_major)?;
        let (out, file) = match path {
            None => (standard_output()?, None),
            Some(path) => {
                let file = TemporaryFile {
                    temporary: super::new_file::temporary_path(path)?,
                    path: path.to_owned(),
                };
                let handle = files::create_private(&file.temporary)
                    .context(Kind::Unavailable, || format!("cannot create {}", file.temporary.display()))?;
                (Box::new(BufWriter::with_capacity(1 << 18, File::from_std(handle))) as Out, Some(file))
            }
        };
        Ok(Script {
            definitions,
            tool,
            notes: Vec::new(),
            encoding: source.encoding.clone(),
            out: Mutex::new(out),
            file,
        })
    }

    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// # Errors
    /// Fails with `Unavailable` and pg_restore's words, or if writing to the output fails.
    pub async fn pre_data(&self) -> Result<()> {
        self.write(BEGINNING).await?;
        self.section(Section::PreData).await
    }

    /// # Errors
    /// Fails with the error in `rows`, and with `Unavailable` if writing to the output fails.
    pub async fn load(&self, table: &Table, mut rows: Rows) -> Result<()> {
        let mut out = self.out.lock().await;
        let Spelled { table, columns, .. } = Spelled::of(table, &self.encoding);
        write(&mut out, format!("COPY {table}{columns} FROM stdin;\n").as_bytes()).await?;
        while let Some(chunk) = rows.recv().await {
            write(&mut out, &chunk?).await?;
        }
        write(&mut out, b"\\.\n\n").await
    }

    /// # Errors
    /// Fails when [`Script::pre_data`] does.
    pub async fn large_objects(&self) -> Result<()> {
        if let Some(apart) = &self.definitions.large_objects {
            // Up to version 16 pg_restore creates large objects before their data.
            self.section_of(apart, Section::PreData, AfterRows::Whole).await?;
            return self.section_of(apart, Section::Data, AfterRows::Whole).await;
        }
        if !self.definitions.selection.has_large_objects(&self.definitions.archive.toc) {
            return Ok(());
        }
        self.section(Section::Data).await
    }

    /// # Errors
    /// Fails when [`Script::pre_data`] does.
    pub async fn post_data(&self, step: AfterRows) -> Result<()> {
        self.section_of(&self.definitions, Section::PostData, step).await
    }

    /// Returns the oids of the tables whose values may name objects that are created after the rows. If a type, domain or
    /// table of the archive can hold such values, every type of the application is assumed to hold some.
    pub fn tables_that_name(&self, tables: &[&Table]) -> HashSet<u32> {
        let names = |text: &str| NAMING.iter().any(|name| text.contains(name));
        let toc = &self.definitions.archive.toc;
        let types = ["TYPE", "DOMAIN", "TABLE"];
        let held = toc.entries.iter().any(|it| types.contains(&&*it.kind) && names(&it.definition));
        let may_name = |table: &&&Table| {
            table.columns.iter().any(|it| names(&it.type_name) || held && it.type_oid >= FIRST_OF_APPLICATION)
        };
        tables.iter().filter(may_name).map(|table| table.oid).collect()
    }

    /// # Errors
    /// Fails with `Unavailable` if writing to the output fails.
    pub async fn set_sequences(&self, values: &[SequenceValue]) -> Result<()> {
        self.say_utf8().await?;
        for value in values {
            self.write(&format!("{};\n", value.statement())).await?;
        }
        Ok(())
    }

    /// # Errors
    /// Fails with `Unavailable` if writing to the output fails.
    pub async fn refresh_materialized_views(&self, views: &[(String, String)]) -> Result<()> {
        self.say_utf8().await?;
        for (schema, name) in views {
            self.write(&format!(
                "REFRESH MATERIALIZED VIEW {}.{};\n",
                quote_ident(schema),
                quote_ident(name)
            ))
            .await?;
        }
        Ok(())
    }

    /// Ends the transaction, and gives a file its name.
    ///
    /// # Errors
    /// Fails with `Unavailable` if writing to the output fails, and with `Refused` if another file has got the name
    /// meanwhile.
    pub async fn make_valid(self) -> Result<()> {
        self.post_data(AfterRows::EventTriggers).await?;
        let mut out = self.out.into_inner();
        write(&mut out, b"\nCOMMIT;\n").await?;
        let flushed = async {
            out.flush().await?;
            out.shutdown().await
        };
        flushed.await.map_err(unwritten)?;
        drop(out);
        match &self.file {
            Some(file) => super::new_file::publish(&file.temporary, &file.path),
            None => Ok(()),
        }
    }

    async fn section(&self, section: Section) -> Result<()> {
        self.section_of(&self.definitions, section, AfterRows::Whole).await
    }

    async fn section_of(
        &self,
        definitions: &ArchiveDefinitions,
        section: Section,
        step: AfterRows,
    ) -> Result<()> {
        // Definitions are small next to rows, except for large objects. Both could go through a pipe unchanged, but
        // the lines must be examined, so they pass through memory one by one.
        let (mut writer, reader) = tokio::io::duplex(1 << 16);
        let child = definitions
            .restore(&self.tool, section, step, &BTreeSet::new())?
            .arg("--file=-")
            .arg(&definitions.archive.path);
        let run = async move {
            let result = child.run_into(&mut writer).await;
            drop(writer);
            result
        };
        let mut out = self.out.lock().await;
        let (ran, copied) = tokio::join!(run, copy_lines(reader, &mut out, section));
        ran.and(copied)
    }

    /// Switches from pg_restore's text, which is in the source's encoding, to our own text, which is in UTF-8.
    async fn say_utf8(&self) -> Result<()> {
        match self.encoding.as_str() {
            // In SQL_ASCII names are the bytes that were read as UTF-8, and nothing is converted.
            "UTF8" | "SQL_ASCII" => Ok(()),
            _ => self.write("SET client_encoding = 'UTF8';\n").await,
        }
    }

    async fn write(&self, text: &str) -> Result<()> {
        write(&mut *self.out.lock().await, text.as_bytes()).await
    }
}

/// Returns standard output without the lock and the buffer of `std`.
fn standard_output() -> Result<Out> {
    use std::os::fd::AsFd;
    let file = std::io::stdout().as_fd().try_clone_to_owned();
    let file =
        std::fs::File::from(file.context(Kind::Unavailable, || "cannot write to standard output".into())?);
    Ok(Box::new(BufWriter::with_capacity(1 << 18, File::from_std(file))))
}

async fn write(out: &mut Out, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).await.map_err(unwritten)
}

fn unwritten(error: std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::BrokenPipe => {
            Error::unavailable("the reader of standard output went away; what it has is not the whole script")
        }
        _ => Error::unavailable("cannot write the script; is the disk full?").caused_by(error),
    }
}

/// Chooses the oldest pg_restore that can read the archive: its output has the fewest statements that an older psql
/// or server refuses.
fn script_tool(definitions: &ArchiveDefinitions, tools: &Tools, source_major: u32) -> Result<Installation> {
    definitions.tool(tools, source_major).cloned()
}

/// Copies the output of pg_restore, without the statements that would end or break the script's one transaction.
async fn copy_lines(
    reader: impl tokio::io::AsyncRead + Unpin,
    out: &mut Out,
    section: Section,
) -> Result<()> {
    use tokio::io::AsyncBufReadExt;
    let mut reader = tokio::io::BufReader::new(reader);
    let mut line = Vec::new();
    let mut filter = Filter { in_string: false, large_objects: section == Section::Data };
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).await;
        if read.context(Kind::Unavailable, || "cannot read what pg_restore writes".into())? == 0 {
            return Ok(());
        }
        if filter.keeps(&line) {
            write(out, &line).await?;
        }
    }
}

struct Filter {
    in_string: bool,
    large_objects: bool,
}

impl Filter {
    fn keeps(&mut self, line: &[u8]) -> bool {
        // Servers before 17 do not have this parameter, and behave as its value says anyway.
        if line == b"SET transaction_timeout = 0;\n" {
            return false;
        }
        if !self.large_objects {
            return true;
        }
        // pg_restore wraps large objects in transactions of their own. The only other text of many lines in this
        // section is in comments, which are strings.
        if !self.in_string && (line == b"BEGIN;\n" || line == b"COMMIT;\n") {
            return false;
        }
        if self.in_string || !line.starts_with(b"--") {
            self.in_string ^= line.iter().filter(|byte| **byte == b'\'').count() % 2 == 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_transactions_around_large_objects_are_cut_out() {
        let mut filter = Filter { in_string: false, large_objects: true };
        let text = "-- Owner: o'brien\nBEGIN;\nSELECT 1;\nCOMMIT;\nCOMMENT ON LARGE OBJECT 1 IS 'it''s\nCOMMIT;\n';\nBEGIN;\n";
        let kept: Vec<_> = text.split_inclusive('\n').filter(|line| filter.keeps(line.as_bytes())).collect();
        assert_eq!(
            kept.concat(),
            "-- Owner: o'brien\nSELECT 1;\nCOMMENT ON LARGE OBJECT 1 IS 'it''s\nCOMMIT;\n';\n"
        );
    }
}
