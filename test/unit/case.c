/*
 * case.c
 *	  Reads golden cases, strictly: what is not understood is an error.
 */
#include "case.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* No network of these tests has more rows or steps; a larger one is an error. */
#define MOST_ROWS 1000000
#define MOST_WIDTH 65536

typedef struct Reader
{
	char	   *next;			/* what is yet to be read */
	int			line;
	char	   *error;
	size_t		error_size;
} Reader;

static bool
fail(Reader *reader, const char *format, ...)
{
	va_list		arguments;
	int			at = snprintf(reader->error, reader->error_size, "line %d: ",
							  reader->line);

	va_start(arguments, format);
	vsnprintf(reader->error + at, reader->error_size - at, format, arguments);
	va_end(arguments);
	return false;
}

/* The whole file, ended by a zero; NULL if that fails. */
static char *
read_file(const char *path)
{
	FILE	   *file = fopen(path, "rb");
	size_t		room = 1 << 16;
	size_t		size = 0;
	char	   *text;

	if (!file)
		return NULL;
	text = allocate(room);
	for (size_t got; (got = fread(text + size, 1, room - size - 1, file)) > 0;)
	{
		size += got;
		if (size == room - 1)
		{
			char	   *longer = allocate(room * 2);

			memcpy(longer, text, size);
			free(text);
			text = longer;
			room *= 2;
		}
	}
	text[size] = '\0';
	if (ferror(file) || memchr(text, '\0', size))
	{
		free(text);
		text = NULL;
	}
	fclose(file);
	return text;
}

/* The next line, or NULL at the end. */
static char *
next_line(Reader *reader)
{
	char	   *line = reader->next;
	char	   *end;

	if (*line == '\0')
		return NULL;
	reader->line++;
	end = strchr(line, '\n');
	if (end)
	{
		*end = '\0';
		reader->next = end + 1;
	}
	else
		reader->next = line + strlen(line);
	return line;
}

/* The next word of a line, or NULL. */
static char *
next_word(char **line)
{
	char	   *word = *line + strspn(*line, " \t\r");
	char	   *end = word + strcspn(word, " \t\r");

	if (*word == '\0')
		return NULL;
	*line = *end ? end + 1 : end;
	*end = '\0';
	return word;
}

static bool
parse_int(const char *word, int least, int most, int *value)
{
	char	   *end;
	long		number;

	if (!word || !isdigit((unsigned char) *word))
		return false;
	number = strtol(word, &end, 10);
	if (*end || number < least || number > most)
		return false;
	*value = number;
	return true;
}

static bool
parse_choice(const char *word, const char *const *choices, int *value)
{
	for (int i = 0; word && choices[i]; i++)
		if (strcmp(word, choices[i]) == 0)
		{
			*value = i;
			return true;
		}
	return false;
}

/* Widths as [9, 4, 2]. */
static bool
parse_widths(char **line, int *layers, int *width)
{
	char	   *at = *line + strspn(*line, " ");
	int			count = 0;

	if (*at++ != '[')
		return false;
	for (;;)
	{
		char	   *end;
		long		number;

		at += strspn(at, " ");
		if (!isdigit((unsigned char) *at) || count > NETWORK_MAX_LAYERS)
			return false;
		number = strtol(at, &end, 10);
		if (number > MOST_WIDTH)
			return false;
		width[count++] = number;
		at = end + strspn(end, " ");
		if (*at == ']')
			break;
		if (*at++ != ',')
			return false;
	}
	*line = at + 1;
	*layers = count - 1;
	return *layers >= 1;
}

/* The comment line: each setting once. */
static bool
parse_shape(Reader *reader, char *line, Problem *problem)
{
	static const char *const settings[] = {"activation", "loss", "weighting",
		"adapts", "steps", "factor", "meta", "global", "support", "query",
	NULL};
	static const char *const activations[] = {"tanh", "relu", "gelu", NULL};
	static const char *const losses[] = {"binary", "squared", NULL};
	static const char *const weightings[] = {"mean", "sqrt", "damped",
	"sqrt_damped", NULL};
	static const char *const adapts[] = {"meta_block", "embedding", NULL};
	NetworkShape *shape = &problem->shape;
	char	   *word = next_word(&line);
	unsigned	seen = 0;
	int			embedding_size;

	memset(problem, 0, sizeof(*problem));
	if (!word || strcmp(word, "#") != 0)
		return fail(reader, "no comment with the shape");
	while ((word = next_word(&line)))
	{
		int			setting;
		int			value = 0;
		bool		good = false;

		if (!parse_choice(word, settings, &setting))
			return fail(reader, "unknown setting \"%s\"", word);
		if (seen & 1u << setting)
			return fail(reader, "\"%s\" twice", word);
		seen |= 1u << setting;
		switch (setting)
		{
			case 0:
				good = parse_choice(next_word(&line), activations, &value);
				shape->activation = value;
				break;
			case 1:
				good = parse_choice(next_word(&line), losses, &value);
				shape->loss = value;
				break;
			case 2:
				good = parse_choice(next_word(&line), weightings, &value);
				shape->weighting = value;
				break;
			case 3:
				good = parse_choice(next_word(&line), adapts, &value);
				shape->adapts = value;
				break;
			case 4:
				good = parse_int(next_word(&line), 0, NETWORK_MAX_STEPS,
								 &shape->steps);
				break;
			case 5:
				good = parse_int(next_word(&line), 0, MOST_WIDTH,
								 &shape->factor_size);
				break;
			case 6:
				good = parse_widths(&line, &shape->meta_layers,
									shape->meta_width);
				break;
			case 7:
				good = parse_widths(&line, &shape->global_layers,
									shape->global_width);
				break;
			case 8:
				good = parse_int(next_word(&line), 0, MOST_ROWS,
								 &problem->support[0].n);
				break;
			case 9:
				good = parse_int(next_word(&line), 0, MOST_ROWS,
								 &problem->query[0].n);
				break;
		}
		if (!good)
			return fail(reader, "bad value of \"%s\"", settings[setting]);
	}
	for (int i = 0; settings[i]; i++)
		if (!(seen & 1u << i))
			return fail(reader, "no \"%s\"", settings[i]);

	embedding_size = network_embedding_size(shape);
	if (shape->factor_size > embedding_size ||
		shape->global_width[0] < embedding_size - shape->factor_size ||
		shape->global_width[shape->global_layers] != 1)
		return fail(reader, "no network has this shape");
	problem->tasks = 1;
	return true;
}

