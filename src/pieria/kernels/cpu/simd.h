// Vectors of sixteen lanes, on any instruction set: the compiler makes of them what the target has.
//
// Knows number formats. bf16 and fp16 are computed with in float32.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pieria {

constexpr int LANES = 16;

using f32 = float __attribute__((vector_size(64)));
using i32 = int32_t __attribute__((vector_size(64)));
using u32 = uint32_t __attribute__((vector_size(64)));
using u16 = uint16_t __attribute__((vector_size(32)));

// What a register holds of an f32. Compilers keep what is wider in memory, which sums that are
// added to in every step must not be.
#if defined(__AVX512F__)
constexpr int REGISTER = 16;
#elif defined(__AVX__)
constexpr int REGISTER = 8;
#else
constexpr int REGISTER = 4;
#endif
using lanes = float __attribute__((vector_size(REGISTER * sizeof(float))));
using lane_bits = uint32_t __attribute__((vector_size(REGISTER * sizeof(float))));

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

// What Python calls a dtype, in arguments of kernels.
enum DType : int64_t { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

inline f32 splat(float x) { return x - f32{}; }
inline i32 splat(int32_t x) { return x - i32{}; }

template <class V>
inline V load_vector(const void* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
template <class V>
inline void store_vector(void* to, V v) {
    std::memcpy(to, &v, sizeof v);
}

inline f32 load(const float* from) { return load_vector<f32>(from); }
inline f32 load(const bf16* from) {
    const u16 bits = load_vector<u16>(from);
#if defined(__AVX512F__)
    // GCC makes four instructions of the conversion below.
    const u32 wide = reinterpret_cast<u32>(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(bits)));
#else
    const u32 wide = __builtin_convertvector(bits, u32);
#endif
    return reinterpret_cast<f32>(wide << 16);
}

inline float widen(float x) { return x; }
inline float widen(bf16 x) {
    const uint32_t bits = uint32_t{x.bits} << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
#if defined(__F16C__)
inline float widen(f16 x) { return _cvtsh_ss(x.bits); }
#else
inline float widen(f16 x) {
    // A number of 5 exponent bits becomes one of 8 by a product, which also makes denormals normal.
    uint32_t bits = (x.bits & 0x7fffu) << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;
    if ((x.bits & 0x7c00u) == 0x7c00u)
        value = x.bits & 0x3ffu ? std::numeric_limits<float>::quiet_NaN()
                                : std::numeric_limits<float>::infinity();
    return x.bits & 0x8000u ? -value : value;
}
#endif

inline f32 load(const f16* from) {
#if defined(__AVX512F__)
    return reinterpret_cast<f32>(
        _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
    f32 v;
    const __m128i* halves = reinterpret_cast<const __m128i*>(from);
    for (int i = 0; i < 2; ++i)
        _mm256_storeu_ps(reinterpret_cast<float*>(&v) + 8 * i,
                         _mm256_cvtph_ps(_mm_loadu_si128(halves + i)));
    return v;
#else
    f32 v;
    for (int i = 0; i < LANES; ++i) v[i] = widen(from[i]);
    return v;
#endif
}

template <class T>
inline T narrow(float x);
template <>
inline float narrow<float>(float x) {
    return x;
}
template <>
inline bf16 narrow<bf16>(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)  // a NaN, which rounding could turn into infinity
        return {static_cast<uint16_t>(bits >> 16 | 0x40)};
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <>
inline f16 narrow<f16>(float x) {
#if defined(__F16C__)
    return {static_cast<uint16_t>(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT))};
#else
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const uint16_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00)};
    if (bits >= 0x477ff000)  // rounds to more than the largest
        return {static_cast<uint16_t>(sign | 0x7c00)};
    if (bits < 0x38800000) {  // a denormal: counted in its own unit
        float magnitude;
        std::memcpy(&magnitude, &bits, sizeof magnitude);
        return {static_cast<uint16_t>(sign |
                                      static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f)))};
    }
    bits += 0xfff + (bits >> 13 & 1);
    return {static_cast<uint16_t>(sign | (bits - 0x38000000) >> 13)};
#endif
}

