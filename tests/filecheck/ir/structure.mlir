// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
  %0 = qcc.weight "layer.weight" : !qcc.tensor<[4, 2], bf16>
  %1 = qcc.state "cache" : !qcc.tensor<[1, 4], f32>
  %2 = qcc.constant -1.000000e-12 : f64 : !qcc.tensor<[], f32>
  %3 = qcc.constant 0xfff0000000000000 : f64 : !qcc.tensor<[2], f32>
  %4 = qcc.constant 3 : i64 : !qcc.tensor<[2], u8>
  %5 = qcc.constant 1 : i64 : !qcc.tensor<[], i1>
  %6 = qcc.dim <"b*s + 1"> : !qcc.tensor<[], i64>
  %7 = qcc.iota {start = #qcc.dim<"s">, step = 2 : i64} : !qcc.tensor<["2*s"], i64>
  qcc.update_state "cache", %1 : !qcc.tensor<[1, 4], f32>
  qcc.return %x : !qcc.tensor<[b, s, 4], f32>
}

// CHECK: qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
// CHECK: %0 = qcc.weight "layer.weight" : !qcc.tensor<[4, 2], bf16>
// CHECK: %1 = qcc.state "cache" : !qcc.tensor<[1, 4], f32>
// CHECK: %2 = qcc.constant -1.000000e-12 : f64 : !qcc.tensor<[], f32>
// CHECK: %3 = qcc.constant 0xfff0000000000000 : f64 : !qcc.tensor<[2], f32>
// CHECK: %4 = qcc.constant 3 : i64 : !qcc.tensor<[2], u8>
// CHECK: %5 = qcc.constant 1 : i64 : !qcc.tensor<[], i1>
// CHECK: %6 = qcc.dim <"b*s + 1"> : !qcc.tensor<[], i64>
// CHECK: %7 = qcc.iota {start = #qcc.dim<"s">, step = 2 : i64} : !qcc.tensor<["2*s"], i64>
// CHECK: qcc.update_state "cache", %1 : !qcc.tensor<[1, 4], f32>
// CHECK: qcc.return %x : !qcc.tensor<[b, s, 4], f32>