/* A line of exactly `count` finite numbers. */
static bool
parse_numbers(Reader *reader, CaseArray *array)
{
	char	   *line = next_line(reader);
	char	   *word;
	size_t		count = 0;

	/* of an empty array, the last line of the file may be missing */
	if (!line && array->count > 0)
		return fail(reader, "no numbers of \"%s\"", array->name);
	while (line && (word = next_word(&line)))
	{
		char	   *end;
		double		number = strtod(word, &end);

		if (*end || !isfinite(number))
			return fail(reader, "bad number \"%.40s\"", word);
		if (count == array->count)
			return fail(reader, "\"%s\" has more than %zu numbers",
						array->name, array->count);
		array->numbers[count++] = number;
	}
	if (count < array->count)
		return fail(reader, "\"%s\" has %zu numbers, not %zu", array->name,
					count, array->count);
	return true;
}

/* An array, whose head is this line. */
static bool
parse_array(Reader *reader, char *line, Case *result)
{
	CaseArray  *longer = allocate((result->arrays + 1) * sizeof(CaseArray));
	CaseArray  *array = &longer[result->arrays];
	char	   *name = next_word(&line);

	if (result->arrays > 0)
		memcpy(longer, result->array, result->arrays * sizeof(CaseArray));
	free(result->array);
	result->array = longer;
	memset(array, 0, sizeof(*array));

	if (!name || strlen(name) >= sizeof(array->name))
		return fail(reader, "bad name of an array");
	if (case_array(result, name))
		return fail(reader, "\"%s\" twice", name);
	snprintf(array->name, sizeof(array->name), "%s", name);
	if (!parse_int(next_word(&line), 1, 2, &array->dimensions))
		return fail(reader, "bad number of dimensions of \"%s\"", name);
	array->size[0] = 1;
	for (int i = 2 - array->dimensions; i < 2; i++)
		if (!parse_int(next_word(&line), 0, MOST_ROWS, &array->size[i]))
			return fail(reader, "bad size of \"%s\"", name);
	if (next_word(&line))
		return fail(reader, "more sizes of \"%s\" than dimensions", name);

	array->count = (size_t) array->size[0] * array->size[1];
	if (array->count > strlen(reader->next))
		return fail(reader, "the file is too short for \"%s\"", name);
	array->numbers = allocate(array->count * sizeof(double));
	result->arrays++;
	return parse_numbers(reader, array);
}

/* Takes an input from the file. */
static bool
take_input(Reader *reader, Case *given, const char *name, int dimensions,
		   int rows, int columns, double *numbers)
{
	CaseArray  *array = case_array(given, name);

	if (!array)
		return fail(reader, "no array \"%s\"", name);
	if (array->dimensions != dimensions || array->size[0] != rows ||
		array->size[1] != columns)
		return fail(reader, "\"%s\" does not fit the shape", name);
	memcpy(numbers, array->numbers, array->count * sizeof(double));
	array->used = true;
	return true;
}

static bool
read_lines(Reader *reader, Case *result)
{
	Problem    *problem = &result->problem;
	char	   *line = next_line(reader);

	if (!line)
		return fail(reader, "the file is empty");
	if (!parse_shape(reader, line, problem))
		return false;
	while ((line = next_line(reader)))
		if (!parse_array(reader, line, result))
			return false;

	problem_layout(problem);
	for (int p = 0; p < problem->parts; p++)
	{
		const Part *part = &problem->part[p];

		if (!take_input(reader, result, part->name, part->dimensions,
						part->rows, part->columns,
						problem->numbers + part->offset))
			return false;
	}
	return take_input(reader, result, "support.y", 1, 1, problem->support[0].n,
					  problem->support[0].label) &&
		take_input(reader, result, "support.w", 1, 1, problem->support[0].n,
				   problem->support[0].weight) &&
		take_input(reader, result, "query.y", 1, 1, problem->query[0].n,
				   problem->query[0].label) &&
		take_input(reader, result, "query.w", 1, 1, problem->query[0].n,
				   problem->query[0].weight);
}

bool
case_read(const char *path, Case *result, char *error, size_t error_size)
{
	char	   *text = read_file(path);
	Reader		reader = {.next = text, .error = error, .error_size = error_size};
	bool		good;

	memset(result, 0, sizeof(*result));
	if (!text)
	{
		snprintf(error, error_size, "cannot be read as text");
		return false;
	}
	good = read_lines(&reader, result);
	free(text);
	if (!good)
		case_free(result);
	return good;
}

void
case_free(Case *given)
{
	problem_free(&given->problem);
	for (int i = 0; i < given->arrays; i++)
		free(given->array[i].numbers);
	free(given->array);
}

CaseArray *
case_array(Case *given, const char *name)
{
	for (int i = 0; i < given->arrays; i++)
		if (strcmp(given->array[i].name, name) == 0)
			return &given->array[i];
	return NULL;
}
