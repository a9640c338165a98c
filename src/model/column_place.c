/*-------------------------------------------------------------------------
 *
 * column_place.c
 *	  Where columns lie in a heap tuple.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "model/column_place.h"

bool
FindColumnPlaces(TupleDesc desc, int count, ColumnPlace *places)
{
	int			at = 0;

	for (int c = 0; c < count; c++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, c);

		if (column->attlen <= 0)
			return false;
		at = att_align_nominal(at, column->attalign);
		places[c] = (ColumnPlace)
		{
			.at = at,
			.length = column->attlen,
			.by_value = column->attbyval
		};
		at += column->attlen;
	}
	return true;
}
