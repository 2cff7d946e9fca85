// What Python passes to a kernel: 8 bytes a value, in the order that the kernel's struct states.
#pragma once

#include <utility>

#include "simd.h"

// A kernel's entry. It must leave its arguments as they are: a recorded step passes them again.
#define PIERIA_KERNEL(name, Arguments)                     \
    static void name(const Arguments&);                    \
    extern "C" void pieria_##name(const void* arguments) { \
        name(*static_cast<const Arguments*>(arguments));   \
    }                                                      \
    static void name(const Arguments& a)

namespace pieria {

// body(T{}) for the type that `dtype` stands for.
template <class Body>
inline void with_type(int64_t dtype, Body&& body) {
    switch (dtype) {
        case FLOAT32:
            return body(float{});
        case BFLOAT16:
            return body(bf16{});
        case FLOAT16:
            return body(f16{});
    }
}

}  // namespace pieria
