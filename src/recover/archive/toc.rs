//! The table of contents of pg_dump's custom format.
//!
//! `pg_restore --list` would print the table of contents too, but its lines cannot be parsed where a name contains a
//! space, and they leave out dependencies and SQL. Layout: PostgreSQL's `pg_backup_archiver.c`, `WriteHead` and
//! `WriteToc`, archive versions 1.14 (pg_dump 13 to 15), 1.15 (16), 1.16 (17, 18).

use std::io::{self, Read};

use crate::model::schema::quote_ident;

/// The stage in which an entry is restored, relative to the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The entry is restored along with its object, as comments and privileges are.
    None,
    PreData,
    Data,
    PostData,
}

/// One object of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The number of the entry in this archive.
    pub id: i32,
    /// The object's oid in the database that was dumped; 0 if the object has none.
    pub oid: u32,
    /// The kind of object, in pg_dump's words: `TABLE`, `FK CONSTRAINT`, `PUBLICATION TABLE`.
    pub kind: String,
    /// The object's name; for kinds that belong to a table, the table's name comes first.
    pub tag: String,
    pub schema: Option<String>,
    pub owner: Option<String>,
    /// The tablespace and the access method, where they are not the database's default.
    pub tablespace: Option<String>,
    pub access_method: Option<String>,
    pub section: Section,
    /// The SQL that creates the object.
    pub definition: String,
    /// The SQL that drops the object.
    pub drop: String,
    /// The entries that must be restored before this one.
    pub depends_on: Vec<i32>,
}

impl Entry {
    /// Returns the object's kind and name for people: `VIEW shop.totals`.
    pub fn display(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{} {schema}.{}", self.kind, self.tag),
            None => format!("{} {}", self.kind, self.tag),
        }
    }

    /// Returns the name of a table, as [`Table::display`](crate::model::Table::display) gives it.
    pub fn table_name(&self) -> String {
        format!("{}.{}", self.schema.as_deref().unwrap_or_default(), self.tag)
    }

    /// Whether the entry grants privileges.
    pub fn is_of_privileges(&self) -> bool {
        matches!(&*self.kind, "ACL" | "DEFAULT ACL")
    }

    /// Whether the entry is a setting that every session of pg_restore makes by itself.
    pub fn is_of_session(&self) -> bool {
        matches!(&*self.kind, "ENCODING" | "STDSTRINGS" | "SEARCHPATH")
    }

    /// Whether the entry is the database itself or a property of it, which pg_restore makes with `--create` only.
    pub fn is_of_database(&self) -> bool {
        self.kind.starts_with("DATABASE")
            || (self.section == Section::None && self.tag.starts_with("DATABASE "))
    }

    /// Returns the statement that moves the object into a tablespace or to an access method.
    pub fn set_place(&self, kind: &str, place: &str) -> String {
        let object = self.drop.strip_prefix("DROP ").and_then(|rest| rest.trim_end().strip_suffix(';'));
        let moved =
            |it: &str| format!("ALTER {it} SET {} {};", kind.to_ascii_uppercase(), quote_ident(place));
        object.map_or_else(String::new, moved)
    }

    /// Returns the statement that gives the object its owner; `None` if the object has no owner of its own.
    pub fn set_owner(&self) -> Option<String> {
        self.set_owner_to(&quote_ident(self.owner.as_deref()?))
    }

    /// Returns the statement that gives the object to a role, or to CURRENT_USER.
    pub fn set_owner_to(&self, owner: &str) -> Option<String> {
        let name = self.drop.strip_prefix(&format!("DROP {} ", self.kind))?.trim_end().strip_suffix(';')?;
        let owned = !matches!(&*self.kind, "TRIGGER" | "INDEX" | "RULE" | "POLICY" | "EXTENSION" | "CAST");
        let owned = owned && !matches!(&*self.kind, "TRANSFORM" | "USER MAPPING" | "ACCESS METHOD");
        owned.then(|| format!("ALTER {} {name} OWNER TO {owner};", self.kind))
    }
}

