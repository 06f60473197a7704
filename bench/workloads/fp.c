// Floating point and vectors. Built twice: for SSE2 and, with SKERRY_AVX2, for AVX2 and FMA; the
// compiler vectorizes. libm is left alone but for sqrt (an instruction): its other functions pick a
// variant by CPU, and a different variant may differ in the last bit.
#include <math.h>

#include "bench.h"

// nbody: the outer planets, scalar double.
struct body {
  double x, y, z, vx, vy, vz, mass;
};

static uint64_t nbody_body(void) {
  struct body b[5] = {
      {0, 0, 0, 0, 0, 0, 39.478417604357434},
      {4.841431442464721, -1.1603200440274284, -0.10362204447112311, 0.606326392995832,
       2.81198684491626, -0.02521836165988763, 0.03769367487038949},
      {8.34336671824458, 4.124798564124305, -0.4035234171143214, -1.0107743461787924,
       1.8256623712304119, 0.008415761376584154, 0.011286326131968767},
      {12.894369562139131, -15.111151401698631, -0.22330757889265573, 1.0827910064415354,
       0.8687130181696082, -0.010832637401363636, 0.0017237240570597112},
      {15.379697114850917, -25.919314609987964, 0.17925877295037118, 0.979090732243898,
       0.5946989986476762, -0.034755955504078104, 0.0020336868699246304},
  };
  for (int step = 0; step < 200000; ++step) {
    for (int i = 0; i < 5; ++i)
      for (int j = i + 1; j < 5; ++j) {
        double dx = b[i].x - b[j].x, dy = b[i].y - b[j].y, dz = b[i].z - b[j].z;
        double d2 = dx * dx + dy * dy + dz * dz, pull = 0.001 / (d2 * sqrt(d2));
        b[i].vx -= dx * b[j].mass * pull, b[i].vy -= dy * b[j].mass * pull,
            b[i].vz -= dz * b[j].mass * pull;
        b[j].vx += dx * b[i].mass * pull, b[j].vy += dy * b[i].mass * pull,
            b[j].vz += dz * b[i].mass * pull;
      }
    for (int i = 0; i < 5; ++i)
      b[i].x += 0.001 * b[i].vx, b[i].y += 0.001 * b[i].vy, b[i].z += 0.001 * b[i].vz;
  }
  return mix_bytes(0, b, sizeof b);
}

// dgemm, sgemm: C = A * B, blocked so that it stays in the cache.
enum { gemm_n = 320 };
static double *da, *db, *dc;
static float *sa, *sb, *sc;

static void dgemm_prepare(void) {
  uint64_t seed = 11;
  da = allocate(gemm_n * gemm_n * 8), db = allocate(gemm_n * gemm_n * 8),
  dc = allocate(gemm_n * gemm_n * 8);
  for (int i = 0; i < gemm_n * gemm_n; ++i) {
    da[i] = (double)(int64_t)random_next(&seed) * 0x1p-63;
    db[i] = (double)(int64_t)random_next(&seed) * 0x1p-63;
  }
}

static void sgemm_prepare(void) {
  uint64_t seed = 12;
  sa = allocate(gemm_n * gemm_n * 4), sb = allocate(gemm_n * gemm_n * 4),
  sc = allocate(gemm_n * gemm_n * 4);
  for (int i = 0; i < gemm_n * gemm_n; ++i) {
    sa[i] = (float)(int32_t)random_next(&seed) * 0x1p-31f;
    sb[i] = (float)(int32_t)random_next(&seed) * 0x1p-31f;
  }
}

