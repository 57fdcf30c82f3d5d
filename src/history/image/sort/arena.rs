//! Rows in memory: the bytes of all rows in one piece, and a short entry for each row.

/// The entry of a row, which sorting compares and moves.
#[derive(Clone, Copy)]
struct RowSlot {
    /// The first eight bytes of the key, so that most comparisons touch no other memory.
    prefix: u64,
    start: usize,
    key_len: u32,
    line_len: u32,
}

/// Rows as key and line, in the order in which they were pushed until they are sorted.
pub struct Arena {
    bytes: Vec<u8>,
    slots: Vec<RowSlot>,
    sorted: bool,
}

impl Default for Arena {
    fn default() -> Arena {
        Arena { bytes: Vec::new(), slots: Vec::new(), sorted: true }
    }
}

impl Arena {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Returns the bytes of memory that are in use once the row is pushed.
    pub fn cost_with(&self, key: &[u8], line: &[u8]) -> usize {
        self.bytes.len() + key.len() + line.len() + (self.slots.len() + 1) * size_of::<RowSlot>()
    }

    /// Takes a row. Key and line must be shorter than 4 GiB each.
    pub fn push(&mut self, key: &[u8], line: &[u8]) {
        if let Some(last) = self.slots.last() {
            self.sorted = self.sorted && row(&self.bytes, last) <= (key, line);
        }
        let slot = RowSlot {
            prefix: prefix(key),
            start: self.bytes.len(),
            key_len: key.len() as u32,
            line_len: line.len() as u32,
        };
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(line);
        self.slots.push(slot);
    }

    pub fn sort(&mut self) {
        if self.sorted {
            return;
        }
        let bytes = &self.bytes;
        self.slots
            .sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| row(bytes, a).cmp(&row(bytes, b))));
        self.sorted = true;
    }

    /// Returns the row at a place below [`Arena::len`].
    pub fn get(&self, at: usize) -> (&[u8], &[u8]) {
        row(&self.bytes, &self.slots[at])
    }

    /// Forgets the rows and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.slots.clear();
        self.sorted = true;
    }
}

fn row<'a>(bytes: &'a [u8], slot: &RowSlot) -> (&'a [u8], &'a [u8]) {
    let line = slot.start + slot.key_len as usize;
    (&bytes[slot.start..line], &bytes[line..line + slot.line_len as usize])
}

/// Returns a number that orders as the key does, except that it cannot tell zeros from the key's end.
fn prefix(key: &[u8]) -> u64 {
    let mut first = [0; 8];
    let len = key.len().min(8);
    first[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(first)
}
