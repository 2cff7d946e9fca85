// How much the gated delta rule keeps and how much it corrects at each token.
#include <cmath>

#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct DeltaGates {
    int64_t dtype;
    const void* forget;  // [tokens][heads]
    const void* learn;
    const float* log;  // [heads]
    const float* bias;
    int64_t tokens, heads;
    float *decay, *beta;
};

// Where e^x is so much more than 1, ln(1 + e^x) is x.
constexpr float LINEAR = 20.0f;

inline float softplus(float x) { return x > LINEAR ? x : std::log1p(std::exp(x)); }

}  // namespace

PIERIA_KERNEL(delta_gates, DeltaGates) {
    with_type(a.dtype, [&]<class T>(T) {
        // A logarithm takes as long as some ten vectors.
        parallel_rows(a.tokens, 16 * a.heads, [&](int64_t first, int64_t last) {
            for (int64_t i = first * a.heads; i < last * a.heads; ++i) {
                const int64_t head = i % a.heads;
                const float forget = widen(static_cast<const T*>(a.forget)[i]);
                const float learn = widen(static_cast<const T*>(a.learn)[i]);
                a.decay[i] = -std::exp(a.log[head]) * softplus(forget + a.bias[head]);
                a.beta[i] = 1.0f / (1.0f + std::exp(-learn));
            }
        });
    });
}

}  // namespace pieria