#define GEMM(name, type)                                                               \
  static void name(const type* restrict a, const type* restrict b, type* restrict c) { \
    memset(c, 0, gemm_n* gemm_n * sizeof(type));                                       \
    for (int i = 0; i < gemm_n; i += 4)                                                \
      for (int k = 0; k < gemm_n; ++k) {                                               \
        type a0 = a[i * gemm_n + k], a1 = a[(i + 1) * gemm_n + k];                     \
        type a2 = a[(i + 2) * gemm_n + k], a3 = a[(i + 3) * gemm_n + k];               \
        for (int j = 0; j < gemm_n; ++j) {                                             \
          type x = b[k * gemm_n + j];                                                  \
          c[i * gemm_n + j] += a0 * x;                                                 \
          c[(i + 1) * gemm_n + j] += a1 * x;                                           \
          c[(i + 2) * gemm_n + j] += a2 * x;                                           \
          c[(i + 3) * gemm_n + j] += a3 * x;                                           \
        }                                                                              \
      }                                                                                \
  }
GEMM(dgemm, double)
GEMM(sgemm, float)

static uint64_t dgemm_body(void) {
  for (int i = 0; i < 3; ++i) dgemm(da, db, dc);
  return mix_bytes(0, dc, gemm_n * gemm_n * 8);
}
static uint64_t sgemm_body(void) {
  for (int i = 0; i < 4; ++i) sgemm(sa, sb, sc);
  return mix_bytes(0, sc, gemm_n * gemm_n * 4);
}

// fft: radix 2, complex double, twiddles by recurrence.
enum { fft_bits = 14, fft_n = 1 << fft_bits };
static double fft_re[fft_n], fft_im[fft_n], fft_wr[fft_n], fft_wi[fft_n];

static void fft_prepare(void) {
  // cos and sin of 2 pi / n by halving the angle from that of -1.
  double c = -1, s = 0;
  for (int i = 0; i < fft_bits; ++i) {
    double half = sqrt((1 + c) / 2);
    s = i ? s / (2 * half) : 1;
    c = half;
  }
  fft_wr[0] = 1, fft_wi[0] = 0;
  for (int i = 1; i < fft_n; ++i) {
    fft_wr[i] = fft_wr[i - 1] * c - fft_wi[i - 1] * s;
    fft_wi[i] = fft_wr[i - 1] * s + fft_wi[i - 1] * c;
  }
}

static uint64_t fft_body(void) {
  uint64_t sum = 0, seed = 13;
  for (int i = 0; i < fft_n; ++i) fft_re[i] = (double)(random_next(&seed) >> 40), fft_im[i] = 0;
  for (int round = 0; round < 50; ++round) {
    for (unsigned i = 0, j = 0; i < fft_n; ++i) {
      if (i < j) {
        double t = fft_re[i];
        fft_re[i] = fft_re[j], fft_re[j] = t;
        t = fft_im[i];
        fft_im[i] = fft_im[j], fft_im[j] = t;
      }
      unsigned bit = fft_n >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j |= bit;
    }
    for (int length = 2; length <= fft_n; length <<= 1) {
      int half = length / 2, stride = fft_n / length;
      for (int i = 0; i < fft_n; i += length)
        for (int k = 0; k < half; ++k) {
          double wr = fft_wr[k * stride], wi = fft_wi[k * stride];
          double xr = fft_re[i + k + half] * wr - fft_im[i + k + half] * wi;
          double xi = fft_re[i + k + half] * wi + fft_im[i + k + half] * wr;
          fft_re[i + k + half] = fft_re[i + k] - xr, fft_im[i + k + half] = fft_im[i + k] - xi;
          fft_re[i + k] += xr, fft_im[i + k] += xi;
        }
    }
    // Scaled, so that rounds do not overflow.
    for (int i = 0; i < fft_n; ++i) fft_re[i] *= 1.0 / 128, fft_im[i] *= 1.0 / 128;
  }
  sum = mix_bytes(sum, fft_re, sizeof fft_re);
  return mix_bytes(sum, fft_im, sizeof fft_im);
}

