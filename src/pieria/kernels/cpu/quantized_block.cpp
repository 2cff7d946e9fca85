// The inner loops of products with weights of few bits.
#include "quantized_chunk.h"

namespace pieria {
namespace {

inline f32 to_float(i32 x) { return __builtin_convertvector(x, f32); }

// What a tile of rows has to do with a chunk's codes before it reads them.
enum Codes { READY, FETCH, UNPACK };

// Adds R rows times `count` groups of DEPTH steps of a chunk to c, [R][32].
template <int R, int DEPTH, bool MIN, Codes CODES>
inline void add_groups(const Layout& l, int64_t count, Chunk& chunk, const uint32_t* a,
                       const float* scales, const int32_t* starts, const float* totals, float* c) {
    const uint8_t* w = chunk.codes;
    for (int64_t g = 0; g < count; ++g) {
        if (CODES == UNPACK && (DEPTH == 8 || g % 2 == 0)) unpack(l, chunk, g * DEPTH / 8);
        i32 sums[R][PANEL_VECTORS];
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < PANEL_VECTORS; ++v)
                sums[r][v] = MIN ? i32{} : splat(starts[g * R + r]);
#pragma GCC unroll 8
        for (int k = 0; k < DEPTH; ++k, a += R, w += 4 * PANEL) {
            if (CODES == FETCH) {
                fetch(w);
                fetch(w + 64);
            }
            const u8 w0 = load_vector<u8>(w), w1 = load_vector<u8>(w + 64);
#pragma GCC unroll 14
            for (int r = 0; r < R; ++r) {
                const i32 x = splat(static_cast<int32_t>(a[r]));
                sums[r][0] = dot(sums[r][0], w0, x);
                sums[r][1] = dot(sums[r][1], w1, x);
            }
        }
        const float* row_scales = scales + (DEPTH == 4 ? g / 2 : g) * R;
#pragma GCC unroll 2
        for (int v = 0; v < PANEL_VECTORS; ++v) {
            const f32 scale = load(chunk.scales[g] + v * LANES);
            const f32 low = MIN ? load(chunk.minima[g] + v * LANES) : f32{};
#pragma GCC unroll 14
            for (int r = 0; r < R; ++r) {
                float* to = c + r * PANEL + v * LANES;
                f32 y = load(to) + to_float(sums[r][v]) * (scale * row_scales[r]);
                if (MIN) y += low * totals[g * R + r];
                store(to, y);
            }
        }
    }
}

// c = R rows times a panel whose outputs have one scale each.
template <int R, bool FIRST>
inline void multiply_outputs(const char* panel, int64_t inputs, const IntRows& a, float* c) {
    const uint8_t* w = reinterpret_cast<const uint8_t*>(panel + 4 * PANEL);
    const uint32_t* x = a.codes;
    i32 sums[R][PANEL_VECTORS];
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < PANEL_VECTORS; ++v) sums[r][v] = splat(a.starts[r]);
    for (int64_t k = 0; k < padded(inputs) / 4; ++k, x += R, w += 4 * PANEL) {
        if (FIRST) {
            fetch(w);
            fetch(w + 64);
        }
        const u8 w0 = load_vector<u8>(w), w1 = load_vector<u8>(w + 64);
#pragma GCC unroll 14
        for (int r = 0; r < R; ++r) {
            const i32 four = splat(static_cast<int32_t>(x[r]));
            sums[r][0] = dot(sums[r][0], w0, four);
            sums[r][1] = dot(sums[r][1], w1, four);
        }
    }
    for (int v = 0; v < PANEL_VECTORS; ++v) {
        const f32 scale = load(reinterpret_cast<const float*>(panel) + v * LANES);
        for (int r = 0; r < R; ++r)
            store(c + r * PANEL + v * LANES, to_float(sums[r][v]) * (scale * a.scales[r]));
    }
}

// A step's numbers of FP8, divided by SCALE8; float16 holds them all.
#if defined(__AVX512BW__)
template <class E>
constexpr float SCALE8 = std::is_same_v<E, e4m3> ? 256.0f : 1.0f;

template <class E>
inline void load_step(const E* from, f32 (&w)[PANEL_VECTORS]) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m512i halves = std::is_same_v<E, e4m3>
                               ? _mm512_and_si512(_mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), 7),
                                                  _mm512_set1_epi16(static_cast<int16_t>(0xbfff)))
                               : _mm512_slli_epi16(_mm512_cvtepu8_epi16(codes), 8);
    w[0] = reinterpret_cast<f32>(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)));
    w[1] = reinterpret_cast<f32>(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)));
}
#else
template <class E>
constexpr float SCALE8 = 1.0f;

template <class E>
inline void load_step(const E* from, f32 (&w)[PANEL_VECTORS]) {
    for (int v = 0; v < PANEL_VECTORS; ++v) w[v] = load_as<f32>(from + v * LANES);
}
#endif

