// The functions between the two products of a feed-forward network.
#pragma once

#include "simd.h"

namespace pieria {

// What Python calls an activation, in arguments of kernels.
enum Activation : int64_t { SILU = 0, GELU = 1, GELU_TANH = 2 };

inline f32 silu(f32 x) { return x / (1.0f + exp(-x)); }

inline f32 tanh(f32 x) {
    // 1 - 2 / (e^2x + 1) loses all digits near 0, where a few terms of the series have them.
    const f32 s = x * x;
    const f32 small =
        x + x * s * (-1.0f / 3 + s * (2.0f / 15 + s * (-17.0f / 315 + s * (62.0f / 2835))));
    const f32 large = 1.0f - 2.0f / (exp(2.0f * x) + 1.0f);
    return s < 0.04f ? small : large;
}

// erf by Abramowitz and Stegun 7.1.26, off by 1.5e-7 at most.
inline f32 erf(f32 x) {
    const f32 a = x < 0.0f ? -x : x;
    const f32 t = 1.0f / (1.0f + 0.3275911f * a);
    const f32 p =
        t * (0.254829592f +
             t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    const f32 y = 1.0f - p * exp(-a * a);
    return x < 0.0f ? -y : y;
}

inline f32 gelu(f32 x) { return 0.5f * x * (1.0f + erf(x * 0.70710678f)); }

inline f32 gelu_tanh(f32 x) {
    return 0.5f * x * (1.0f + tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
}

inline f32 activate(int64_t activation, f32 x) {
    switch (activation) {
        case SILU:
            return silu(x);
        case GELU:
            return gelu(x);
        default:
            return gelu_tanh(x);
    }
}

}  // namespace pieria
