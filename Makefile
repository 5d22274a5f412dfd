# What people and continuous integration run. Needs a Rust toolchain (1.89 or later), a C compiler and GNU make.

CARGO ?= cargo
# Where the binaries go; cargo reads the same variable.
CARGO_TARGET_DIR ?= target
BUILT = $(CARGO_TARGET_DIR)/debug

# What the tests with real exporters, collectors and networks need, as program:Debian package.
TEST_TOOLS = softflowd:softflowd nfcapd:nfdump nfdump:nfdump ip:iproute2 unshare:util-linux tshark:tshark

# Debian keeps some of them where only root looks.
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: build demo test check bench test-tools fmt clippy doc deny configs

build:
	$(CARGO) build --bins

# Half a minute of NetFlow through cuts and kills; no root, no systemd.
demo:
	$(CARGO) build --quiet --bins --example demo
	@$(BUILT)/examples/demo

test: test-tools
	$(CARGO) test --quiet

check: fmt clippy doc deny configs

bench:
	$(CARGO) bench --bench healthy_link --bench backlog_start --bench channel

fmt:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --all-targets -- -D warnings

# Readers of the source are the only readers of these pages, so they show the private items too.
doc:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --no-deps --document-private-items

# The database of advisories is on the network; what is known without it is checked anyway.
deny:
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then \
		if [ "$${CI:-}" = true ]; then $(CARGO) install --quiet --locked cargo-deny; \
		else echo "deny: skipped, cargo-deny is not installed (cargo install --locked cargo-deny)"; exit 0; fi; \
	fi; \
	$(CARGO) deny check bans licenses sources && \
	if $(CARGO) deny fetch db >/dev/null 2>&1; then $(CARGO) deny check advisories; \
	else echo "deny: advisories not checked, their database is out of reach"; fi

# The daemons' own judgement of the configuration that is shipped.
configs: build
	@for daemon in nf-sender nf-receiver; do \
		if [ -e etc/$$daemon.toml ]; then \
			echo "$$daemon check -c etc/$$daemon.toml"; \
			$(BUILT)/$$daemon check -c etc/$$daemon.toml || exit 1; \
		fi; \
	done

# Installs what is missing where that is possible; says what is skipped where it is not.
test-tools:
	@missing=""; \
	for pair in $(TEST_TOOLS); do \
		command -v $${pair%%:*} >/dev/null 2>&1 || missing="$$missing $${pair##*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null && exit 0; \
	fi; \
	echo "Not installed:$$missing. The tests with real exporters and collectors are skipped."; \
	echo "As root: apt-get install$$missing"; \
	[ "$${CI:-}" != true ]