/// The table of contents, in the order in which pg_restore processes it.
#[derive(Clone, Debug)]
pub struct Toc {
    pub entries: Vec<Entry>,
    /// The name of the database that was dumped.
    pub database: String,
    /// The major version of that database's server.
    pub server_major: u32,
    /// The major version of the pg_dump that wrote the archive.
    pub dump_major: u32,
}

impl Toc {
    /// # Errors
    /// Fails with `InvalidData` if the bytes are not an archive of a known version, and with `UnexpectedEof` if they
    /// are cut short.
    pub fn read(reader: impl Read) -> io::Result<Toc> {
        let mut head = TocReader::start(reader)?;
        let database = head.string()?.unwrap_or_default();
        let server_major = major(head.string()?)?;
        let dump_major = major(head.string()?)?;
        let count = head.int()?;
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push(head.entry()?);
        }
        Ok(Toc { entries, database, server_major, dump_major })
    }

    /// Returns the materialised views in an order in which each view comes after the views that it reads.
    pub fn materialized_views(&self) -> impl Iterator<Item = (&str, &str)> {
        // pg_dump has sorted the entries by dependency.
        self.entries
            .iter()
            .filter(|entry| entry.kind == "MATERIALIZED VIEW")
            .map(|entry| (entry.schema.as_deref().unwrap_or_default(), entry.tag.as_str()))
    }
}

