# What people type. Everything here works on a fresh Debian 12 with root (or sudo) and a Rust
# toolchain; what is missing is installed by `make setup`.

CARGO ?= cargo
SIM_SEEDS ?= 250
# Of `make test-long`: seeds that nobody has seen while working begin elsewhere than at 0.
LONG_SEEDS ?= 10000
LONG_FORK_SEEDS ?= 2000
LONG_START ?= 1000000
HOSTILE_SCRIPTS ?= 150000
# Places on disks that are damaged by `make bytes`, for each of its tests.
BYTES ?= 600
TARGET := $(or $(CARGO_TARGET_DIR),target)
ETHERPOOL := $(TARGET)/release/etherpool
# What tests are built with, once for all of them.
QUICK := --profile quick --locked
# The same packages for each, as others would have other features of what they depend on, and be built anew.
TESTED := $(QUICK) --workspace --exclude blackbox --exclude architecture

.PHONY: help lab build build-dist build-static deb test test-long test-upgrade check unit bytes bytes-long hostile sim sim-long sim-speed mutants mutants-check
.PHONY: blackbox blackbox-long guests-long kills-long diskless-long pages-long static-long bench bench-target bench-engine bench-keys bench-boot setup setup-qemu setup-qemu-cluster deny clean

help:
	@echo "make lab       build, start a cluster on this machine, say what to do next"
	@echo "make test      everything that must hold, quick checks first"
	@echo "make test-long what takes hours: every byte on disks, $(LONG_SEEDS) fresh seeds, disks lost for good, all mutants, a release, the manual's longest pages"
	@echo "make test-upgrade the former version beside this one: one machine after the other, both together for ten minutes, and back"
	@echo "make mutants   undoes each rule of the engine; the simulator must catch all of them"
	@echo "make sim-speed how fast a pool is on disks and cables with limits, in virtual time"
	@echo "make bench     measure, side by side with plain files, bare AoE disks and btrfs; the target with vblade"
	@echo "make bench-engine: the engine alone, on devices in memory, under a minute and without root"
	@echo "make bench-keys: what sealing messages costs, beside openssl, and volumes with and without keys"
	@echo "make bench-boot: from power-on of an emulated machine to its disks, beside the same kernel until busybox runs"
	@echo "make build     the program: $(ETHERPOOL)"
	@echo "make build-dist: the same for packages, optimised as a whole: $(TARGET)/dist/etherpool"
	@echo "make deb       the Debian package of that, in $(TARGET)/debian"
	@echo "make build-static: the same without libraries, for images of nodes: $(TARGET)/$(HOST)/release/etherpool"

setup:
	scripts/setup

# Stock kernels as clients.
setup-qemu:
	scripts/setup-qemu

setup-qemu-cluster:
	scripts/setup-qemu cluster

build:
	$(CARGO) build --release --locked -p etherpool

build-dist:
	$(CARGO) build --profile dist --locked -p etherpool

# Without libraries, of the same source: for images of nodes, and machines with other ones.
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
build-static:
	RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked -p etherpool --target $(HOST)

# The Debian package, in $(TARGET)/debian. DEB_PROFILE=quick packages what tests are built with.
DEB_PROFILE ?= dist
deb:
	$(CARGO) build --profile $(DEB_PROFILE) --locked -p etherpool
	scripts/deb $(TARGET)/$(DEB_PROFILE)/etherpool $(TARGET)/debian

lab: setup build
	$(ETHERPOOL) lab up

test: setup setup-qemu check unit bytes hostile sim blackbox

test-long: bytes-long sim-long mutants blackbox-long guests-long kills-long diskless-long pages-long static-long test-upgrade

# Formatting and lints: no warning passes.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(QUICK) --workspace --all-targets -- -D warnings
	$(CARGO) test $(QUICK) -q -p architecture
	$(MAKE) --no-print-directory mutants-check deny

unit:
	$(CARGO) test $(TESTED)
	scripts/fuse-over-ring $(CARGO) test $(TESTED) --test local_device --test condition \
		--test panicking_handler --test ftp

# Bytes of each structure on disks damaged, and each metadata write torn: a sample, another one every day (BYTES_SEED
# repeats one), opened by a whole engine each. `bytes-long`: all of them.
BYTES_SEED ?= $(shell date +%Y%m%d)
bytes:
	BYTES=$(BYTES) BYTES_SEED=$(BYTES_SEED) $(CARGO) test $(TESTED) --lib check::tests::bytes

bytes-long: BYTES = all
bytes-long: bytes

# Frames that mean harm, some millions of them, against an independent reader of the protocol; and handshakes and
# sealed messages that somebody changed.
# `scripts/fuzz` looks for them guided by coverage.
hostile:
	HOSTILE_SCRIPTS=$(HOSTILE_SCRIPTS) $(CARGO) test $(TESTED) --test hostile

# The simulator: each scenario, then random runs; a failing seed is printed and replays exactly.
sim:
	@# With its tests, which were built already and run it.
	$(CARGO) test $(TESTED) --no-run --test replay
	$(TARGET)/quick/sim --seeds $(SIM_SEEDS)

