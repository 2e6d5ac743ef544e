/* What the compiler is given to do: loops, branches, pointers, floating point, tables, each several times, so that it
 * has enough to do. It needs no headers. */

typedef unsigned long word;

struct node {
	struct node *left, *right;
	word key, value;
};

#define PART(n)                                                                                                        \
	static const word table_##n[8] = {n, n + 3, n ^ 5, n * 7, n + 11, n ^ 13, n * 17, n + 19};                          \
                                                                                                                       \
	static word mix_##n(word a, word b)                                                                                \
	{                                                                                                                  \
		for (int i = 0; i < 8; i++) {                                                                                  \
			a = (a << (n % 31 + 1) | a >> (63 - n % 31)) ^ table_##n[b & 7];                                           \
			b = b * 6364136223846793005UL + a;                                                                         \
			switch (b >> 61) {                                                                                         \
			case 0: a += b; break;                                                                                     \
			case 1: a ^= b >> 7; break;                                                                                \
			case 2: a -= table_##n[a & 7]; break;                                                                      \
			case 5: a *= 3; break;                                                                                     \
			case 6: b += a; /* fall through */                                                                         \
			default: a = ~a;                                                                                           \
			}                                                                                                          \
		}                                                                                                              \
		return a ^ b;                                                                                                  \
	}                                                                                                                  \
                                                                                                                       \
	void multiply_##n(double *restrict c, const double *restrict a, const double *restrict b, int size)                \
	{                                                                                                                  \
		for (int i = 0; i < size; i++)                                                                                 \
			for (int k = 0; k < size; k++) {                                                                           \
				double factor = a[i * size + k] + n;                                                                   \
				for (int j = 0; j < size; j++)                                                                         \
					c[i * size + j] += factor * b[k * size + j];                                                       \
			}                                                                                                          \
	}                                                                                                                  \
                                                                                                                       \
	struct node *insert_##n(struct node *root, struct node *new)                                                       \
	{                                                                                                                  \
		struct node **at = &root;                                                                                      \
		new->key = mix_##n(new->key, new->value);                                                                      \
		while (*at && (*at)->key != new->key)                                                                          \
			at = new->key < (*at)->key ? &(*at)->left : &(*at)->right;                                                 \
		if (*at)                                                                                                       \
			(*at)->value += new->value;                                                                                \
		else                                                                                                           \
			*at = new;                                                                                                 \
		return root;                                                                                                   \
	}                                                                                                                  \
                                                                                                                       \
	long parse_##n(const char *text, long *numbers, long room)                                                         \
	{                                                                                                                  \
		long count = 0;                                                                                                \
		while (*text && count < room) {                                                                                \
			long number = 0, sign = 1;                                                                                 \
			while (*text == ' ' || *text == '\n' || *text == '\t')                                                     \
				text++;                                                                                                \
			if (*text == '-')                                                                                          \
				sign = -1, text++;                                                                                     \
			while (*text >= '0' && *text <= '9')                                                                       \
				number = number * 10 + (*text++ - '0');                                                                \
			if (*text && *text != ' ' && *text != '\n')                                                                \
				return -1 - (long)mix_##n(count, *text) % 7;                                                           \
			numbers[count++] = sign * number;                                                                          \
		}                                                                                                              \
		for (long i = 1; i < count; i++)                                                                               \
			for (long j = i; j > 0 && numbers[j - 1] > numbers[j]; j--) {                                              \
				long swapped = numbers[j];                                                                             \
				numbers[j] = numbers[j - 1];                                                                           \
				numbers[j - 1] = swapped;                                                                              \
			}                                                                                                          \
		return count;                                                                                                  \
	}

PART(1) PART(2) PART(3) PART(4)
