/*-------------------------------------------------------------------------
 *
 * statement.h
 *	  Running the extension's own statements, and with whose rights.
 *
 *-------------------------------------------------------------------------
 */
#ifndef MODEL_STATEMENT_H
#define MODEL_STATEMENT_H

#include "postgres.h"

struct _SPI_plan;

/* Parameters of a statement, gathered one by one. */
#define STATEMENT_MAX_PARAMETERS 16

typedef struct Parameters
{
	int			count;
	Oid			types[STATEMENT_MAX_PARAMETERS];
	Datum		values[STATEMENT_MAX_PARAMETERS];
	char		nulls[STATEMENT_MAX_PARAMETERS];
} Parameters;

extern void AddParameter(Parameters *parameters, Oid type, Datum value,
						 bool isnull);
extern void AddInteger(Parameters *parameters, int64 value);
extern void AddInt(Parameters *parameters, int value);
extern void AddBool(Parameters *parameters, bool value);
extern void AddDouble(Parameters *parameters, double value);	/* NaN is NULL */
extern void AddText(Parameters *parameters, const char *value); /* or NULL */
extern void AddTexts(Parameters *parameters, int count, char **values);
extern void AddBytes(Parameters *parameters, const void *bytes, int length);

/*
 * Runs a statement as whoever runs now, or as the catalog's owner.  With SPI
 * connected; an error unless SPI returns what is expected.
 */
extern void ExecuteStatement(const char *sql, Parameters *parameters,
							 bool read_only, int expected);
extern void ExecuteAsCatalog(const char *sql, Parameters *parameters,
							 bool read_only, int expected);

/*
 * A plan of a text that is put together, and may be wanted again by the next
 * query: it is kept for the session, among some others, and is the caller's
 * until the current memory context is reset.  options are a cursor's.
 */
extern struct _SPI_plan *KeptPlan(const char *sql, int count,
								  const Oid *types, int options);

/*
 * The same, but nobody else's: of a text that means something only here.  It is
 * freed with the current memory context.
 */
extern struct _SPI_plan *OwnPlan(const char *sql, int count,
								 const Oid *types, int options);

/* A column of the first row of the last statement's result. */
extern Datum ResultColumn(int column, bool *isnull);

/* The elements of a text[]. */
extern char **TextArray(Datum datum, int *count);

/*
 * Whose rights apply.  Enter before work that is for another role's rights,
 * leave after it; an error leaves by itself.  The search path is the server's
 * own, so that results are the same whoever calls.
 */
typedef struct RightsScope
{
	Oid			user;
	int			context;
	int			guc_level;
} RightsScope;

/* `context`: SECURITY_... flags to add. */
extern void EnterRights(RightsScope *scope, Oid user, int context);
extern void LeaveRights(RightsScope *scope);

#endif							/* MODEL_STATEMENT_H */
