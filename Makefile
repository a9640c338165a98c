# limaml: build with PGXS against the pg_config on PATH (or PG_CONFIG=...).
#
#   make && make install        the extension
#   make installcheck           its regression tests, on a running server
#   make demo [KEEP=1]          what it does, on real ratings
#   make test                   everything, in a throw-away cluster
#   make check-server VERSION=17    the same on another server, in a Debian of its own
#   make check-avx512           unit tests, on an emulated processor that has it
#   make bench [PEERS=folder]   how fast it is; bench-quick in two minutes
#   make bench-quality DATA=../shared/data
#   make bench-refresh [ENTITIES=50000]
#   make bench-curves [ENTITIES=1000000] [ITEMS=10000000]
#   make docs-figures DATA=../shared/data
#   make docs-performance [PEERS=folder] [PARTS='core server curves']
#
# demo, test and the benchmarks install the Debian packages that are missing
# (tools/setup), so they start on a machine with nothing but make.

# To bench-quality DATA is a folder, to PGXS the scripts to install.
ifeq ($(origin DATA),command line)
BENCH_DATA := $(DATA)
endif

EXTENSION = limaml
MODULE_big = limaml
override DATA = $(wildcard sql/limaml--*.sql)
PGFILEDESC = "limaml - personalised ranking with meta embeddings"
OBJS = $(patsubst %.c,%.o,$(wildcard src/*.c src/math/*.c src/model/*.c src/query/*.c src/refresh/*.c))

REGRESS = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test --load-extension=limaml
ISOLATION = $(patsubst test/isolation/specs/%.spec,%,$(sort $(wildcard test/isolation/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test/isolation --outputdir=build/isolation --load-extension=limaml
EXTRA_CLEAN = build

# The serial flavour, by its own folder: every flavour has the same soname,
# and the threaded one would start threads inside each backend.
OPENBLAS_DIR ?= $(firstword $(wildcard /usr/lib/*/openblas-serial))

PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -std=gnu11

# The server was built by gcc: some of its flags and the format attributes of
# its headers mean nothing to clang.
ifneq ($(findstring clang,$(CC)),)
PG_CFLAGS += -Wno-unknown-warning-option -Wno-ignored-optimization-argument -Wno-ignored-attributes
endif
SHLIB_LINK = -L$(OPENBLAS_DIR) -Wl,-rpath,$(OPENBLAS_DIR) -lopenblas -lm

# Bitcode is for inlining small functions into queries.  Ours are not, and it
# would ask for clang and compile the kernels without their flags.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
SERVER_HEADER := $(wildcard $(shell $(PG_CONFIG) --includedir-server 2>/dev/null)/postgres.h)

# Before PGXS, which would make its own the default.
all:

ifneq ($(and $(PGXS),$(SERVER_HEADER),$(OPENBLAS_DIR)),)
include $(PGXS)

# PGXS follows no includes.
$(OBJS): $(wildcard src/*.h src/*/*.h) src/math/flags.mk

# pg_isolation_regress makes the folder of its results, and none above it.
installcheck: | build
build:
	@mkdir -p $@

# What demo, test and the benchmarks use: this build, where the server loads it.
# Who may not write there can have it installed by root, and go on.
installed: all
	@if [ -w "$(pkglibdir)" ]; then \
		$(MAKE) -s install; \
	elif ! cmp -s limaml.so "$(pkglibdir)/limaml.so"; then \
		echo "$(pkglibdir) is not yours to write: run 'make install' as root first" >&2; exit 1; \
	fi
else
# tools/setup says in one line what is missing, and fails.
all install installcheck installed:
	@tools/setup --say
	@echo "limaml builds with PG_CONFIG=$(PG_CONFIG) and OPENBLAS_DIR=$(OPENBLAS_DIR), and one of them is not there" >&2; exit 1

clean:
	rm -rf $(EXTRA_CLEAN)
endif

include src/math/flags.mk
src/math/%.o: CFLAGS += $(MATH_FLAGS) $($(*F)_FLAGS)

export PG_CONFIG

# make is called again after tools/setup: only then is there a PGXS to include.
AGAIN = $(MAKE) --no-print-directory

demo:
	@tools/setup demo
	@demo/fetch
	@echo "building and installing limaml"
	@$(AGAIN) -s installed
	@tools/cluster run demo/run

test:
	@tools/setup test
	$(AGAIN) check-rooms
	$(AGAIN) check-unit
	$(AGAIN) installed
	tools/cluster run test/run

# Root alone can make a Debian: for 15, 17 or 18.
check-server:
	@tools/setup server
	tools/server $(VERSION) make test

bench-quality:
	@tools/setup bench
	@$(AGAIN) -s installed
	@DATA="$(BENCH_DATA)" tools/cluster run test/bench/quality/run

# What docs/evaluation.md shows: measured, drawn and written into it.
docs-figures:
	@tools/setup docs
	@$(AGAIN) -s installed
	@DATA="$(BENCH_DATA)" DATASETS="$(DATASETS)" SEEDS="$(SEEDS)" test/bench/evaluation/run

# PEERS is the folder of torch_limaml.py, to race against.  All parts run, also
# where a figure of the first falls short; curves to a tenth of their length.
BENCH = PEERS="$(and $(PEERS),$(abspath $(PEERS)))" ROUNDS="$(ROUNDS)" QUICK="$(QUICK)" \
	ENTITIES="$(ENTITIES)" ITEMS="$(ITEMS)"

bench-quick: QUICK = 1
bench bench-quick:
	@tools/setup bench
	@$(AGAIN) -s installed
	@status=0; for part in core server; do \
		$(BENCH) test/bench/$$part/run || status=1; \
	done; \
	[ -n "$(QUICK)" ] || ENTITIES=$(or $(ENTITIES),100000) ITEMS=$(or $(ITEMS),1000000) \
		test/bench/curves/run || status=1; \
	exit $$status

bench-core:
	@tools/setup bench
	@$(BENCH) test/bench/core/run

bench-server:
	@tools/setup bench
	@$(AGAIN) -s installed
	@$(BENCH) test/bench/server/run

bench-curves:
	@tools/setup bench
	@$(AGAIN) -s installed
	@$(BENCH) test/bench/curves/run

# What docs/performance.md shows: measured, drawn and written into it.
PARTS ?= core server curves
docs-performance:
	@tools/setup docs
	@$(AGAIN) -s installed
	@$(BENCH) test/bench/curves/page $(PARTS)

# In a cluster of its own, whose processes it kills.
bench-refresh:
	@tools/setup bench
	@$(AGAIN) -s installed
	@ENTITIES="$(ENTITIES)" test/bench/refresh/run

# No server and no PostgreSQL; GOLDEN=folder for other golden cases, SEEDS=n
# for more random networks, KERNELS=sse2 for those of one instruction set.
check-unit check-unit-sanitize:
	$(MAKE) -C test/unit $(@:check-unit%=check%) GOLDEN='$(or $(GOLDEN),test/unit/golden)'

check-avx512:
	@tools/setup emulator
	$(MAKE) -C test/unit $@ GOLDEN='$(or $(GOLDEN),test/unit/golden)'

check-rooms:
	tools/check-rooms

.PHONY: all installed demo test check-server bench bench-quick bench-core bench-server bench-curves bench-quality bench-refresh docs-figures docs-performance check-rooms check-unit check-unit-sanitize check-avx512
