// RUN: not qcc-opt %s -p 'allocate-cache{recipe="{\"kv_cache\": {\"format\": \"uint4\"}, \"allocate\": {\"kv_cache\": {\"bits_per_value\": 3.9}}}"}' | filecheck %s --check-prefix BUDGET
// RUN: not qcc-opt %s -p 'allocate-cache{recipe="{\"kv_cache\": {\"format\": \"uint4\"}, \"allocate\": {\"kv_cache\": {\"bits_per_value\": 8}}}"}' | filecheck %s --check-prefix SAMPLES
// RUN: qcc-opt %s -p 'quantize-cache{recipe="{\"kv_cache\": {\"format\": \"uint4\"}}"}' | filecheck %s
// RUN: qcc-opt %s -p 'allocate-cache{recipe="w4"}' | filecheck %s --check-prefix NONE

// Two bits a code, and a scale and a zero point of 16 bits for the 16 channels of a head: 4 bits a value.
// BUDGET: allocate.kv_cache: 3.9 bits per value cannot be met, 4 is the least possible
// SAMPLES: bit allocation needs calibration, and no samples were given
// The attribute that the pass sets decides over the recipe.
// CHECK:      qcc.cache_round %k {{.+}}"uint2 | (1,-1) f16 | post f16 | dynamic">
// CHECK-NEXT: qcc.attention
// NONE:      qcc.attention %q, %k, %v
// NONE-NOT:  qcc.cache_round
qcc.program @main("q" %q: !qcc.tensor<[1, 4, n, 16], f32>, "k" %k: !qcc.tensor<[1, 2, n, 16], f32>, "v" %v: !qcc.tensor<[1, 2, n, 16], f32>) -> ["y"] symbols [#qcc.symbol<n in [1, 16]>] {
  %y = qcc.attention %q, %k, %v {at = "attn (net.py:3)", allocated_cache = "{\"keys\": {\"format\": \"uint2\"}, \"values\": {\"format\": \"f32\"}}", scale = 0.5 : f64, causal = true} : (!qcc.tensor<[1, 4, n, 16], f32>, !qcc.tensor<[1, 2, n, 16], f32>, !qcc.tensor<[1, 2, n, 16], f32>) -> !qcc.tensor<[1, 4, n, 16], f32>
  qcc.return %y : !qcc.tensor<[1, 4, n, 16], f32>
}
