// Some numbers as bytes and one scale: to the nearest, ties to the even one.
#pragma once

#include <limits>

#include "bytes.h"
#include "rows.h"

namespace pieria {

// As the Python side names what a cache holds.
enum Stored : int64_t { PLAIN = 0, STORED_INT8 = 1, STORED_E4M3 = 2 };

// The largest of some numbers that is taken for 0 with them: the inverse of a scale must be finite.
constexpr float LEAST = 0x1p-100f;

// The bits of the nearest of E4M3's numbers, of |x| up to 448.
inline i32 e4m3_of(f32 x) {
    const u32 bits = reinterpret_cast<u32>(x);
    const u32 sign = bits >> 24 & 0x80u, magnitude = bits & 0x7fffffffu;
    // Down to 2^-6 the lower 20 bits go; a carry from the mantissa is one of the exponent.
    const u32 normal = ((magnitude + 0x7ffffu + (magnitude >> 20 & 1)) >> 20) - (120u << 3);
    const i32 steps = nearest(reinterpret_cast<f32>(magnitude) * 0x1p9f);
    const u32 small = reinterpret_cast<u32>(steps);
    return reinterpret_cast<i32>((magnitude >= (121u << 23) ? normal : small) | sign);
}

// To the nearest of E4M3's numbers, of which none is larger than 448; ties to the even one.
inline f32 nearest_e4m3(f32 x) {
    const f32 limit = splat(448.0f);
    const f32 y = x > limit ? limit : x < -limit ? -limit : x;
    const i8 bytes = low_bytes(e4m3_of(y));
    e4m3 codes[LANES];
    std::memcpy(codes, &bytes, sizeof codes);
    return load_as<f32>(codes);
}

// Writes `size` codes and gives the scale; that of an infinity or a NaN is NaN.
template <class T>
inline float round_bytes(int64_t stored, const T* x, int64_t size, uint8_t* codes) {
    const float limit = stored == STORED_E4M3 ? 448.0f : 127.0f;
    f32 most{}, bad{};
    vectors(size, [&](int64_t at, int64_t count) {
        const f32 v = load_some(x + at, count);
        bad += v * 0.0f;
        most = max(reinterpret_cast<f32>(reinterpret_cast<u32>(v) & 0x7fffffffu), most);
    });
    const float largest = max(most), inverse = largest > LEAST ? limit / largest : 0.0f;
    vectors(size, [&](int64_t at, int64_t count) {
        f32 v = load_some(x + at, count) * inverse;
        v = v > splat(limit) ? splat(limit) : v < splat(-limit) ? splat(-limit) : v;
        const i32 code = stored == STORED_E4M3 ? e4m3_of(v) : nearest(v);
        const i8 bytes = low_bytes(code);
        std::memcpy(codes + at, &bytes, static_cast<size_t>(count));
    });
    return largest / limit + sum(bad);
}

}  // namespace pieria