inline void store(float* to, f32 v) { store_vector(to, v); }
inline void store(bf16* to, f32 v) {
#if defined(__AVX512BF16__)
    store_vector(to, _mm512_cvtneps_pbh(reinterpret_cast<__m512>(v)));
#elif defined(__AVX512F__)
    // As below; GCC makes twice as many instructions of that.
    const __m512i bits = reinterpret_cast<__m512i>(v), high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i more = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 is_nan =
        _mm512_cmp_ps_mask(reinterpret_cast<__m512>(v), reinterpret_cast<__m512>(v), _CMP_UNORD_Q);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(
                            _mm512_srli_epi32(more, 16), is_nan, high, _mm512_set1_epi32(0x40))));
#else
    const u32 bits = reinterpret_cast<u32>(v);
    const u32 rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const u32 quiet = bits >> 16 | 0x40;
    const u32 is_nan = reinterpret_cast<u32>((bits & 0x7fffffff) > 0x7f800000);
    store_vector(to, __builtin_convertvector(is_nan ? quiet : rounded, u16));
#endif
}
inline void store(f16* to, f32 v) {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
#else
    for (int i = 0; i < LANES; ++i) to[i] = narrow<f16>(v[i]);
#endif
}

// A vector of any length.
template <class V>
inline V load_as(const float* from) {
    return load_vector<V>(from);
}
template <class V>
inline V load_as(const f16* from) {
    if constexpr (sizeof(V) == sizeof(f32)) {
        return load(from);
#if defined(__F16C__)
    } else if constexpr (sizeof(V) == 32) {
        return reinterpret_cast<V>(
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#endif
    } else {
        V v;
        for (size_t i = 0; i < sizeof(V) / sizeof(float); ++i) v[i] = widen(from[i]);
        return v;
    }
}

// The first `count` lanes, the others 0.
template <class T>
inline f32 load(const T* from, int64_t count) {
    T values[LANES] = {};
    std::memcpy(values, from, static_cast<size_t>(count) * sizeof(T));
    return load(values);
}
template <class T>
inline void store(T* to, f32 v, int64_t count) {
    T values[LANES];
    store(values, v);
    std::memcpy(to, values, static_cast<size_t>(count) * sizeof(T));
}

// The second if one is a NaN.
inline f32 max(f32 a, f32 b) {
#if defined(__AVX512F__)
    return reinterpret_cast<f32>(
        _mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#else
    return a > b ? a : b;
#endif
}

// A bit for each lane of a comparison that holds.
inline uint32_t bits(i32 holds) {
#if defined(__AVX512DQ__)
    return _mm512_movepi32_mask(reinterpret_cast<__m512i>(holds));
#elif defined(__AVX2__)
    __m256 halves[2];
    std::memcpy(halves, &holds, sizeof holds);
    return static_cast<uint32_t>(_mm256_movemask_ps(halves[0]) | _mm256_movemask_ps(halves[1])
                                                                     << 8);
#else
    uint32_t found = 0;
    for (int i = 0; i < LANES; ++i) found |= static_cast<uint32_t>(holds[i] & 1) << i;
    return found;
#endif
}

// Lanes are joined in one order, whatever the instruction set.
inline float sum(f32 v) {
    float x[LANES];
    store_vector(x, v);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) x[i] += x[i + width];
    return x[0];
}
inline float max(f32 v) {
    float x[LANES];
    store_vector(x, v);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) x[i] = x[i] > x[i + width] ? x[i] : x[i + width];
    return x[0];
}

// e^x to 2 units in the last place; exactly 1 at 0, exactly 0 below -87.
// Cody and Waite's reduction, and the polynomial of Cephes' expf.
inline f32 exp(f32 x) {
    const f32 low = splat(-87.0f), high = splat(88.0f);
    const f32 y = x < low ? low : (x > high ? high : x);
    const f32 shift = splat(0x1.8p23f);
    const f32 n = (y * 1.44269504088896341f + shift) - shift;
    const f32 r = (y - n * 0.693359375f) - n * -2.12194440e-4f;
    f32 p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r * r + r) + 1.0f;
    const i32 power = (__builtin_convertvector(n, i32) + 127) << 23;
    const f32 result = p * reinterpret_cast<f32>(power);
    const f32 kept = x < low ? f32{} : result;
    return x != x ? x : (x > high ? splat(std::numeric_limits<float>::infinity()) : kept);
}

}  // namespace pieria
