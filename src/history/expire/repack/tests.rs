//! Tests of the choice of packs that are packed anew, also over two simulated years of daily checkpoints.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::calendar::{CalendarRules, Period};
use super::*;

fn pack(name: &str, bytes: u64, needed: u64) -> PackUse {
    PackUse { name: name.to_owned(), bytes, needed, blocks: 1 }
}

fn names(chosen: &[&PackUse]) -> Vec<String> {
    chosen.iter().map(|pack| pack.name.clone()).collect()
}

#[test]
fn the_packs_that_give_back_most_are_read_first_and_no_more_than_is_worth_it() {
    let packs = [pack("a", 100, 90), pack("b", 100, 10), pack("c", 100, 100), pack("d", 50, 0)];
    assert_eq!(names(&choose(&packs, 1000)), ["b"], "a twentieth may stay unneeded");
    assert_eq!(names(&choose(&packs, 9)), [""; 0], "it would have to read more than it may");
    let packs = [pack("a", 100, 40), pack("b", 100, 50), pack("c", 100, 60)];
    assert_eq!(names(&choose(&packs, 1000)), ["a", "b", "c"]);
    assert_eq!(names(&choose(&packs, 90)), ["a", "b"], "the next expiry goes on");
    assert_eq!(names(&choose(&[], 1000)), [""; 0]);
    assert_eq!(names(&choose(&[pack("a", 100, 100)], 1000)), [""; 0]);
}

/// A table of blocks of equal size, of which some change each day; the blocks that are new on a day are a pack, as those
/// of a folded checkpoint are.
struct Simulation {
    random: StdRng,
    /// The block at each place of the table.
    table: Vec<usize>,
    next: usize,
    packs: BTreeMap<String, Vec<usize>>,
    /// The local time and the blocks of each kept checkpoint.
    checkpoints: Vec<(chrono::NaiveDateTime, Vec<usize>)>,
}

const PLACES: usize = 500;

/// The blocks that fit into one pack.
const FULL_PACK: usize = 64;

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut new = Simulation {
            random: StdRng::seed_from_u64(seed),
            table: (0..PLACES).collect(),
            next: PLACES,
            packs: BTreeMap::new(),
            checkpoints: Vec::new(),
        };
        new.put((0..PLACES).collect());
        new
    }

    fn put(&mut self, blocks: Vec<usize>) {
        for part in blocks.chunks(FULL_PACK) {
            // A pack is named by its content.
            self.packs.insert(format!("{part:?}"), part.to_vec());
        }
    }

    /// Changes a hundredth of the blocks anywhere, and some of the newest ones, and takes a checkpoint with its list of
    /// blocks.
    fn day(&mut self, time: chrono::NaiveDateTime) {
        let anywhere = (0..PLACES / 100).map(|_| self.random.random_range(0..PLACES)).collect::<Vec<_>>();
        let newest = (0..5).map(|_| self.random.random_range(PLACES - 20..PLACES)).collect::<Vec<_>>();
        let mut new = Vec::new();
        for place in anywhere.into_iter().chain(newest) {
            if !new.contains(&self.table[place]) {
                (self.table[place], self.next) = (self.next, self.next + 1);
                new.push(self.table[place]);
            }
        }
        new.push(self.next);
        let checkpoint = self.table.iter().copied().chain([self.next]).collect();
        self.next += 1;
        self.put(new);
        self.checkpoints.push((time, checkpoint));
    }

    /// Expires, and returns the bytes that were read, kept and needed, in blocks.
    fn expire(&mut self, rules: &CalendarRules) -> (u64, u64, u64) {
        let times: Vec<_> = self.checkpoints.iter().map(|(time, _)| *time).collect();
        let every = self.checkpoints.len().saturating_sub(30);
        let mut place = 0;
        let kept = rules.kept(&times);
        self.checkpoints.retain(|_| {
            place += 1;
            place > every || !kept[place - 1].is_empty()
        });
        let mut is_needed = vec![false; self.next];
        self.checkpoints.iter().flat_map(|(_, blocks)| blocks).for_each(|block| is_needed[*block] = true);
        let needed_of = |blocks: &[usize]| blocks.iter().filter(|block| is_needed[**block]).count() as u64;
        let uses = self.packs.iter().map(|(name, blocks)| {
            let needed = needed_of(blocks);
            PackUse { name: name.clone(), bytes: blocks.len() as u64, needed, blocks: needed }
        });
        let uses: Vec<_> = uses.collect();
        let chosen: Vec<_> = choose(&uses, 0).into_iter().map(|pack| pack.name.clone()).collect();
        let mut anew = Vec::new();
        for name in &chosen {
            let blocks = self.packs.remove(name).unwrap();
            anew.extend(blocks.into_iter().filter(|block| is_needed[*block]));
        }
        let read = anew.len() as u64;
        self.packs.retain(|_, blocks| needed_of(blocks) > 0);
        self.put(anew);
        let held = |blocks: &Vec<usize>| blocks.len() as u64;
        let needed = is_needed.iter().filter(|is_needed| **is_needed).count() as u64;
        (read, self.packs.values().map(held).sum(), needed)
    }
}

#[test]
fn two_years_of_daily_checkpoints_keep_little_more_than_what_lives() {
    let rules = CalendarRules(vec![(Period::Day, 60), (Period::Week, 26), (Period::Month, 24)]);
    let mut simulation = Simulation::new(19);
    let begin = DateTime::from_timestamp(1_800_000_000, 0).unwrap().naive_utc();
    let (mut worst, mut most_read) = (0.0_f64, 0.0_f64);
    for day in 0..731 {
        simulation.day(begin + TimeDelta::days(day));
        let (read, kept, needed) = simulation.expire(&rules);
        worst = worst.max(kept as f64 / needed as f64);
        most_read = most_read.max(read as f64 / kept as f64);
    }
    assert!(worst <= 1.1, "kept {worst} of what lives");
    assert!(most_read <= 0.0201, "read {most_read} of what is kept in a day");
}
