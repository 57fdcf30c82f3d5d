//! Throws hostile bytes at decoders: a decoder must not panic, hang, or take memory out of proportion to its input.
//! Each module has its own targets, in `tests/hostile.rs` beside its other tests.
//!
//! Inputs are mutated seeds, on a stable toolchain; an input with an outcome that was never seen before becomes a seed
//! itself. `make fuzz` runs each target for MINUTES, with a random seed that it prints. Without
//! `BACKWHEN_FUZZ_SECONDS`, each target runs a fixed number of inputs, the same ones every time. Inputs that once broke
//! a decoder lie in `fixtures/damaged/TARGET/`, and run first.

#![allow(clippy::print_stderr)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The number of inputs in a run among the other tests.
const FEW: usize = 1200;
/// An input that takes longer than this counts as a hang.
const HANGS: Duration = Duration::from_secs(20);
/// MemoryMeter that an input may take beyond a multiple of its length, in bytes.
const ALLOWANCE: usize = 48 << 20;
const PER_BYTE: usize = 64;
/// Mutated inputs are no longer than this, in bytes.
const LONGEST: usize = 256 << 10;
/// The most inputs that are kept as seeds.
const MOST_SEEDS: usize = 4000;

/// Numbers at which lengths, counts and positions often go wrong.
const ODD: [u64; 14] = [
    0,
    1,
    2,
    7,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Runs `target` on the seeds and on mutations of them. `target` describes its outcome in a word; a new word makes the
/// input a seed.
pub(crate) fn throw(name: &str, seeds: Vec<Vec<u8>>, target: impl Fn(&[u8]) -> String) {
    let seconds = std::env::var("BACKWHEN_FUZZ_SECONDS").ok().and_then(|text| text.parse::<u64>().ok());
    let seed = std::env::var("BACKWHEN_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(if seconds.is_some() { rand::random() } else { 7 });
    let mut run = FuzzRun { name, seeds: Vec::new(), seen: HashSet::new(), rng: StdRng::seed_from_u64(seed) };
    let (beat, watched) = channel();
    let watcher = std::thread::spawn({
        let name = name.to_owned();
        move || watch(&name, &watched)
    });
    for input in kept(name).into_iter().chain(seeds) {
        run.one(input, &target, &beat);
    }
    let begun = Instant::now();
    let mut count = 0;
    while seconds.map_or(count < FEW, |seconds| begun.elapsed() < Duration::from_secs(seconds)) {
        let input = run.mutated();
        run.one(input, &target, &beat);
        count += 1;
    }
    drop(beat);
    watcher.join().expect("the watcher watches");
    if seconds.is_some() {
        eprintln!("{name}: {count} inputs, {} of them new; BACKWHEN_TEST_SEED={seed}", run.seen.len());
    }
}

/// Reads the inputs that once broke the target.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder(name)).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a fixture can be read")).collect()
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/damaged").join(name)
}

/// Saves the input and returns its path.
fn keep(name: &str, input: &[u8]) -> PathBuf {
    let folder = folder(name);
    let path = folder.join(&blake3::hash(input).to_hex()[..16]);
    std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, input)).expect("it can be kept");
    path
}

/// Ends the process if an input hangs, because nothing else would end it.
fn watch(name: &str, inputs: &std::sync::mpsc::Receiver<Vec<u8>>) {
    let mut current: Option<Vec<u8>> = None;
    loop {
        match inputs.recv_timeout(HANGS) {
            Ok(next) => current = Some(next),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let path = current.map(|input| keep(name, &input));
                eprintln!("{name}: no end after {HANGS:?}: {path:?}");
                std::process::abort();
            }
        }
    }
}

struct FuzzRun<'a> {
    name: &'a str,
    seeds: Vec<Vec<u8>>,
    seen: HashSet<String>,
    rng: StdRng,
}

