// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
  %0 = qcc.reshape %x : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<["b*s", 4], f32>
  %1 = qcc.transpose %0 {permutation = array<i64: 1, 0>} : (!qcc.tensor<["b*s", 4], f32>) -> !qcc.tensor<[4, "b*s"], f32>
  %2 = qcc.expand %0 : (!qcc.tensor<["b*s", 4], f32>) -> !qcc.tensor<[2, "b*s", 4], f32>
  %3 = qcc.slice %x {axis = 1 : i64, start = #qcc.dim<"0">, step = 1 : i64} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
  %4 = qcc.slice %0 {axis = 1 : i64, start = #qcc.dim<"1">, step = 2 : i64} : (!qcc.tensor<["b*s", 4], f32>) -> !qcc.tensor<["b*s", 2], f32>
  %5 = qcc.concat %x, %x {axis = 1 : i64} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, "2*s", 4], f32>
  %6 = qcc.pad %0 {low = array<i64: 0, 1>, high = array<i64: 0, 2>, value = -1.500000e+00 : f64} : (!qcc.tensor<["b*s", 4], f32>) -> !qcc.tensor<["b*s", 7], f32>
  qcc.return %0 : !qcc.tensor<["b*s", 4], f32>
}

// CHECK: qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
// CHECK: %0 = qcc.reshape %x : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<["b*s", 4], f32>
// CHECK: %1 = qcc.transpose %0 {permutation = array<i64: 1, 0>} : (!qcc.tensor<["b*s", 4], f32>) -> !qcc.tensor<[4, "b*s"], f32>
// CHECK: %2 = qcc.expand %0 : (!qcc.tensor<["b*s", 4], f32>) -> !qcc.tensor<[2, "b*s", 4], f32>
// CHECK: %3 = qcc.slice %x {axis = 1 : i64, start = #qcc.dim<"0">, step = 1 : i64} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %4 = qcc.slice %0 {axis = 1 : i64, start = #qcc.dim<"1">, step = 2 : i64} : (!qcc.tensor<["b*s", 4], f32>) -> !qcc.tensor<["b*s", 2], f32>
// CHECK: %5 = qcc.concat %x, %x {axis = 1 : i64} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, "2*s", 4], f32>
// CHECK: %6 = qcc.pad %0 {low = array<i64: 0, 1>, high = array<i64: 0, 2>, value = -1.500000e+00 : f64} : (!qcc.tensor<["b*s", 4], f32>) -> !qcc.tensor<["b*s", 7], f32>
// CHECK: qcc.return %0 : !qcc.tensor<["b*s", 4], f32>
