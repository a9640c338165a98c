/*
 * peak.c
 *	  The processor's own speed: as many multiply-adds in flight as registers
 *	  allow, and loads that nothing waits for.
 */
#include "peak.h"

#include <string.h>
#include <time.h>

#define ROUNDS 4000000
#define BYTES_READ 2e9

double
cpu_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec + now.tv_nsec * 1e-9;
}

/*
 * Twelve chains: the latency of one multiply-add is hidden by the others, and
 * the empty asm keeps each in its register and the loop as it stands.
 */
#define KEEP(i) __asm__ volatile("" : "+x"(s##i))
#define STEP(i) s##i = s##i * b + a; KEEP(i)
#define ALL(M) M(0); M(1); M(2); M(3); M(4); M(5); M(6); M(7); M(8); M(9); \
	M(10); M(11)

#define PEAK(set, bytes, flags) \
typedef real vector_##set __attribute__((vector_size(bytes))); \
__attribute__((target(flags), noinline)) \
static double \
seconds_##set(void) \
{ \
	vector_##set a = {1e-9f}; \
	vector_##set b = {0.5f}; \
	vector_##set s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, \
				s7 = a, s8 = a, s9 = a, s10 = a, s11 = a; \
	double		start = cpu_seconds(); \
\
	for (int round = 0; round < ROUNDS; round++) \
	{ \
		ALL(STEP); \
	} \
	return cpu_seconds() - start; \
}

/* The empty asm wants each vector in a register, and does nothing with it. */
#define READ(i) __asm__ volatile("" : : "x"(at[i]))

#define BANDWIDTH(set, bytes, flags) \
__attribute__((target(flags), noinline)) \
static double \
read_seconds_##set(const real *memory, size_t size, int rounds) \
{ \
	const vector_##set *end = (const vector_##set *) memory + size / bytes; \
	double		start = cpu_seconds(); \
\
	for (int round = 0; round < rounds; round++) \
		for (const vector_##set *at = (const vector_##set *) memory; \
			 at + 12 <= end; at += 12) \
		{ \
			ALL(READ); \
		} \
	return cpu_seconds() - start; \
}

#if defined(__x86_64__)
PEAK(sse2, 16, "sse2")
BANDWIDTH(sse2, 16, "sse2")
PEAK(avx2, 32, "avx2,fma")
BANDWIDTH(avx2, 32, "avx2,fma")
PEAK(avx512, 64, "avx512f,prefer-vector-width=512")
BANDWIDTH(avx512, 64, "avx512f,prefer-vector-width=512")
#else
PEAK(generic, 16, "")
BANDWIDTH(generic, 16, "")
#endif

/* Of five tries the fastest: nothing but a disturbance makes one slower. */
static double
gflops(double (*seconds) (void), int bytes)
{
	double		best = seconds();

	for (int i = 0; i < 4; i++)
	{
		double		again = seconds();

		best = again < best ? again : best;
	}
	return 2.0 * 12 * ROUNDS * (bytes / (int) sizeof(real)) / best * 1e-9;
}

double
peak_gflops(const char *kernels)
{
#if defined(__x86_64__)
	if (strcmp(kernels, "avx512") == 0)
		return gflops(seconds_avx512, 64);
	if (strcmp(kernels, "avx2") == 0)
		return gflops(seconds_avx2, 32);
	return gflops(seconds_sse2, 16);
#else
	return gflops(seconds_generic, 16);
#endif
}

static double
gigabytes(double (*seconds) (const real *, size_t, int), int vector,
		  const real *memory, size_t bytes)
{
	size_t		read = bytes / (12 * vector) * (12 * vector);
	int			rounds = BYTES_READ / read + 1;
	double		best = seconds(memory, bytes, rounds);

	for (int i = 0; i < 4; i++)
	{
		double		again = seconds(memory, bytes, rounds);

		best = again < best ? again : best;
	}
	return (double) read * rounds / best * 1e-9;
}

double
peak_bandwidth(const char *kernels, const real *memory, size_t bytes)
{
#if defined(__x86_64__)
	if (strcmp(kernels, "avx512") == 0)
		return gigabytes(read_seconds_avx512, 64, memory, bytes);
	if (strcmp(kernels, "avx2") == 0)
		return gigabytes(read_seconds_avx2, 32, memory, bytes);
	return gigabytes(read_seconds_sse2, 16, memory, bytes);
#else
	return gigabytes(read_seconds_generic, 16, memory, bytes);
#endif
}
