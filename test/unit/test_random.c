/*
 * test_random.c
 *	  Random numbers: the generator's known answers, and that what is drawn
 *	  from it is distributed as it says.
 *
 * Every seed is fixed, so that a test of a distribution passes always or
 * never.  Its bounds are those that chance passes once in a million times or
 * less.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "math/random.h"

/* A chi-square's distance from its mean, in standard deviations. */
static double
chi_square(int bins, const int *count, const double *expected)
{
	double		sum = 0;

	for (int i = 0; i < bins; i++)
		sum += (count[i] - expected[i]) * (count[i] - expected[i]) /
			expected[i];
	return (sum - (bins - 1)) / sqrt(2.0 * (bins - 1));
}

static double
chi_square_even(int bins, const int *count, double each)
{
	double	   *expected = allocate(bins * sizeof(double));
	double		distance;

	for (int i = 0; i < bins; i++)
		expected[i] = each;
	distance = chi_square(bins, count, expected);
	free(expected);
	return distance;
}

/*
 * The authors' generator from the state 1, 2, 3, 4, and seeded through
 * splitmix64, computed with integers of Python.
 */
static void
test_known_answers(void)
{
	static const uint64_t raw[] = {
		41943041, 58720359, UINT64_C(3588806011781223),
		UINT64_C(3591011842654386), UINT64_C(9228616714210784205),
		UINT64_C(9973669472204895162), UINT64_C(14011001112246962877),
		UINT64_C(12406186145184390807), UINT64_C(15849039046786891736),
		UINT64_C(10450023813501588000)
	};
	static const struct
	{
		uint64_t	seed;
		uint64_t	first[4];
		uint64_t	after_1000[2];
	}			seeded[] =

	{
		{
			0, {
				UINT64_C(0x53175d61490b23df), UINT64_C(0x61da6f3dc380d507),
				UINT64_C(0x5c0fdf91ec9a7bfc), UINT64_C(0x02eebf8c3bbe5e1a)
			}, {
				UINT64_C(0x6c0aadb8b3cebba2), UINT64_C(0x0c196c6e4d49c485)
			}
		},
		{
			42, {
				UINT64_C(0xd0764d4f4476689f), UINT64_C(0x519e4174576f3791),
				UINT64_C(0xfbe07cfb0c24ed8c), UINT64_C(0xb37d9f600cd835b8)
			}, {
				UINT64_C(0xd43846214ce2d08d), UINT64_C(0xd0229de07708eb62)
			}
		},
		{
			UINT64_MAX, {
				UINT64_C(0x56ccf8ce948e27b2), UINT64_C(0xe68588432e5a5b90),
				UINT64_C(0xe3e9b5a48119ca8b), UINT64_C(0x460f19495532ae73)
			}, {
				UINT64_C(0xf94470b65baa8f87), UINT64_C(0xcaf276ded05bd2d1)
			}
		}
	};
	static const struct
	{
		uint64_t	stream;
		uint64_t	first[3];
	}			streams[] =

	{
		{
			0, {
				UINT64_C(0xeb42c2560e9f46d3), UINT64_C(0xba040fc580dff35f),
				UINT64_C(0x73f4cc6df99d830f)
			}
		},
		{
			1, {
				UINT64_C(0x3aa161fc47e05852), UINT64_C(0x7fdf8aad5431ed59),
				UINT64_C(0x2c9e564cbfaf962c)
			}
		},
		{
			UINT64_MAX, {
				UINT64_C(0xb2531c744e5cb4c7), UINT64_C(0x56ce2c3109886b2c),
				UINT64_C(0xca0105ed0424059e)
			}
		}
	};
	Random		random = {{1, 2, 3, 4}};
	int			wrong = 0;

	for (int i = 0; i < 10; i++)
		wrong += random_bits(&random) != raw[i];
	for (int s = 0; s < 3; s++)
	{
		random_seed(&random, seeded[s].seed);
		for (int i = 0; i < 1002; i++)
		{
			uint64_t	bits = random_bits(&random);

			if (i < 4)
				wrong += bits != seeded[s].first[i];
			if (i >= 1000)
				wrong += bits != seeded[s].after_1000[i - 1000];
		}
		random_seed_stream(&random, 42, streams[s].stream);
		for (int i = 0; i < 3; i++)
			wrong += random_bits(&random) != streams[s].first[i];
	}
	check(wrong == 0, "xoshiro256++ and its seeds: known answers");
}

