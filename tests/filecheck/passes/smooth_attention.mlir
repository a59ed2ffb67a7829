// RUN: not qcc-opt %s -p 'smooth-attention' --weights %weights | filecheck %s
// RUN: qcc-opt %s -p 'smooth-attention{illegal="keep"}' --weights %weights | filecheck %s --check-prefix KEPT

// Keys that come from the caller take no scale.
// CHECK: smoothing the keys of attention is not legal at 1 place
// CHECK: input 'k' of the program comes in the order and scale the caller gives it
// KEPT: qcc.attention %q, %k, %v {not_folded = "qcc.program is in the way of the diagonal
qcc.program @given("q" %q: !qcc.tensor<[1, 2, s0, 4], f32>, "k" %k: !qcc.tensor<[1, 2, s0, 4], f32>, "v" %v: !qcc.tensor<[1, 2, s0, 4], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 6]>] {
  %w = qcc.weight "unused" : !qcc.tensor<[1], f32>
  %y = qcc.attention %q, %k, %v {scale = 0.5 : f64, causal = false} : (!qcc.tensor<[1, 2, s0, 4], f32>, !qcc.tensor<[1, 2, s0, 4], f32>, !qcc.tensor<[1, 2, s0, 4], f32>) -> !qcc.tensor<[1, 2, s0, 4], f32>
  qcc.return %y : !qcc.tensor<[1, 2, s0, 4], f32>
}
