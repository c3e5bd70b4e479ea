# `make` alone lists what can be done. Nothing but Python 3.11 or 3.12, git and make is needed; all goes into .venv.
.DEFAULT_GOAL := help
.PHONY: help demo demo-kafka test lint kernel bench bench-kafka soak crash crash-kafka crash-shop fuzz clean crash-event-store
unexport VIRTUAL_ENV

PYTHON := $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
N ?= 1000
MINUTES ?= 5

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 19

.venv/.installed: pyproject.toml uv.lock
	@test -n "$(PYTHON)" || { echo "merganser needs Python 3.11 or 3.12, and found neither on the PATH"; exit 2; }
	@echo "installing into .venv ($(PYTHON))"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv sync --locked --quiet --compile-bytecode
	@touch $@

demo: .venv/.installed  ## run three flows over the flights of January 2013, and show their views
	@rm -f demo.duckdb demo.duckdb.wal
	$(BIN)/merganser run flows/departures.py flows/carriers.py flows/aircraft.py --store demo.duckdb
	@echo
	$(BIN)/merganser query --store demo.duckdb "SELECT origin, window_start, departures, cancelled, median_delay, p90_delay FROM departures_per_hour ORDER BY ALL LIMIT 10"
	$(BIN)/merganser query --store demo.duckdb "FROM worst_hours LIMIT 5"
	@echo
	@echo "try next:"
	@echo "  $(BIN)/merganser query --store demo.duckdb 'FROM fleet'"
	@echo "  $(BIN)/merganser status --store demo.duckdb"
	@echo "  $(BIN)/merganser verify flows/departures.py --store demo.duckdb"
	@echo "  $(BIN)/merganser plan flows/carriers.py"
	@echo "  $(BIN)/merganser new shop"

demo-kafka: .venv/.installed  ## the same from a Kafka topic: starts a broker (of java and mvn, or in Docker), and compares the views
	@$(BIN)/python -m tests.kafka.demo

test: .venv/.installed  ## run every test
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/.installed  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

kernel: .venv/.installed  ## compile merganser/kernel (only after its .zig files were changed)
	@$(BIN)/uv sync --locked --quiet --group kernel
	$(BIN)/python -m merganser.kernel.build

bench: .venv/.installed  ## measure speed against DuckDB's batch query (writes 900 MB to benchmarks/data)
	@$(BIN)/uv sync --locked --quiet --group bench
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/queries.py
	$(BIN)/python -m benchmarks.formats
	$(BIN)/python -m benchmarks.event_store
	$(BIN)/python benchmarks/kafka.py

soak: .venv/.installed  ## events without end, to see that nothing grows (make soak MINUTES=5)
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

bench-kafka: .venv/.installed  ## measure flows from Kafka against a loop that only consumes (java and mvn, or Docker)
	$(BIN)/python benchmarks/kafka.py

crash: .venv/.installed  ## kill runs at N random times (make crash N=1000)
	$(BIN)/python -m tests.crash.run $(N)

crash-shop: .venv/.installed  ## kill a shop with a write model and a saga 200 times (make crash-shop N=200)
	$(BIN)/python -m tests.crash.run_shop $(if $(filter command line,$(origin N)),$(N),200)

crash-kafka: .venv/.installed  ## kill a flow from Kafka to Kafka 200 times (make crash-kafka N=200), and the broker 10 times
	$(BIN)/python -m tests.crash.run_kafka $(if $(filter command line,$(origin N)),$(N),200)

crash-event-store: .venv/.installed  ## kill a bank and its projections 300 times, over SQLite and PostgreSQL (make crash-event-store N=300)
	$(BIN)/python -m tests.crash.run_event_store $(if $(filter command line,$(origin N)),$(N),300)

fuzz: .venv/.installed  ## decode N mutated records of each format (make fuzz N=1000000)
	$(BIN)/python -m tests.fuzz.run $(N)

clean:  ## remove what was installed and made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis benchmarks/data dist demo.duckdb demo.duckdb.wal demo-kafka.duckdb demo-kafka.duckdb.wal
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
