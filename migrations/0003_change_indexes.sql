-- The index of changes of a segment that an earlier version sealed without one. It is made when it is first
-- asked for. `segment` is a digest of the segment's content and of the places of its blocks.

CREATE TABLE change_indexes (
    segment BLOB NOT NULL PRIMARY KEY,
    path    TEXT NOT NULL,              -- file name within journal/
    counts  BLOB NOT NULL,
    filters BLOB NOT NULL,
    tag     BLOB NOT NULL               -- a digest of the columns before; with a key, the key's tag
) STRICT, WITHOUT ROWID;
