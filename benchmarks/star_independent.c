#include <math.h>
#include <string.h>
#define L 16
typedef float many __attribute__((vector_size(4 * L), aligned(4)));
typedef int whole __attribute__((vector_size(4 * L), aligned(4)));
typedef double wide __attribute__((vector_size(8 * L)));
static inline many larger(many a, many b) {
    whole mask = a > b;
    return (many)(((whole)a & mask) | ((whole)b & ~mask));
}
static inline many smaller(many a, many b) { return -larger(-a, -b); }
static inline many exponential(many x) { /* of x <= 0, to two units in the last place; e^-87 below -87 */
    many y = larger(x, (many){} - 87.0f);
    whole n = __builtin_convertvector(y * 1.44269504f - 0.5f, whole);
    many m = __builtin_convertvector(n, many);
    many f = (y - m * 0.693359375f) + m * 2.12194440e-4f;
    many p = f * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    return p * (many)((n + 127) << 23);
}
static inline many error_function(many x) { /* rational, to 2e-7 */
    x = smaller(larger(x, (many){} - 4.0f), (many){} + 4.0f);
    many s = x * x;
    many p = s * -2.72614225801306e-10f + 2.77068142495902e-08f;
    p = p * s - 2.10102402082508e-06f;
    p = p * s - 5.69250639462346e-05f;
    p = p * s - 7.34990630326855e-04f;
    p = p * s - 2.95459980854025e-03f;
    p = p * s - 1.60960333262415e-02f;
    many q = s * -1.45660718464996e-05f - 2.13374055278905e-04f;
    q = q * s - 1.68282697438203e-03f;
    q = q * s - 7.37332916720468e-03f;
    q = q * s - 1.42647390514189e-02f;
    return x * p / q;
}
void divergence(long pairs, long hidden, long classes, long blocks, const float *before, const float *anchor_before,
                const float *weight, const float *anchor_weight, const float *probability, const float *entropy,
                const float *counted, const long *which, const float *fractions, double *costs) {
    for (long pair = 0; pair < pairs; pair++) {
        const float a = fractions[pair];
        const many *own = (const many *)before + which[pair] * hidden * blocks, *base = (const many *)anchor_before;
        const many *p = (const many *)probability, *h = (const many *)entropy, *c = (const many *)counted;
        const float *out = weight + which[pair] * classes * (hidden + 1);
        wide product = (wide){} + 1.0, total = (wide){};
        float mixed[32 * 65];
        for (long i = 0; i < classes * (hidden + 1); i++) mixed[i] = anchor_weight[i] + a * out[i];
        for (long block = 0; block < blocks; block++) {
            many unit[64], logit[32], highest = (many){} - 3e38f, sum = (many){}, mean = -h[block];
            for (long j = 0; j < hidden; j++) {
                many z = base[j * blocks + block] + a * own[j * blocks + block];
                unit[j] = 0.5f * z * (1.0f + error_function(z * 0.70710678f));
            }
            for (long k = 0; k < classes; k++) {
                const float *w = mixed + k * (hidden + 1);
                many z = (many){} + w[hidden];
                for (long j = 0; j < hidden; j++) z += w[j] * unit[j];
                logit[k] = z;
                highest = larger(z, highest);
                mean += p[k * blocks + block] * z;
            }
            for (long k = 0; k < classes; k++) sum += exponential(logit[k] - highest);
            /* The sum of the logarithms is that of the product: 1 <= sum <= classes, in double precision. */
            product *= __builtin_convertvector(1.0f + c[block] * (sum - 1.0f), wide);
            total += __builtin_convertvector(c[block] * (highest - mean), wide);
        }
        double all = 0.0;
        for (int r = 0; r < L; r++) all += total[r] + log(product[r]);
        costs[pair] = all;
    }
}
