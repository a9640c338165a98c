/*
 * kernel_body.h
 *	  The kernels, written once in the compiler's vector types.
 *
 * Included by one file per instruction set, which defines KERNEL_NAME, the
 * vector's size KERNEL_BYTES, and of products KERNEL_SUMS, how many vectors of
 * sums are kept in registers, KERNEL_VECTORS, those of a block of them that are
 * side by side, and KERNEL_CHAINS, how many chains a sum of a narrow layer is.
 */
#include "kernel.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifdef LIMAML_DOUBLE
typedef int64_t lane_int;
typedef uint64_t lane_bits;
#define EXPONENT_SHIFT 52
#define ROUNDING_MAGIC 0x1.8p52
#define LN2_HIGH 0x1.62e42fefa38p-1
#define LN2_LOW 0x1.ef35793c7673p-45
#define TANH_LIMIT 20.0
#define EXPM1_TERMS 13
#define EXP_LIMIT 708
#define LOG1P_TERMS 16
#else
typedef int32_t lane_int;
typedef uint32_t lane_bits;
#define EXPONENT_SHIFT 23
#define ROUNDING_MAGIC 0x1.8p23f
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define TANH_LIMIT 10.0f
#define EXPM1_TERMS 6
#define EXP_LIMIT 87
#define LOG1P_TERMS 7
#endif

/* Slopes under this are denormal after a few products more. */
#define SMALLEST_SLOPE ((real) 1e-18)

#define LANES ((int) (KERNEL_BYTES / sizeof(real)))

typedef real vector __attribute__((vector_size(KERNEL_BYTES)));
typedef lane_int ivector __attribute__((vector_size(KERNEL_BYTES)));
typedef lane_bits bits_vector __attribute__((vector_size(KERNEL_BYTES)));

/* The same at any address: a caller's arrays need not be aligned. */
typedef real loose_vector __attribute__((vector_size(KERNEL_BYTES),
										 aligned(sizeof(real)), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* The loop that follows does n turns as one. */
#define PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define UNROLL(n) PRAGMA(unroll n)
#else
#define UNROLL(n) PRAGMA(GCC unroll n)
#endif

INLINE vector
load(const real *p)
{
	return *(const loose_vector *) p;
}

INLINE void
store(real *p, vector v)
{
	*(loose_vector *) p = v;
}

INLINE vector
splat(real x)
{
	return x - (vector) {0};
}

/*
 * a b + c, rounded once where there is an instruction for it.  Compilers
 * contract what they see fit, and one loop otherwise than the next, so they are
 * told not to (flags.mk), and this says what is one.
 */
INLINE vector
multiply_add(vector a, vector b, vector c)
{
#if defined(LIMAML_DOUBLE) && KERNEL_BYTES == 64
	return (vector) _mm512_fmadd_pd((__m512d) a, (__m512d) b, (__m512d) c);
#elif defined(LIMAML_DOUBLE) && KERNEL_BYTES == 32
	return (vector) _mm256_fmadd_pd((__m256d) a, (__m256d) b, (__m256d) c);
#elif KERNEL_BYTES == 64
	return (vector) _mm512_fmadd_ps((__m512) a, (__m512) b, (__m512) c);
#elif KERNEL_BYTES == 32
	return (vector) _mm256_fmadd_ps((__m256) a, (__m256) b, (__m256) c);
#elif defined(__aarch64__) && defined(LIMAML_DOUBLE)
	return (vector) vfmaq_f64((float64x2_t) c, (float64x2_t) a, (float64x2_t) b);
#elif defined(__aarch64__)
	return (vector) vfmaq_f32((float32x4_t) c, (float32x4_t) a, (float32x4_t) b);
#else
	return a * b + c;
#endif
}

/*
 * The same added to what is in a register, and stays there.  GCC, which may
 * choose which of the three registers the sum goes to, loses its way in a block
 * of as many sums as there are registers, and takes some through memory.
 */
INLINE void
add_product(vector *sum, vector a, vector b)
{
#ifdef __clang__				/* would take "xm" for memory, always */
#define REGISTER_OR_MEMORY "x"
#else
#define REGISTER_OR_MEMORY "xm"
#endif
#if defined(LIMAML_DOUBLE) && KERNEL_BYTES == 32
	asm("vfmadd231pd %2, %1, %0"
		: "+x" (*sum) : "x" (a), REGISTER_OR_MEMORY (b));
#elif KERNEL_BYTES == 32
	asm("vfmadd231ps %2, %1, %0"
		: "+x" (*sum) : "x" (a), REGISTER_OR_MEMORY (b));
#else
	*sum = multiply_add(a, b, *sum);
#endif
}

INLINE vector
where(ivector mask, vector yes, vector no)
{
	return (vector) ((mask & (ivector) yes) | (~mask & (ivector) no));
}

/* NaN stays NaN */
INLINE vector
relu_of(vector u)
{
	return where(u <= splat(0), splat(0), u);
}

/*
 * Sums across a vector: its halves are added up until 16 bytes are left, those
 * as (x0 + x2) + (x1 + x3) of floats and x0 + x1 of doubles.
 */
typedef real quarter __attribute__((vector_size(16)));
typedef int64_t words_32 __attribute__((vector_size(32)));
typedef int64_t words_64 __attribute__((vector_size(64)));
typedef real vector_32 __attribute__((vector_size(32)));

INLINE quarter
narrow(vector v)
{
#if KERNEL_BYTES == 64
	vector_32	w =
		(vector_32) __builtin_shufflevector((words_64) v, (words_64) v,
											0, 1, 2, 3) +
		(vector_32) __builtin_shufflevector((words_64) v, (words_64) v,
											4, 5, 6, 7);
#elif KERNEL_BYTES == 32
	vector_32	w = v;
#endif
#if KERNEL_BYTES > 16
	return (quarter) __builtin_shufflevector((words_32) w, (words_32) w,
											 0, 1) +
		(quarter) __builtin_shufflevector((words_32) w, (words_32) w, 2, 3);
#else
	return v;
#endif
}

INLINE real
total(vector v)
{
	quarter		q = narrow(v);

#ifdef LIMAML_DOUBLE
	return q[0] + q[1];
#else
	return (q[0] + q[2]) + (q[1] + q[3]);
#endif
}

#ifndef LIMAML_DOUBLE
typedef quarter loose_quarter __attribute__((aligned(4), may_alias));

INLINE quarter
four_totals(const vector *v)
{
	quarter		a = narrow(v[0]);
	quarter		b = narrow(v[1]);
	quarter		c = narrow(v[2]);
	quarter		d = narrow(v[3]);
	quarter		ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) +
		__builtin_shufflevector(a, b, 2, 6, 3, 7);
	quarter		cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) +
		__builtin_shufflevector(c, d, 2, 6, 3, 7);

	return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) +
		__builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}
#endif

/* The sums of four vectors, one after another in memory. */
INLINE void
store_totals(real *p, const vector *v)
{
#ifdef LIMAML_DOUBLE
	for (int r = 0; r < 4; r++)
		p[r] = total(v[r]);
#else
	*(loose_quarter *) p = four_totals(v);
#endif
}

/* The same added to what is there, and a number. */
INLINE void
add_totals(real *p, const vector *v, real x)
{
#ifdef LIMAML_DOUBLE
	for (int r = 0; r < 4; r++)
		p[r] = p[r] + total(v[r]) + x;
#else
	*(loose_quarter *) p = *(loose_quarter *) p + four_totals(v) + x;
#endif
}

/* Bit l says whether the condition holds in lane l. */
INLINE uint32_t
lanes_where(ivector condition)
{
#if defined(LIMAML_DOUBLE) && KERNEL_BYTES == 64
	return _mm512_movepi64_mask((__m512i) condition);
#elif KERNEL_BYTES == 64
	return _mm512_movepi32_mask((__m512i) condition);
#elif defined(LIMAML_DOUBLE) && KERNEL_BYTES == 32
	return _mm256_movemask_pd((__m256d) condition);
#elif KERNEL_BYTES == 32
	return _mm256_movemask_ps((__m256) condition);
#elif defined(LIMAML_DOUBLE) && defined(__x86_64__)
	return _mm_movemask_pd((__m128d) condition);
#elif defined(__x86_64__)
	return _mm_movemask_ps((__m128) condition);
#else
	uint32_t	bits = 0;

	for (int l = 0; l < LANES; l++)
		bits |= (uint32_t) (condition[l] != 0) << l;
	return bits;
#endif
}

