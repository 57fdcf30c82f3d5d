//! Random transactions: a database that is recovered without some of them is what a slow model makes of the others.
//!
//! `BACKWHEN_TEST_SEED` replays a seed that a failure printed.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::random::{TABLES, model_without, transaction};
use super::{Scene, on_oldest_and_newest, while_captured};
use crate::support::{Dump, seed};

#[test]
fn a_database_without_transactions_is_what_the_others_make_alone() {
    let seed = seed();
    eprintln!("again with: BACKWHEN_TEST_SEED={seed}");
    on_oldest_and_newest(|server| {
        let mut random = StdRng::seed_from_u64(seed);
        while_captured(server, TABLES, |scene| {
            let told: Vec<_> = (0..30).map(|number| transaction(scene, &mut random, number)).collect();
            scene.mark("end");
            // The moment is before these.
            (1000..1005).for_each(|number| drop(transaction(scene, &mut random, number)));
            (0..3).for_each(|_| without_some(scene, &told, &mut random));
        });
    });
}

fn without_some(scene: &Scene, told: &[(u32, Vec<String>)], random: &mut StdRng) {
    let effective: Vec<_> = told.iter().filter(|(_, statements)| !statements.is_empty()).collect();
    let count = random.random_range(1..=2);
    let wrong: Vec<_> = effective.choose_multiple(random, count).map(|it| it.0).collect();
    let list: Vec<_> = wrong.iter().map(u32::to_string).collect();
    let except = format!("xid:{}", list.join(","));
    let server = scene.backwhen.server();
    let database = format!("{}_new", server.fresh_database("live"));
    let into = server.conninfo(&database);
    let arguments = ["recover", "--to", "mark:end", "--create", "--into", &into, "--except", &except];
    let report = scene.backwhen.json(&[&arguments[..], &["--conflicts", "cascade"]].concat());
    assert_eq!(report["proved"], true, "{report}");
    let dependents =
        report["except"]["dependents"].as_array().unwrap().iter().map(|it| it["xid"].as_u64().unwrap());
    let undone: Vec<u64> = dependents.chain(wrong.into_iter().map(u64::from)).collect();
    let Some(truth) = model_without(scene, told, &undone) else { return };
    assert_eq!(truth.rows, Dump::of(server, &database).rows, "without {undone:?} of {told:#?}");
}
