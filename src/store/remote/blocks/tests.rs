use std::cell::RefCell;

use super::*;

/// An object, and the ranges of it that were asked for.
struct Far {
    bytes: Bytes,
    asked: RefCell<Vec<Range<u64>>>,
}

impl Far {
    fn new(size: u64) -> Far {
        let bytes: Vec<_> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
        Far { bytes: bytes.into(), asked: RefCell::default() }
    }

    fn cached(&self, cache: &Arc<BlockCache>) -> CachedObject {
        CachedObject::new(Arc::clone(cache), "s3://a/b", 1, self.bytes.len() as u64)
    }

    /// Reads a range, and returns how many requests that took.
    fn read(&self, cached: &CachedObject, range: Range<u64>) -> usize {
        self.asked.borrow_mut().clear();
        let request = |range: Range<u64>| {
            self.asked.borrow_mut().push(range.clone());
            Ok(self.bytes.slice(range.start as usize..range.end as usize))
        };
        let read = cached.read(range.clone(), request).unwrap();
        assert!(read == self.bytes[range.start as usize..range.end as usize], "{range:?}");
        self.asked.borrow().len()
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).into_iter().flatten().map(|it| it.unwrap().path()).collect()
    };
    entries(folder).iter().flat_map(|it| entries(it)).collect()
}

#[test]
fn a_range_is_asked_for_once_however_it_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Arc::new(BlockCache::new(&folder.path().join("blocks"), 1 << 30));
    for size in [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 17] {
        let far = Far::new(size);
        let cached = far.cached(&cache);
        assert_eq!(far.read(&cached, 0..size), usize::from(size > 0));
        for (begin, end) in [(0, size), (0, size / 2), (size / 3, size), (size - size.min(1), size)] {
            assert_eq!(far.read(&cached, begin..end), 0, "{begin}..{end} of {size}");
        }
        assert_eq!(cached.whole().unwrap(), far.bytes);
    }
    // The bytes between two known pieces are one request.
    let far = Far::new(9 * PIECE + 5);
    let cached = CachedObject::new(Arc::clone(&cache), "s3://a/c", 1, 9 * PIECE + 5);
    assert_eq!(far.read(&cached, 0..1) + far.read(&cached, 7 * PIECE..7 * PIECE + 1), 2);
    assert_eq!(far.read(&cached, 0..9 * PIECE + 5), 2);
    let whole: u64 = far.asked.borrow().iter().map(|range| range.end - range.start).sum();
    assert_eq!(whole, 8 * PIECE, "nothing is fetched twice");
}

#[test]
fn a_damaged_file_is_fetched_again_and_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Arc::new(BlockCache::new(folder.path(), 1 << 30));
    let far = Far::new(2 * PIECE);
    let cached = far.cached(&cache);
    far.read(&cached, 0..2 * PIECE);
    let kept = files_in(folder.path());
    assert_eq!(kept.len(), 2);
    let whole: Vec<_> = kept.iter().map(|path| fs::read(path).unwrap()).collect();
    let mut flipped = whole[0].clone();
    flipped[40_000] ^= 1;
    for bad in [&flipped[..], &whole[0][..50_000], &whole[1], b"", &[&whole[0][..], b"x"].concat()] {
        fs::write(&kept[0], bad).unwrap();
        assert_eq!(far.read(&cached, 0..2 * PIECE), 1);
        assert_eq!(fs::read(&kept[0]).unwrap(), whole[0]);
        assert_eq!(far.read(&cached, 0..2 * PIECE), 0);
    }
    // Another version of the object, and another object, have other pieces.
    let size = 2 * PIECE;
    for (place, version) in [("s3://a/b", 2), ("s3://a/x", 1)] {
        let other = CachedObject::new(Arc::clone(&cache), place, version, size);
        assert_eq!(other.whole(), None);
    }
}

#[test]
fn the_oldest_pieces_make_room_and_used_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let limit = 40 * (PIECE + DISK_BLOCK);
    let long_ago = SystemTime::from(ambient::now()) - Duration::from_secs(7200);
    let far = Far::new(30 * PIECE);
    {
        let cache = Arc::new(BlockCache::new(folder.path(), limit));
        far.read(&far.cached(&cache), 0..30 * PIECE);
    }
    for path in files_in(folder.path()) {
        File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
    }
    fs::write(folder.path().join("00-left.tmp"), "at the wrong place, and nobody's").unwrap();
    let left = files_in(folder.path())[0].with_extension("7.tmp");
    fs::write(&left, "half").unwrap();
    File::options().write(true).open(&left).unwrap().set_modified(long_ago).unwrap();

    let cache = Arc::new(BlockCache::new(folder.path(), limit));
    let used = far.cached(&cache);
    assert_eq!(far.read(&used, 0..4 * PIECE), 0);
    let other = Far::new(30 * PIECE);
    let cached = CachedObject::new(Arc::clone(&cache), "s3://a/new", 1, 30 * PIECE);
    other.read(&cached, 0..30 * PIECE);
    drop(cached);
    let total: u64 = files_in(folder.path()).iter().map(|it| on_disk(it.metadata().unwrap().len())).sum();
    assert!(total <= limit + limit / 16, "{total} of {limit}");
    assert!(!left.exists(), "what a killed process left is gone");
    assert_eq!(far.read(&used, 0..4 * PIECE), 0, "these were used");
    assert!(far.read(&used, 0..30 * PIECE) > 0, "others made room");
    drop((used, cache));
    let total: u64 = files_in(folder.path()).iter().map(|it| on_disk(it.metadata().unwrap().len())).sum();
    assert!(total <= limit, "{total} of {limit}");
}

#[test]
fn a_process_adds_no_more_than_fits() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Arc::new(BlockCache::new(folder.path(), 10 * (PIECE + DISK_BLOCK)));
    let far = Far::new(100 * PIECE);
    let cached = far.cached(&cache);
    far.read(&cached, 0..100 * PIECE);
    assert_eq!(far.read(&cached, 0..4 * PIECE), 0, "the first pieces are not pushed out by the last ones");
}

#[test]
fn reading_goes_on_where_nothing_can_be_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a file");
    fs::write(&file, "x").unwrap();
    let far = Far::new(3 * PIECE);
    let cached = far.cached(&Arc::new(BlockCache::new(&file, 1 << 30)));
    assert_eq!(far.read(&cached, 0..3 * PIECE) + far.read(&cached, 0..3 * PIECE), 2);
    let gone = folder.path().join("blocks");
    let cached = far.cached(&Arc::new(BlockCache::new(&gone, 1 << 30)));
    far.read(&cached, 0..PIECE);
    fs::remove_dir_all(&gone).unwrap();
    assert_eq!(far.read(&cached, 0..PIECE) + far.read(&cached, 0..PIECE), 1, "it is made anew");
}
