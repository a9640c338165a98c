/*-------------------------------------------------------------------------
 *
 * embedding_store.h
 *	  Storing the embeddings that a refresh has adapted.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REFRESH_EMBEDDING_STORE_H
#define REFRESH_EMBEDDING_STORE_H

#include "postgres.h"

#include "query/adapt.h"

typedef struct EmbeddingStore EmbeddingStore;

/*
 * For the embeddings of a source's model, of this type.  It is the current
 * memory context's and that of SPI's connection.
 */
extern EmbeddingStore *EmbeddingStoreCreate(const Source *source,
											Oid embedding_type);

/* Whether any is stored of a version. */
extern bool HasEmbeddings(const Model *model, int version);

/*
 * Stores embeddings of a version, and returns how many: an entity without rows
 * has its embedding brought up to date, but is not given one, for it would be
 * the prior, which scoring has by itself.  If they are new, one that is there
 * already is an error of ERRCODE_UNIQUE_VIOLATION: to look for it costs half as
 * much as to store it.
 */
extern int64 StoreEmbeddings(EmbeddingStore *store, int version,
							 const TrainedNetwork *trained, int count,
							 Datum **key, const AdaptedEntity *adapted,
							 bool are_new);

/*
 * Has embeddings wait, from now on, in about so much memory or on disk, until
 * all are stored in the order of their keys; StoreEmbeddings returns 0 then.
 * They are the current memory context's.  An index takes keys in their order in
 * less than half of the time; that a key is there already shows only in the end.
 */
extern void SortEmbeddings(EmbeddingStore *store, Size memory);
extern int64 StoreSortedEmbeddings(EmbeddingStore *store, int version,
								   bool are_new);

#endif							/* REFRESH_EMBEDDING_STORE_H */
