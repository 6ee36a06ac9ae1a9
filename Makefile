# The two that need no reading: `make demo` runs the main job end to end, `make test` passes the tests. Both install
# what is missing and say so.

CARGO ?= cargo

.PHONY: build demo test check bench fuzz soak damage crash

build:
	$(CARGO) build --release

demo:
	@e2e/demo.sh

# Every test, none skipped where this machine can run it, then a real guest on a real root file system.
test:
	@e2e/setup.sh test
	$(CARGO) test --workspace --locked
	$(CARGO) build --release --locked
	@e2e/test-sources.sh target/release/silt
	@e2e/test-boot.sh target/release/silt

# Eight processes at one store for an hour, killed at random; some seconds of it are part of `make test`.
soak:
	SILT_SOAK_SECONDS=$${SILT_SOAK_SECONDS:-3600} $(CARGO) test --locked -p siltstone --test main -- --nocapture soak

# A small store hurt in every way there is, repaired each time: hours. A part of it is in `make test`.
damage:
	SILT_DAMAGE_EVERY=$${SILT_DAMAGE_EVERY:-1} $(CARGO) test --locked -p siltstone --test main -- --nocapture every_byte

# Commands stopped at each of their steps, and many power cuts: hours. A part of it is in `make test`.
crash:
	SILT_EVERY_STEP=1 SILT_POWER_STATES=$${SILT_POWER_STATES:-2500} SILT_STORY_STATES=$${SILT_STORY_STATES:-20000} \
		$(CARGO) test --locked -p siltstone --test main -- --nocapture durability::steps durability::power durability::generations

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --quiet
	$(CARGO) run --quiet --locked -p xtask -- check

bench:
	@bench/run.sh

# Long runs by hand; short ones are part of `make test`. Needs a nightly toolchain and cargo-fuzz. Threads that outlive an
# input look like leaks; what grows meets the limit of memory.
fuzz:
	cd fuzz && for target in $$($(CARGO) fuzz list); do $(CARGO) fuzz run $$target -- -detect_leaks=0 -max_total_time=$${SECONDS_EACH:-600} || exit 1; done
