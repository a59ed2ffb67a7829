// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
  %0 = qcc.unary gelu_tanh %x {at = "layer.0 (model.py:12)"} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
  %1 = qcc.binary add %x, %0 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
  %2 = qcc.binary lt %x, %1 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], i1>
  %3 = qcc.constant 5.000000e-01 : f64 : !qcc.tensor<[], f32>
  %4 = qcc.where %2, %x, %3 : (!qcc.tensor<[b, s, 4], i1>, !qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[b, s, 4], f32>
  %5 = qcc.unary not %2 : (!qcc.tensor<[b, s, 4], i1>) -> !qcc.tensor<[b, s, 4], i1>
  %6 = qcc.unary isnan %x : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], i1>
  %7 = qcc.cast %4 : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f16>
  qcc.return %4 : !qcc.tensor<[b, s, 4], f32>
}

// CHECK: qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
// CHECK: %0 = qcc.unary gelu_tanh %x {at = "layer.0 (model.py:12)"} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %1 = qcc.binary add %x, %0 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %2 = qcc.binary lt %x, %1 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], i1>
// CHECK: %3 = qcc.constant 5.000000e-01 : f64 : !qcc.tensor<[], f32>
// CHECK: %4 = qcc.where %2, %x, %3 : (!qcc.tensor<[b, s, 4], i1>, !qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %5 = qcc.unary not %2 : (!qcc.tensor<[b, s, 4], i1>) -> !qcc.tensor<[b, s, 4], i1>
// CHECK: %6 = qcc.unary isnan %x : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], i1>
// CHECK: %7 = qcc.cast %4 : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f16>
// CHECK: qcc.return %4 : !qcc.tensor<[b, s, 4], f32>
