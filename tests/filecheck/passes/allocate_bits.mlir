// RUN: qcc-opt %s -p 'assign-formats{recipe="w4"}' | filecheck %s
// RUN: not qcc-opt %s -p 'allocate-bits' --weights %weights | filecheck %s --check-prefix SAMPLES
// RUN: not qcc-opt %s -p 'allocate-bits{recipe="{\"weights\": {\"format\": \"int8\"}, \"allocate\": {\"candidates\": [{\"format\": \"int4\"}, {\"format\": \"int8\"}], \"budget\": {\"bits_per_weight\": 4}}, \"overrides\": [{\"match\": \"down\", \"weights\": {\"format\": \"int6\"}}]}"}' | filecheck %s --check-prefix BUDGET
// RUN: not qcc-opt %s -p 'allocate-bits{recipe="{\"weights\": {\"format\": \"int8\"}, \"allocate\": {\"candidates\": [{\"format\": \"int4\", \"group\": 128}, {\"format\": \"int8\", \"group\": 5}], \"budget\": {\"bytes\": 4000}}}"}' | filecheck %s --check-prefix UNFIT
// RUN: qcc-opt %s -p 'allocate-bits{recipe="w4"}' | filecheck %s --check-prefix NONE

// What was allocated is followed, whatever the recipe says; the attribute stays for who writes the recipe.
// CHECK: %u = qcc.weight "up.weight" : !qcc.tensor<[128, 64], f32>
// CHECK: qcc.quantize %u : !qcc.tensor<[128, 64], f32> -> !qcc.tensor<[128, 64], "uint3 | (1,16) f16 | pre u3">
// CHECK-NEXT: allocated = "{format: uint3, group: 16}"
// CHECK: qcc.quantize %d : !qcc.tensor<[64, 128], f32> -> !qcc.tensor<[64, 128], "uint4 | (1,32) f16 | pre u4">

// Choosing needs samples, which text alone has not.
// SAMPLES: bit allocation needs calibration, and no samples were given
// SAMPLES: give each layer its format by overrides

// BUDGET: allocate.budget: 4 bits per weight cannot be met, 5.1875 bits per weight is the least possible
// BUDGET-NEXT: down: takes 50176 bits by an override

// UNFIT: no candidate fits 1 layer
// UNFIT-NEXT: up: no candidate's group divides its 64 columns

// NONE: qcc.linear %x, %u {allocated
// NONE: qcc.linear %b, %d : (
qcc.program @mlp("x" %x: !qcc.tensor<[s0, 64], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %u = qcc.weight "up.weight" : !qcc.tensor<[128, 64], f32>
  %d = qcc.weight "down.weight" : !qcc.tensor<[64, 128], f32>
  %a = qcc.linear %x, %u {allocated = "{format: uint3, group: 16}"} : (!qcc.tensor<[s0, 64], f32>, !qcc.tensor<[128, 64], f32>) -> !qcc.tensor<[s0, 128], f32>
  %b = qcc.unary silu %a : (!qcc.tensor<[s0, 128], f32>) -> !qcc.tensor<[s0, 128], f32>
  %y = qcc.linear %b, %d : (!qcc.tensor<[s0, 128], f32>, !qcc.tensor<[64, 128], f32>) -> !qcc.tensor<[s0, 64], f32>
  qcc.return %y : !qcc.tensor<[s0, 64], f32>
}
