// What Python passes to products with weights, whatever these are held in.
#pragma once

#include "args.h"

namespace pieria {

struct Layout;  // quantized.h

struct Matrix {
    const char* panels;
    const Layout* layout;  // null: numbers as they are
    const void* bias;      // null: none
    void* out;
    int64_t out_stride;
    int64_t outputs;
};

// All matrices take rows of x in one way.
struct Linear {
    int64_t dtype;
    const void* x;
    int64_t stride, rows, inputs;
    int64_t count;
    Matrix matrices[];
};

struct Gated {
    int64_t dtype;
    const void* x;
    int64_t stride, rows, inputs;
    int64_t activation;
    Matrix gate, up;  // what comes out is where `gate` says
};

// One matrix for each expert.
struct Stack {
    const char* panels;
    const Layout* layouts;  // of each, all of the same numbers; null: numbers as they are
    const void* bias;       // null: none
};

}  // namespace pieria
