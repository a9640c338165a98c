/*
 * test_standardize.c
 *	  Numbers in one loop as one at a time, whatever they are and wherever
 *	  they lie; and that what is the same comes out as the same bytes.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "math/random.h"
#include "math/standardize.h"

#define MOST 40
#define CLIP 8.0

/* One that means something else to each way of writing the formula. */
static float
odd_number(Random *random)
{
	static const float odd[] = {
		0.0f, -0.0f, INFINITY, -INFINITY, 1e-45f, -1e-45f, 3.4e38f, -3.4e38f,
		(float) CLIP, (float) -CLIP, 8.000001f
	};
	float		number;
	uint32_t	nan = 0x7f800001 + random_below(random, 0x7fffff);

	switch (random_below(random, 4))
	{
		case 0:
			return odd[random_below(random, sizeof(odd) / sizeof(odd[0]))];
		case 1:
			nan |= random_below(random, 2) << 31;
			memcpy(&number, &nan, sizeof(number));
			return number;
	}
	return (float) (10 * random_normal(random));
}

/* As the method says it, a step at a time. */
static float
expected(double number, double mean, double scale)
{
	double		standard = (number - mean) * scale;
	float		rounded;

	if (isnan(standard))
		return NAN;
	if (standard > CLIP)
		return (float) CLIP;
	if (standard < -CLIP)
		return (float) -CLIP;
	rounded = (float) standard;
	return rounded == 0 ? 0.0f : rounded;
}

int
main(void)
{
	Random		random;
	int			different = 0;
	int			beyond = 0;

	random_seed(&random, 7);
	for (int round = 0; round < 2000; round++)
	{
		char		bytes[sizeof(float) * MOST + 4];
		char	   *from = bytes + random_below(&random, 4);
		int			count = (int) random_below(&random, MOST + 1);
		double		mean[MOST];
		double		scale[MOST];
		float		numbers[MOST + 16];
		float	   *standard = numbers + random_below(&random, 4);

		for (int i = 0; i < count; i++)
		{
			float		number = odd_number(&random);

			memcpy(from + sizeof(float) * i, &number, sizeof(number));
			mean[i] = random_below(&random, 3) > 0 ? random_normal(&random) : 0;
			scale[i] = random_below(&random, 3) > 0 ?
				exp(random_normal(&random)) : 1;
		}
		for (int i = 0; i < MOST + 16; i++)
			numbers[i] = -99;
		standardize_all(count, from, mean, scale, CLIP, standard);
		for (int i = 0; i < count; i++)
		{
			float		number;
			float		one;
			float		wanted;

			memcpy(&number, from + sizeof(float) * i, sizeof(number));
			one = standardize(number, mean[i], scale[i], CLIP);
			wanted = expected(number, mean[i], scale[i]);
			different += memcmp(&one, &standard[i], sizeof(one)) != 0 ||
				(isnan(wanted) ? !isnan(one) :
				 memcmp(&wanted, &one, sizeof(one)) != 0);
			if (isnan(wanted))
			{
				float		nan = __builtin_nanf("");

				different += memcmp(&nan, &one, sizeof(nan)) != 0;
			}
		}
		for (float *at = numbers; at < numbers + MOST + 16; at++)
			if (at < standard || at >= standard + count)
				beyond += *at != -99;
	}
	check(different == 0, "numbers are what the formula says, one by one and in one loop");
	check(beyond == 0, "and none is written before the first or past the last");
	return check_end();
}
