// Numbers of a byte in vectors: small integers, their products, and FP8.
#pragma once

#include "simd.h"

namespace pieria {

using u8 = uint8_t __attribute__((vector_size(64)));
using i8 = int8_t __attribute__((vector_size(16)));

struct e4m3 {
    uint8_t bits;
};
struct e5m2 {
    uint8_t bits;
};

// FP8 becomes float16 by shifts, which hold denormals; a NaN of e4m3 does not stay one.
template <class V>
inline V load_as(const e5m2* from) {
    f16 halves[sizeof(V) / sizeof(float)];
    for (auto& half : halves) half.bits = static_cast<uint16_t>(from++->bits << 8);
    return load_as<V>(halves);
}
template <class V>
inline V load_as(const e4m3* from) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == sizeof(f32)) {
        const __m256i bits = _mm256_slli_epi16(
            _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))), 7);
        const __m512 values = _mm512_cvtph_ps(
            _mm256_and_si256(bits, _mm256_set1_epi16(static_cast<int16_t>(0xbfff))));
        return reinterpret_cast<f32>(values) * 256.0f;
    }
#endif
    f16 halves[sizeof(V) / sizeof(float)];
    for (auto& half : halves) {
        const uint8_t bits = from++->bits;
        half.bits = static_cast<uint16_t>((bits & 0x80) << 8 | (bits & 0x7f) << 7);
    }
    return load_as<V>(halves) * 256.0f;
}

// The lowest byte of each lane. A conversion that is copied from would be made byte by byte.
inline i8 low_bytes(i32 x) {
#if defined(__AVX512F__)
    return reinterpret_cast<i8>(_mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(x)));
#else
    return __builtin_convertvector(x, i8);
#endif
}

// The nearest integers, ties to the even one; anything where there is none.
inline i32 nearest(f32 x) {
#if defined(__AVX512F__)
    return reinterpret_cast<i32>(_mm512_cvtps_epi32(reinterpret_cast<__m512>(x)));
#elif defined(__AVX2__)
    i32 result;
    for (int i = 0; i < 2; ++i) {
        __m256 half;
        std::memcpy(&half, reinterpret_cast<const char*>(&x) + 32 * i, sizeof half);
        const __m256i whole = _mm256_cvtps_epi32(half);
        std::memcpy(reinterpret_cast<char*>(&result) + 32 * i, &whole, sizeof whole);
    }
    return result;
#else
    i32 result;
    for (int i = 0; i < LANES; ++i) result[i] = static_cast<int32_t>(std::lrintf(x[i]));
    return result;
#endif
}

// sums + a b: of each lane, four unsigned bytes times the four signed ones of b. Exact.
inline i32 dot(i32 sums, u8 a, i32 b) {
#if defined(__AVX512VNNI__)
    return reinterpret_cast<i32>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sums),
                                                     reinterpret_cast<__m512i>(a),
                                                     reinterpret_cast<__m512i>(b)));
#elif defined(__AVX512BW__)
    // Even and odd bytes as numbers of 16 bits: what multiplies bytes would saturate.
    const __m512i x = reinterpret_cast<__m512i>(a), y = reinterpret_cast<__m512i>(b);
    const __m512i even = _mm512_madd_epi16(_mm512_and_si512(x, _mm512_set1_epi16(0xff)),
                                           _mm512_srai_epi16(_mm512_slli_epi16(y, 8), 8));
    const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(x, 8), _mm512_srai_epi16(y, 8));
    return sums + reinterpret_cast<i32>(even) + reinterpret_cast<i32>(odd);
#elif defined(__AVX2__)
    i32 result;
    for (int i = 0; i < 2; ++i) {
        __m256i x, y;
        std::memcpy(&x, reinterpret_cast<const char*>(&a) + 32 * i, sizeof x);
        std::memcpy(&y, reinterpret_cast<const char*>(&b) + 32 * i, sizeof y);
        const __m256i even = _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0xff)),
                                               _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8));
        const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(y, 8));
        const __m256i both = _mm256_add_epi32(even, odd);
        std::memcpy(reinterpret_cast<char*>(&result) + 32 * i, &both, sizeof both);
    }
    return sums + result;
#else
    uint8_t x[64];
    int8_t y[64];
    std::memcpy(x, &a, sizeof x);
    std::memcpy(y, &b, sizeof y);
    for (int i = 0; i < LANES; ++i)
        for (int j = 0; j < 4; ++j) sums[i] += x[4 * i + j] * y[4 * i + j];
    return sums;
#endif
}

// table[index] of each byte; indices are below 16.
inline u8 lookup(const uint8_t* table, u8 index) {
#if defined(__AVX512BW__)
    const __m512i all =
        _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    return reinterpret_cast<u8>(_mm512_shuffle_epi8(all, reinterpret_cast<__m512i>(index)));
#else
    u8 result;
    for (int i = 0; i < 64; ++i) result[i] = table[index[i]];
    return result;
#endif
}

}  // namespace pieria