impl FuzzRun<'_> {
    fn one(
        &mut self,
        input: Vec<u8>,
        target: &impl Fn(&[u8]) -> String,
        beat: &std::sync::mpsc::Sender<Vec<u8>>,
    ) {
        beat.send(input.clone()).expect("the watcher watches");
        let before = MemoryMeter::start();
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
        let most = before.most();
        let Ok(outcome) = outcome else {
            panic!("{}: a panic at {}", self.name, keep(self.name, &input).display());
        };
        assert!(
            most <= ALLOWANCE + PER_BYTE * input.len(),
            "{}: {most} bytes of memory for {} bytes at {}",
            self.name,
            input.len(),
            keep(self.name, &input).display()
        );
        // Numbers in messages are positions, which do not make an outcome new.
        let outcome: String = outcome.chars().filter(|c| !c.is_ascii_digit()).take(200).collect();
        if self.seen.insert(outcome) && self.seeds.len() < MOST_SEEDS {
            self.seeds.push(input);
        }
    }

    fn mutated(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        let mut input = self.seeds[rng.random_range(0..self.seeds.len())].clone();
        for _ in 0..rng.random_range(1..6) {
            let other = &self.seeds[rng.random_range(0..self.seeds.len())];
            mutate(&mut input, other, rng);
        }
        input.truncate(LONGEST);
        input
    }
}

fn mutate(input: &mut Vec<u8>, other: &[u8], rng: &mut StdRng) {
    let len = input.len();
    let at = rng.random_range(0..=len);
    let end = (at + rng.random_range(0..=16)).min(len);
    match rng.random_range(0..9) {
        0 if at < len => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < len => input[at] = rng.random(),
        2 => input.truncate(at),
        3 => drop(input.drain(at..end)),
        4 => {
            let piece = input[at..end].to_vec();
            drop(input.splice(at..at, piece));
        }
        5 | 6 => put_number(input, at, rng),
        7 if !other.is_empty() => {
            let from = rng.random_range(0..other.len());
            let to = (from + rng.random_range(1..=64)).min(other.len());
            drop(input.splice(at..end, other[from..to].iter().copied()));
        }
        _ => {
            let bytes: [u8; 4] = rng.random();
            drop(input.splice(at..at, bytes));
        }
    }
}

/// Overwrites a place with an odd number, in one of the encodings of numbers.
fn put_number(input: &mut Vec<u8>, at: usize, rng: &mut StdRng) {
    let number = if rng.random_bool(0.8) {
        ODD[rng.random_range(0..ODD.len())]
    } else {
        (input.len() as u64).wrapping_add_signed(rng.random_range(-2..=2))
    };
    let bytes = match rng.random_range(0..6) {
        0 => (number as u16).to_be_bytes().to_vec(),
        1 => (number as u32).to_le_bytes().to_vec(),
        2 => (number as u32).to_be_bytes().to_vec(),
        3 => number.to_le_bytes().to_vec(),
        4 => number.to_string().into_bytes(),
        _ => varint(number),
    };
    let end = (at + bytes.len()).min(input.len());
    drop(input.splice(at..end, bytes));
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Counts the memory that this thread holds: only memory allocated by Rust, not by C libraries.
struct CountingAllocator;

#[global_allocator]
static COUNTING: CountingAllocator = CountingAllocator;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

fn took(bytes: usize) {
    // A thread that is ending no longer counts.
    let _ = HELD.try_with(|held| {
        held.set(held.get().saturating_add(bytes));
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

fn gave(bytes: usize) {
    let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(bytes)));
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        gave(layout.size());
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        gave(layout.size());
        took(size);
        unsafe { System.realloc(place, layout, size) }
    }
}

struct MemoryMeter {
    before: usize,
}

impl MemoryMeter {
    fn start() -> MemoryMeter {
        let before = HELD.get();
        MOST.set(before);
        MemoryMeter { before }
    }

    fn most(&self) -> usize {
        MOST.get().saturating_sub(self.before)
    }
}

/// The canary: a decoder that trusts a length in its input is caught, whether it panics or takes memory.
#[test]
#[should_panic(expected = "canary")]
fn a_decoder_that_believes_its_input_is_found_out() {
    let name = "canary";
    let found = catch_unwind(|| {
        throw(name, vec![vec![1, 0, 0, 0, 9]], |input| {
            let Some(head) = input.first_chunk::<4>() else { return "short".into() };
            let believed = vec![0u8; u32::from_le_bytes(*head) as usize];
            format!("{}", believed.len())
        });
    });
    let _ = std::fs::remove_dir_all(folder(name));
    std::panic::resume_unwind(found.expect_err("nothing was found"));
}