/* Streams of one seed, and of neighbouring seeds, have nothing in common. */
static void
test_streams(void)
{
	enum
	{
		SIDE = 40,
		EACH = 8
	};
	static uint64_t bits[SIDE * SIDE * EACH];
	int			repeats = 0;
	int			ones = 0;
	int			count = 0;
	double		distance;

	for (int seed = 0; seed < SIDE; seed++)
		for (int stream = 0; stream < SIDE; stream++)
		{
			Random		random;

			random_seed_stream(&random, seed, stream);
			for (int i = 0; i < EACH; i++)
				bits[count++] = random_bits(&random);
		}
	for (int i = 0; i < count; i++)
	{
		if (i >= EACH)
			ones += __builtin_popcountll(bits[i] ^ bits[i - EACH]);
		for (int j = 0; j < i; j++)
			repeats += bits[i] == bits[j];
	}
	distance = (ones - (count - EACH) * 32.0) / sqrt((count - EACH) * 16.0);
	check(repeats == 0 && fabs(distance) < 5,
		  "streams and seeds differ: in half their bits, %.2f standard "
		  "deviations off", distance);
}

static void
test_uniform(void)
{
	enum
	{
		BINS = 128,
		EACH = 2000
	};
	int			count[BINS] = {0};
	int			pairs[BINS] = {0};
	int			outside = 0;
	int			off_grid = 0;
	int			low_bits = 0;
	double		mean = 0;
	double		before = 0;
	Random		random;

	random_seed(&random, 7);
	for (int i = 0; i < BINS * EACH; i++)
	{
		double		u = random_uniform(&random);
		double		on_grid = ldexp(u, 53);

		if (!(u >= 0 && u < 1))
		{
			outside++;
			continue;
		}
		off_grid += on_grid != floor(on_grid);
		low_bits += fmod(on_grid, 2) != 0;
		count[(int) (u * BINS)]++;
		pairs[(int) (u * 8) * 16 + (int) (before * 16)]++;
		before = u;
		mean += u / (BINS * EACH);
	}
	check(outside == 0 && off_grid == 0, "uniform: in [0, 1), on its grid");
	check(abs(low_bits - BINS * EACH / 2) < 5 * sqrt(BINS * EACH) / 2,
		  "uniform: the last bit is drawn");
	check(chi_square_even(BINS, count, EACH) < 5.5 &&
		  chi_square_even(BINS, pairs, EACH) < 5.5 &&
		  fabs(mean - 0.5) < 5 * sqrt(1.0 / 12 / (BINS * EACH)),
		  "uniform: evenly, also in pairs; chi-squares %.2f and %.2f standard "
		  "deviations off", chi_square_even(BINS, count, EACH),
		  chi_square_even(BINS, pairs, EACH));
}

static void
test_below(void)
{
	static const uint32_t n[] = {2, 3, 7, 10, 64, 100};
	double		worst = 0;
	int			outside = 0;
	int			halves[3] = {0};
	Random		random;

	random_seed(&random, 8);
	for (int t = 0; t < 6; t++)
	{
		int			count[100] = {0};

		for (int i = 0; i < 100000; i++)
		{
			uint32_t	k = random_below(&random, n[t]);

			if (k < n[t])
				count[k]++;
			else
				outside++;
		}
		worst = fmax(worst, chi_square_even(n[t], count, 100000.0 / n[t]));
	}
	for (int i = 0; i < 1000; i++)
		outside += random_below(&random, 1) != 0;
	check(outside == 0 && worst < 5.5,
		  "below: within its bounds, chi-squares at most %.2f standard "
		  "deviations off", worst);

	/*
	 * Of 3 x 2^30 numbers every third would come twice as often as the others
	 * if 32 bits were scaled without rejecting any.
	 */
	for (int i = 0; i < 100000; i++)
		halves[random_below(&random, UINT32_C(3) << 30) % 3]++;
	check(chi_square_even(3, halves, 100000.0 / 3) < 5.5,
		  "below: unbiased where n does not divide 2^32: %d %d %d", halves[0],
		  halves[1], halves[2]);
}