# The same by the thousand; then runs in which disks are lost for good again and again; a crash at every
# step of operations. The first seed that fails is printed.
sim-long:
	$(CARGO) build --release --locked -p sim
	$(TARGET)/release/sim --seeds $(LONG_SEEDS) --start $(LONG_START)
	$(TARGET)/release/sim --fork --seeds $(LONG_FORK_SEEDS) --start $(LONG_START)
	$(TARGET)/release/sim --steps

# How fast a pool is on hard disks, solid-state disks and cables with limits, in virtual time; then what the
# models of disks do beside the real ones.
sim-speed:
	$(CARGO) run --release --locked -p sim -- --speed
	$(CARGO) run --release --locked -p sim -- --speed disks

# Proof that the simulator's net is tight. It goes on where it was interrupted.
mutants:
	scripts/mutants run

mutants-check:
	scripts/mutants check

# Real processes, real frames, real disks, in network namespaces. All of them, also after one that failed. With the
# program that other tests were built with: it isn't built twice, and its checks of itself are on.
blackbox:
	@# With tests of it, which were built already: alone it would have other features.
	$(CARGO) test $(TESTED) --no-run --test systemd
	ETHERPOOL_BIN=$(abspath $(TARGET)/quick/etherpool) scripts/blackbox $(QUICK)

# The former version (scripts/former-version) beside this one, in both orders, each with ten minutes of both together.
MIX_SECS ?= 600
test-upgrade:
	$(CARGO) test $(TESTED) --no-run --test systemd
	former=$$(scripts/build-former) && [ -n "$$former" ] && \
		UPGRADE_MIX_SECS=$(MIX_SECS) ETHERPOOL_BIN=$(abspath $(TARGET)/quick/etherpool) ETHERPOOL_FORMER_BIN=$$former \
		$(CARGO) test $(QUICK) --workspace --exclude architecture --test upgrade -- --test-threads=1 --nocapture

# The same with what users run.
blackbox-long: build
	ETHERPOOL_BIN=$(abspath $(ETHERPOOL)) scripts/blackbox --release --locked

# 2 GiB through the page cache of a machine of 512 MiB; XFS and btrfs on a stock kernel.
guests-long: build
	MEMORY_MEBIBYTES=2048 ETHERPOOL_BIN=$(abspath $(ETHERPOOL)) $(CARGO) test --release --locked -p blackbox \
		--test local_volumes -- --test-threads=1 --include-ignored

# The supervisor killed at every named place of evacuation, replacement, rebuild and import.
kills-long: build
	ETHERPOOL_BIN=$(abspath $(ETHERPOOL)) $(CARGO) test --release --locked -p blackbox --test kills -- \
		--test-threads=1 --ignored

# Every command of docs/diskless.md: Debian from apt's mirror onto a volume, and an emulated machine that boots it.
diskless-long: build
	ETHERPOOL_BIN=$(abspath $(ETHERPOOL)) $(CARGO) test --release --locked -p blackbox --test diskless -- \
		--test-threads=1 --nocapture --ignored

# docs/sharing.md, and docs/moving.md from DRBD on: emulated machines with Debian's packages for that, from apt's mirror.
pages-long: setup-qemu-cluster build
	ETHERPOOL_BIN=$(abspath $(ETHERPOOL)) $(CARGO) test --release --locked -p blackbox --test emulated_pages -- \
		--test-threads=1 --nocapture --ignored

# An image with the program without libraries, booted.
static-long: build-static
	ETHERPOOL_BIN=$(abspath $(TARGET)/$(HOST)/release/etherpool) $(CARGO) test --release --locked -p blackbox \
		--test node_image -- --test-threads=1

bench: setup build
	$(CARGO) build --release --locked -p blackbox --bins
	scripts/bench $(abspath $(ETHERPOOL))
	$(MAKE) bench-target bench-rebuild

# The target against vblade, an echo of frames, and fio.
bench-target: setup build
	$(CARGO) build --release --locked -p blackbox --bins
	scripts/bench-target $(abspath $(ETHERPOOL))

# A rebuild beside copies between bare AoE disks, and between their images.
bench-rebuild: setup build
	scripts/bench-rebuild $(abspath $(ETHERPOOL))

# The engine without network, FUSE and disks: processor time, operations and bytes per request.
bench-engine:
	$(CARGO) bench --locked -p pool --bench engine

# What keys cost: sealing alone, beside openssl on the same machine, and volumes with and without.
bench-keys: setup build
	$(CARGO) bench --locked -p seal --bench seal
	openssl speed -seconds 1 -bytes 8192 -evp aes-256-gcm 2>/dev/null | tail -1
	openssl speed -seconds 1 -bytes 8192 -evp chacha20-poly1305 2>/dev/null | tail -1
	scripts/bench-keys $(abspath $(ETHERPOOL))

# From power-on to disks, beside the same kernel until busybox runs.
bench-boot: setup setup-qemu build
	scripts/bench-boot $(abspath $(ETHERPOOL))

# What we depend on: licences, where it is from, no crate twice without a reason. Known faults in them are asked for by
# hand (`cargo deny check advisories`): what became known today is no fault of what is tested.
deny:
	command -v cargo-deny >/dev/null || $(CARGO) install cargo-deny --locked --quiet --debug
	$(CARGO) deny --locked check bans licenses sources

clean:
	$(CARGO) clean
