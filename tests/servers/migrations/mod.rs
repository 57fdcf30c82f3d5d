//! Migration histories as projects really have them, run under capture: the database comes back as it
//! was between any two migrations.
//!
//! Two of the three are public and installed by `scripts/setup.sh --all-versions`; where they are not,
//! their test says so and is skipped. `BACKWHEN_TEST_SEED` replays a seed that a failure printed;
//! `BACKWHEN_MIGRATION_MOMENTS` is the number of moments that each history is recovered to.

mod django;
mod installed;
mod story;

use std::path::Path;

use crate::support::{Server, versions};
use django::Project;
use story::{Files, Story, begin};

fn hard_cases() -> Files {
    Files::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/migrations/hard"))
}

/// One whose files hold what is hard: see their names.
#[test]
fn a_history_of_hard_cases() {
    Story::tell(&begin(&Server::shared(None), "hard"), hard_cases()).assert_comes_back();
}

/// The same, where most is otherwise: on the oldest server of this machine.
#[test]
fn a_history_of_hard_cases_on_the_oldest_server() {
    if std::env::var("BACKWHEN_TEST_PG").is_ok_and(|chosen| !chosen.is_empty()) {
        return;
    }
    let oldest = Server::shared(versions().first().copied());
    Story::tell(&begin(&oldest, "hard"), hard_cases()).assert_comes_back();
}

/// procrastinate, a task queue: its SQL from the first version to the newest, jobs coming in meanwhile.
#[test]
fn the_history_of_a_task_queue() {
    let Some(folder) = installed::folder("procrastinate") else { return };
    let mut files = Files::of(&folder.join("procrastinate/sql/migrations"));
    files.then(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args) SELECT 'q', 't' || g, '{\"n\": 1}' FROM generate_series(1, 4) g; \
         UPDATE procrastinate_jobs SET status = 'doing' WHERE id % 4 = 0 AND status = 'todo'; \
         UPDATE procrastinate_jobs SET attempts = attempts + 1 WHERE id % 3 = 0; \
         DELETE FROM procrastinate_jobs WHERE id % 11 = 0",
    );
    let backwhen = begin(&Server::shared(None), "procrastinate");
    Story::tell(&backwhen, files).assert_comes_back();
}

/// Django's own apps, and one of this test's that does to its models what projects do.
#[test]
fn the_history_of_a_django_project() {
    let Some(folder) = installed::folder("django") else { return };
    let backwhen = begin(&Server::shared(None), "django");
    Story::tell(&backwhen, Project::start(&folder, &backwhen)).assert_comes_back();
}
