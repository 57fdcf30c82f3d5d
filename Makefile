# What can be done here: make help
.DEFAULT_GOAL := help
.PHONY: help setup lint test soak storm fuzz demo bench bench-micro deny

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Find or install PostgreSQL 14 to 18 for the tests
	@scripts/setup.sh --all-versions

lint: ## Check the format and the lints
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

# A test waits for a server much of the time, so three share two processors.
test: setup lint ## Set up, lint, and run every test against real servers
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$((3 * $$(getconf _NPROCESSORS_ONLN) / 2))} scripts/in_scratch.sh cargo test

soak: ## Kill at random, cut the power, recover from random loads, for MINUTES (60)
	@scripts/setup.sh
	@scripts/soak.sh $(or $(MINUTES),60)

storm: ## Make, alter and drop tables in 20 sessions at once, with long and short transactions, for MINUTES (10)
	@scripts/setup.sh
	BACKWHEN_STORM_SECONDS=$$((60 * $(or $(MINUTES),10))) cargo test --test servers -- in_a_storm --nocapture

fuzz: ## Throw hostile bytes at every decoder, MINUTES (1) each
	CARGO_PROFILE_TEST_OPT_LEVEL=2 BACKWHEN_FUZZ_SECONDS=$$((60 * $(or $(MINUTES),1))) \
	    cargo test --lib -- hostile any_bytes --nocapture

demo: ## Lose a shop's orders in mid-traffic and bring them back, on a throw-away server
	@scripts/setup.sh
	cargo build --release
	@scripts/demo.sh

bench: ## Measure against pg_recvlogical, pgBackRest and pg_dump (SCALE=50 TRANSACTIONS=400000 RUNS=3)
	cargo build --release --bins --examples
	@python3 scripts/bench

bench-micro: ## Measure codec, blocks, key index and fold by themselves
	cargo bench --bench parts

deny: ## Check licences and advisories of the dependencies (needs cargo-deny)
	cargo deny check
