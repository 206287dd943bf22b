# The one interface to this project: `make help` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Each step may use the whole machine, and their output should not mix.
.NOTPARALLEL:
# rustup's folder, for shells that did not read its profile.
export PATH := $(PATH):$(HOME)/.cargo/bin

CARGO ?= cargo
# Extra arguments for every call of cargo; `ci` insists on the lock file.
FLAGS ?=
STEP := .ci/step
NODE := --package magi-plugin --package magi-gateway --package magi-ctl
HARNESS := --package magi-integration
# What is generated carries the comments of others, with examples that are no Rust.
WRITTEN := --workspace --exclude magi-wire

.PHONY: help
help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  On Debian 12, as root, every target installs what it needs. Elsewhere it says what is missing;'
	@echo '  MAGI_CONTAINERD_DIR names a folder with containerd binaries for the tests (CONTRIBUTING.md).'

.PHONY: deps
deps: ## look for what a build needs; on Debian, as root, install what is missing
	@.ci/deps

.PHONY: parts
parts: deps ## fetch the containerds, runc and registry that the tests run, without installing them
	@$(STEP) 'parts of the test harness' $(CARGO) run $(FLAGS) --quiet $(HARNESS) --bin magi-parts

.PHONY: build
build: deps ## build every binary for development
	@$(STEP) 'build' $(CARGO) build $(FLAGS) --workspace --bins

.PHONY: test
test: root parts build ## run every test: units, documentation, then real containerds
	@$(STEP) 'unit tests' $(CARGO) test $(FLAGS) --workspace --exclude magi-integration --lib --bins --tests --examples
	@$(STEP) 'documentation tests' $(CARGO) test $(FLAGS) $(WRITTEN) --doc
	@$(STEP) 'integration tests' $(CARGO) test $(FLAGS) $(HARNESS) --lib --bins --tests -- --test-threads=1

.PHONY: lint
lint: deps components ## check the form and run clippy; a warning is an error
	@$(STEP) 'form' $(CARGO) fmt --all --check
	@$(STEP) 'clippy' $(CARGO) clippy $(FLAGS) --workspace --all-targets -- --deny warnings

.PHONY: rules
rules: deps ## check the rules of the tree: imports, licences, duplicates, style
	@$(STEP) 'rules' $(CARGO) test $(FLAGS) $(HARNESS) --test workspace

.PHONY: doc
doc: deps ## build the documentation; a warning is an error
	@RUSTDOCFLAGS='--deny warnings' $(STEP) 'documentation' \
		$(CARGO) doc $(FLAGS) $(WRITTEN) --no-deps --document-private-items

.PHONY: release
release: release-node
	@$(STEP) 'release build of magi-master' $(CARGO) build $(FLAGS) --release --package magi-master

# The demo shows a node alone: it does not wait for the master's dependencies.
.PHONY: release-node
release-node: deps
	@$(STEP) 'release build' $(CARGO) build $(FLAGS) --release $(NODE)
	@# containerd blocks every pull if this one cannot be started, so it needs nothing of the machine.
	@$(STEP) 'release build of magi-verify' $(CARGO) rustc $(FLAGS) --release --package magi-verify \
		--bin magi-verify -- -C target-feature=+crt-static
	@# The same holds for this one, and every layer.
	@$(STEP) 'release build of magi-unpack' $(CARGO) rustc $(FLAGS) --release --package magi-unpack \
		--bin magi-unpack -- -C target-feature=+crt-static

DEMO = $(STEP) 'demo' $(CARGO) run $(FLAGS) --quiet $(HARNESS) --bin magi-demo

.PHONY: demo
demo: root parts release-node ## see magi stop a gigantic pull and a lying one beside a healthy one
	@# The product as it is shipped; the harness need not be compiled a second time for it.
	@MAGI_BIN_DIR="$$(realpath "$${CARGO_TARGET_DIR:-target}")/release" $(DEMO)

# The same with what the tests have built: for `ci`, which has no time for a second build of everything.
.PHONY: demo-of-build
demo-of-build: root parts build
	@$(DEMO)

.PHONY: hostile
hostile: root parts build ## play every attack on both containerds, and write the table into README.md
	@$(STEP) 'hostile suite' $(CARGO) run $(FLAGS) --quiet $(HARNESS) --bin magi-hostile -- \
		--readme README.md --json "$$(realpath "$${CARGO_TARGET_DIR:-target}")/hostile.json"

.PHONY: bench
bench: root parts release ## measure latency, throughput and idle cost, side by side
	@# What magi is compared with; it is skipped, and said so, where it cannot be had.
	@.ci/deps bench || true
	@$(STEP) 'bench' $(CARGO) run $(FLAGS) --release --quiet $(HARNESS) --bin magi-bench
	@$(STEP) "bench of the master's fan-out" $(CARGO) bench $(FLAGS) --package magi-master --bench fanout \
		-- --json "$$(realpath "$${CARGO_TARGET_DIR:-target}")/bench/fanout.json"

.PHONY: soak
soak: SOAK_ATTACKS ?= 1000
soak: root parts build ## attack SOAK_ATTACKS (1000) times, with a healthy pull beside each
	@$(STEP) 'soak' $(CARGO) run $(FLAGS) --quiet $(HARNESS) --bin magi-soak -- $(SOAK_ATTACKS)

.PHONY: chaos
chaos: CHAOS_FAULTS ?= 200
chaos: root parts build ## kill every part of it CHAOS_FAULTS (200) times in all, while images are pulled
	@$(STEP) 'chaos' $(CARGO) run $(FLAGS) --quiet $(HARNESS) --bin magi-chaos -- $(CHAOS_FAULTS)

.PHONY: fuzz
fuzz: FUZZ_SECONDS ?= 300
fuzz: deps ## feed mutated real bytes to every decoder, FUZZ_SECONDS (300) each
	@for package in magi-snoop magi-plugin magi-engine; do \
		FUZZ_SECONDS=$(FUZZ_SECONDS) CARGO_PROFILE_DEV_OPT_LEVEL=2 $(STEP) "fuzz $$package" \
			$(CARGO) test $(FLAGS) --package $$package --lib fuzz_ -- --nocapture --test-threads=1; \
	done

.PHONY: ci
ci: FLAGS := --locked
ci: lint rules doc test demo-of-build ## everything that must pass before a change goes in

.PHONY: clean
clean: ## remove what was built, and the fetched parts with it
	@$(CARGO) clean

# Helpers that are not worth a line in the help.

.PHONY: root
root:
	@[ "$$(id -u)" -eq 0 ] || { \
		echo 'This runs containerds of its own and reads the kernel: run it as root.' >&2; exit 1; }

.PHONY: components
components: deps
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 || { \
		echo 'rustfmt or clippy is missing: rustup component add rustfmt clippy' >&2; exit 1; }