/* The first n of LANES numbers, and zeros. */
INLINE vector
load_some(int n, const real *p)
{
	real		some[LANES] = {0};

	if (n >= LANES)
		return load(p);
	memcpy(some, p, n * sizeof(real));
	return load(some);
}

/* All bits set in the first n of LANES lanes. */
INLINE ivector
in_range(int n)
{
	ivector		lane;

	for (int l = 0; l < LANES; l++)
		lane[l] = l;
	return lane < (ivector) ((lane_int) n - (ivector) {0});
}

INLINE void
store_some(int n, real *p, vector v)
{
	real		some[LANES];

	if (n >= LANES)
		store(p, v);
	else
	{
		store(some, v);
		memcpy(p, some, n * sizeof(real));
	}
}

/*
 * Products
 *
 * A number of a product is summed term by term where a row alone has
 * SINGLE_SUMS vectors of such sums: so many need not wait for their last
 * multiply-add to end.  In a narrower layer it may be two chains, its even
 * terms and its odd ones.  Either way it is so whatever rows stand beside it.
 */

/* What becomes of a block of sums. */
typedef enum Epilogue
{
	STORE,						/* c */
	RELU,						/* c and, unless NULL, u */
	RELU_BACK					/* c where h > 0, and before it, b; the sum
								 * of c's rows; each unless NULL */
} Epilogue;

typedef struct Product
{
	int			inner;
	int			width;
	const real *a;
	int			lda;
	const real *w;
	const real *bias;			/* or NULL */
	const real *row;			/* RELU: added to the sums, or NULL */
	real	   *c;				/* n x width */
	real	   *u;				/* RELU */
	const real *h;				/* RELU_BACK */
	real	   *b;				/* RELU_BACK */
	real	   *sum;			/* RELU_BACK: width */
} Product;

/* Vectors of a panel, and how far panels are apart. */
#define PANEL_VECTORS (KERNEL_PAD / LANES)
#define PANEL_DISTANCE(inner) ((size_t) (inner) * KERNEL_PAD)

/*
 * The v-th of a step's vectors of weights, from w on.  A step that takes more
 * than a panel begins one: a step is as many vectors as divide a panel, or some
 * panels.
 */
#define IS_STEP(vectors) \
	((vectors) % PANEL_VECTORS == 0 || PANEL_VECTORS % (vectors) == 0)

INLINE vector
load_weights(const real *w, size_t distance, const int v)
{
	return load(w + v / PANEL_VECTORS * distance + v % PANEL_VECTORS * LANES);
}

/* Sums of a row alone at a time, and how many vectors of it these are. */
#define SINGLE_SUMS 8
#define SINGLE_VECTORS(chains) (SINGLE_SUMS / (chains))

/* Rows of a block, and of a smaller one for rows that are left. */
#define BLOCK_ROWS(chains) (KERNEL_SUMS / KERNEL_VECTORS / (chains))
#define FEWER_ROWS(chains) (BLOCK_ROWS(chains) > 4 ? 4 : 2)

_Static_assert(IS_STEP(SINGLE_SUMS) && IS_STEP(SINGLE_SUMS / 2) &&
			   IS_STEP(SINGLE_SUMS / 4) && IS_STEP(KERNEL_VECTORS) &&
			   KERNEL_VECTORS <= SINGLE_SUMS / 2,
			   "blocks of columns would end within a panel");

typedef vector BlockSums[BLOCK_ROWS(1)][SINGLE_VECTORS(1)];

/* Adds what one term of a sum is to each of a block's sums. */
INLINE void
add_term(const int rows, const int vectors, const real *a, int lda,
		 const real *w, size_t distance, BlockSums sum)
{
	vector		w_k[SINGLE_VECTORS(1)];

	for (int v = 0; v < vectors; v++)
		w_k[v] = load_weights(w, distance, v);
	for (int r = 0; r < rows; r++)
	{
		vector		a_r = splat(a[(size_t) r * lda]);

		for (int v = 0; v < vectors; v++)
			add_product(&sum[r][v], a_r, w_k[v]);
	}
}

/*
 * Rows i ... of columns j ...  The counts are constants where this is inlined,
 * so that the sums live in registers.
 */
INLINE void
product_block(const Epilogue epilogue, const int chains, const int rows,
			  const int vectors, const Product *p, int i, int j)
{
	const real *w = p->w + kernel_weight(p->inner, 0, j);
	const real *a = p->a + (size_t) i * p->lda;
	int			lda = p->lda;
	int			inner = p->inner;
	size_t		distance = PANEL_DISTANCE(inner);
	BlockSums	even;
	BlockSums	odd;
	int			k = 0;

	for (int r = 0; r < rows; r++)
		for (int v = 0; v < vectors; v++)
		{
			even[r][v] = p->bias ? load(p->bias + j + v * LANES) : splat(0);
			odd[r][v] = splat(0);
		}

	/* two terms at once leave SSE2, which has one chain, too few registers */
#if KERNEL_CHAINS == 2
	UNROLL(2)
	for (; k + 2 <= inner; k += 2, w += 2 * KERNEL_PAD)
	{
		add_term(rows, vectors, a + k, lda, w, distance, even);
		add_term(rows, vectors, a + k + 1, lda, w + KERNEL_PAD, distance,
				 chains == 1 ? even : odd);
	}
#endif
	UNROLL(2)
	for (; k < inner; k++, w += KERNEL_PAD)
		add_term(rows, vectors, a + k, lda, w, distance, even);

	for (int v = 0; v < vectors; v++)
	{
		size_t		at = (size_t) i * p->width + j + v * LANES;
		vector		sum = splat(0);

		if (epilogue == RELU_BACK && p->sum)
			sum = load(p->sum + j + v * LANES);
		for (int r = 0; r < rows; r++, at += p->width)
		{
			vector		c = chains == 1 ? even[r][v] :
				even[r][v] + odd[r][v];

			if (epilogue == RELU)
			{
				if (p->row)
					c += load(p->row + j + v * LANES);
				if (p->u)
					store(p->u + at, c);
				c = relu_of(c);
			}
			else if (epilogue == RELU_BACK)
			{
				if (p->b)
					store(p->b + at, c);
				c = where(load(p->h + at) > splat(0), c, splat(0));
				sum += c;
				if (p->c == NULL)
					continue;
			}
			store(p->c + at, c);
		}
		if (epilogue == RELU_BACK && p->sum)
			store(p->sum + j + v * LANES, sum);
	}
}

/*
 * As many blocks as there are in rows first ... end - 1: how many rows these
 * are.  Each kind of block is a function of its own, for compilers run out of
 * registers where all are in one.
 */
typedef int (*Block) (const Product *p, int first, int end, int j);

#define BLOCK(epilogue, chains, name, rows, vectors) \
static int \
epilogue##_##chains##_##name(const Product *product, int first, int end, \
							 int j) \
{ \
	const Product p = *product;	/* which no row's numbers overwrite */ \
	int			i = first; \
\
	for (; i + (rows) <= end; i += (rows)) \
		product_block(epilogue, chains, rows, vectors, &p, i, j); \
	return i - first; \
}

/* Of an epilogue and a number of chains; [0] is of KERNEL_VECTORS, [1] of one. */
typedef struct Blocks
{
	int			most_rows;
	int			fewer_rows;
	int			single_vectors;
	Block		most[2];
	Block		fewer[2];
	Block		two[2];
	Block		one[2];
	Block		single[2];		/* one row, single_vectors and half of them */
} Blocks;

