# What people run. `make demo` shows the product, `make test` runs everything that CI runs.

CARGO ?= cargo
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
# The four programs are static (docs/adr/0003): the flag must not reach build scripts, hence the explicit target. The session
# starter with PAM is the one dynamic program, for PAM's modules are loaded.
STATIC_FLAGS := -C target-feature=+crt-static
RELEASE_DIR ?= target/static
PROGRAMS := mezhub mezd msh mezctl

.PHONY: build demo test test-faults regress bench lint deny docs deps deps-test clean

build: deps
	CARGO_TARGET_DIR=$(RELEASE_DIR) RUSTFLAGS="$(STATIC_FLAGS)" $(CARGO) build --locked --release --target $(HOST) \
		$(addprefix -p ,$(PROGRAMS))
	CARGO_TARGET_DIR=$(RELEASE_DIR) $(CARGO) build --locked --release -p mezite-session --features pam --bin mezd-session
	mkdir -p target/release
	install -m 0755 $(addprefix $(RELEASE_DIR)/$(HOST)/release/,$(PROGRAMS)) $(RELEASE_DIR)/release/mezd-session target/release/
	ls -l $(addprefix target/release/,$(PROGRAMS) mezd-session)

demo: deps-test build
	scripts/demo target/release

test: deps-test
	scripts/test

test-faults: deps-test
	$(CARGO) build --locked --workspace
	$(CARGO) test --locked -p mezite-tests --test it -- --ignored

# OpenSSH's own regress scripts (Debian package openssh-tests) against a node of ours.
regress: deps-test
	$(CARGO) build --locked --workspace
	scripts/regress target/debug

bench: deps-test build
	benches/run target/release

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# cargo-deny is built on first use; advisories need the database, which `cargo deny check advisories` fetches.
deny:
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny --locked check bans licenses sources

# Rewrites the generated references under docs/reference/.
docs:
	MEZITE_UPDATE_DOCS=1 UPDATE_REFERENCE=1 $(CARGO) test --locked --workspace reference

deps:
	scripts/deps build

deps-test:
	scripts/deps test

clean:
	$(CARGO) clean
