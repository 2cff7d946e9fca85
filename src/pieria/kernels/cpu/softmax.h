// A softmax of which blocks of scores are joined one after the other (Milakov and Gimelshein 2018,
// arXiv:1805.02867). Scores are powers of two.
#pragma once

#include "simd.h"

namespace pieria {

constexpr float LOG2_E = 1.44269504088896341f;
constexpr float INFINITE = std::numeric_limits<float>::infinity();

// a * b + c, rounded once where the processor can, whatever the compiler makes of its neighbours.
inline f32 multiply_add(f32 a, f32 b, f32 c) {
#if defined(__AVX512F__)
    return reinterpret_cast<f32>(_mm512_fmadd_ps(
        reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#else
    return a * b + c;
#endif
}

// 2^x for x <= 0, within 2e-7 of it; exactly 1 at 0, exactly 0 from -127 down.
inline f32 exp2_negative(f32 x) {
    // Lifts whole numbers to the last bits of a float, as the exponent of 2 to their power.
    constexpr float SHIFT = 0x1.8p23f + 127;
    const f32 y = max(splat(-127.0f), x);
    const f32 lifted = y + SHIFT;
    const f32 r = y - (lifted - SHIFT);
    f32 p = splat(0.001326472614891827f);
    p = p * r + 0.009671512991189957f;
    p = p * r + 0.05550733581185341f;
    p = p * r + 0.24022242426872253f;
    p = p * r + 0.6931470036506653f;
    p = p * r + 1.0f;
    return p * reinterpret_cast<f32>(reinterpret_cast<u32>(lifted) << 23);
}

// What rows have so far: their greatest score, in powers of two, and the sum of their weights
// relative to it; a lane each.
struct State {
    f32 most = splat(-INFINITE), sum = {};
};

// The factors of what rows have and of what they get, and the state they have then.
struct Joined {
    Joined(State& state, const State& more) {
        const f32 most = max(state.most, more.most);
        // Where nothing was seen yet, any number will do in place of minus infinity.
        const f32 base = most == -INFINITE ? f32{} : most;
        old_factor = exp2_negative(state.most - base);
        new_factor = exp2_negative(more.most - base);
        state.sum = multiply_add(state.sum, old_factor, more.sum * new_factor);
        state.most = most;
    }

    f32 old_factor, new_factor;
};

}  // namespace pieria
