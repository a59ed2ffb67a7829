// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
  %0 = qcc.rotate hadamard %x {axis = 2 : i64, block = 4 : i64, inverse = false} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
  %1 = qcc.rotate block_hadamard %x {axis = 2 : i64, block = 2 : i64, inverse = true} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
  %2 = qcc.weight "r" : !qcc.tensor<[4, 4], f32>
  %3 = qcc.rotate dense %x matrix %2 {axis = 2 : i64, inverse = false} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
  %4 = qcc.weight "o" : !qcc.tensor<[4], i64>
  %5 = qcc.permute %x, %4 {axis = 2 : i64} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[4], i64>) -> !qcc.tensor<[b, s, 4], f32>
  %6 = qcc.weight "f" : !qcc.tensor<[4], f32>
  %7 = qcc.scale_axis %x, %6 {axis = 2 : i64} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[4], f32>) -> !qcc.tensor<[b, s, 4], f32>
  %8 = qcc.expand_k split %x, %4 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[4], i64>) -> !qcc.tensor<[b, s, 4], f32>
  %9 = qcc.expand_k residual %x, %4 {format = #qcc.qtype<"int4 | (1,4) f16">} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[4], i64>) -> !qcc.tensor<[b, s, 8], f32>
  %10 = qcc.weight "w" : !qcc.tensor<[3, 4], "int8n | (1,-1) f16">
  %11 = qcc.slice_bits %10 {bits = 4 : i64} : (!qcc.tensor<[3, 4], "int8n | (1,-1) f16">) -> !qcc.tensor<[3, 4], "int8n | (1,-1) f16">
  %12 = qcc.weight "l" : !qcc.tensor<[3, 4], f32>
  %13 = qcc.linear %x, %12 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[b, s, 3], f32>
  %14 = qcc.weight "d" : !qcc.tensor<[2, 4], f32>
  %15 = qcc.weight "up" : !qcc.tensor<[3, 2], f32>
  %16 = qcc.add_lowrank %13, %x, %14, %15 : (!qcc.tensor<[b, s, 3], f32>, !qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[2, 4], f32>, !qcc.tensor<[3, 2], f32>) -> !qcc.tensor<[b, s, 3], f32>
  %17 = qcc.weight "sv" : !qcc.tensor<[5], f32>
  %18 = qcc.weight "sc" : !qcc.tensor<[5], i32>
  %19 = qcc.weight "so" : !qcc.tensor<[4], i32>
  %20 = qcc.add_sparse %13, %x, %17, %18, %19 : (!qcc.tensor<[b, s, 3], f32>, !qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[5], f32>, !qcc.tensor<[5], i32>, !qcc.tensor<[4], i32>) -> !qcc.tensor<[b, s, 3], f32>
  qcc.return %8 : !qcc.tensor<[b, s, 4], f32>
}

// CHECK: qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
// CHECK: %0 = qcc.rotate hadamard %x {axis = 2 : i64, block = 4 : i64, inverse = false} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %1 = qcc.rotate block_hadamard %x {axis = 2 : i64, block = 2 : i64, inverse = true} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %2 = qcc.weight "r" : !qcc.tensor<[4, 4], f32>
// CHECK: %3 = qcc.rotate dense %x matrix %2 {axis = 2 : i64, inverse = false} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %4 = qcc.weight "o" : !qcc.tensor<[4], i64>
// CHECK: %5 = qcc.permute %x, %4 {axis = 2 : i64} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[4], i64>) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %6 = qcc.weight "f" : !qcc.tensor<[4], f32>
// CHECK: %7 = qcc.scale_axis %x, %6 {axis = 2 : i64} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[4], f32>) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %8 = qcc.expand_k split %x, %4 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[4], i64>) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %9 = qcc.expand_k residual %x, %4 {format = #qcc.qtype<"int4 | (1,4) f16">} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[4], i64>) -> !qcc.tensor<[b, s, 8], f32>
// CHECK: %10 = qcc.weight "w" : !qcc.tensor<[3, 4], "int8n | (1,-1) f16">
// CHECK: %11 = qcc.slice_bits %10 {bits = 4 : i64} : (!qcc.tensor<[3, 4], "int8n | (1,-1) f16">) -> !qcc.tensor<[3, 4], "int8n | (1,-1) f16">
// CHECK: %12 = qcc.weight "l" : !qcc.tensor<[3, 4], f32>
// CHECK: %13 = qcc.linear %x, %12 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[b, s, 3], f32>
// CHECK: %14 = qcc.weight "d" : !qcc.tensor<[2, 4], f32>
// CHECK: %15 = qcc.weight "up" : !qcc.tensor<[3, 2], f32>
// CHECK: %16 = qcc.add_lowrank %13, %x, %14, %15 : (!qcc.tensor<[b, s, 3], f32>, !qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[2, 4], f32>, !qcc.tensor<[3, 2], f32>) -> !qcc.tensor<[b, s, 3], f32>
// CHECK: %17 = qcc.weight "sv" : !qcc.tensor<[5], f32>
// CHECK: %18 = qcc.weight "sc" : !qcc.tensor<[5], i32>
// CHECK: %19 = qcc.weight "so" : !qcc.tensor<[4], i32>
// CHECK: %20 = qcc.add_sparse %13, %x, %17, %18, %19 : (!qcc.tensor<[b, s, 3], f32>, !qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[5], f32>, !qcc.tensor<[5], i32>, !qcc.tensor<[4], i32>) -> !qcc.tensor<[b, s, 3], f32>
// CHECK: qcc.return %8 : !qcc.tensor<[b, s, 4], f32>
