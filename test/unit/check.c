/*
 * check.c
 *	  Reporting, and small things that every unit test needs.
 */
#include "check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int	checks;
static int	failures;

bool
check(bool holds, const char *format, ...)
{
	va_list		arguments;

	checks++;
	failures += !holds;
	printf("%sok %d - ", holds ? "" : "not ", checks);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf(" (%s)\n", PRECISION);
	fflush(stdout);				/* a crash must not take it along */
	return holds;
}

void
note(const char *format, ...)
{
	va_list		arguments;

	printf("# ");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
}

int
check_end(void)
{
	printf("1..%d\n", checks);
	if (checks == 0)
		printf("# nothing was checked\n");
	if (failures > 0)
		printf("# %d of %d failed (%s)\n", failures, checks, PRECISION);
	return failures > 0 || checks == 0;
}

const char *
select_kernels(int path)
{
	static const char *const name[] = {"sse2", "avx2", "avx512", "generic"};
	const char *asked = getenv("KERNELS");
	bool		found = false;

	for (size_t i = 0; i < sizeof(name) / sizeof(name[0]); i++)
	{
		if (asked && *asked && strcmp(asked, name[i]) != 0)
			continue;
		setenv("LIMAML_KERNELS", name[i], 1);
		if (strcmp(kernels_for_processor()->name, name[i]) != 0)
			continue;
		found = true;
		if (path-- == 0)
			return name[i];
	}
	if (!found)
	{
		printf("Bail out! this processor has no kernels for %s\n", asked);
		exit(1);
	}
	unsetenv("LIMAML_KERNELS");
	return NULL;
}

int
seed_count(int usual)
{
	const char *asked = getenv("SEEDS");
	int			seeds = asked && *asked ? atoi(asked) : usual;

	return seeds > 0 ? seeds : 1;
}

double
relative_error(double got, double expected, double scale)
{
	double		size = fabs(expected) > scale ? fabs(expected) : scale;
	double		error = fabs(got - expected);

	if (got == expected)
		return 0;
	return isnan(error) ? INFINITY : error / size;
}

bool
is_denormal(real number)
{
	return fpclassify(number) == FP_SUBNORMAL;
}

void *
allocate(size_t bytes)
{
	void	   *memory = malloc(bytes);

	if (memory == NULL && bytes > 0)
	{
		printf("Bail out! no memory for %zu bytes\n", bytes);
		exit(1);
	}
	return memory;
}

real *
allocate_reals(size_t n)
{
	/* all ones in every bit is a NaN: what is read unset shows */
	return memset(allocate(n * sizeof(real)), 0xff, n * sizeof(real));
}
