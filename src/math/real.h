/*
 * real.h
 *	  The number that the mathematics is done in.
 *
 * The extension computes in float.  The same source compiled with
 * -DLIMAML_DOUBLE computes in double: the unit tests use it to tell an error
 * of mathematics from one of rounding.
 */
#ifndef MATH_REAL_H
#define MATH_REAL_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef LIMAML_DOUBLE
typedef double real;
#define REAL(function) function
#else
typedef float real;
#define REAL(function) function##f
#endif

#endif							/* MATH_REAL_H */
