# Commands for developers and continuous integration. Needs a Rust toolchain (1.89 or later), a C compiler and GNU make.

CARGO ?= cargo
# The directory of built binaries; cargo reads the same variable.
CARGO_TARGET_DIR ?= target
BUILT = $(CARGO_TARGET_DIR)/debug

# The directories of `make install`, below DESTDIR. Distributions set those that differ.
prefix ?= /usr/local
sbindir ?= $(prefix)/sbin
sysconfdir ?= /etc
# Options of the units: NF_SENDER_OPTS and NF_RECEIVER_OPTS (RPM: sysconfig).
optionsdir ?= $(sysconfdir)/default
unitdir ?= $(prefix)/lib/systemd/system
sysusersdir ?= $(prefix)/lib/sysusers.d
tmpfilesdir ?= $(prefix)/lib/tmpfiles.d
catalogdir ?= $(prefix)/lib/systemd/catalog
mandir ?= $(prefix)/share/man
docdir ?= $(prefix)/share/doc
bashcompletiondir ?= $(prefix)/share/bash-completion/completions
zshcompletiondir ?= $(prefix)/share/zsh/site-functions
fishcompletiondir ?= $(prefix)/share/fish/vendor_completions.d
# The directory of the binaries to install. `make release` builds them.
BINARIES ?= $(CARGO_TARGET_DIR)/release

# Programs for the tests with real exporters, collectors and networks, as program:Debian package.
TEST_TOOLS = softflowd:softflowd nfcapd:nfdump nfdump:nfdump nfacctd:pmacct ip:iproute2 unshare:util-linux script:bsdutils tshark:tshark \
	mkfs.btrfs:btrfs-progs mkfs.xfs:xfsprogs faketime:faketime nft:nftables
# Programs that build and check the packages, and the machines that test them.
PACKAGE_TOOLS = dh:debhelper dpkg-buildpackage:dpkg-dev lintian:lintian rpmbuild:rpm rpmlint:rpmlint debootstrap:debootstrap \
	systemd-analyze:systemd mandoc:mandoc groff:groff-base
# Programs that the benchmarks compare with.
BENCH_TOOLS = nfcapd:nfdump nfacctd:pmacct

# Debian installs some of them in directories that only root's PATH has.
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: build release install install-nf-sender install-nf-receiver packages packages-tree deb \
	rpm test-machine demo test check bench captures test-tools bench-tools fmt clippy doc deny configs units pages msrv fuzz-targets

build:
	$(CARGO) build --bins

release:
	$(CARGO) build --release --locked --bins

# The only list of installed files, used by both packages. The installation asks nothing and starts nothing.
# docs/install.md has the next steps.
install: install-nf-sender install-nf-receiver

install-nf-sender install-nf-receiver: install-%:
	install -D -m 755 $(BINARIES)/$* $(DESTDIR)$(sbindir)/$*
	install -D -m 644 etc/$*.toml $(DESTDIR)$(sysconfdir)/$*/$*.toml
	install -d -m 755 $(DESTDIR)$(sysconfdir)/$*/$*.toml.d
	install -D -m 644 etc/options/$* $(DESTDIR)$(optionsdir)/$*
	install -D -m 644 units/$*.socket $(DESTDIR)$(unitdir)/$*.socket
	install -d -m 755 $(DESTDIR)$(unitdir)
	sed 's,@sbindir@,$(sbindir),g; s,@docdir@,$(docdir),g' units/$*.service.in > $(DESTDIR)$(unitdir)/$*.service
	chmod 644 $(DESTDIR)$(unitdir)/$*.service
	install -D -m 644 sysusers.d/$*.conf $(DESTDIR)$(sysusersdir)/$*.conf
	install -D -m 644 tmpfiles.d/$*.conf $(DESTDIR)$(tmpfilesdir)/$*.conf
	install -D -m 644 catalog/$*.catalog $(DESTDIR)$(catalogdir)/$*.catalog
	install -D -m 644 man/$*.8 $(DESTDIR)$(mandir)/man8/$*.8
	install -D -m 644 man/$*.toml.5 $(DESTDIR)$(mandir)/man5/$*.toml.5
	# Both packages contain this page and can be on one machine: each has a section of its own, and man finds both.
	install -D -m 644 man/nf-transport.7 $(DESTDIR)$(mandir)/man7/nf-transport.7$*
	install -d -m 755 $(DESTDIR)$(docdir)/$*/examples
	install -m 644 units/examples/$*-*.conf $(DESTDIR)$(docdir)/$*/examples
	# The pages link to each other, so they have the same directories as in the source.
	install -d -m 755 $(DESTDIR)$(docdir)/$*/docs $(DESTDIR)$(docdir)/$*/etc
	install -m 644 README.md SECURITY.md CHANGELOG.md ARCHITECTURE.md CONTRIBUTING.md $(DESTDIR)$(docdir)/$*
	install -m 644 docs/*.md docs/*.svg $(DESTDIR)$(docdir)/$*/docs
	install -m 644 etc/*.toml $(DESTDIR)$(docdir)/$*/etc
	install -D -m 644 completions/$*.bash $(DESTDIR)$(bashcompletiondir)/$*
	install -D -m 644 completions/_$* $(DESTDIR)$(zshcompletiondir)/_$*
	install -D -m 644 completions/$*.fish $(DESTDIR)$(fishcompletiondir)/$*.fish

