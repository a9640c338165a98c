/*
 * random.c
 *	  xoshiro256++ (Blackman and Vigna, Scrambled Linear Pseudorandom Number
 *	  Generators, 2021), seeded through splitmix64 as its authors advise.
 */
#include "random.h"

static uint64_t
splitmix(uint64_t *x)
{
	uint64_t	z = (*x += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static uint64_t
rotate_left(uint64_t x, int by)
{
	return (x << by) | (x >> (64 - by));
}

void
random_seed(Random *random, uint64_t seed)
{
	for (int i = 0; i < 4; i++)
		random->state[i] = splitmix(&seed);
}

void
random_seed_stream(Random *random, uint64_t seed, uint64_t stream)
{
	uint64_t	mixed = splitmix(&seed);

	mixed ^= stream;
	random_seed(random, splitmix(&mixed));
}

uint64_t
random_bits(Random *random)
{
	uint64_t   *s = random->state;
	uint64_t	result = rotate_left(s[0] + s[3], 23) + s[0];
	uint64_t	t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotate_left(s[3], 45);
	return result;
}

double
random_uniform(Random *random)
{
	return (random_bits(random) >> 11) * 0x1.0p-53;
}

uint32_t
random_below(Random *random, uint32_t n)
{
	uint64_t	product = (random_bits(random) >> 32) * n;

	/* Lemire's rejection: only a low part under 2^32 mod n is biased */
	if ((uint32_t) product < n)
	{
		uint32_t	threshold = -n % n;

		while ((uint32_t) product < threshold)
			product = (random_bits(random) >> 32) * n;
	}
	return product >> 32;
}

double
random_normal(Random *random)
{
	/* Box and Muller; 1 - u is never 0 */
	double		radius = sqrt(-2.0 * log(1.0 - random_uniform(random)));

	return radius * cos(2.0 * M_PI * random_uniform(random));
}

void
random_shuffle(Random *random, int n, int *items)
{
	for (int i = n - 1; i > 0; i--)
	{
		int			j = random_below(random, i + 1);
		int			item = items[i];

		items[i] = items[j];
		items[j] = item;
	}
}
