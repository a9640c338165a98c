/*-------------------------------------------------------------------------
 *
 * shared_networks.c
 *	  Networks in shared memory, which every session finds packed.
 *
 * A directory of places, and behind it an area that never grows.  The lock is
 * held alone to change what places have, and shared to find a place; holds are
 * counted atomically, as a place that is held stays as it is.  Main shared
 * memory is where it is in every process, and so addresses are kept.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "model/shared_networks.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/dsa.h"
#include "utils/memutils.h"

#define TRANCHE "limaml networks"

/* Networks that the directory has places for. */
#define MOST_NETWORKS 256

/* What begins with a line of cache is read as it would be anywhere. */
#define Aligned(size) TYPEALIGN(PG_CACHE_LINE_SIZE, size)

typedef struct Place
{
	uint8		digest[SAFETENSORS_DIGEST_BYTES];
	uint64		generation;
	dsa_pointer memory;			/* InvalidDsaPointer: the place is free */
	char	   *file;
	Size		size;			/* of the file; the packed numbers follow */
	pg_atomic_uint32 holds;
	pg_atomic_uint64 used;		/* last, in uses of any */
} Place;

typedef struct Directory
{
	uint64		generations;
	pg_atomic_uint64 uses;
	Place		places[MOST_NETWORKS];
} Directory;

int			shared_networks_size = 32 * 1024;

static Directory *directory = NULL; /* NULL: there is none */
static LWLock *lock;
static dsa_area *area = NULL;	/* once this process has added a network */

/* Holds of this process, of each place. */
static uint32 held[MOST_NETWORKS];

static shmem_request_hook_type previous_request_hook;
static shmem_startup_hook_type previous_startup_hook;

static Size
AreaSize(void)
{
	return Max(mul_size(shared_networks_size, 1024), dsa_minimum_size());
}

/* The most that an empty area has in one piece: beside it is a map of it. */
static Size
LargestPiece(void)
{
	Size		map = add_size(dsa_minimum_size(), AreaSize() / 256);

	return AreaSize() > map ? AreaSize() - map : 0;
}

static void *
AreaPlace(void)
{
	return (char *) directory + Aligned(sizeof(Directory));
}

static void
RequestMemory(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(add_size(Aligned(sizeof(Directory)), AreaSize()));
	RequestNamedLWLockTranche(TRANCHE, 1);
}

