# What people type. Everything here works on a fresh Debian 12 with root (or sudo) and a Rust
# toolchain; what is missing is installed by `make setup`.

CARGO ?= cargo
SIM_SEEDS ?= 500
HOSTILE_SCRIPTS ?= 150000
TARGET := $(or $(CARGO_TARGET_DIR),target)
ETHERPOOL := $(TARGET)/release/etherpool

.PHONY: help lab build test check unit hostile sim blackbox bench bench-target setup setup-qemu deny clean

help:
	@echo "make lab       build, start a cluster on this machine, say what to do next"
	@echo "make test      everything that must hold, quick checks first"
	@echo "make bench     measure, side by side with plain files and bare AoE disks; the target with vblade"
	@echo "make build     the program: $(ETHERPOOL)"

setup:
	scripts/setup

# Stock kernels as clients.
setup-qemu:
	scripts/setup-qemu

build:
	$(CARGO) build --release --locked -p etherpool

lab: setup build
	$(ETHERPOOL) lab up

test: setup setup-qemu check unit hostile sim blackbox

# Formatting and lints: no warning passes.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	scripts/arrows

unit:
	$(CARGO) test --locked --workspace --exclude blackbox

# Frames that mean harm, some millions of them, against an independent reader of the protocol.
# `scripts/fuzz` looks for them guided by coverage.
hostile:
	HOSTILE_SCRIPTS=$(HOSTILE_SCRIPTS) $(CARGO) test --release --locked -p aoe --test hostile

# The simulator: each scenario, then random runs; a failing seed is printed and replays exactly.
sim:
	$(CARGO) run --release --locked -p sim -- --seeds $(SIM_SEEDS)

# Real processes, real frames, real disks, in network namespaces.
blackbox: build
	ETHERPOOL_BIN=$(abspath $(ETHERPOOL)) $(CARGO) test --release --locked -p blackbox -- --test-threads=1

bench: setup build
	scripts/bench $(abspath $(ETHERPOOL))
	$(MAKE) bench-target

# The target against vblade, an echo of frames, and fio.
bench-target: setup build
	$(CARGO) build --release --locked -p blackbox --bins
	scripts/bench-target $(abspath $(ETHERPOOL))

deny:
	$(CARGO) deny check

clean:
	$(CARGO) clean