#define BLOCKS(epilogue, chains) \
BLOCK(epilogue, chains, most, BLOCK_ROWS(chains), KERNEL_VECTORS) \
BLOCK(epilogue, chains, most_thin, BLOCK_ROWS(chains), 1) \
BLOCK(epilogue, chains, fewer, FEWER_ROWS(chains), KERNEL_VECTORS) \
BLOCK(epilogue, chains, fewer_thin, FEWER_ROWS(chains), 1) \
BLOCK(epilogue, chains, two, 2, KERNEL_VECTORS) \
BLOCK(epilogue, chains, two_thin, 2, 1) \
BLOCK(epilogue, chains, one, 1, KERNEL_VECTORS) \
BLOCK(epilogue, chains, one_thin, 1, 1) \
BLOCK(epilogue, chains, single, 1, SINGLE_VECTORS(chains)) \
BLOCK(epilogue, chains, single_half, 1, SINGLE_VECTORS(chains) / 2) \
static const Blocks epilogue##_##chains = { \
	.most_rows = BLOCK_ROWS(chains), \
	.fewer_rows = FEWER_ROWS(chains), \
	.single_vectors = SINGLE_VECTORS(chains), \
	.most = {epilogue##_##chains##_most, epilogue##_##chains##_most_thin}, \
	.fewer = {epilogue##_##chains##_fewer, epilogue##_##chains##_fewer_thin}, \
	.two = {epilogue##_##chains##_two, epilogue##_##chains##_two_thin}, \
	.one = {epilogue##_##chains##_one, epilogue##_##chains##_one_thin}, \
	.single = {epilogue##_##chains##_single, epilogue##_##chains##_single_half} \
};

BLOCKS(STORE, 1)
BLOCKS(RELU, 1)
BLOCKS(RELU_BACK, 1)
#if KERNEL_CHAINS == 2
BLOCKS(STORE, 2)
BLOCKS(RELU, 2)
BLOCKS(RELU_BACK, 2)
#endif

static void
product_of_blocks(const Blocks *blocks, int n, const Product *p)
{
	const int	single = blocks->single_vectors * LANES;
	const int	vectors = KERNEL_VECTORS * LANES;
	const int	most = blocks->most_rows;
	const int	fewer = blocks->fewer_rows;
	int			i = 0;

	/* column by column, so that a panel's weights stay near */
	for (int j = 0; n > 1 && j < p->width;)
	{
		bool		thin = j + vectors > p->width;
		int			end = n;

		/* two rows alone wait for each multiply-add: rather two smaller blocks */
		if (most + 2 == 2 * fewer && n > most && n % most == 2)
			end -= 2 * fewer;
		i = blocks->most[thin] (p, 0, end, j);
		if (i + 2 <= n)
			i += blocks->fewer[thin] (p, i, n, j);
		if (i + 2 <= n)
			i += blocks->two[thin] (p, i, n, j);
		j += thin ? LANES : vectors;
	}
	if (i < n)
	{
		int			j = 0;

		for (; j + single <= p->width; j += single)
			blocks->single[0] (p, i, n, j);
		for (; j + single / 2 <= p->width; j += single / 2)
			blocks->single[1] (p, i, n, j);
		for (; j + vectors <= p->width; j += vectors)
			blocks->one[0] (p, i, n, j);
		for (; j < p->width; j += LANES)
			blocks->one[1] (p, i, n, j);
	}
}

static void
product(Epilogue epilogue, int n, const Product *p)
{
	static const Blocks *const blocks[] = {
		[STORE] = &STORE_1, [RELU] = &RELU_1, [RELU_BACK] = &RELU_BACK_1
	};
#if KERNEL_CHAINS == 2
	static const Blocks *const narrow[] = {
		[STORE] = &STORE_2, [RELU] = &RELU_2, [RELU_BACK] = &RELU_BACK_2
	};

	if (p->width < SINGLE_SUMS * LANES)
	{
		product_of_blocks(narrow[epilogue], n, p);
		return;
	}
#endif
	product_of_blocks(blocks[epilogue], n, p);
}

static void
multiply(int n, int inner, int width, const real *a, int lda, const real *w,
		 const real *bias, real *c)
{
	const Product p = {
		.inner = inner, .width = width, .a = a, .lda = lda, .w = w,
		.bias = bias, .c = c
	};

	product(STORE, n, &p);
}

static real
dot(int width, const real *a, const real *b)
{
	vector		sum = splat(0);

	for (int j = 0; j < width; j += LANES)
		sum = multiply_add(load(a + j), load(b + j), sum);
	return total(sum);
}

static void
add_scaled(int width, real scale, const real *x, real *y)
{
	for (int j = 0; j < width; j += LANES)
		store(y + j, multiply_add(splat(scale), load(x + j), load(y + j)));
}

static void
add_scaled_rows(int n, int width, const real *scale, const real *x, int ldx,
				real *y, int ldy)
{
	for (int i = 0; i < n; i++, x += ldx, y += ldy)
		add_scaled(width, scale ? scale[i] : 1, x, y);
}

INLINE void
sum_columns(const int vectors, int n, const real *weight, const real *a,
			int lda, real *sum)
{
	vector		total[4];

	for (int v = 0; v < vectors; v++)
		total[v] = splat(0);
	if (weight)
		for (int i = 0; i < n; i++, a += lda)
			for (int v = 0; v < vectors; v++)
				total[v] = multiply_add(splat(weight[i]), load(a + v * LANES),
										total[v]);
	else
		for (int i = 0; i < n; i++, a += lda)
			for (int v = 0; v < vectors; v++)
				total[v] += load(a + v * LANES);
	for (int v = 0; v < vectors; v++)
		store(sum + v * LANES, total[v]);
}

static void
sum_rows(int n, int width, const real *weight, const real *a, int lda,
		 real *sum)
{
	int			j = 0;

	/* side by side, so that no sum waits for its last addition alone */
	for (; j + 4 * LANES <= width; j += 4 * LANES)
		sum_columns(4, n, weight, a + j, lda, sum + j);
	for (; j + 2 * LANES <= width; j += 2 * LANES)
		sum_columns(2, n, weight, a + j, lda, sum + j);
	for (; j < width; j += LANES)
		sum_columns(1, n, weight, a + j, lda, sum + j);
}

/*
 * Sums under masks
 *
 * relu's slope is 0 or 1, and where the rows of a layer's delta_in are wanted
 * only added up, that makes a product of sums of subsets:
 *
 *		sum_j = sum over o of w(j, o) g(j, o),	g(j, o) = sum of delta_i(o)
 *											over the rows i where h_i(j) > 0.
 *
 * Four rows have sixteen subsets, whose sums are formed once and looked up for
 * every j: one addition where the product takes four multiply-adds.
 */

/* Rows of a subset, and how many subsets they have. */
#define SUBSET_ROWS 4
#define SUBSETS (1 << SUBSET_ROWS)

/* Rows whose masks fit a word, and columns whose words stay near. */
#define MASK_ROWS 32
#define MASK_COLUMNS 256

/*
 * Vectors of delta's columns at a time: the way to a subset's sums is the same
 * for one or many, but their table is to fill half of the first cache at most.
 */
#if KERNEL_BYTES == 64
#define MASK_VECTORS 2
#else
#define MASK_VECTORS 4
#endif

/* Sums in registers at a time. */
#define MASK_SUMS 8

_Static_assert(IS_STEP(MASK_VECTORS), "a table's columns would end in a panel");

/* Bit i of a column's word says whether row i is above zero there. */
INLINE void
mask_block(const int vectors, int rows, const real *h, int ldh,
		   lane_bits *mask)
{
	bits_vector bit = (lane_bits) 1 - (bits_vector) {0};
	bits_vector word[KERNEL_VECTORS];

	for (int v = 0; v < vectors; v++)
		word[v] = bit ^ bit;
	for (int i = 0; i < rows; i++, bit += bit, h += ldh)
		for (int v = 0; v < vectors; v++)
			word[v] |= (bits_vector) (load(h + v * LANES) > splat(0)) & bit;
	for (int v = 0; v < vectors; v++)
		memcpy(mask + v * LANES, &word[v], sizeof(bits_vector));
}

INLINE void
mask_columns(int rows, int columns, const real *h, int ldh, lane_bits *mask)
{
	int			j = 0;

	for (; j + KERNEL_VECTORS * LANES <= columns; j += KERNEL_VECTORS * LANES)
		mask_block(KERNEL_VECTORS, rows, h + j, ldh, mask + j);
	for (; j < columns; j += LANES)
		mask_block(1, rows, h + j, ldh, mask + j);
}

/* The sums of all subsets of four rows, `distance` vectors apart. */
INLINE void
subset_sums(const int distance, const vector *row, vector *table)
{
	vector		sum[SUBSETS] = {splat(0)};

	for (int r = 0; r < SUBSET_ROWS; r++)
		for (int s = 0; s < 1 << r; s++)
			sum[(1 << r) + s] = sum[s] + row[r];
	for (int s = 0; s < SUBSETS; s++)
		table[s * distance] = sum[s];
}

/* What becomes of the sums of columns j ... over some rows. */
typedef struct MaskedSums
{
	const real *w;				/* from column j, or NULL */
	size_t		distance;		/* of its panels */
	vector	   *along;			/* + the products with w */
	bool		first;			/* along is not set yet */
	const real *scale;			/* or NULL; each column's own */
	real	   *c;				/* + scale times the sums */
} MaskedSums;

/* The table has vectors of each subset, of four rows after four. */
INLINE void
masked_block(const int columns, const int vectors, int rows,
			 const vector *table, const lane_bits *mask, int ld,
			 const MaskedSums *to, int j)
{
	const uint64_t size = vectors * sizeof(vector);
	const uint64_t last = (SUBSETS - 1) * size;
	const char *subsets = (const char *) table;
	vector		g[MASK_SUMS][MASK_VECTORS];
	uint64_t	at[MASK_SUMS];

	/* shifted so that each subset's bits are its distance in the table */
	for (int c = 0; c < columns; c++)
	{
		at[c] = (uint64_t) mask[j + c] * size;
		for (int v = 0; v < vectors; v++)
			g[c][v] = splat(0);
	}
	for (; rows > 0; rows -= SUBSET_ROWS, subsets += SUBSETS * size)
		for (int c = 0; c < columns; c++)
		{
			const vector *subset = (const vector *)
				(subsets + (at[c] & last));

			at[c] /= SUBSETS;
			for (int v = 0; v < vectors; v++)
				g[c][v] += subset[v];
		}
	for (int c = 0; c < columns; c++)
	{
		size_t		from = (size_t) (j + c) * ld;

		if (to->w)
		{
			vector		along = to->first ? splat(0) : to->along[j + c];

			for (int v = 0; v < vectors; v++)
				along = multiply_add(g[c][v],
									 load_weights(to->w + from, to->distance,
												  v), along);
			to->along[j + c] = along;
		}
		else
			for (int v = 0; v < vectors; v++)
			{
				real	   *c_v = to->c + from + v * LANES;

				store(c_v, multiply_add(splat(to->scale[j + c]), g[c][v],
										load(c_v)));
			}
	}
}

/* So many vectors of delta's columns. */
INLINE void
masked_vectors(const int vectors, int rows, int columns, const real *a,
			   int lda, const lane_bits *mask, int ld, const MaskedSums *to)
{
	const int	block = MASK_SUMS / vectors;
	vector		table[MASK_ROWS / SUBSET_ROWS * SUBSETS * MASK_VECTORS];
	int			j = 0;

	for (int i = 0; i < rows; i += SUBSET_ROWS)
		for (int v = 0; v < vectors; v++)
		{
			vector		row[SUBSET_ROWS];

			for (int r = 0; r < SUBSET_ROWS; r++)
				row[r] = i + r < rows ?
					load(a + (size_t) (i + r) * lda + v * LANES) : splat(0);
			subset_sums(vectors, row,
						&table[i / SUBSET_ROWS * SUBSETS * vectors + v]);
		}
	for (; j + block <= columns; j += block)
		masked_block(block, vectors, rows, table, mask, ld, to, j);
	for (; j < columns; j++)
		masked_block(1, vectors, rows, table, mask, ld, to, j);
}

/* At most MASK_COLUMNS columns, of all n rows. */
INLINE void
masked_columns(int n, int inner, int columns, const real *delta, int ld,
			   const real *h, int ldh, MaskedSums *to, int width, int j)
{
	const real *w = to->w;
	real	   *c = to->c;

	for (int i = 0; i < n; i += MASK_ROWS)
	{
		int			rows = n - i < MASK_ROWS ? n - i : MASK_ROWS;
		lane_bits	mask[MASK_COLUMNS];

		mask_columns(rows, kernel_stride(columns), h + (size_t) i * ldh + j,
					 ldh, mask);
		for (int o = 0, vectors; o < inner; o += vectors * LANES)
		{
			const real *a = delta + (size_t) i * ld + o;
			int			ldw = w ? KERNEL_PAD : inner;

			to->first = i == 0 && o == 0;
			if (w)
				to->w = w + kernel_weight(width, j, o);
			else
				to->c = c + (size_t) j * inner + o;
			if (o + MASK_VECTORS * LANES <= inner)
			{
				vectors = MASK_VECTORS;
				masked_vectors(MASK_VECTORS, rows, columns, a, ld, mask, ldw,
							   to);
			}
			else if (o + 2 * LANES <= inner)
			{
				vectors = 2;
				masked_vectors(2, rows, columns, a, ld, mask, ldw, to);
			}
			else
			{
				vectors = 1;
				masked_vectors(1, rows, columns, a, ld, mask, ldw, to);
			}
		}
	}
}

static void
layer_back_sum(int n, int inner, int width, const real *delta, int ld,
			   const real *w, const real *h, int ldh, real *sum)
{
	for (int j = 0; j < width; j += MASK_COLUMNS)
	{
		int			columns = width - j < MASK_COLUMNS ? width - j :
			MASK_COLUMNS;
		vector		along[MASK_COLUMNS];
		MaskedSums	to = {
			.w = w, .distance = PANEL_DISTANCE(width), .along = along
		};
		int			c = 0;

		if (n == 0 || inner == 0)
			memset(along, 0, columns * sizeof(vector));
		masked_columns(n, inner, columns, delta, ld, h, ldh, &to, width, j);
		for (; c + 4 <= columns; c += 4)
			store_totals(sum + j + c, along + c);
		for (; c < columns; c++)
			sum[j + c] = total(along[c]);
	}
	for (int j = width; j < kernel_stride(width); j++)
		sum[j] = 0;
}

static void
add_masked_products(int n, int inner, int width, const real *delta, int ld,
					const real *h, int ldh, const real *row, real *c)
{
	for (int j = 0; j < width; j += MASK_COLUMNS)
	{
		int			columns = width - j < MASK_COLUMNS ? width - j :
			MASK_COLUMNS;
		MaskedSums	to = {.scale = row + j, .c = c};

		masked_columns(n, inner, columns, delta, ld, h, ldh, &to, width, j);
	}
}

/*
 * The other way: c_i = sum over j of w(j) row(j) where h_i(j) > 0.  Here
 * subsets are of four columns, of which a row's mask has a bit each.
 */

/* Subsets of a mask's columns, which stay near, and rows that share them. */
#define GROUPS (KERNEL_MASK / SUBSET_ROWS)
#define GROUP_ROWS 128

/* Of a table as wide as this half of the first cache is filled at most. */
#if KERNEL_BYTES == 64
#define GROUP_VECTORS 1
#else
#define GROUP_VECTORS 2
#endif

/* Sums in registers at a time. */
#define GROUP_SUMS (8 / GROUP_VECTORS)

_Static_assert(PANEL_VECTORS % GROUP_VECTORS == 0,
			   "a table's columns would go past a panel");

typedef vector GroupTable[SUBSETS][GROUP_VECTORS];

/* The mask of a row's next columns, at most KERNEL_MASK. */
INLINE uint64_t
row_mask(int columns, const real *h)
{
	uint64_t	mask = 0;

	for (int k = 0; k < columns; k += LANES)
		mask |= (uint64_t) lanes_where(load(h + k) > splat(0)) << k;
	return mask;
}

/* What comes before the sums, and after them. */
typedef struct MaskedRows
{
	bool		first;			/* nothing */
	const real *h;				/* the mask of c, or NULL: more to come */
	const real *scale;			/* or NULL */
	real	   *c;
	int			ld;				/* of h and c */
} MaskedRows;

INLINE void
masked_rows(const int rows, int i, int groups, const GroupTable *table,
			const uint64_t *mask, int ldm, const MaskedRows *to)
{
	/* turned so that a subset's bits are its distance in the table */
	const uint64_t last = sizeof(*table) - sizeof((*table)[0]);
	const int	turn = __builtin_ctzll(sizeof((*table)[0]));
	size_t		from = (size_t) i * to->ld;
	vector		sum[GROUP_SUMS][GROUP_VECTORS];
	uint64_t	at[GROUP_SUMS];

	for (int r = 0; r < rows; r++)
	{
		uint64_t	mask_r = mask[(size_t) (i + r) * ldm];

		at[r] = mask_r << turn | mask_r >> (64 - turn);
		for (int v = 0; v < GROUP_VECTORS; v++)
			sum[r][v] = to->first ? splat(0) :
				load(to->c + from + (size_t) r * to->ld + v * LANES);
	}
	for (int g = 0; g < groups; g++, table++)
		for (int r = 0; r < rows; r++)
		{
			const vector *subset = (const vector *)
				((const char *) table + (at[r] & last));

			at[r] = at[r] >> SUBSET_ROWS | at[r] << (64 - SUBSET_ROWS);
			for (int v = 0; v < GROUP_VECTORS; v++)
				sum[r][v] += subset[v];
		}
	for (int r = 0; r < rows; r++, from += to->ld)
		for (int v = 0; v < GROUP_VECTORS; v++)
		{
			vector		c = sum[r][v];

			if (to->h)
			{
				if (to->scale)
					c *= to->scale[i + r];
				c = where(load(to->h + from + v * LANES) > splat(0), c,
						  splat(0));
			}
			store(to->c + from + v * LANES, c);
		}
}

/* GROUP_VECTORS vectors of the columns of c. */
INLINE void
masked_layer_part(int n, int columns, const real *row, const real *w,
				  const uint64_t *mask, int ldm, const MaskedRows *to)
{
	GroupTable	table[GROUPS];
	int			groups = 0;
	int			i = 0;

	for (int j = 0; j < columns; j += SUBSET_ROWS, groups++)
		for (int v = 0; v < GROUP_VECTORS; v++)
		{
			vector		term[SUBSET_ROWS];

			for (int r = 0; r < SUBSET_ROWS; r++)
				term[r] = j + r < columns ? row[j + r] *
					load(w + (j + r) * KERNEL_PAD + v * LANES) : splat(0);
			subset_sums(GROUP_VECTORS, term, &table[groups][0][v]);
		}
	for (; i + GROUP_SUMS <= n; i += GROUP_SUMS)
		masked_rows(GROUP_SUMS, i, groups, table, mask, ldm, to);
	for (; i < n; i++)
		masked_rows(1, i, groups, table, mask, ldm, to);
}

static void
masked_layer(int n, int inner, int width, const real *h_in, int ldh,
			 const real *row, const real *w, const real *h, const real *scale,
			 real *c)
{
	for (int i = 0; i < n; i += GROUP_ROWS)
	{
		int			rows = n - i < GROUP_ROWS ? n - i : GROUP_ROWS;

		for (int j = 0; j < inner; j += KERNEL_MASK)
		{
			int			columns = inner - j < KERNEL_MASK ? inner - j :
				KERNEL_MASK;
			uint64_t	mask[GROUP_ROWS];

			for (int r = 0; r < rows; r++)
				mask[r] = row_mask(kernel_stride(columns),
								   h_in + (size_t) (i + r) * ldh + j);
			for (int o = 0; o < width; o += GROUP_VECTORS * LANES)
			{
				size_t		from = (size_t) i * width + o;
				const MaskedRows to = {
					.first = j == 0,
					.h = j + columns == inner ? h + from : NULL,
					.scale = scale ? scale + i : NULL,
					.c = c + from,
					.ld = width
				};

				masked_layer_part(rows, columns, row + j,
								  w + kernel_weight(inner, j, o), mask, 1,
								  &to);
			}
		}
	}
}

static void
mix_rows(int n, int width, const real *r, const real *a, int lda,
		 const real *s, real *h)
{
	for (int i = 0; i < n; i++, a += lda, h += width)
		for (int j = 0; j < width; j += LANES)
		{
			vector		h_j = load(h + j);

			store(h + j, where(h_j > splat(0),
							   multiply_add(splat(r[i]), load(a + j), s[i] * h_j),
							   splat(0)));
		}
}

/*
 * exp(x) - 1 in two parts, so that either it or exp(x) can be formed without
 * loss.  With x = k ln 2 + r, |r| <= ln 2 / 2,
 *
 *	  exp(x) - 1 = 2^k (exp(r) - 1) + (2^k - 1),
 *
 * and exp(r) - 1 by its Taylor series: EXPM1_TERMS terms after r leave less
 * than half a unit in the last place.  2^k must be a normal number.
 */
INLINE void
exp_parts(vector x, vector *scale, vector *series)
{
	static const real inverse_factorial[] = {
		1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040,
		1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800,
		1.0 / 479001600, 1.0 / 6227020800, 1.0 / 87178291200
	};
	const vector magic = splat(ROUNDING_MAGIC);

	/* adding the magic number leaves the nearest integer in the low bits */
	vector		shifted = multiply_add(x, splat((real) M_LOG2E), magic);
	vector		k = shifted - magic;
	vector		r = multiply_add(-k, splat(LN2_HIGH), x);
	vector		s = splat(inverse_factorial[EXPM1_TERMS - 1]);

	r = multiply_add(-k, splat(LN2_LOW), r);
	for (int i = EXPM1_TERMS - 2; i >= 0; i--)
		s = multiply_add(s, r, splat(inverse_factorial[i]));
	*series = multiply_add(s * r, r, r);
	*scale = (vector) ((ivector) splat(1) +
					   (((ivector) shifted - (ivector) magic)
						<< EXPONENT_SHIFT));
}

/* tanh |x| = t / (t + 2) with t = exp(2 |x|) - 1: precise for small x, too. */
INLINE vector
tanh_of(vector x)
{
	ivector		sign = (ivector) x & (ivector) splat(-0.0);
	vector		y = (vector) ((ivector) x & ~(ivector) splat(-0.0));
	vector		scale,
				series,
				t;

	/* comparisons are such that NaN stays NaN */
	y = 2 * where(y > splat(TANH_LIMIT), splat(TANH_LIMIT), y);
	exp_parts(y, &scale, &series);
	t = multiply_add(scale, series, scale - 1);
	t = t / (t + 2);
	return (vector) ((ivector) t | sign);
}

/* exp(-|x|); from EXP_LIMIT on as there, still a normal number. */
INLINE vector
exp_of_minus(vector x)
{
	vector		y = (vector) ((ivector) x & ~(ivector) splat(-0.0));
	vector		scale,
				series;

	exp_parts(-where(y > splat(EXP_LIMIT), splat(EXP_LIMIT), y), &scale,
			  &series);
	return multiply_add(scale, series, scale);
}

/*
 * log(1 + e) of e in [0, 1]: 2 artanh(t) with t = e / (2 + e) <= 1/3, by its
 * series.
 */
INLINE vector
log1p_of(vector e)
{
	vector		t = e / (2 + e);

	/* a square that would be denormal, and slow, changes nothing */
	vector		rooted = where(t < splat((real) 1e-15), splat(0), t);
	vector		t2 = rooted * rooted;
	vector		s = splat((real) 1 / (2 * LOG1P_TERMS + 1));

	for (int i = LOG1P_TERMS - 1; i >= 0; i--)
		s = multiply_add(s, t2, splat((real) 1 / (2 * i + 1)));
	return 2 * t * s;
}

/* The normal distribution's density and distribution function, for gelu. */
static real
normal_density(real u)
{
	return (real) 0.39894228040143267794 * REAL(exp) (-u * u / 2);
}

static real
normal_distribution(real u)
{
	return REAL(erfc) (-u * (real) M_SQRT1_2) / 2;
}

/* a(u) */
INLINE vector
value_of(const Activation activation, vector u)
{
	vector		h;

	switch (activation)
	{
		case ACTIVATION_TANH:
			return tanh_of(u);
		case ACTIVATION_RELU:
			return relu_of(u);
		case ACTIVATION_GELU:
			break;
	}
	for (int l = 0; l < LANES; l++)
		h[l] = u[l] * normal_distribution(u[l]);
	return h;
}

/* a'(u); h = a(u) is enough but for gelu */
INLINE vector
slope_of(const Activation activation, vector u, vector h)
{
	vector		slope;

	switch (activation)
	{
		case ACTIVATION_TANH:
			return multiply_add(-h, h, splat(1));
		case ACTIVATION_RELU:
			return where(h > splat(0), splat(1), splat(0));
		case ACTIVATION_GELU:
			break;
	}
	for (int l = 0; l < LANES; l++)
		slope[l] = normal_distribution(u[l]) + u[l] * normal_density(u[l]);
	return slope;
}

/* a''(u) */
INLINE vector
curvature_of(const Activation activation, vector u, vector h)
{
	vector		curvature;

	switch (activation)
	{
		case ACTIVATION_TANH:
			return -2 * h * multiply_add(-h, h, splat(1));
		case ACTIVATION_RELU:
			return splat(0);
		case ACTIVATION_GELU:
			break;
	}
	for (int l = 0; l < LANES; l++)
		curvature[l] = normal_density(u[l]) * (2 - u[l] * u[l]);
	return curvature;
}

/*
 * An elementwise kernel is one loop per activation, so that the choice is
 * made outside it; LOOP names the loop and ARGUMENTS follow the activation.
 */
#define BY_ACTIVATION(LOOP, ...) \
	switch (activation) \
	{ \
		case ACTIVATION_TANH: \
			LOOP(ACTIVATION_TANH, __VA_ARGS__); \
			break; \
		case ACTIVATION_RELU: \
			LOOP(ACTIVATION_RELU, __VA_ARGS__); \
			break; \
		case ACTIVATION_GELU: \
			LOOP(ACTIVATION_GELU, __VA_ARGS__); \
			break; \
	}

INLINE void
activate_loop(const Activation activation, size_t count, const real *u,
			  real *h)
{
	for (size_t j = 0; j < count; j += LANES)
		store(h + j, value_of(activation, load(u + j)));
}

static void
activate(Activation activation, int n, int width, const real *u, real *h)
{
	BY_ACTIVATION(activate_loop, (size_t) n * width, u, h);
}

INLINE void
backward_loop(const Activation activation, size_t count, const real *u,
			  const real *h, const real *b, real *delta)
{
	for (size_t j = 0; j < count; j += LANES)
		store(delta + j,
			  load(b + j) * slope_of(activation, load(u + j), load(h + j)));
}

static void
backward(Activation activation, int n, int width, const real *u,
		 const real *h, const real *b, real *delta)
{
	BY_ACTIVATION(backward_loop, (size_t) n * width, u ? u : h, h, b, delta);
}

INLINE void
tangent_loop(const Activation activation, int n, int width, const real *u,
			 const real *h, const real *u_dot, int ld_dot, real *h_dot)
{
	for (int i = 0; i < n; i++)
	{
		for (int j = 0; j < width; j += LANES)
			store(h_dot + j, load(u_dot + j) *
				  slope_of(activation, load(u + j), load(h + j)));
		u += width;
		h += width;
		h_dot += width;
		u_dot += ld_dot;
	}
}

static void
tangent(Activation activation, int n, int width, const real *u,
		const real *h, const real *u_dot, int ld_dot, real *h_dot)
{
	BY_ACTIVATION(tangent_loop, n, width, u ? u : h, h, u_dot, ld_dot, h_dot);
}

INLINE void
backward_tangent_loop(const Activation activation, int n, int width,
					  const real *u, const real *h, const real *b,
					  const real *b_dot, const real *u_dot, int ld_dot,
					  real *delta_dot)
{
	for (int i = 0; i < n; i++)
	{
		for (int j = 0; j < width; j += LANES)
		{
			vector		u_j = load(u + j);
			vector		h_j = load(h + j);
			vector		b_j = load(b + j);

			store(delta_dot + j,
				  multiply_add(load(b_dot + j), slope_of(activation, u_j, h_j),
							   b_j * curvature_of(activation, u_j, h_j) *
							   load(u_dot + j)));
		}
		u += width;
		h += width;
		b += width;
		b_dot += width;
		u_dot += ld_dot;
		delta_dot += width;
	}
}

static void
backward_tangent(Activation activation, int n, int width, const real *u,
				 const real *h, const real *b, const real *b_dot,
				 const real *u_dot, int ld_dot, real *delta_dot)
{
	BY_ACTIVATION(backward_tangent_loop, n, width, u ? u : h, h, b, b_dot,
				  u_dot, ld_dot, delta_dot);
}

/*
 * Layers
 *
 * Only relu goes into a product's epilogue.  The others cost so much more than
 * a pass over numbers just written that a pass of their own is as good.
 */

static void
layer(Activation activation, int n, int inner, int width, const real *a,
	  int lda, const real *w, const real *bias, real *u, real *h)
{
	Product		p = {
		.inner = inner, .width = width, .a = a, .lda = lda, .w = w,
		.bias = bias, .u = u, .c = h
	};

	if (activation == ACTIVATION_RELU)
		product(RELU, n, &p);
	else
	{
		p.c = u ? u : h;
		product(STORE, n, &p);
		activate(activation, n, width, p.c, h);
	}
}

static void
layer_back(Activation activation, int n, int inner, int width,
		   const real *delta, int ld, const real *w, const real *u,
		   const real *h, real *b, real *delta_in, real *sum)
{
	Product		p = {
		.inner = inner, .width = width, .a = delta, .lda = ld, .w = w,
		.h = h, .b = b, .c = delta_in, .sum = sum
	};

	if (activation == ACTIVATION_RELU)
	{
		memset(sum, 0, width * sizeof(real));
		product(RELU_BACK, n, &p);
	}
	else
	{
		p.c = b;
		product(STORE, n, &p);
		if (delta_in == NULL)
			delta_in = b;
		backward(activation, n, width, u, h, b, delta_in);
		sum_rows(n, width, NULL, delta_in, width, sum);
	}
}

INLINE void
first_layer_loop(const Activation activation, int n, int width,
				 const real *a, int lda, const real *row, real *u, real *h)
{
	for (int i = 0; i < n; i++, a += lda, h += width)
		for (int j = 0; j < width; j += LANES)
		{
			vector		u_j = load(a + j) + load(row + j);

			if (u)
				store(u + (size_t) i * width + j, u_j);
			store(h + j, value_of(activation, u_j));
		}
}

static void
first_layer(Activation activation, int n, int width, const real *a, int lda,
			const real *row, real *u, real *h)
{
	BY_ACTIVATION(first_layer_loop, n, width, a, lda, row, u, h);
}

static void
whole_first_layer(Activation activation, int n, int inner, int width,
				  const real *a, int lda, const real *w, const real *bias,
				  const real *row, real *h)
{
	Product		p = {
		.inner = inner, .width = width, .a = a, .lda = lda, .w = w,
		.bias = bias, .row = row, .c = h
	};

	if (activation == ACTIVATION_RELU)
		product(RELU, n, &p);
	else
	{
		product(STORE, n, &p);
		first_layer(activation, n, width, h, width, row, NULL, h);
	}
}

/*
 * From one step to the next
 *
 * A step of the inner loop moves what goes into the first layer's relu by the
 * same for every row.  Where a row's units neither wake up nor fall asleep, its
 * h moves by the shift under its mask, and what that does to the next layer is
 * a sum of subsets.  A unit that does, at u now, has moved by |u| more.
 */

/*
 * Rows, and vectors of weights, from which on this is faster than products.
 * 64 x 32 weights are as many on SSE2, where it takes half the time.  On AVX2,
 * of half as many, the way to the units that flip makes up for what is saved.
 */
#define SHIFT_ROWS 24
#define SHIFT_VECTORS 512

/* Of the next layer at a time, so that a unit is found rarely. */
#define FLIP_VECTORS 8

_Static_assert(IS_STEP(FLIP_VECTORS), "flips would end within a panel");

/* A row with more such units is multiplied afresh, being faster so. */
#define MOST_FLIPS(inner) ((inner) / 4)

/*
 * The first layer's next columns, KERNEL_MASK or what is left, and the mask of
 * what goes into it.  NaN is awake: where it does not stay, that is a flip.
 */
INLINE uint64_t
first_layer_mask(int left, const real *a, const real *row, real *h)
{
	int			columns = left < KERNEL_MASK ? left : KERNEL_MASK;
	uint64_t	mask = 0;

	for (int k = 0; k < kernel_stride(columns); k += LANES)
	{
		vector		u = load(a + k) + load(row + k);

		mask |= (uint64_t) lanes_where(~(u <= splat(0))) << k;
		store(h + k, relu_of(u));
	}

	/* padding has no weights */
	return mask & UINT64_MAX >> (KERNEL_MASK - columns);
}

/* What a row's units that have flipped add to vectors of the next layer's u. */
INLINE void
add_flips_to(const int vectors, uint64_t flipped, const real *a,
			 const real *row, const real *w, size_t distance, real *u)
{
	vector		sum[FLIP_VECTORS];

	for (int v = 0; v < vectors; v++)
		sum[v] = load(u + v * LANES);
	for (; flipped; flipped &= flipped - 1)
	{
		int			k = __builtin_ctzll(flipped);
		vector		size = splat(REAL(fabs) (a[k] + row[k]));

		for (int v = 0; v < vectors; v++)
			sum[v] = multiply_add(size, load_weights(w + k * KERNEL_PAD,
													 distance, v), sum[v]);
	}
	for (int v = 0; v < vectors; v++)
		store(u + v * LANES, sum[v]);
}

/* To all of u, from columns j ... */
INLINE void
add_flips(uint64_t flipped, int j, int inner, int width, const real *a,
		  const real *row, const real *w, real *u)
{
	const size_t distance = PANEL_DISTANCE(inner);
	int			o = 0;

	for (; o + FLIP_VECTORS * LANES <= width; o += FLIP_VECTORS * LANES)
		add_flips_to(FLIP_VECTORS, flipped, a + j, row + j,
					 w + kernel_weight(inner, j, o), distance, u + o);
	for (; o + 4 * LANES <= width; o += 4 * LANES)
		add_flips_to(4, flipped, a + j, row + j,
					 w + kernel_weight(inner, j, o), distance, u + o);
	for (; o < width; o += LANES)
		add_flips_to(1, flipped, a + j, row + j,
					 w + kernel_weight(inner, j, o), distance, u + o);
}

static void
first_layers(int n, int inner, int width, const real *a, int lda,
			 const real *row, const real *w, const real *bias,
			 uint64_t *mask, real *h, real *u, real *h_next)
{
	int			ldh = kernel_stride(inner);
	Product		p = {
		.inner = inner, .width = width, .a = h, .lda = ldh, .w = w,
		.bias = bias, .u = u, .c = h_next
	};

	for (int i = 0; i < n; i++)
		for (int j = 0; j < inner; j += KERNEL_MASK)
			*mask++ = first_layer_mask(inner - j, a + (size_t) i * lda + j,
									   row + j, h + (size_t) i * ldh + j);
	product(RELU, n, &p);
}

static void
shift_layers(int n, int inner, int width, const real *a, int lda,
			 const real *row, const real *shift, const real *w,
			 const real *bias, uint64_t *mask, real *h, real *u,
			 real *h_next)
{
	int			ldh = kernel_stride(inner);
	int			ldm = kernel_masks(inner);

	for (int j = 0; j < inner; j += KERNEL_MASK)
		for (int o = 0; o < width; o += GROUP_VECTORS * LANES)
		{
			const MaskedRows to = {.c = u + o, .ld = width};

			masked_layer_part(n, inner - j < KERNEL_MASK ? inner - j :
							  KERNEL_MASK, shift + j,
							  w + kernel_weight(inner, j, o),
							  mask + j / KERNEL_MASK, ldm, &to);
		}

	for (int i = 0; i < n; i++, a += lda, mask += ldm, h += ldh, u += width,
		 h_next += width)
	{
		int			flips = 0;

		for (int j = 0, m = 0; j < inner; j += KERNEL_MASK, m++)
		{
			uint64_t	now = first_layer_mask(inner - j, a + j, row + j,
											   h + j);
			uint64_t	flipped = mask[m] ^ now;

			mask[m] = now;
			flips += __builtin_popcountll(flipped);
			if (flipped && flips <= MOST_FLIPS(inner))
				add_flips(flipped, j, inner, width, a, row, w, u);
		}
		if (flips > MOST_FLIPS(inner))
		{
			Product		p = {
				.inner = inner, .width = width, .a = h, .lda = ldh, .w = w,
				.bias = bias, .u = u, .c = h_next
			};

			product(RELU, 1, &p);
		}
		else
			for (int o = 0; o < width; o += LANES)
				store(h_next + o, relu_of(load(u + o)));
	}
}

/* Side by side, so that no row's sum waits for the last multiply-add alone. */
INLINE void
last_layer_rows(const int rows, int width, const real *h, const real *last,
				int factor_width, const real *f, int ldf, const real *factor,
				vector *sum)
{
	vector		s[4];

	for (int r = 0; r < rows; r++)
		s[r] = splat(0);
	for (int j = 0; j < width; j += LANES)
	{
		vector		last_j = load(last + j);

		for (int r = 0; r < rows; r++)
			s[r] = multiply_add(load(h + (size_t) r * width + j), last_j,
								s[r]);
	}
	for (int j = 0; j < factor_width; j += LANES)
	{
		vector		factor_j = load(factor + j);

		for (int r = 0; r < rows; r++)
			s[r] = multiply_add(load(f + (size_t) r * ldf + j), factor_j,
								s[r]);
	}
	for (int r = 0; r < rows; r++)
		sum[r] = s[r];
}

static void
last_layer(int n, int width, const real *h, const real *last,
		   int factor_width, const real *f, int ldf, const real *factor,
		   real bias, const real *offset, real *s)
{
	int			i = 0;

	for (; i + 4 <= n; i += 4)
	{
		vector		sum[4];

		last_layer_rows(4, width, h, last, factor_width, f, ldf, factor, sum);
		store_totals(s + i, sum);
		h += (size_t) 4 * width;
		f += (size_t) 4 * ldf;
	}
	for (; i < n; i++, h += width, f += ldf)
	{
		vector		sum;

		last_layer_rows(1, width, h, last, factor_width, f, ldf, factor, &sum);
		s[i] = total(sum);
	}

	if (offset)
		for (i = 0; i < n; i++)
			s[i] += bias + offset[i];
	else
		for (i = 0; i < n; i++)
			s[i] += bias;
}

/*
 * Rows' products with v, side by side; what follows a row is not to be read
 * past end.
 */
INLINE void
dot_rows(const int rows, int width, const real *a, int lda, const real *v,
		 vector v_rest, ivector mask, const real *end, vector *sum)
{
	int			whole = width / LANES * LANES;
	vector		s[4];

	for (int r = 0; r < rows; r++)
		s[r] = splat(0);
	for (int j = 0; j < whole; j += LANES)
	{
		vector		v_j = load(v + j);

		for (int r = 0; r < rows; r++)
			s[r] = multiply_add(load(a + (size_t) r * lda + j), v_j, s[r]);
	}
	for (int r = 0; r < rows; r++, a += lda)
	{
		if (whole < width)
			s[r] = multiply_add(v_rest, end - a >= whole + LANES ?
								(vector) ((ivector) load(a + whole) & mask) :
								load_some(width - whole, a + whole), s[r]);
		sum[r] = s[r];
	}
}

static void
add_dots(int n, int width, const real *a, int lda, const real *v, real bias,
		 real *s)
{
	int			rest = width % LANES;
	vector		v_rest = load_some(rest, v + width - rest);
	ivector		mask = in_range(rest);
	const real *end = a + (size_t) (n - 1) * lda + width;
	int			i = 0;

	for (; i + 4 <= n; i += 4)
	{
		vector		sum[4];

		dot_rows(4, width, a, lda, v, v_rest, mask, end, sum);
		add_totals(s + i, sum, bias);
		a += (size_t) 4 * lda;
	}
	for (; i < n; i++, a += lda)
	{
		vector		sum;

		dot_rows(1, width, a, lda, v, v_rest, mask, end, &sum);
		s[i] = s[i] + total(sum) + bias;
	}
}

INLINE void
last_layer_back_loop(const Activation activation, int n, int width,
					 const real *r, const real *last, const real *u,
					 const real *h, real *b, real *delta, real *sum)
{
	for (int j = 0; j < width; j += LANES)
	{
		vector		last_j = load(last + j);
		vector		total_j = splat(0);

		for (int i = 0; i < n; i++)
		{
			size_t		at = (size_t) i * width + j;
			vector		b_i = r[i] * last_j;
			vector		h_i = load(h + at);
			vector		u_i = load(u + at);

			if (b)
				store(b + at, b_i);
			b_i *= slope_of(activation, u_i, h_i);
			if (delta)
				store(delta + at, b_i);
			total_j += b_i;
		}
		store(sum + j, total_j);
	}
}

static void
last_layer_back(Activation activation, int n, int width, const real *r,
				const real *last, const real *u, const real *h, real *b,
				real *delta, real *sum)
{
	BY_ACTIVATION(last_layer_back_loop, n, width, r, last, u ? u : h, h, b,
				  delta, sum);
}

static void
layer_tangent(Activation activation, int n, int inner, int width,
			  const real *a_dot, int lda, const real *w, const real *u,
			  const real *h, real *u_dot, real *h_dot)
{
	Product		p = {
		.inner = inner, .width = width, .a = a_dot, .lda = lda, .w = w,
		.h = h, .b = u_dot, .c = h_dot
	};

	if (activation == ACTIVATION_RELU)
		product(RELU_BACK, n, &p);
	else
	{
		p.c = u_dot;
		product(STORE, n, &p);
		tangent(activation, n, width, u, h, u_dot, width, h_dot);
	}
}

static void
layer_back_tangent(Activation activation, int n, int inner, int width,
				   const real *delta_dot, int ld, const real *w,
				   const real *u, const real *h, const real *b,
				   const real *u_dot, int ld_dot, real *b_dot,
				   real *delta_in_dot, real *sum)
{
	Product		p = {
		.inner = inner, .width = width, .a = delta_dot, .lda = ld, .w = w,
		.h = h, .b = b_dot, .c = delta_in_dot, .sum = sum
	};

	if (activation == ACTIVATION_RELU)
	{
		memset(sum, 0, width * sizeof(real));
		product(RELU_BACK, n, &p);
	}
	else
	{
		p.c = b_dot;
		product(STORE, n, &p);
		backward_tangent(activation, n, width, u, h, b, b_dot, u_dot, ld_dot,
						 delta_in_dot);
		sum_rows(n, width, NULL, delta_in_dot, width, sum);
	}
}

INLINE void
last_layer_back_tangent_loop(const Activation activation, int n, int width,
							 const real *r_dot, const real *last,
							 const real *u, const real *h, const real *b,
							 const real *u_dot, int ld_dot, real *b_dot,
							 real *delta_dot, real *sum)
{
	for (int j = 0; j < width; j += LANES)
	{
		vector		last_j = load(last + j);
		vector		total_j = splat(0);

		for (int i = 0; i < n; i++)
		{
			size_t		at = (size_t) i * width + j;
			vector		b_dot_i = r_dot[i] * last_j;
			vector		h_i = load(h + at);
			vector		u_i = load(u + at);

			if (b_dot)
				store(b_dot + at, b_dot_i);
			b_dot_i *= slope_of(activation, u_i, h_i);
			if (activation != ACTIVATION_RELU)
				b_dot_i =
					multiply_add(load(b + at) *
								 curvature_of(activation, u_i, h_i),
								 load(u_dot + (size_t) i * ld_dot + j),
								 b_dot_i);
			if (delta_dot)
				store(delta_dot + at, b_dot_i);
			total_j += b_dot_i;
		}
		store(sum + j, total_j);
	}
}

static void
last_layer_back_tangent(Activation activation, int n, int width,
						const real *r_dot, const real *last, const real *u,
						const real *h, const real *b, const real *u_dot,
						int ld_dot, real *b_dot, real *delta_dot, real *sum)
{
	BY_ACTIVATION(last_layer_back_tangent_loop, n, width, r_dot, last,
				  u ? u : h, h, b, u_dot, ld_dot, b_dot, delta_dot, sum);
}

static void
add_pairs(int terms, real scale, int q_width, const real *q, int ldq,
		  const real *h, const real *one, int width, const real *p, int ldp,
		  real *y)
{
	/* a few at a time, so that the dot products overlap */
	for (int t = 0; t < terms;)
	{
		real		along[4];
		int			some = terms - t < 4 ? terms - t : 4;

		for (int s = 0; s < some; s++)
			along[s] = scale * (dot(q_width, q + (size_t) (t + s) * ldq, h) +
								(one ? one[t + s] : 0));
		for (int j = 0; j < width; j += LANES)
		{
			vector		y_j = load(y + j);

			for (int s = 0; s < some; s++)
				y_j = multiply_add(splat(along[s]),
								   load(p + (size_t) (t + s) * ldp + j), y_j);
			store(y + j, y_j);
		}
		t += some;
	}
}

/*
 * Losses
 */

INLINE vector
without_denormals(vector x)
{
	vector		size = (vector) ((ivector) x & ~(ivector) splat(-0.0));

	return where(size < splat(SMALLEST_SLOPE), splat(0), x);
}

/*
 * 1 / (1 + exp(-s)) and its complement, with e = exp(-|s|): neither is a
 * difference, so both keep their precision however small.
 */
INLINE void
sigmoids(vector s, vector e, vector *p, vector *complement)
{
	vector		large = 1 / (1 + e);
	vector		little = e * large;

	*p = where(s < splat(0), little, large);
	*complement = where(s < splat(0), large, little);
}

INLINE vector
sigmoid_of(vector s)
{
	vector		p,
				complement;

	sigmoids(s, exp_of_minus(s), &p, &complement);
	return p;
}

static void
sigmoid(int n, const real *s, real *p)
{
	/* a single one need not go through memory, and mostly is one */
	if (n == 1)
	{
		p[0] = sigmoid_of(splat(s[0]))[0];
		return;
	}
	for (int i = 0; i < n; i += LANES)
		store_some(n - i, p + i, sigmoid_of(load_some(n - i, s + i)));
}

static real
losses(Loss loss, int n, real scale, const real *s, const real *label,
	   const real *weight, real *r, real *c)
{
	vector		sum = splat(0);

	for (int i = 0; i < n; i += LANES)
	{
		vector		s_i = load_some(n - i, s + i);
		vector		y = load_some(n - i, label + i);
		vector		w = weight ? load_some(n - i, weight + i) :
			(vector) (in_range(n - i) & (ivector) splat(1));
		vector		value,
					slope,
					curvature;

		if (loss == LOSS_SQUARED)
		{
			slope = s_i - y;
			value = slope * slope / 2;
			curvature = splat(1);
		}
		else
		{
			vector		e = exp_of_minus(s_i);
			vector		p,
						complement;

			sigmoids(s_i, e, &p, &complement);

			/* softplus(s) = max(s, 0) + log(1 + exp(-|s|)) */
			value = multiply_add(-y, s_i, relu_of(s_i)) + log1p_of(e);
			slope = where(y == splat(1), -complement, p - y);
			curvature = without_denormals(p * complement);
		}
		sum = multiply_add(w, value, sum);
		store_some(n - i, r + i, scale * w * without_denormals(slope));
		if (c)
			store_some(n - i, c + i, scale * w * curvature);
	}
	return total(sum);
}

#define KERNELS_OF(name) KERNELS_OF_(name)
#define KERNELS_OF_(name) kernels_##name
#define TEXT_OF(name) TEXT_OF_(name)
#define TEXT_OF_(name) #name

extern const Kernels KERNELS_OF(KERNEL_NAME);

const Kernels KERNELS_OF(KERNEL_NAME) = {
	.name = TEXT_OF(KERNEL_NAME),
	.multiply = multiply,
	.layer = layer,
	.layer_back = layer_back,
	.layer_back_sum = layer_back_sum,
	.add_masked_products = add_masked_products,
	.masked_layer = masked_layer,
	.mix_rows = mix_rows,
	.first_layer = first_layer,
	.first_layers = first_layers,
	.shift_rows = SHIFT_ROWS,
	.shift_weights = SHIFT_VECTORS * LANES,
	.shift_layers = shift_layers,
	.whole_first_layer = whole_first_layer,
	.last_layer = last_layer,
	.add_dots = add_dots,
	.last_layer_back = last_layer_back,
	.layer_tangent = layer_tangent,
	.layer_back_tangent = layer_back_tangent,
	.last_layer_back_tangent = last_layer_back_tangent,
	.losses = losses,
	.sigmoid = sigmoid,
	.add_pairs = add_pairs,
	.dot = dot,
	.add_scaled = add_scaled,
	.add_scaled_rows = add_scaled_rows,
	.sum_rows = sum_rows,
	.activate = activate,
	.backward = backward,
	.tangent = tangent,
	.backward_tangent = backward_tangent,
};
