# Kiln's targets. `make help` lists them.
SHELL := /bin/bash
GO ?= go
BIN := bin
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X github.com/kiln-cloud/kiln/pkg/version.release=$(VERSION)
# Ceph's headers decide whether the agent can speak to Ceph; go-ceph needs the tag of the series that Debian has.
CEPH_TAGS := $(shell test -e /usr/include/rbd/librbd.h && echo ceph,pacific)
PROGRAMS := kiln kiln-api kiln-engine kiln-worker kiln-agent kiln-manage
LINT := .kiln/bin/golangci-lint
LINT_VERSION := v2.15.0

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build all programs into bin/.
	@mkdir -p $(BIN)
	$(GO) build -tags '$(CEPH_TAGS)' -ldflags '$(LDFLAGS)' -o $(BIN)/ $(PROGRAMS:%=./cmd/%)

.PHONY: demo
demo: ## The main job on embedded parts, from nothing; keeps running until Ctrl-C.
	@tools/deps demo
	@$(MAKE) --no-print-directory build
	$(BIN)/kiln demo

.PHONY: demo-cloud
demo-cloud: ## The same story with the separate programs against a real OpenStack.
	@tools/deps test
	@$(MAKE) --no-print-directory build
	tools/demo-cloud

.PHONY: cloud
cloud: ## Bring up the real OpenStack that tests use.
	@tools/deps cloud
	tools/cloud up

.PHONY: unit
unit: ## Tests that need neither root nor services, in under 90 seconds.
	$(GO) test -short ./...

.PHONY: test
test: ## Every test, with the real services, installing what it needs.
	tools/run-tests

.PHONY: bench-build
bench-build: ## Image builders side by side, half an hour; BENCH=floor,kiln,dib,packer,mkosi chooses.
	@tools/deps bench
	@mkdir -p $(BIN)
	$(GO) build -o $(BIN)/bench-build ./tests/bench/build
	$(BIN)/bench-build -bench "$(BENCH)"

.PHONY: bench-upgrade
bench-upgrade: ## Offline upgrades beside the same work by hand, half an hour; BENCH=one,batch,many,foreign chooses.
	@tools/deps bench
	@mkdir -p $(BIN)
	$(GO) build -o $(BIN)/bench-upgrade ./tests/bench/upgrade
	$(BIN)/bench-upgrade -bench "$(BENCH)"

.PHONY: bench-collect
bench-collect: ## The facts of 1,000 images: local, over HTTP ranges, beside downloading them; a few minutes.
	@tools/deps bench
	@mkdir -p $(BIN)
	$(GO) build -o $(BIN)/bench-collect ./tests/bench/collect
	$(BIN)/bench-collect

.PHONY: lint
lint: $(LINT) ## Check the code.
	$(LINT) run ./...
	$(if $(CEPH_TAGS),$(LINT) run --build-tags $(CEPH_TAGS) ./pkg/ceph/... ./pkg/daemon/...)
	shellcheck -x $$(git ls-files tools .ci | xargs grep -lE '^#!.*(bash|/sh)')

$(LINT):
	GOBIN=$(CURDIR)/.kiln/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

.PHONY: generate
generate: build ## Write the generated samples anew (configuration, policy, the schema of recipes).
	$(BIN)/kiln-manage config sample > etc/kiln/kiln.conf.sample
	$(BIN)/kiln-manage policy sample > etc/kiln/policy.yaml.sample
	$(BIN)/kiln recipe schema > etc/kiln/recipe.schema.json

.PHONY: releasenotes
releasenotes: ## Check the release notes.
	reno lint

.PHONY: clean
clean: ## Remove what was built.
	rm -rf $(BIN)
