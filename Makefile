# limaml: build with PGXS against the pg_config on PATH (or PG_CONFIG=...).

EXTENSION = limaml
MODULE_big = limaml
DATA = sql/limaml--0.1.0.sql
PGFILEDESC = "limaml - personalised ranking with meta embeddings"

# One object per kernel path: the compiler may use what its name says, and
# the processor decides at run time which of them is called.
KERNELS = src/math/kernel_sse2.o src/math/kernel_avx2.o src/math/kernel_avx512.o
MATH = $(patsubst %.c,%.o,$(filter-out src/math/kernel_%.c,$(wildcard src/math/*.c))) $(KERNELS)
OBJS = src/limaml.o $(MATH) \
	$(patsubst %.c,%.o,$(wildcard src/model/*.c src/query/*.c src/refresh/*.c))

REGRESS = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test --load-extension=limaml

# The serial flavour, by its own folder: every flavour has the same soname,
# and the threaded one would start threads inside each backend.
OPENBLAS_DIR ?= $(firstword $(wildcard /usr/lib/*/openblas-serial))

PG_CPPFLAGS = -I$(srcdir)/src
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -std=gnu11
SHLIB_LINK = -L$(OPENBLAS_DIR) -Wl,-rpath,$(OPENBLAS_DIR) -lopenblas -lm

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

src/math/%.o: CFLAGS += -O3 -ffp-contract=fast -fno-math-errno -fno-trapping-math
src/math/kernel_avx2.o: CFLAGS += -mavx2 -mfma
src/math/kernel_avx512.o: CFLAGS += -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512
