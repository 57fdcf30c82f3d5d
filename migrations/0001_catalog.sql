-- The catalog is an index of a history's objects. It holds nothing that they do not, and is only
-- ever changed by reading them, so it may be deleted at any time.

CREATE TABLE segments (
    epoch    INTEGER NOT NULL,
    start    INTEGER NOT NULL,          -- LSN; the frontier at which the segment starts
    path     TEXT    NOT NULL,          -- file name within journal/
    bytes    INTEGER NOT NULL,          -- of the file
    summary  TEXT    NOT NULL,          -- the footer's summary, JSON
    PRIMARY KEY (epoch, start)
) STRICT;

CREATE TABLE checkpoints (
    id          TEXT    PRIMARY KEY,
    epoch       INTEGER NOT NULL,
    lsn         INTEGER NOT NULL,
    time        INTEGER NOT NULL,       -- microseconds since 2000-01-01 UTC
    label       TEXT,
    origin      TEXT    NOT NULL,
    rows        INTEGER NOT NULL,
    bytes_new   INTEGER NOT NULL,
    bytes_total INTEGER NOT NULL
) STRICT;

CREATE TABLE packs (
    number INTEGER PRIMARY KEY,
    name   TEXT    NOT NULL UNIQUE,
    bytes  INTEGER NOT NULL
) STRICT;

CREATE TABLE blocks (
    id     BLOB    NOT NULL PRIMARY KEY,   -- BLAKE3 of the raw bytes
    pack   INTEGER NOT NULL REFERENCES packs (number),
    offset INTEGER NOT NULL,
    stored INTEGER NOT NULL                -- bytes in the pack
) STRICT, WITHOUT ROWID;

