# Every command that a contributor needs. `make` lists them.

GO      ?= go
WEFT    := ./cmd/weft
FUZZTIME ?= 30s
NODES   ?= 3
CHAOS   ?= 10m
SEED    ?= 0
# The public certificate authorities that the image gets.
CA_BUNDLE ?= /etc/ssl/certs/ca-certificates.crt
export CGO_ENABLED ?= 0

.PHONY: help build test test-cluster chaos race check fuzz bench storage bench-server bench-scale profile docs image conformance-image conformance-nodes-image clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

build: ## the static binary ./weft
	$(GO) build -trimpath -ldflags '-s -w' -o weft $(WEFT)

test: ## all tests; what needs PostgreSQL is skipped where it is not installed
	@GO="$(GO)" sh test/run.sh

# What go test says itself is enough; each test reports what clients saw as rows of a table.
test-cluster: ## several processes in all kinds of bad weather, a quarter of an hour (docs/reliability.md; RUN=TestClockSkew narrows it)
	$(GO) test ./test/cluster -count=1 -timeout 40m -weather -v -run '$(RUN)'

chaos: ## five processes with random faults for CHAOS=10m (docs/reliability.md; SEED=1 repeats one)
	$(GO) test ./test/cluster -count=1 -timeout 3h -v -run TestChaos -chaos $(CHAOS) -chaos-seed $(SEED)

race: ## all tests, with the race detector (needs gcc) where it has something to see
	@RACE=1 $(MAKE) test

check: ## gofmt, vet, staticcheck, generated docs, import rules, other platforms
	@GO="$(GO)" sh test/check.sh

fuzz: ## every fuzz target for $(FUZZTIME)
	@GO="$(GO)" FUZZTIME="$(FUZZTIME)" sh test/fuzz.sh

bench: ## all benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./...

bench-server: build ## the load driver's whole run against ./weft on both databases (BENCH_FLAGS="--scenario send" narrows it)
	$(GO) run ./test/bench --weft ./weft --database both $(BENCH_FLAGS)

bench-scale: build ## what 1, 2 and 4 processes on one PostgreSQL can do, each held to a fifth of a processor (as root: cgroups)
	$(GO) run ./test/bench --weft ./weft --database postgres --nodes 1,2,4 --cpus 0.2 --scenario idle,scale --rounds 3 $(BENCH_FLAGS)

# The profiles need symbols, so the binary is built without -s -w.
profile: ## CPU and allocation profiles of SCENARIO=send,… in ./profiles
	$(GO) build -o profiles/weft $(WEFT)
	$(GO) run ./test/bench --weft profiles/weft --profile profiles --scenario "$(SCENARIO)" $(BENCH_FLAGS)
	@ls profiles/*.cpu profiles/*.allocs | sed -e 's/^.*allocs$$/-sample_index=alloc_space &/' -e 's/^/go tool pprof -top /'

storage: ## bytes on disk of 100,000 messages and 20,000 membership changes, in both databases (docs/storage.md)
	$(GO) test ./test/storage -count=1 -timeout 3h -run TestBytesOnDisk -v -full

docs: ## docs/config.md from the configuration's struct
	$(GO) run $(WEFT) config reference > docs/config.md

image: build ## the container image weft:latest
	mkdir -p deploy/build && cp weft deploy/build/weft && cp $(CA_BUNDLE) deploy/build/ca-certificates.crt
	docker build -t weft -f deploy/Dockerfile deploy

conformance-image: build ## the container image weft-conformance:latest for Complement
	mkdir -p deploy/build && cp weft deploy/build/weft
	docker build -t weft-conformance -f deploy/conformance.Dockerfile deploy

conformance-nodes-image: conformance-image ## weft-conformance-nodes:latest: NODES processes (or "components") behind a balancer, on DATABASE=postgres://…
	printf 'FROM weft-conformance\nENV WEFT_CONFORMANCE_NODES=%s WEFT_CONFORMANCE_DATABASE=%s\n' "$(NODES)" "$(DATABASE)" | docker build -t weft-conformance-nodes -

clean: ## remove what was built
	rm -rf weft profiles deploy/build
