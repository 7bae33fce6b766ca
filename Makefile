# make            what there is
# make demo       the whole thing on real files, in under a minute
# make test       every test
PYTHON ?= python3
PREFIX ?= /opt/keyd-server
DESTDIR ?=
# Processes that share out the test files; most of their time they wait for other programs.
WORKERS ?= 2
export PYTHON PREFIX DESTDIR

bin := .venv/bin

.PHONY: help setup demo dct-demo dct-clean test lint protos bench soak run install uninstall
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing on this machine, and .venv
	@.ci/setup

demo: setup ## sign a TUF repository with keys on a token, and follow it with a stock client
	@$(bin)/python docs/demo/demo.py

dct-demo: setup ## Docker Content Trust to play with: notary-server, a registry, and keyd
	@$(bin)/python docs/demo/dct.py

dct-clean: ## take away what dct-demo made
	@$(PYTHON) docs/demo/dct.py --clean

test: setup ## run every test; a skip that this machine could run is a failure
	@KEYD_TESTS_REQUIRE=softhsm,yubikey,notary,postgres,docker $(bin)/python -m pytest -q \
		-n $(WORKERS) --dist loadfile -m 'not soak and not hardware' $(ARGS)

lint: setup ## ruff, mypy --strict over package and tests, the import contracts
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy
	@$(bin)/lint-imports

protos: setup ## write keyd/v1, keyd/device/v1 and keyd/notary/v0 from protos/
	@sh protos/generate.sh

bench: setup ## throughput and latency next to a raw PKCS#11 loop, and to notary-signer
	@$(bin)/python -m benchmarks.bench
	@$(bin)/python -m benchmarks.notary

soak: setup ## the long load and kill runs (KEYD_SOAK_SECONDS each, default 60)
	@KEYD_TESTS_REQUIRE=softhsm,yubikey $(bin)/python -m pytest -q -m soak tests/e2e tests/yubikey $(ARGS)

run: setup ## a development daemon in the foreground, under ./dev
	@$(bin)/keyd-server dev --dir dev

install: ## commands, units and service user (as root); the same command upgrades
	@sh systemd/install.sh install

uninstall: ## remove what install made; configuration, state and user stay
	@sh systemd/install.sh uninstall