# Debian and RPM packages from a tree with the files of the repository, committed or not, and without built files.
# Both builds share cargo's target directory.
PACKAGES := $(abspath $(CARGO_TARGET_DIR))/packages
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
packages deb rpm: export CARGO_TARGET_DIR := $(PACKAGES)/build

packages: deb rpm

packages-tree:
	rm -rf $(PACKAGES)/tree && mkdir -p $(PACKAGES)/tree/nf-transport-$(VERSION)
	git ls-files --cached --others --exclude-standard -z | tar -c --null --files-from=- | \
		tar -x -C $(PACKAGES)/tree/nf-transport-$(VERSION)

# dpkg does not know a toolchain of rustup.
deb: packages-tree
	rm -rf $(PACKAGES)/deb && cp -a $(PACKAGES)/tree $(PACKAGES)/deb
	cd $(PACKAGES)/deb/nf-transport-$(VERSION) && dpkg-buildpackage -us -uc \
		$$(dpkg-query -W cargo >/dev/null 2>&1 || echo -Ppkg.nf-transport.rustup)

rpm: packages-tree
	rm -rf $(PACKAGES)/rpm && mkdir -p $(PACKAGES)/rpm/SOURCES
	tar -c -z -f $(PACKAGES)/rpm/SOURCES/nf-transport-$(VERSION).tar.gz -C $(PACKAGES)/tree nf-transport-$(VERSION)
	rpmbuild -ba --define "_topdir $(PACKAGES)/rpm" \
		$$(rpm -q cargo systemd-rpm-macros >/dev/null 2>&1 || echo --nodeps) rpm/nf-transport.spec

# The tests on machines with systemd need the packages, and a fresh Debian to install them in.
TEST_DEBIAN = $(PACKAGES)/debian

test-machine: packages $(TEST_DEBIAN)/complete