fn major(version: Option<String>) -> io::Result<u32> {
    let version = version.unwrap_or_default();
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| invalid("a version is no number"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

struct TocReader<R> {
    reader: R,
    int_size: usize,
    offset_size: usize,
    /// The minor version of the format; the major version is 1.
    version: u8,
}

impl<R: Read> TocReader<R> {
    /// Reads the header up to the name of the database.
    fn start(mut reader: R) -> io::Result<TocReader<R>> {
        let mut head = [0; 11];
        reader.read_exact(&mut head)?;
        if &head[..5] != b"PGDMP" {
            return Err(invalid("it does not begin with PGDMP"));
        }
        let [major, version, _, int_size, offset_size, format] =
            [head[5], head[6], head[7], head[8], head[9], head[10]];
        if major != 1 || version < 14 {
            return Err(invalid("its version is not known"));
        }
        if !(4..=8).contains(&int_size) || !(4..=8).contains(&offset_size) || format != 1 {
            return Err(invalid("it is not of the custom format"));
        }
        let mut reader =
            TocReader { reader, int_size: int_size.into(), offset_size: offset_size.into(), version };
        // These fields are the compression, then the time of the dump in seven numbers.
        if version >= 15 {
            reader.skip(1)?;
        } else {
            reader.int()?;
        }
        for _ in 0..7 {
            reader.int()?;
        }
        Ok(reader)
    }

    fn entry(&mut self) -> io::Result<Entry> {
        let id = self.int()?;
        self.int()?; // whether it holds data
        self.string()?; // oid of its catalog
        let oid = self.string()?.unwrap_or_default();
        let oid = oid.parse().map_err(|_| invalid("an oid is no number"))?;
        let tag = self.string()?.unwrap_or_default();
        let kind = self.string()?.unwrap_or_default();
        let section = match self.int()? {
            1 => Section::None,
            2 => Section::PreData,
            3 => Section::Data,
            4 => Section::PostData,
            _ => return Err(invalid("an entry is of no known section")),
        };
        let definition = self.string()?.unwrap_or_default();
        let drop = self.string()?.unwrap_or_default();
        self.string()?; // how to copy it
        let schema = self.string()?;
        let tablespace = self.string()?.filter(|name| !name.is_empty());
        let access_method = self.string()?.filter(|name| !name.is_empty());
        if self.version >= 16 {
            self.int()?; // relkind
        }
        let owner = self.string()?.filter(|owner| !owner.is_empty());
        self.string()?; // whether it has oids, as tables once had
        let mut depends_on = Vec::new();
        while let Some(text) = self.string()? {
            depends_on.push(text.parse().map_err(|_| invalid("a dependency is no number"))?);
        }
        self.skip(1 + self.offset_size)?; // where its data is
        Ok(Entry {
            id,
            oid,
            kind,
            tag,
            schema,
            owner,
            tablespace,
            access_method,
            section,
            definition,
            drop,
            depends_on,
        })
    }

    /// Reads a sign byte, then the number, little-endian.
    fn int(&mut self) -> io::Result<i32> {
        let mut bytes = [0; 9];
        self.reader.read_exact(&mut bytes[..=self.int_size])?;
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[1..]);
        let number = i64::from_le_bytes(number);
        let number = if bytes[0] == 0 { number } else { number.wrapping_neg() };
        number.try_into().map_err(|_| invalid("a number is out of range"))
    }

    /// Reads a length, negative for a missing text, then the bytes. Names in encodings other than UTF-8 are decoded
    /// only where they are ASCII, which is enough for choosing entries.
    fn string(&mut self) -> io::Result<Option<String>> {
        let Ok(length) = u64::try_from(self.int()?) else { return Ok(None) };
        // The buffer grows only with the bytes that exist, whatever the length claims.
        let mut bytes = Vec::new();
        (&mut self.reader).take(length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }))
    }

    fn skip(&mut self, bytes: usize) -> io::Result<()> {
        let mut skipped = [0; 16];
        self.reader.read_exact(&mut skipped[..bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The archives of one database, dumped by pg_dump 14, 16 and 18: archive versions 1.14, 1.15 and 1.16.
    const ARCHIVES: [&[u8]; 3] = [
        include_bytes!("../../../fixtures/formats/archive/pg_dump-14.dump"),
        include_bytes!("../../../fixtures/formats/archive/pg_dump-16.dump"),
        include_bytes!("../../../fixtures/formats/archive/pg_dump-18.dump"),
    ];

    #[test]
    fn every_version_of_the_archive_is_read() {
        for (archive, dump_major) in ARCHIVES.into_iter().zip([14, 16, 18]) {
            let toc = Toc::read(archive).unwrap();
            assert_eq!((toc.database.as_str(), toc.server_major, toc.dump_major), ("tiny", 14, dump_major));
            let find = |kind: &str, tag: &str| {
                let mut entries = toc.entries.iter();
                entries
                    .find(|entry| entry.kind == kind && entry.tag == tag)
                    .unwrap_or_else(|| panic!("no {kind} {tag}"))
            };
            let table = find("TABLE", "c d");
            assert_eq!((table.schema.as_deref(), table.owner.as_deref()), (Some("a b"), Some("postgres")));
            assert!(table.definition.starts_with("CREATE TABLE \"a b\".\"c d\""), "{}", table.definition);
            assert!(find("VIEW", "v").depends_on.contains(&table.id));
            assert_ne!(table.oid, 0);
            let key = find("FK CONSTRAINT", "other other_id_fkey");
            assert_eq!(key.section, Section::PostData);
            assert!(key.depends_on.contains(&table.id));
            assert_eq!(find("BLOBS", if dump_major < 17 { "BLOBS" } else { "42" }).section, Section::Data);
        }
    }

    #[test]
    fn damaged_archives_are_refused_not_trusted() {
        for archive in ARCHIVES {
            // The last entries are far from the end of the file: the rows of large objects follow.
            for length in 0..archive.len() / 2 {
                assert!(Toc::read(&archive[..length]).is_err(), "{length} bytes were taken for an archive");
            }
            for at in 0..archive.len() {
                let mut damaged = archive.to_vec();
                damaged[at] ^= 0x80;
                let _ = Toc::read(&damaged[..]);
            }
        }
    }

    #[test]
    fn an_archive_of_any_bytes() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/formats/archive");
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let seeds = paths.map(|path| std::fs::read(path).unwrap()).collect();
        crate::hostile::throw("archive", seeds, |bytes| match Toc::read(bytes) {
            Ok(toc) => format!("{}", toc.materialized_views().count()),
            Err(error) => error.to_string(),
        });
    }
}
