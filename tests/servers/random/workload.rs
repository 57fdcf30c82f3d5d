//! Transactions made up from a seed: the same seed gives the same statements.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// One client's share of the load.
pub struct Workload {
    random: StdRng,
    /// Names its prepared transactions, and its made-up values.
    client: u64,
    count: u64,
}

/// Pieces that are sent one after the other; the first that the server refuses ends the transaction.
pub type Transaction = Vec<String>;

impl Workload {
    pub fn new(seed: u64, client: u64) -> Workload {
        let random = StdRng::seed_from_u64(seed ^ client.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Workload { random, client, count: 0 }
    }

    pub fn transaction(&mut self) -> Transaction {
        self.count += 1;
        let begin = match self.below(12) {
            0 => "BEGIN ISOLATION LEVEL REPEATABLE READ",
            1 => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            _ => "BEGIN",
        };
        let mut text = format!("{begin};\n");
        for _ in 0..=self.below(5) {
            text += &self.step();
        }
        match self.below(20) {
            0 | 1 => vec![text + "ROLLBACK"],
            2 => {
                let name = format!("'backwhen-test-{}-{}'", self.client, self.count);
                let end = if self.chance(70) { "COMMIT" } else { "ROLLBACK" };
                vec![format!("{text}PREPARE TRANSACTION {name}"), format!("{end} PREPARED {name}")]
            }
            _ => vec![text + "COMMIT"],
        }
    }

    /// A statement, or some under a savepoint that is kept or not.
    fn step(&mut self) -> String {
        match self.below(10) {
            0 => {
                let (kept, undone) = (self.statement(), self.statement());
                format!("SAVEPOINT s;\n{undone};\nROLLBACK TO s;\n{kept};\nRELEASE s;\n")
            }
            1 => format!("SAVEPOINT s;\n{};\nRELEASE s;\n", self.statement()),
            // Often fails, and leaves only a subtransaction that was undone.
            2 => {
                let tried = self.statement().replace("$$", "");
                format!("DO $do$ BEGIN {tried}; EXCEPTION WHEN others THEN NULL; END $do$;\n")
            }
            _ => self.statement() + ";\n",
        }
    }

    fn statement(&mut self) -> String {
        match self.below(28) {
            0..=2 => self.transfer(),
            3..=5 => self.person(),
            6 | 7 => self.stock(),
            8..=11 => self.document(),
            12 | 13 => self.bag(),
            14..=16 => self.bag_of_texts(),
            17 | 18 => self.event(),
            19 | 20 => self.family(),
            21 | 22 => self.queue(),
            23 => self.measure(),
            24 => self.coded(),
            25 | 26 => self.odd(),
            _ => self.many(),
        }
    }

    fn transfer(&mut self) -> String {
        let (payer, payee, amount) = (1 + self.below(40), 1 + self.below(40), 1 + self.below(50));
        format!(
            "UPDATE account SET balance = balance - {amount} WHERE id = {payer}; \
             UPDATE account SET balance = balance + {amount} WHERE id = {payee}; \
             INSERT INTO ledger (payer, payee, amount) VALUES ({payer}, {payee}, {amount})"
        )
    }

    fn person(&mut self) -> String {
        let (name, other) = (self.name(), self.name());
        match self.below(6) {
            0 | 1 => {
                let note = self.text();
                format!(
                    "INSERT INTO person VALUES ('{name}', {note}, now()) \
                     ON CONFLICT (name) DO UPDATE SET note = excluded.note"
                )
            }
            2 => format!("UPDATE person SET seen = 'infinity' WHERE name = '{name}'"),
            3 => format!("UPDATE person SET name = '{other}' WHERE name = '{name}'"),
            4 => {
                format!("UPDATE person SET name = name || '!', note = {} WHERE name = '{name}'", self.text())
            }
            _ => format!("DELETE FROM person WHERE name = '{name}'"),
        }
    }

    fn stock(&mut self) -> String {
        let (warehouse, sku, count) = (self.below(4), self.below(15), self.below(100));
        match self.below(4) {
            0 | 1 => format!(
                "INSERT INTO stock VALUES ({warehouse}, 'sku {sku}', {count}) \
                 ON CONFLICT (sku, warehouse) DO UPDATE SET quantity = stock.quantity + excluded.quantity"
            ),
            2 => format!("UPDATE stock SET warehouse = warehouse + 4 WHERE sku = 'sku {sku}'"),
            _ => format!("DELETE FROM stock WHERE warehouse >= 4 OR sku = 'sku {sku}'"),
        }
    }

    /// Long values that later changes leave as they are, also while their rows change keys.
    fn document(&mut self) -> String {
        let (id, other) = (self.uuid(), self.uuid());
        match self.below(8) {
            0..=2 => {
                let body = self.text();
                format!(
                    "INSERT INTO document VALUES ({id}, 'new', {body}, '{{}}') ON CONFLICT (id) DO NOTHING"
                )
            }
            3 => format!("UPDATE document SET title = 'title {}' WHERE id = {id}", self.below(100)),
            4 => format!("UPDATE document SET id = {other} WHERE id = {id}"),
            5 => format!(
                "UPDATE document SET id = '00000000-0000-0000-0000-000000000000' WHERE id = {id}; \
                 UPDATE document SET id = {id}, title = 'moved' WHERE id = {other}; \
                 UPDATE document SET id = {other} WHERE id = '00000000-0000-0000-0000-000000000000'"
            ),
            6 => format!("UPDATE document SET meta = meta || '{{\"n\": {}}}', body = body", self.below(9)),
            _ => format!("DELETE FROM document WHERE id = {id}"),
        }
    }

    fn bag(&mut self) -> String {
        let (a, b) = (self.below(6), self.below(3));
        match self.below(5) {
            0 | 1 => format!("INSERT INTO bag SELECT {a}, nullif('b{b}', 'b0') FROM generate_series(0, {b})"),
            2 => format!("DELETE FROM bag WHERE ctid = (SELECT ctid FROM bag WHERE a = {a} LIMIT 1)"),
            3 => format!("UPDATE bag SET a = {b} WHERE ctid = (SELECT ctid FROM bag WHERE a = {a} LIMIT 1)"),
            _ => format!("DELETE FROM bag WHERE a = {a} AND b IS NOT DISTINCT FROM 'b{b}'"),
        }
    }

    fn bag_of_texts(&mut self) -> String {
        let a = self.below(8);
        match self.below(5) {
            0 | 1 => {
                let body = self.text();
                format!(
                    "INSERT INTO bag_of_texts SELECT {a}, {body}, '{{\"a\":  1.0}}' FROM generate_series(1, 2)"
                )
            }
            2 => format!("UPDATE bag_of_texts SET a = {} WHERE a = {a}", self.below(8)),
            3 => format!("UPDATE bag_of_texts SET rest = '[1, 1.0 , \"{a}\\\\\"]' WHERE a = {a}"),
            _ => format!(
                "DELETE FROM bag_of_texts WHERE ctid = (SELECT ctid FROM bag_of_texts WHERE a = {a} LIMIT 1)"
            ),
        }
    }

    fn event(&mut self) -> String {
        let (id, day) = (self.below(60), self.below(30));
        match self.below(6) {
            0..=2 => format!("INSERT INTO event VALUES ({id}, {day}, 'what') ON CONFLICT DO NOTHING"),
            // Rows walk from one partition to another.
            3 => format!("UPDATE event SET day = day + 7 WHERE id = {id}"),
            4 => format!("UPDATE event SET what = 'then' WHERE day = {day}"),
            _ if self.chance(20) => "TRUNCATE event_rest".to_owned(),
            _ => format!("DELETE FROM event WHERE id = {id} OR day > 40"),
        }
    }

    fn family(&mut self) -> String {
        let (a, b, c) = (self.below(10), self.below(30), self.below(60));
        match self.below(8) {
            0 | 1 => format!("INSERT INTO parent VALUES ({a}, 'parent') ON CONFLICT DO NOTHING"),
            2 | 3 => {
                format!("INSERT INTO child SELECT {b}, id, 'c' FROM parent LIMIT 1 ON CONFLICT DO NOTHING")
            }
            4 => format!(
                "INSERT INTO grandchild SELECT {c}, child.id, child.parent FROM child LIMIT 1 ON CONFLICT DO NOTHING"
            ),
            5 => format!("UPDATE parent SET id = id + 100 WHERE id = {a}"),
            6 => format!("DELETE FROM parent WHERE id % 10 = {a}"),
            _ => format!("DELETE FROM child WHERE id = {b}"),
        }
    }

    fn queue(&mut self) -> String {
        match self.below(12) {
            0..=4 => "INSERT INTO queue (job) SELECT 'job' FROM generate_series(1, 4)".to_owned(),
            5..=7 => "INSERT INTO queue_note (queue, note) SELECT id, 'note' FROM queue LIMIT 3".to_owned(),
            8 | 9 => "DELETE FROM queue WHERE id IN (SELECT id FROM queue ORDER BY id LIMIT 3 \
                      FOR UPDATE SKIP LOCKED)"
                .to_owned(),
            10 => "TRUNCATE queue RESTART IDENTITY CASCADE".to_owned(),
            _ => "TRUNCATE queue_note".to_owned(),
        }
    }

    fn measure(&mut self) -> String {
        let n = self.below(50);
        match self.below(4) {
            0 | 1 => {
                format!("INSERT INTO measure (width, height, mood) VALUES ({n}, 3, 'so so'), (1, {n}, NULL)")
            }
            2 => format!("UPDATE measure SET width = width + 1, mood = 'sad' WHERE id % 7 = {}", n % 7),
            _ => format!("DELETE FROM measure WHERE width = {n}"),
        }
    }

    fn coded(&mut self) -> String {
        let (code, other) = (self.below(30), self.below(30));
        match self.below(4) {
            0 | 1 => format!("INSERT INTO coded (code, rest) VALUES ('c{code}', {})", self.text()),
            2 => format!("UPDATE coded SET code = 'c{other}' WHERE code = 'c{code}'"),
            _ => format!("DELETE FROM coded WHERE code IN ('c{code}', 'c{other}')"),
        }
    }

    fn odd(&mut self) -> String {
        let key = self.below(25);
        let table = r#""Odd ""things""""#;
        match self.below(7) {
            0 | 1 => format!(
                "INSERT INTO {table} VALUES ({key}, E'{{\"a\\tb\",NULL,\"\\\\\\\\N\"}}', '(\"x, y\",{key})', '\\x00ff0a', \
                 'NaN', 'Infinity', '[1,{key})', 'infinity', '1 mon -2 days', '') ON CONFLICT DO NOTHING"
            )
            .replace("'[1,0)'", "'empty'"),
            2 => format!("UPDATE {table} SET f = -0.0, n = 1.50, t = '0044-03-15 BC' WHERE \"Key\" = {key}"),
            3 => format!("UPDATE {table} SET p = NULL, \"empty\" = E'\\\\N' WHERE \"Key\" = {key}"),
            4 => format!("UPDATE {table} SET \"empty\" = E'a\\nb\\tc\\r\\\\' || {} WHERE \"Key\" = {key}", self.text()),
            5 => format!("UPDATE {table} SET \"Key\" = -\"Key\" WHERE \"Key\" = {key}"),
            _ => format!("DELETE FROM {table} WHERE \"Key\" = {key}"),
        }
    }

    /// Thousands of rows in one statement.
    fn many(&mut self) -> String {
        let n = self.below(7);
        match self.below(6) {
            0 | 1 => {
                format!("INSERT INTO ledger (amount) SELECT g FROM generate_series(1, {}) g", 500 * (n + 1))
            }
            2 => format!("DELETE FROM ledger WHERE id % 3 = {}", n % 3),
            3 => format!("UPDATE ledger SET amount = amount + 1 WHERE id % 7 = {n}"),
            4 => "UPDATE document SET title = title || '.'".to_owned(),
            _ => "DELETE FROM audit".to_owned(),
        }
    }

    /// An expression for a text that is short, compressed, or out of line.
    fn text(&mut self) -> String {
        let (client, count, pieces) =
            (self.client, self.count, [0, 1, 3, 80, 300, 1200][self.below(6) as usize]);
        format!(
            "(SELECT coalesce(string_agg(md5('{client}/{count}/' || g), ''), 'short') FROM generate_series(1, {pieces}) g)"
        )
    }

    fn name(&mut self) -> String {
        let names = ["Ada", "ada", "Åsa", "Zoë ", "", "O''Hara", "日本", "a\tb", "back\\slash", "%"];
        names[self.below(names.len() as u64) as usize].to_owned()
    }

    fn uuid(&mut self) -> String {
        format!("'10000000-0000-0000-0000-0000000000{:02}'", self.below(20))
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.random_range(0..limit)
    }
}
