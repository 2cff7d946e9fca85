// Rows of a table that is held in panels, as the product with it wants it.
#include "args.h"
#include "panels.h"
#include "rows.h"

namespace pieria {
namespace {

struct Embedding {
    int64_t dtype;
    const int64_t* tokens;
    const void* panels;
    void* out;
    int64_t count, rows, columns, first;
    double scale;  // 0: as they are
};

template <class T>
void embedding_of(const Embedding& a) {
    using M = Mode<T>;
    const float scale = widen(narrow<T>(static_cast<float>(a.scale)));
    parallel_rows(a.count, 8 * a.columns, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
            T* out = static_cast<T*>(a.out) + t * a.columns;
            const int64_t row = a.tokens[t] - a.first;
            if (row < 0 || row >= a.rows) {
                std::memset(out, 0, static_cast<size_t>(a.columns) * sizeof(T));
                continue;
            }
            const auto* from = static_cast<const typename M::B*>(a.panels) +
                               row / PANEL * panel_size<M>(a.columns) + row % PANEL;
            const int64_t whole = a.columns / M::DEPTH;
            for (int64_t k = 0; k < whole; ++k)
                std::memcpy(out + k * M::DEPTH, from + k * PANEL, sizeof *from);
            if (whole * M::DEPTH < a.columns)
                std::memcpy(out + whole * M::DEPTH, from + whole * PANEL, sizeof(T));
            if (a.scale != 0)
                for (int64_t i = 0; i < a.columns; ++i) out[i] = narrow<T>(widen(out[i]) * scale);
        }
    });
}

}  // namespace

PIERIA_KERNEL(embedding, Embedding) {
    with_type(a.dtype, [&]<class T>(T) { embedding_of<T>(a); });
}

}  // namespace pieria
