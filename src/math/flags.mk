# How src/math is compiled, by the extension, the unit tests and the benchmark
# of the numeric core: MATH_FLAGS, and for a file of its own kernel_FLAGS.
#
# The kernels take what the processor has, and the compiler may use what their
# names say: which of them is called is decided at run time.  The kernels say what
# is one multiply-add, so that every compiler rounds alike.
MATH_FLAGS = -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math

# Kernels of other instruction sets compile to nothing where they do not run,
# but their flags are refused there.
ifneq ($(filter x86_64%,$(shell $(CC) -dumpmachine 2>/dev/null)),)
kernel_avx2_FLAGS = -mavx2 -mfma
kernel_avx512_FLAGS = -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma \
	-mprefer-vector-width=512
endif