static void
test_normal(void)
{
	enum
	{
		BINS = 40,
		COUNT = 400000
	};
	double		power[5] = {0};
	int			count[BINS] = {0};
	double		expected[BINS];
	double		along = 0;
	double		before = 0;
	int			bad = 0;
	Random		random;

	random_seed(&random, 9);
	for (int i = 0; i < COUNT; i++)
	{
		double		z = random_normal(&random);
		int			bin = floor(z * 5) + BINS / 2;

		bad += !isfinite(z);
		for (int p = 1; p <= 4; p++)
			power[p] += pow(z, p) / COUNT;
		count[bin < 0 ? 0 : bin >= BINS ? BINS - 1 : bin]++;
		along += z * before / COUNT;
		before = z;
	}

	/* the bins at both ends have all of their tails */
	for (int i = 0; i < BINS; i++)
	{
		double		low = i == 0 ? -INFINITY : (i - BINS / 2) / 5.0;
		double		high = i == BINS - 1 ? INFINITY : (i + 1 - BINS / 2) / 5.0;

		expected[i] = COUNT * (erfc(low / sqrt(2)) - erfc(high / sqrt(2))) / 2;
	}

	/* the variances of these four estimates times n are 1, 2, 15 and 96 */
	check(bad == 0 && fabs(power[1]) < 5 * sqrt(1.0 / COUNT) &&
		  fabs(power[2] - 1) < 5 * sqrt(2.0 / COUNT) &&
		  fabs(power[3]) < 5 * sqrt(15.0 / COUNT) &&
		  fabs(power[4] - 3) < 5 * sqrt(96.0 / COUNT) &&
		  fabs(along) < 5 * sqrt(1.0 / COUNT),
		  "normal: moments %.4f %.4f %.4f %.4f, lag one %.4f", power[1],
		  power[2], power[3], power[4], along);
	check(chi_square(BINS, count, expected) < 5.5,
		  "normal: chi-square %.2f standard deviations off",
		  chi_square(BINS, count, expected));
}

/* States whose next 64 bits are all 0, or all 1. */
static void
test_extreme_bits(void)
{
	static const Random zeros = {{0, 1, 2, 0}};
	static const Random ones = {{0, 1, 2, UINT64_MAX}};
	Random		random;
	bool		good;

	random = zeros;
	good = random_uniform(&random) == 0;
	random = ones;
	good &= random_uniform(&random) == 1 - 0x1p-53;
	random = ones;
	good &= random_below(&random, 10) == 9;
	random = zeros;
	good &= random_normal(&random) == 0;
	random = ones;
	good &= isfinite(random_normal(&random));
	check(good, "the least and the largest bits give numbers in range");
}

static void
test_shuffle(void)
{
	enum
	{
		ORDERS = 120,
		EACH = 1000
	};
	int			count[ORDERS] = {0};
	int			place[7][7] = {{0}};
	double		worst = 0;
	int			broken = 0;
	Random		random;

	random_seed(&random, 10);
	for (int i = 0; i < ORDERS * EACH; i++)
	{
		int			item[5] = {0, 1, 2, 3, 4};
		int			order = 0;

		random_shuffle(&random, 5, item);

		/* its number among the orders: per place, how many later are less */
		for (int a = 0; a < 5; a++)
		{
			int			less = 0;

			for (int b = a + 1; b < 5; b++)
				less += item[b] < item[a];
			order = order * (5 - a) + less;
		}
		count[order]++;
	}
	for (int i = 0; i < 70000; i++)
	{
		int			item[8] = {0, 1, 2, 3, 4, 5, 6, 99};
		int			sum = 0;

		random_shuffle(&random, 7, item);
		for (int a = 0; a < 7; a++)
		{
			place[a][item[a]]++;
			sum += 1 << item[a];
		}
		broken += sum != 127 || item[7] != 99;
	}
	for (int a = 0; a < 7; a++)
		worst = fmax(worst, chi_square_even(7, place[a], 10000));
	random_shuffle(&random, 0, NULL);
	check(broken == 0 && chi_square_even(ORDERS, count, EACH) < 5.5 &&
		  worst < 5.5, "shuffle: all %d orders alike, chi-square %.2f standard "
		  "deviations off", ORDERS, chi_square_even(ORDERS, count, EACH));
}

/* Two generators that take turns give what each gives alone. */
static void
test_no_global_state(void)
{
	int			wrong = 0;
	Random		a;
	Random		b;
	Random		again;

	random_seed(&a, 11);
	random_seed(&b, 12);
	random_seed(&again, 11);
	for (int i = 0; i < 1000; i++)
	{
		double		x = random_normal(&a);

		random_normal(&b);
		random_below(&b, 3);
		wrong += x != random_normal(&again);
	}
	check(wrong == 0, "a seed gives one sequence whatever else is drawn");
}

int
main(void)
{
	test_known_answers();
	test_streams();
	test_uniform();
	test_below();
	test_normal();
	test_extreme_bits();
	test_shuffle();
	test_no_global_state();
	return check_end();
}