// mandelbrot: scalar double with a data-dependent exit.
static uint64_t mandelbrot_body(void) {
  uint64_t sum = 0;
  for (int y = 0; y < 320; ++y)
    for (int x = 0; x < 320; ++x) {
      double cr = x * (3.0 / 320) - 2.25, ci = y * (2.5 / 320) - 1.25, zr = 0, zi = 0;
      int n = 0;
      while (n < 200 && zr * zr + zi * zi < 4) {
        double t = zr * zr - zi * zi + cr;
        zi = 2 * zr * zi + ci;
        zr = t, ++n;
      }
      sum += (unsigned)n;
    }
  return sum;
}

// x87: long double.
static uint64_t x87_body(void) {
  long double sum = 0, x = 0.5L, term = 1;
  for (int i = 1; i <= 2000000; ++i) {
    x = 3.7L * x * (1 - x);
    term = -term;
    sum += term / (2 * i - 1) + x / 1024;
  }
  return (uint64_t)(int64_t)(sum * 0x1p40L);
}

// triangle: float geometry, divides and square roots over arrays of structures.
struct point {
  float x, y, z;
};
static uint64_t triangle_body(void) {
  static struct point p[4096];
  uint64_t seed = 14;
  for (int i = 0; i < 4096; ++i) {
    p[i].x = (float)(random_next(&seed) >> 44) * 0x1p-20f;
    p[i].y = (float)(random_next(&seed) >> 44) * 0x1p-20f;
    p[i].z = (float)(random_next(&seed) >> 44) * 0x1p-20f;
  }
  double area = 0;
  for (int round = 1; round <= 1500; ++round)
    for (int i = 0; i < 4096; ++i) {
      struct point a = p[i], b = p[(i + round) & 4095], c = p[(i + 2 * round) & 4095];
      float ux = b.x - a.x, uy = b.y - a.y, uz = b.z - a.z, vx = c.x - a.x, vy = c.y - a.y,
            vz = c.z - a.z;
      float nx = uy * vz - uz * vy, ny = uz * vx - ux * vz, nz = ux * vy - uy * vx;
      area += sqrtf(nx * nx + ny * ny + nz * nz) / (1 + a.x);
    }
  return mix_bytes(0, &area, sizeof area);
}

// blur: a 3x3 filter over bytes: integer vectors.
static uint8_t blur_in[512][512], blur_out[512][512];

static void blur_prepare(void) {
  uint64_t seed = 15;
  for (int y = 0; y < 512; ++y)
    for (int x = 0; x < 512; ++x) blur_in[y][x] = (uint8_t)(random_next(&seed) >> 56);
}

static uint64_t blur_body(void) {
  for (int round = 0; round < 240; ++round) {
    const uint8_t(*in)[512] = round & 1 ? blur_out : blur_in;
    uint8_t(*out)[512] = round & 1 ? blur_in : blur_out;
    if (round == 0) blur_prepare();
    for (int y = 1; y < 511; ++y) {
      const uint8_t* restrict up = in[y - 1], * restrict at = in[y], * restrict down = in[y + 1];
      uint8_t* restrict to = out[y];
      for (int x = 1; x < 511; ++x)
        to[x] = (uint8_t)((up[x - 1] + 2 * up[x] + up[x + 1] + 2 * at[x - 1] + 4 * at[x] +
                           2 * at[x + 1] + down[x - 1] + 2 * down[x] + down[x + 1] + 8) >>
                          4);
    }
  }
  return mix_bytes(0, blur_out, sizeof blur_out);
}

int main(int argc, char** argv) {
  static const struct workload table[] = {
      {"nbody", NULL, nbody_body},           {"dgemm", dgemm_prepare, dgemm_body},
      {"sgemm", sgemm_prepare, sgemm_body},  {"fft", fft_prepare, fft_body},
      {"mandelbrot", NULL, mandelbrot_body}, {"x87", NULL, x87_body},
      {"triangle", NULL, triangle_body},     {"blur", NULL, blur_body},
  };
#ifdef SKERRY_AVX2
  if (argc == 4 && !(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) {
    puts("SKIP no AVX2 and FMA");
    return 0;
  }
#endif
  return bench_main(argc, argv, table, sizeof table / sizeof *table);
}
