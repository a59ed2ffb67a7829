// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>, "q" %q: !qcc.tensor<[b, 4, s, 8], f32>, "k" %k: !qcc.tensor<[b, 2, s, 8], f32>, "m" %m: !qcc.tensor<[b, 1, 1, s], i1>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
  %0 = qcc.weight "w" : !qcc.tensor<[4], f32>
  %1 = qcc.norm rms_plus1 %x weight %0 : !qcc.tensor<[4], f32> {eps = 1.000000e-06 : f64} : !qcc.tensor<[b, s, 4], f32> -> !qcc.tensor<[b, s, 4], f32>
  %2 = qcc.weight "b" : !qcc.tensor<[4], f32>
  %3 = qcc.norm layer %x weight %0 : !qcc.tensor<[4], f32> bias %2 : !qcc.tensor<[4], f32> {eps = 1.000000e-12 : f64} : !qcc.tensor<[b, s, 4], f32> -> !qcc.tensor<[b, s, 4], f32>
  %4 = qcc.weight "b" : !qcc.tensor<[4], f32>
  %5 = qcc.norm layer %x bias %4 : !qcc.tensor<[4], f32> {eps = 1.000000e-05 : f64} : !qcc.tensor<[b, s, 4], f32> -> !qcc.tensor<[b, s, 4], f32>
  %6 = qcc.norm rms %x {eps = 1.000000e-05 : f64} : !qcc.tensor<[b, s, 4], f32> -> !qcc.tensor<[b, s, 4], f32>
  %7 = qcc.weight "v" : !qcc.tensor<[4], f32>
  %8 = qcc.reshape %x : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<["b*s", 4, 1], f32>
  %9 = qcc.batch_norm %8, %0, %0 {eps = 1.000000e-03 : f64} : !qcc.tensor<["b*s", 4, 1], f32>, !qcc.tensor<[4], f32>, !qcc.tensor<[4], f32> -> !qcc.tensor<["b*s", 4, 1], f32>
  %10 = qcc.batch_norm %8, %0, %0 weight %0 : !qcc.tensor<[4], f32> bias %0 : !qcc.tensor<[4], f32> {eps = 1.000000e-03 : f64} : !qcc.tensor<["b*s", 4, 1], f32>, !qcc.tensor<[4], f32>, !qcc.tensor<[4], f32> -> !qcc.tensor<["b*s", 4, 1], f32>
  %11 = qcc.weight "a" : !qcc.tensor<[1, 8], f32>
  %12 = qcc.rope interleaved %q, %11, %11 : (!qcc.tensor<[b, 4, s, 8], f32>, !qcc.tensor<[1, 8], f32>, !qcc.tensor<[1, 8], f32>) -> !qcc.tensor<[b, 4, s, 8], f32>
  %13 = qcc.attention %q, %k, %k mask %m {scale = 1.000000e-01 : f64, causal = true} : (!qcc.tensor<[b, 4, s, 8], f32>, !qcc.tensor<[b, 2, s, 8], f32>, !qcc.tensor<[b, 2, s, 8], f32>, !qcc.tensor<[b, 1, 1, s], i1>) -> !qcc.tensor<[b, 4, s, 8], f32>
  %14 = qcc.attention %q, %k, %k {scale = 0.35355339059327379 : f64, causal = false} : (!qcc.tensor<[b, 4, s, 8], f32>, !qcc.tensor<[b, 2, s, 8], f32>, !qcc.tensor<[b, 2, s, 8], f32>) -> !qcc.tensor<[b, 4, s, 8], f32>
  qcc.return %1 : !qcc.tensor<[b, s, 4], f32>
}

// CHECK: qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>, "q" %q: !qcc.tensor<[b, 4, s, 8], f32>, "k" %k: !qcc.tensor<[b, 2, s, 8], f32>, "m" %m: !qcc.tensor<[b, 1, 1, s], i1>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
// CHECK: %0 = qcc.weight "w" : !qcc.tensor<[4], f32>
// CHECK: %1 = qcc.norm rms_plus1 %x weight %0 : !qcc.tensor<[4], f32> {eps = 1.000000e-06 : f64} : !qcc.tensor<[b, s, 4], f32> -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %2 = qcc.weight "b" : !qcc.tensor<[4], f32>
// CHECK: %3 = qcc.norm layer %x weight %0 : !qcc.tensor<[4], f32> bias %2 : !qcc.tensor<[4], f32> {eps = 1.000000e-12 : f64} : !qcc.tensor<[b, s, 4], f32> -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %4 = qcc.weight "b" : !qcc.tensor<[4], f32>
// CHECK: %5 = qcc.norm layer %x bias %4 : !qcc.tensor<[4], f32> {eps = 1.000000e-05 : f64} : !qcc.tensor<[b, s, 4], f32> -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %6 = qcc.norm rms %x {eps = 1.000000e-05 : f64} : !qcc.tensor<[b, s, 4], f32> -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %7 = qcc.weight "v" : !qcc.tensor<[4], f32>
// CHECK: %8 = qcc.reshape %x : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<["b*s", 4, 1], f32>
// CHECK: %9 = qcc.batch_norm %8, %0, %0 {eps = 1.000000e-03 : f64} : !qcc.tensor<["b*s", 4, 1], f32>, !qcc.tensor<[4], f32>, !qcc.tensor<[4], f32> -> !qcc.tensor<["b*s", 4, 1], f32>
// CHECK: %10 = qcc.batch_norm %8, %0, %0 weight %0 : !qcc.tensor<[4], f32> bias %0 : !qcc.tensor<[4], f32> {eps = 1.000000e-03 : f64} : !qcc.tensor<["b*s", 4, 1], f32>, !qcc.tensor<[4], f32>, !qcc.tensor<[4], f32> -> !qcc.tensor<["b*s", 4, 1], f32>
// CHECK: %11 = qcc.weight "a" : !qcc.tensor<[1, 8], f32>
// CHECK: %12 = qcc.rope interleaved %q, %11, %11 : (!qcc.tensor<[b, 4, s, 8], f32>, !qcc.tensor<[1, 8], f32>, !qcc.tensor<[1, 8], f32>) -> !qcc.tensor<[b, 4, s, 8], f32>
// CHECK: %13 = qcc.attention %q, %k, %k mask %m {scale = 1.000000e-01 : f64, causal = true} : (!qcc.tensor<[b, 4, s, 8], f32>, !qcc.tensor<[b, 2, s, 8], f32>, !qcc.tensor<[b, 2, s, 8], f32>, !qcc.tensor<[b, 1, 1, s], i1>) -> !qcc.tensor<[b, 4, s, 8], f32>
// CHECK: %14 = qcc.attention %q, %k, %k {scale = 0.35355339059327379 : f64, causal = false} : (!qcc.tensor<[b, 4, s, 8], f32>, !qcc.tensor<[b, 2, s, 8], f32>, !qcc.tensor<[b, 2, s, 8], f32>) -> !qcc.tensor<[b, 4, s, 8], f32>
// CHECK: qcc.return %1 : !qcc.tensor<[b, s, 4], f32>
