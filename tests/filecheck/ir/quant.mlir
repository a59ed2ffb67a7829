// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>, "i" %i: !qcc.tensor<[b, s, 4], i32>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
  %0 = qcc.quantize %x : !qcc.tensor<[b, s, 4], f32> -> !qcc.tensor<[b, s, 4], "int8n | (1,-1) f32 | dynamic">
  %1 = qcc.weight "w:u4" : !qcc.tensor<[3, 4], "uint4 | (1,2) f16 | pre u4">
  %2 = qcc.weight "b" : !qcc.tensor<[3], f32>
  %3 = qcc.contract %0, %1 bias %2 {plan = #qcc<plan group_after>, exactness = #qcc<exactness E0>} : (!qcc.tensor<[b, s, 4], "int8n | (1,-1) f32 | dynamic">, !qcc.tensor<[3, 4], "uint4 | (1,2) f16 | pre u4">, !qcc.tensor<[3], f32>) -> !qcc.tensor<[b, s, 3], f32>
  %4 = qcc.contract %x, %1 {plan = #qcc<plan dequant_first>, exactness = #qcc<exactness E1>} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[3, 4], "uint4 | (1,2) f16 | pre u4">) -> !qcc.tensor<[b, s, 3], f32>
  %5 = qcc.dequantize %0 : (!qcc.tensor<[b, s, 4], "int8n | (1,-1) f32 | dynamic">) -> !qcc.tensor<[b, s, 4], f32>
  %6, %7 = qcc.qparams %x {format = #qcc.qtype<"uint8 | tensor f32 | pre u8">} : (!qcc.tensor<[b, s, 4], f32>) -> (!qcc.tensor<[1, 1, 1], f32>, !qcc.tensor<[1, 1, 1], i32>)
  %8 = qcc.quantize %x parameters %6, %7 : !qcc.tensor<[1, 1, 1], f32>, !qcc.tensor<[1, 1, 1], i32> : !qcc.tensor<[b, s, 4], f32> -> !qcc.tensor<[b, s, 4], "uint8 | tensor f32 | pre u8">
  %9 = qcc.weight "m" : !qcc.tensor<[4], i32>
  %10 = qcc.requant %i, %9, %9 : (!qcc.tensor<[b, s, 4], i32>, !qcc.tensor<[4], i32>, !qcc.tensor<[4], i32>) -> !qcc.tensor<[b, s, 4], i8>
  %11 = qcc.weight "f" : !qcc.tensor<[8, 16], "fp2_1 | (1,16) e4m3, tensor f32">
  qcc.return %3 : !qcc.tensor<[b, s, 3], f32>
}

// CHECK: qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>, "i" %i: !qcc.tensor<[b, s, 4], i32>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
// CHECK: %0 = qcc.quantize %x : !qcc.tensor<[b, s, 4], f32> -> !qcc.tensor<[b, s, 4], "int8n | (1,-1) f32 | dynamic">
// CHECK: %1 = qcc.weight "w:u4" : !qcc.tensor<[3, 4], "uint4 | (1,2) f16 | pre u4">
// CHECK: %2 = qcc.weight "b" : !qcc.tensor<[3], f32>
// CHECK: %3 = qcc.contract %0, %1 bias %2 {plan = #qcc<plan group_after>, exactness = #qcc<exactness E0>} : (!qcc.tensor<[b, s, 4], "int8n | (1,-1) f32 | dynamic">, !qcc.tensor<[3, 4], "uint4 | (1,2) f16 | pre u4">, !qcc.tensor<[3], f32>) -> !qcc.tensor<[b, s, 3], f32>
// CHECK: %4 = qcc.contract %x, %1 {plan = #qcc<plan dequant_first>, exactness = #qcc<exactness E1>} : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[3, 4], "uint4 | (1,2) f16 | pre u4">) -> !qcc.tensor<[b, s, 3], f32>
// CHECK: %5 = qcc.dequantize %0 : (!qcc.tensor<[b, s, 4], "int8n | (1,-1) f32 | dynamic">) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %6, %7 = qcc.qparams %x {format = #qcc.qtype<"uint8 | tensor f32 | pre u8">} : (!qcc.tensor<[b, s, 4], f32>) -> (!qcc.tensor<[1, 1, 1], f32>, !qcc.tensor<[1, 1, 1], i32>)
// CHECK: %8 = qcc.quantize %x parameters %6, %7 : !qcc.tensor<[1, 1, 1], f32>, !qcc.tensor<[1, 1, 1], i32> : !qcc.tensor<[b, s, 4], f32> -> !qcc.tensor<[b, s, 4], "uint8 | tensor f32 | pre u8">
// CHECK: %9 = qcc.weight "m" : !qcc.tensor<[4], i32>
// CHECK: %10 = qcc.requant %i, %9, %9 : (!qcc.tensor<[b, s, 4], i32>, !qcc.tensor<[4], i32>, !qcc.tensor<[4], i32>) -> !qcc.tensor<[b, s, 4], i8>
// CHECK: %11 = qcc.weight "f" : !qcc.tensor<[8, 16], "fp2_1 | (1,16) e4m3, tensor f32">
// CHECK: qcc.return %3 : !qcc.tensor<[b, s, 3], f32>
