/* What a compiler compiles, a debugger steps through, and a processor computes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile unsigned long total;

static unsigned long mix(unsigned long x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdUL;
    x ^= x >> 29;
    return x;
}

static double series(int n)
{
    double sum = 0;
    for (int i = 1; i <= n; i++)
        sum += (i & 1 ? 1.0 : -1.0) / i;
    return sum;
}

static int compare(const void *a, const void *b)
{
    unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    int n = argc > 1 ? atoi(argv[1]) : 1;
    unsigned long *values = malloc(4096 * sizeof *values);
    for (int i = 0; i < n; i++)
        total += mix(i + n);
    for (int i = 0; i < 4096; i++)
        values[i] = mix(i * n + 1);
    qsort(values, 4096, sizeof *values, compare);
    for (int i = 0; i < 4096; i++)
        total = total * 31 + values[i];
    printf("%lx %.12f\n", total, series(1000 * n));
    free(values);
    return n & 7;
}
