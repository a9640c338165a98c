/*
 * standardize.h
 *	  Numbers as distances from a mean, in standard deviations.
 */
#ifndef MATH_STANDARDIZE_H
#define MATH_STANDARDIZE_H

/*
 * (number - mean) scale, scale being 1 / sd, but no further from 0 than clip.
 * NaN stays NaN, but the same one, and -0 is 0: numbers that are the same to
 * the network are the same bytes.  No branch is taken.
 */
static inline float
standardize(double number, double mean, double scale, double clip)
{
	double		standard = (number - mean) * scale;
	float		clipped;

	standard = -clip > standard ? -clip : standard;
	standard = clip < standard ? clip : standard;
	clipped = (float) standard + 0.0f;
	return clipped != clipped ? __builtin_nanf("") : clipped;
}

/*
 * The same of each of so many numbers, which need not be aligned.  The arrays do
 * not overlap.
 */
extern void standardize_all(int count, const void *restrict number,
							const double *restrict mean,
							const double *restrict scale, double clip,
							float *restrict standard);

#endif							/* MATH_STANDARDIZE_H */
