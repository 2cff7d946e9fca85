// Root mean square norms, of a tensor or of the sum of two.
#include <cmath>

#include "args.h"
#include "rows.h"

namespace pieria {
namespace {

struct RmsNorm {
    int64_t dtype;
    const void* x;
    const void* y;  // null: nothing is added
    const void* weight;
    void* sum;  // null: not wanted
    void* out;
    int64_t rows, columns;
    int64_t x_stride;  // from row to row; all else is dense
    double eps, offset;
    int64_t eps_outside;
};

// The sum is rounded before it is normed, as others read it so.
template <class T>
void rms_norm_of(const RmsNorm& a) {
    const int64_t columns = a.columns, whole = columns / LANES * LANES, left = columns - whole;
    const auto* weight = static_cast<const T*>(a.weight);
    const float offset = static_cast<float>(a.offset), eps = static_cast<float>(a.eps);
    parallel_rows(a.rows, columns, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            const T* x = static_cast<const T*>(a.x) + row * a.x_stride;
            T* out = static_cast<T*>(a.out) + row * columns;
            if (a.y) {
                const T* y = static_cast<const T*>(a.y) + row * columns;
                T* sum = static_cast<T*>(a.sum) + row * columns;
                for (int64_t i = 0; i < whole; i += LANES)
                    store(sum + i, load(x + i) + load(y + i));
                if (left) store(sum + whole, load(x + whole, left) + load(y + whole, left), left);
                x = sum;
            }
            // Four chains of additions, so that none waits for another.
            f32 squares[4] = {};
            const auto add = [&](int chain, int64_t i) {
                const f32 v = load(x + i);
                squares[chain] += v * v;
            };
            int64_t i = 0;
            for (; i + 4 * LANES <= whole; i += 4 * LANES)
                for (int chain = 0; chain < 4; ++chain) add(chain, i + chain * LANES);
            for (int chain = 0; i < whole; ++chain, i += LANES) add(chain, i);
            if (left) {
                const f32 v = load(x + whole, left);
                squares[0] += v * v;
            }
            const float mean = pieria::sum((squares[0] + squares[1]) + (squares[2] + squares[3])) /
                               static_cast<float>(columns);
            const float scale =
                1.0f / (a.eps_outside ? std::sqrt(mean) + eps : std::sqrt(mean + eps));
            for (int64_t i = 0; i < whole; i += LANES)
                store(out + i, load(x + i) * scale * (load(weight + i) + offset));
            if (left)
                store(out + whole,
                      load(x + whole, left) * scale * (load(weight + whole, left) + offset), left);
        }
    });
}

}  // namespace

PIERIA_KERNEL(rms_norm, RmsNorm) {
    with_type(a.dtype, [&]<class T>(T) { rms_norm_of<T>(a); });
}

}  // namespace pieria