static void
StartDirectory(void)
{
	bool		found;

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	directory = ShmemInitStruct(TRANCHE,
								add_size(Aligned(sizeof(Directory)),
										 AreaSize()),
								&found);
	lock = &GetNamedLWLockTranche(TRANCHE)[0].lock;
	if (!found)
	{
		dsa_area   *new;

		memset(directory, 0, sizeof(Directory));
		pg_atomic_init_u64(&directory->uses, 0);
		for (int p = 0; p < MOST_NETWORKS; p++)
		{
			pg_atomic_init_u32(&directory->places[p].holds, 0);
			pg_atomic_init_u64(&directory->places[p].used, 0);
		}
		new = dsa_create_in_place(AreaPlace(), AreaSize(), lock->tranche,
								  NULL);
		dsa_pin(new);
		dsa_set_size_limit(new, AreaSize());
		dsa_detach(new);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
SharedNetworksRequest(void)
{
	if (shared_networks_size == 0)
		return;
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = RequestMemory;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = StartDirectory;
}

/* At the end of this process. */
static void
Leave(int code, Datum argument)
{
	for (int p = 0; p < MOST_NETWORKS; p++)
		if (held[p] > 0)
		{
			pg_atomic_sub_fetch_u32(&directory->places[p].holds, held[p]);
			held[p] = 0;
		}
	if (area)
	{
		dsa_detach(area);
		area = NULL;
		dsa_release_in_place(AreaPlace());
	}
}

/* Whether there is a directory, which this process is then to leave. */
static bool
Enter(void)
{
	static bool entered = false;

	if (directory && !entered)
	{
		on_shmem_exit(Leave, (Datum) 0);
		entered = true;
	}
	return directory != NULL;
}

/* Holds what is at a place, with the lock. */
static void
Hold(SharedNetwork *shared, int p)
{
	Place	   *place = &directory->places[p];

	pg_atomic_add_fetch_u32(&place->holds, 1);
	held[p]++;
	pg_atomic_write_u64(&place->used,
						pg_atomic_add_fetch_u64(&directory->uses, 1));
	shared->place = p;
	shared->generation = place->generation;
	shared->held = true;
	shared->file = place->file;
	shared->size = place->size;
	shared->packed = (float *) (place->file + Aligned(place->size));
}

static int
FindPlace(const uint8 *digest)
{
	for (int p = 0; p < MOST_NETWORKS; p++)
		if (DsaPointerIsValid(directory->places[p].memory) &&
			memcmp(directory->places[p].digest, digest,
				   SAFETENSORS_DIGEST_BYTES) == 0)
			return p;
	return -1;
}

bool
SharedNetworkFind(SharedNetwork *shared, const uint8 *digest)
{
	int			p;

	if (!Enter())
		return false;
	LWLockAcquire(lock, LW_SHARED);
	p = FindPlace(digest);
	if (p >= 0)
		Hold(shared, p);
	LWLockRelease(lock);
	return p >= 0;
}

bool
SharedNetworkHold(SharedNetwork *shared)
{
	Place	   *place = &directory->places[shared->place];

	Assert(!shared->held);
	LWLockAcquire(lock, LW_SHARED);
	if (DsaPointerIsValid(place->memory) &&
		place->generation == shared->generation)
		Hold(shared, shared->place);
	LWLockRelease(lock);
	return shared->held;
}

void
SharedNetworkRelease(SharedNetwork *shared)
{
	/* this process may have left before */
	if (shared->held && held[shared->place] > 0)
	{
		held[shared->place]--;
		pg_atomic_sub_fetch_u32(&directory->places[shared->place].holds, 1);
	}
	shared->held = false;
}

/* Frees the place of the network to go, with the lock; false if none may. */
static bool
MakeRoom(void)
{
	Place	   *oldest = NULL;

	for (int p = 0; p < MOST_NETWORKS; p++)
	{
		Place	   *place = &directory->places[p];

		if (DsaPointerIsValid(place->memory) &&
			pg_atomic_read_u32(&place->holds) == 0 &&
			(oldest == NULL || pg_atomic_read_u64(&place->used) <
			 pg_atomic_read_u64(&oldest->used)))
			oldest = place;
	}
	if (oldest == NULL)
		return false;
	dsa_free(area, oldest->memory);
	oldest->memory = InvalidDsaPointer;
	return true;
}

static int
FreePlace(void)
{
	for (int p = 0; p < MOST_NETWORKS; p++)
		if (!DsaPointerIsValid(directory->places[p].memory))
			return p;
	return -1;
}

static void
AttachArea(void)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	area = dsa_attach_in_place(AreaPlace(), NULL);
	dsa_pin_mapping(area);
	MemoryContextSwitchTo(old);
}

bool
SharedNetworkAdd(SharedNetwork *shared, const uint8 *digest,
				 const char *file, Size size, Size packed,
				 void (*pack) (const void *argument, float *packed),
				 const void *argument)
{
	Size		needed = add_size(Aligned(size),
								  mul_size(packed, sizeof(float)));
	dsa_pointer memory;
	char	   *address;
	int			p;

	if (!Enter() || needed > LargestPiece())
		return false;
	if (area == NULL)
		AttachArea();

	LWLockAcquire(lock, LW_EXCLUSIVE);
	do
		memory = dsa_allocate_extended(area, needed,
									   DSA_ALLOC_HUGE | DSA_ALLOC_NO_OOM);
	while (!DsaPointerIsValid(memory) && MakeRoom());
	LWLockRelease(lock);
	if (!DsaPointerIsValid(memory))
		return false;

	/* nobody else knows of it, and nothing below fails */
	address = dsa_get_address(area, memory);
	memcpy(address, file, size);
	pack(argument, (float *) (address + Aligned(size)));

	LWLockAcquire(lock, LW_EXCLUSIVE);
	p = FindPlace(digest);
	if (p < 0)
	{
		p = FreePlace();
		if (p < 0 && MakeRoom())
			p = FreePlace();
		if (p >= 0)
		{
			Place	   *place = &directory->places[p];

			memcpy(place->digest, digest, SAFETENSORS_DIGEST_BYTES);
			place->generation = ++directory->generations;
			place->memory = memory;
			place->file = address;
			place->size = size;
			memory = InvalidDsaPointer;
		}
	}
	if (p >= 0)
		Hold(shared, p);
	if (DsaPointerIsValid(memory))
		dsa_free(area, memory);
	LWLockRelease(lock);
	return p >= 0;
}