# The machines need no consoles and no logins. The tests start the collector.
$(TEST_DEBIAN)/complete:
	rm -rf $(TEST_DEBIAN) && mkdir -p $(TEST_DEBIAN)
	debootstrap --variant=minbase --include=systemd,systemd-sysv,procps,iproute2,netcat-openbsd,nfdump,rpm \
		bookworm $(TEST_DEBIAN)
	chroot $(TEST_DEBIAN) systemctl mask --quiet getty.target console-getty.service systemd-logind.service \
		nfdump.service e2scrub_reap.service apt-daily.timer apt-daily-upgrade.timer
	rm -f $(TEST_DEBIAN)/etc/machine-id $(TEST_DEBIAN)/var/cache/apt/archives/*.deb
	touch $(TEST_DEBIAN)/etc/machine-id
	mkdir -p $(TEST_DEBIAN)/var/log/journal
	touch $@

# Half a minute of NetFlow with lost connections and killed daemons, without root and systemd.
demo:
	$(CARGO) build --quiet --package nf-transport --package nf-transport-demo --bins
	@$(BUILT)/demo

test: test-tools
	@mkdir -p $(CARGO_TARGET_DIR); log=$(PACKAGES).log; \
	if [ "$$(id -u)" != 0 ]; then echo "skipped: tests on machines with systemd need root"; \
	elif ! $(MAKE) --no-print-directory test-machine >$$log 2>&1; then \
		tail -n 40 $$log; \
		echo "skipped: tests on machines with systemd, which could not be made ($$log)"; \
		[ "$${CI:-}" != true ]; \
	fi
	$(CARGO) test --workspace --quiet

check: fmt clippy doc deny configs units pages msrv fuzz-targets

# Builds with the declared minimum version of Rust, if that toolchain is installed.
MSRV = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

msrv:
	@if rustup run $(MSRV) cargo --version >/dev/null 2>&1; then \
		CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/msrv rustup run $(MSRV) cargo check --locked --workspace --all-targets; \
	else echo "not checked: Rust $(MSRV), which is not installed (rustup toolchain install $(MSRV))"; fi

fuzz-targets:
	$(CARGO) check --locked --manifest-path fuzz/Cargo.toml --target-dir $(CARGO_TARGET_DIR)/fuzz

# Writes docs/performance.md and its plot in about three quarters of an hour. Compression is measured with real captures, if there are any.
bench: bench-tools
	$(if $(wildcard $(CAPTURES)/*.pcap),NF_TRANSPORT_CAPTURES=$(CAPTURES)) $(CARGO) bench --bench performance --bench channel \
		--bench unauthenticated

# Some hundred real captures, each of one application: the test data of nDPI from its Debian source package (127 MB).
# Needs a deb-src entry in the sources of apt.
CAPTURES = $(abspath $(CARGO_TARGET_DIR))/captures

captures:
	rm -rf $(CAPTURES) && mkdir -p $(CAPTURES)
	cd $(CAPTURES) && apt-get source --download-only --tar-only ndpi
	tar -xf $(CAPTURES)/ndpi_*.orig.tar.* -C $(CAPTURES) --wildcards --strip-components=3 '*/tests/pcap/*.pcap'
	rm $(CAPTURES)/ndpi_*

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

# Only readers of the source use these pages, so they include private items.
doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items

# The database of advisories that cargo-deny fetches.
ADVISORIES = https://github.com/rustsec/advisory-db

# Without network everything else is checked. If the server of the database answers, the fetch must succeed.
deny:
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then \
		if [ "$${CI:-}" = true ]; then $(CARGO) install --quiet --locked cargo-deny; \
		else echo "deny: skipped, cargo-deny is not installed (cargo install --locked cargo-deny)"; exit 0; fi; \
	fi; \
	$(CARGO) deny check bans licenses sources && \
	if fetched=$$($(CARGO) deny fetch db 2>&1); then $(CARGO) deny check advisories; \
	elif answer=$$(GIT_TERMINAL_PROMPT=0 timeout 30 git ls-remote $(ADVISORIES) HEAD 2>&1); then \
		echo "$$fetched"; \
		echo "deny: $(ADVISORIES) answers, but its advisories could not be fetched: look at the lines above"; exit 1; \
	else \
		why=$$(echo "$$answer" | tail -n 1); \
		echo "deny: advisories not checked: $(ADVISORIES): $${why:-no answer within 30 s}"; \
	fi

# Checks the shipped configurations with the daemons themselves.
configs: build
	@for daemon in nf-sender nf-receiver; do \
		if [ -e etc/$$daemon.toml ]; then \
			echo "$$daemon check -c etc/$$daemon.toml"; \
			$(BUILT)/$$daemon check -c etc/$$daemon.toml || exit 1; \
		fi; \
	done

# Checks the installed units with systemd. The numbers are the highest allowed exposure, in tenths.
EXPOSURE_nf-sender = 12
EXPOSURE_nf-receiver = 13
units: build
	@root=$$(mktemp -d) && trap 'rm -rf $$root' EXIT && \
	$(MAKE) --no-print-directory --silent install prefix=$$root/usr sysconfdir=$$root/etc BINARIES=$(BUILT) && \
	cd $$root/usr/lib/systemd/system && \
	systemd-analyze verify --man=no ./nf-sender.service ./nf-sender.socket ./nf-receiver.service ./nf-receiver.socket && \
	for bound in nf-sender:$(EXPOSURE_nf-sender) nf-receiver:$(EXPOSURE_nf-receiver); do \
		systemd-analyze security --offline=true --no-pager --threshold=$${bound##*:} ./$${bound%%:*}.service \
			>$$root/report || { cat $$root/report; exit 1; }; \
		tail -n 1 $$root/report; \
	done && \
	mkdir -p $$root/var/lib/systemd/catalog && journalctl --root=$$root --update-catalog

# Checks the manual pages with two formatters.
pages:
	@for page in man/*; do \
		mandoc -T lint -W warning $$page && test -z "$$(groff -mandoc -ww -z -K utf8 $$page 2>&1)" || exit 1; \
	done

# Installs missing tools if possible, else prints which tests are skipped.
test-tools: TOOLS = $(TEST_TOOLS) $(PACKAGE_TOOLS)
bench-tools: TOOLS = $(BENCH_TOOLS)
test-tools bench-tools:
	@missing=""; \
	for pair in $(TOOLS); do \
		command -v $${pair%%:*} >/dev/null 2>&1 || missing="$$missing $${pair##*:}"; \
	done; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null && exit 0; \
	fi; \
	echo "Not installed:$$missing. Tests that need them are skipped."; \
	echo "As root: apt-get install$$missing"; \
	[ "$${CI:-}" != true ]
