/*
 * peak.c
 *	  The processor's own speed: as many multiply-adds in flight as registers
 *	  allow.
 */
#include "peak.h"

#include <string.h>
#include <time.h>

#define ROUNDS 4000000

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

#if defined(__x86_64__)
PEAK(sse2, 16, "sse2")
PEAK(avx2, 32, "avx2,fma")
PEAK(avx512, 64, "avx512f,prefer-vector-width=512")
#else
PEAK(generic, 16, "")
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
