// Chunks of panels of few bits, brought into bytes and float32 scales.
#pragma once

#include "quantized.h"

namespace pieria {

inline f32 load_int8(const char* from) {
#if defined(__AVX512F__)
    // GCC makes many instructions of the conversion below.
    return reinterpret_cast<f32>(_mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))));
#else
    return __builtin_convertvector(load_vector<i8>(from), f32);
#endif
}

inline f32 load_units(int64_t units, const char* from, int64_t at) {
    switch (units) {
        case F32:
            return load(reinterpret_cast<const float*>(from) + at);
        case F16:
            return load(reinterpret_cast<const f16*>(from) + at);
        case BF16:
            return load(reinterpret_cast<const bf16*>(from) + at);
        default:
            return load_int8(from + at);
    }
}

// A chunk as the inner loop reads it.
struct Chunk {
    const uint8_t* codes;  // [inputs / 4][32][4]
    float scales[CHUNK / 16][PANEL];
    float minima[CHUNK / 16][PANEL];
    alignas(64) uint8_t bytes[CHUNK * PANEL];
    const uint8_t *low, *high;  // what bytes are made of, where codes are of few bits
};

// The bytes of the g-th 32 inputs of a chunk.
template <int BITS>
inline void unpack(const Layout& l, Chunk& chunk, int64_t g) {
    constexpr int LOW = BITS < 4 ? 2 : 4, HIGH = BITS - LOW, STEP = 4 * PANEL;
    const uint8_t* low = chunk.low + g * LOW * STEP;
    const uint8_t* high = chunk.high + g * HIGH * STEP;
    uint8_t* to = chunk.bytes + g * 8 * STEP;
    const u8 zero = l.table[0] - u8{};
    uint8_t table[16];  // of its own, so that it need not be read again behind every store
    std::memcpy(table, l.table, sizeof table);
#pragma GCC unroll 2
    for (int v = 0; v < STEP; v += 64) {
        u8 lows[LOW], highs[HIGH ? HIGH : 1];
#pragma GCC unroll 4
        for (int i = 0; i < LOW; ++i) {
            fetch(low + i * STEP + v);
            lows[i] = load_vector<u8>(low + i * STEP + v);
        }
#pragma GCC unroll 2
        for (int i = 0; i < HIGH; ++i) {
            fetch(high + i * STEP + v);
            highs[i] = load_vector<u8>(high + i * STEP + v);
        }
#pragma GCC unroll 8
        for (int step = 0; step < 8; ++step) {
            constexpr int SHARED = 8 / LOW;  // steps that share bytes
            u8 code = (lows[step / SHARED] >> (step % SHARED * LOW)) & uint8_t{(1 << LOW) - 1};
            if constexpr (HIGH > 0) {
                constexpr int ABOVE = 8 / HIGH;
                const u8 top = highs[step / ABOVE] >> (step % ABOVE * HIGH);
                code |= (top & uint8_t{(1 << HIGH) - 1}) << LOW;
            }
            store_vector(to + step * STEP + v, BITS == 4 ? lookup(table, code) : code + zero);
        }
    }
}

inline void unpack(const Layout& l, Chunk& chunk, int64_t g) {
    switch (l.bits) {
        case 2:
            return unpack<2>(l, chunk, g);
        case 3:
            return unpack<3>(l, chunk, g);
        case 4:
            return unpack<4>(l, chunk, g);
        case 5:
            return unpack<5>(l, chunk, g);
        case 6:
            return unpack<6>(l, chunk, g);
    }
}

// The scales of the chunk of `inputs` that begins at `from`, and where its codes are; gives where
// the next one begins.
inline const char* read_chunk(const Layout& l, const char* from, int64_t inputs, Chunk& out) {
    const int64_t groups = std::max<int64_t>(1, inputs / l.group);
    const int64_t flushed = l.group < ROUNDED ? groups : inputs / ROUNDED;  // scales that are read
    const int64_t size = groups * unit_bytes(l.units) * PANEL;
    const char* minima = from + size;
    const char* steps = minima + (l.minima == SAME ? size : l.minima == ZEROS ? groups * PANEL : 0);
    const char* codes = from + header_bytes(l, inputs);
    for (const char* line = from; line < codes; line += 64) fetch(line);
    for (int v = 0; v < PANEL_VECTORS; ++v) {
        f32 step = splat(1.0f), below = splat(1.0f);
        if (l.units == STEPS) {
            step = load(reinterpret_cast<const f16*>(steps) + v * LANES);
            if (l.minima == SAME)
                below = load(reinterpret_cast<const f16*>(steps) + PANEL + v * LANES);
        }
        const int64_t repeated = flushed / groups;
        for (int64_t group = 0; group < groups; ++group) {
            const int64_t at = group * PANEL + v * LANES;
            const f32 scale = load_units(l.units, from, at) * step;
            f32 low{};
            if (l.minima == SAME)
                low = load_units(l.units, minima, at) * below;
            else if (l.minima == ZEROS)
                low = -load_int8(minima + at) * scale;
            for (int64_t i = group * repeated; i < (group + 1) * repeated; ++i) {
                store(out.scales[i] + v * LANES, scale);
                if (l.minima) store(out.minima[i] + v * LANES, low);
            }
        }
    }
    out.low = reinterpret_cast<const uint8_t*>(codes);
    out.codes = l.bits == 8 ? out.low : out.bytes;
    out.high = out.low + inputs * PANEL * low_bits(l.bits) / 8;
    return codes + inputs * PANEL * l.bits / 8;
}

}  // namespace pieria
