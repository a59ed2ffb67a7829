// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>, "i" %i: !qcc.tensor<[2, 3], i64>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
  %0 = qcc.index %x[%i] {axis = 1 : i64} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[2, 3], i64>) -> !qcc.tensor<[b, 2, 3, 4], f32>
  %1 = qcc.weight "g" : !qcc.tensor<[1, 1, 2], i64>
  %2 = qcc.gather %x, %1 {axis = 2 : i64} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[1, 1, 2], i64>) -> !qcc.tensor<[1, 1, 2], f32>
  %3 = qcc.weight "u" : !qcc.tensor<[5, 4], f32>
  %4 = qcc.weight "n" : !qcc.tensor<[2], i64>
  %5 = qcc.weight "v" : !qcc.tensor<[2, 4], f32>
  %6 = qcc.index_update %3[%4], %5 {axis = 0 : i64} : (!qcc.tensor<[5, 4], f32>, !qcc.tensor<[2, 4], f32>, !qcc.tensor<[2], i64>) -> !qcc.tensor<[5, 4], f32>
  %7 = qcc.weight "v" : !qcc.tensor<[2, 4], f32>
  %8 = qcc.slice_update %3, %7 {axis = 0 : i64, start = #qcc.dim<"1">, step = 2 : i64} : (!qcc.tensor<[5, 4], f32>, !qcc.tensor<[2, 4], f32>) -> !qcc.tensor<[5, 4], f32>
  %9 = qcc.reduce mean %x {axes = array<i64: 2>, keep = true} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 1], f32>
  %10 = qcc.reduce argmax %x {axes = array<i64: 1, 2>, keep = false} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b], i64>
  %11 = qcc.cumulative_sum %i {axis = 0 : i64} : (!qcc.tensor<[2, 3], i64>) -> !qcc.tensor<[2, 3], i64>
  qcc.return %x : !qcc.tensor<[b, s, 4], f32>
}

// CHECK: qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>, "i" %i: !qcc.tensor<[2, 3], i64>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
// CHECK: %0 = qcc.index %x[%i] {axis = 1 : i64} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[2, 3], i64>) -> !qcc.tensor<[b, 2, 3, 4], f32>
// CHECK: %1 = qcc.weight "g" : !qcc.tensor<[1, 1, 2], i64>
// CHECK: %2 = qcc.gather %x, %1 {axis = 2 : i64} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[1, 1, 2], i64>) -> !qcc.tensor<[1, 1, 2], f32>
// CHECK: %3 = qcc.weight "u" : !qcc.tensor<[5, 4], f32>
// CHECK: %4 = qcc.weight "n" : !qcc.tensor<[2], i64>
// CHECK: %5 = qcc.weight "v" : !qcc.tensor<[2, 4], f32>
// CHECK: %6 = qcc.index_update %3[%4], %5 {axis = 0 : i64} : (!qcc.tensor<[5, 4], f32>, !qcc.tensor<[2, 4], f32>, !qcc.tensor<[2], i64>) -> !qcc.tensor<[5, 4], f32>
// CHECK: %7 = qcc.weight "v" : !qcc.tensor<[2, 4], f32>
// CHECK: %8 = qcc.slice_update %3, %7 {axis = 0 : i64, start = #qcc.dim<"1">, step = 2 : i64} : (!qcc.tensor<[5, 4], f32>, !qcc.tensor<[2, 4], f32>) -> !qcc.tensor<[5, 4], f32>
// CHECK: %9 = qcc.reduce mean %x {axes = array<i64: 2>, keep = true} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 1], f32>
// CHECK: %10 = qcc.reduce argmax %x {axes = array<i64: 1, 2>, keep = false} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b], i64>
// CHECK: %11 = qcc.cumulative_sum %i {axis = 0 : i64} : (!qcc.tensor<[2, 3], i64>) -> !qcc.tensor<[2, 3], i64>
// CHECK: qcc.return %x : !qcc.tensor<[b, s, 4], f32>