// Adds R rows times `count` inputs of FP8 to c; the first tile leaves them in `values` for others.
template <class E, int R, bool FIRST>
inline void add_floats(const char* panel, int64_t count, const float* a, const float* row_scales,
                       float* values, float* c) {
    const auto* codes = reinterpret_cast<const E*>(panel + 4 * PANEL);
    f32 sums[R][PANEL_VECTORS] = {};
    if constexpr (FIRST && std::is_same_v<lanes, f32>) {
        for (int64_t k = 0; k < count; ++k, a += R, codes += PANEL, values += PANEL) {
            if (k % 2 == 0) fetch(codes);
            f32 w[PANEL_VECTORS];
            load_step(codes, w);
#pragma GCC unroll 2
            for (int v = 0; v < PANEL_VECTORS; ++v) {
                store(values + v * LANES, w[v]);
#pragma GCC unroll 14
                for (int r = 0; r < R; ++r) sums[r][v] = a[r] * w[v] + sums[r][v];
            }
        }
    } else {
        if (FIRST)
            for (int64_t k = 0; k < count; ++k) {
                f32 w[PANEL_VECTORS];
                load_step(codes + k * PANEL, w);
                for (int v = 0; v < PANEL_VECTORS; ++v) store(values + k * PANEL + v * LANES, w[v]);
            }
        multiply<Single<float>, R, PANEL_VECTORS>(count, a, R, values, PANEL, sums);
    }
    for (int v = 0; v < PANEL_VECTORS; ++v) {
        const f32 scale = load(reinterpret_cast<const float*>(panel) + v * LANES) * SCALE8<E>;
        for (int r = 0; r < R; ++r) {
            float* to = c + r * PANEL + v * LANES;
            store(to, load(to) + sums[r][v] * (scale * row_scales[r]));
        }
    }
}

template <int R, bool FIRST>
inline void add_chunk(const Layout& l, int64_t begin, int64_t count, Chunk& chunk, const IntRows& a,
                      float* c) {
    const uint32_t* x = a.codes + begin / 4 * R;
    const float* scales = a.scales + begin / ROUNDED * R;
    const int64_t at = begin / ROUNDED * R, at16 = begin / 16 * R;
    const auto add = [&]<int DEPTH, bool MIN, Codes CODES>() {
        add_groups<R, DEPTH, MIN, CODES>(l, count / (4 * DEPTH), chunk, x, scales,
                                         DEPTH == 4 ? a.starts16 + at16 : a.starts + at,
                                         DEPTH == 4 ? a.totals16 + at16 : a.totals + at, c);
    };
    constexpr Codes SMALL = FIRST ? UNPACK : READY;
    if (l.group < ROUNDED) {
        if (l.minima)
            add.template operator()<4, true, SMALL>();
        else
            add.template operator()<4, false, SMALL>();
    } else if (l.minima) {
        add.template operator()<8, true, SMALL>();
    } else if (FIRST && l.bits == 8) {
        add.template operator()<8, false, FETCH>();
    } else {
        add.template operator()<8, false, SMALL>();
    }
}

// c [rows of the block][32] = the block's rows times a panel of FP8. tiles(body): body of each.
template <class E, class Tiles>
inline void multiply_floats(const char* panel, int64_t inputs, Tiles&& tiles) {
    alignas(64) float values[BLOCK8 * PANEL];
    for (int64_t k = 0, g = 0; k < inputs; k += BLOCK8, ++g) {
        const int64_t count = std::min(BLOCK8, inputs - k);
        tiles([&]<int R, bool FIRST>(char* base, float* to) {
            const FloatRows a(base, R, inputs);
            add_floats<E, R, FIRST>(panel, count, a.values + k * R, a.scales + g * R, values, to);
        });
        panel += (4 + count) * PANEL;
    }
}

}  // namespace

void multiply_block(const Layout& l, const char* panel, int64_t inputs, char* rows,
                    const Division& division, int64_t block, float* c) {
    const int64_t begin = division.first(block, 0), each = row_bytes(l.numbers, inputs);
    const auto tiles = [&](auto&& body) {
        for (int64_t tile = 0; tile < division.tiles; ++tile) {
            const int64_t first = division.first(block, tile);
            char* base = rows + first * each;
            float* to = c + (first - begin) * PANEL;
            with_rows(division.first(block, tile + 1) - first, [&]<int R>() {
                if (tile == 0)
                    body.template operator()<R, true>(base, to);
                else
                    body.template operator()<R, false>(base, to);
            });
        }
    };
    if (l.numbers == OUTPUTS) {
        tiles([&]<int R, bool FIRST>(char* base, float* to) {
            multiply_outputs<R, FIRST>(panel, inputs, IntRows(base, R, inputs, false), to);
        });
        return;
    }
    const int64_t count = division.first(block + 1, 0) - begin;
    std::memset(c, 0, sizeof(float) * static_cast<size_t>(count) * PANEL);
    if (l.numbers == E4M3) return multiply_floats<e4m3>(panel, inputs, tiles);
    if (l.numbers == E5M2) return multiply_floats<e5m2>(panel, inputs, tiles);
    Chunk chunk;
    for (int64_t k = 0; k < padded(inputs); k += CHUNK) {
        const int64_t length = std::min(CHUNK, padded(inputs) - k);
        panel = read_chunk(l, panel, length, chunk);
        tiles([&]<int R, bool FIRST>(char* base, float* to) {
            add_chunk<R, FIRST>(l, k, length, chunk, IntRows(base, R, inputs, true), to);
        });
    }
}

}  // namespace pieria
