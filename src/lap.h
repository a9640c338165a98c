/*-------------------------------------------------------------------------
 *
 * lap.h
 *	  How long something took.
 *
 *-------------------------------------------------------------------------
 */
#ifndef LAP_H
#define LAP_H

#include "postgres.h"

#include "portability/instr_time.h"

/* Seconds since *start, which becomes now. */
static inline double
Lap(instr_time *start)
{
	instr_time	now;
	instr_time	lap;

	INSTR_TIME_SET_CURRENT(now);
	lap = now;
	INSTR_TIME_SUBTRACT(lap, *start);
	*start = now;
	return INSTR_TIME_GET_DOUBLE(lap);
}

#endif							/* LAP_H */
