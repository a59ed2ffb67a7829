// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @main("x" %x: !qcc.tensor<[m, 64], f32>, "rows" %rows: !qcc.tensor<[1, 2, 3, 64], f32>, "at" %at: !qcc.tensor<[3], i64>) -> ["y"] symbols [#qcc.symbol<m in [1, inf]>] {
  %0 = qcc.weight "spqr" : !qcc.tensor<[40, 64], "uint3 | (1,16) u3 offset(parent), (16,16) f16 | pre (1,16) u3 offset(parent), (16,16) f16">
  %1 = qcc.contract %x, %0 {exactness = #qcc<exactness E1>} : (!qcc.tensor<[m, 64], f32>, !qcc.tensor<[40, 64], "uint3 | (1,16) u3 offset(parent), (16,16) f16 | pre (1,16) u3 offset(parent), (16,16) f16">) -> !qcc.tensor<[m, 40], f32>
  %2, %3, %4, %5, %6, %7, %8 = qcc.pack %0 : (!qcc.tensor<[40, 64], "uint3 | (1,16) u3 offset(parent), (16,16) f16 | pre (1,16) u3 offset(parent), (16,16) f16">) -> (!qcc.tensor<[40, 24], u8>, !qcc.tensor<[40, 4], f32>, !qcc.tensor<[3, 4], f32>, !qcc.tensor<[3, 4], f32>, !qcc.tensor<[40, 4], f32>, !qcc.tensor<[3, 4], f32>, !qcc.tensor<[3, 4], f32>)
  %9, %10, %11 = qcc.qparams %x {format = #qcc.qtype<"table(-1, 0, 1; -2, 0, 3) by u1 (1,32) | (1,32) i8, (1,-1) f16">} : (!qcc.tensor<[m, 64], f32>) -> (!qcc.tensor<[m, 2], f32>, !qcc.tensor<[m, 1], f32>, !qcc.tensor<[m, 2], i32>)
  %12 = qcc.quantize %x parameters %9, %10, %11 : !qcc.tensor<[m, 2], f32>, !qcc.tensor<[m, 1], f32>, !qcc.tensor<[m, 2], i32> : !qcc.tensor<[m, 64], f32> -> !qcc.tensor<[m, 64], "table(-1, 0, 1; -2, 0, 3) by u1 (1,32) | (1,32) i8, (1,-1) f16">
  %13 = qcc.weight "root" : !qcc.tensor<[1, 1], f32>
  %14 = qcc.quantize %x parameters %13 : !qcc.tensor<[1, 1], f32> : !qcc.tensor<[m, 64], f32> -> !qcc.tensor<[m, 64], "fp2_1 | (1,16) e4m3, tensor f32 | dynamic_local">
  %15, %16 = qcc.qparams %x roots %13 {format = #qcc.qtype<"fp2_1 | (1,16) e4m3, tensor f32 | dynamic_local">} : (!qcc.tensor<[m, 64], f32>, !qcc.tensor<[1, 1], f32>) -> (!qcc.tensor<[m, 4], f32>, !qcc.tensor<[1, 1], f32>)
  %17 = qcc.weight "source" : !qcc.tensor<[8], i64>
  %18 = qcc.expand_k residual %x, %17 parameters %13 {format = #qcc.qtype<"fp2_1 | (1,16) e4m3, tensor f32 | dynamic_local">} : (!qcc.tensor<[m, 64], f32>, !qcc.tensor<[8], i64>, !qcc.tensor<[1, 1], f32>) -> !qcc.tensor<[m, 72], f32>
  %19, %20 = qcc.qparams %x {format = #qcc.qtype<"planes(2, 01, free) | (1,64) f16 | post f16">} : (!qcc.tensor<[m, 64], f32>) -> (!qcc.tensor<[m, 1, 2], f32>, !qcc.tensor<[m, 1], f32>)
  %21 = qcc.state "kv" : !qcc.tensor<[1, 2, 16, 64], "fp4_3 | (1,32) e8m0 floor | dynamic">
  %22 = qcc.cache token %21, %rows, %at : (!qcc.tensor<[1, 2, 16, 64], "fp4_3 | (1,32) e8m0 floor | dynamic">, !qcc.tensor<[1, 2, 3, 64], f32>, !qcc.tensor<[3], i64>) -> !qcc.tensor<[1, 2, 16, 64], "fp4_3 | (1,32) e8m0 floor | dynamic">
  qcc.update_state "kv", %22 : !qcc.tensor<[1, 2, 16, 64], "fp4_3 | (1,32) e8m0 floor | dynamic">
  %23 = qcc.weight "wide" : !qcc.tensor<[3, 5], "int18 | tensor pow2 constant(0.00390625)">
  %24, %25 = qcc.pack %23 : (!qcc.tensor<[3, 5], "int18 | tensor pow2 constant(0.00390625)">) -> (!qcc.tensor<[3, 20], u8>, !qcc.tensor<[1, 1], f32>)
  %26 = qcc.unpack %24, %25 : (!qcc.tensor<[3, 20], u8>, !qcc.tensor<[1, 1], f32>) -> !qcc.tensor<[3, 5], "int18 | tensor pow2 constant(0.00390625)">
  qcc.return %1 : !qcc.tensor<[m, 40], f32>
}

// CHECK: qcc.program @main("x" %x: !qcc.tensor<[m, 64], f32>, "rows" %rows: !qcc.tensor<[1, 2, 3, 64], f32>, "at" %at: !qcc.tensor<[3], i64>) -> ["y"] symbols [#qcc.symbol<m in [1, inf]>] {
// CHECK: %0 = qcc.weight "spqr" : !qcc.tensor<[40, 64], "uint3 | (1,16) u3 offset(parent), (16,16) f16 | pre (1,16) u3 offset(parent), (16,16) f16">
// CHECK: %1 = qcc.contract %x, %0 {exactness = #qcc<exactness E1>} : (!qcc.tensor<[m, 64], f32>, !qcc.tensor<[40, 64], "uint3 | (1,16) u3 offset(parent), (16,16) f16 | pre (1,16) u3 offset(parent), (16,16) f16">) -> !qcc.tensor<[m, 40], f32>
// CHECK: %2, %3, %4, %5, %6, %7, %8 = qcc.pack %0 : (!qcc.tensor<[40, 64], "uint3 | (1,16) u3 offset(parent), (16,16) f16 | pre (1,16) u3 offset(parent), (16,16) f16">) -> (!qcc.tensor<[40, 24], u8>, !qcc.tensor<[40, 4], f32>, !qcc.tensor<[3, 4], f32>, !qcc.tensor<[3, 4], f32>, !qcc.tensor<[40, 4], f32>, !qcc.tensor<[3, 4], f32>, !qcc.tensor<[3, 4], f32>)
// CHECK: %9, %10, %11 = qcc.qparams %x {format = #qcc.qtype<"table(-1, 0, 1; -2, 0, 3) by u1 (1,32) | (1,32) i8, (1,-1) f16">} : (!qcc.tensor<[m, 64], f32>) -> (!qcc.tensor<[m, 2], f32>, !qcc.tensor<[m, 1], f32>, !qcc.tensor<[m, 2], i32>)
// CHECK: %12 = qcc.quantize %x parameters %9, %10, %11 : !qcc.tensor<[m, 2], f32>, !qcc.tensor<[m, 1], f32>, !qcc.tensor<[m, 2], i32> : !qcc.tensor<[m, 64], f32> -> !qcc.tensor<[m, 64], "table(-1, 0, 1; -2, 0, 3) by u1 (1,32) | (1,32) i8, (1,-1) f16">
// CHECK: %13 = qcc.weight "root" : !qcc.tensor<[1, 1], f32>
// CHECK: %14 = qcc.quantize %x parameters %13 : !qcc.tensor<[1, 1], f32> : !qcc.tensor<[m, 64], f32> -> !qcc.tensor<[m, 64], "fp2_1 | (1,16) e4m3, tensor f32 | dynamic_local">
// CHECK: %15, %16 = qcc.qparams %x roots %13 {format = #qcc.qtype<"fp2_1 | (1,16) e4m3, tensor f32 | dynamic_local">} : (!qcc.tensor<[m, 64], f32>, !qcc.tensor<[1, 1], f32>) -> (!qcc.tensor<[m, 4], f32>, !qcc.tensor<[1, 1], f32>)
// CHECK: %17 = qcc.weight "source" : !qcc.tensor<[8], i64>
// CHECK: %18 = qcc.expand_k residual %x, %17 parameters %13 {format = #qcc.qtype<"fp2_1 | (1,16) e4m3, tensor f32 | dynamic_local">} : (!qcc.tensor<[m, 64], f32>, !qcc.tensor<[8], i64>, !qcc.tensor<[1, 1], f32>) -> !qcc.tensor<[m, 72], f32>
// CHECK: %19, %20 = qcc.qparams %x {format = #qcc.qtype<"planes(2, 01, free) | (1,64) f16 | post f16">} : (!qcc.tensor<[m, 64], f32>) -> (!qcc.tensor<[m, 1, 2], f32>, !qcc.tensor<[m, 1], f32>)
// CHECK: %21 = qcc.state "kv" : !qcc.tensor<[1, 2, 16, 64], "fp4_3 | (1,32) e8m0 floor | dynamic">
// CHECK: %22 = qcc.cache token %21, %rows, %at : (!qcc.tensor<[1, 2, 16, 64], "fp4_3 | (1,32) e8m0 floor | dynamic">, !qcc.tensor<[1, 2, 3, 64], f32>, !qcc.tensor<[3], i64>) -> !qcc.tensor<[1, 2, 16, 64], "fp4_3 | (1,32) e8m0 floor | dynamic">
// CHECK: qcc.update_state "kv", %22 : !qcc.tensor<[1, 2, 16, 64], "fp4_3 | (1,32) e8m0 floor | dynamic">
// CHECK: %23 = qcc.weight "wide" : !qcc.tensor<[3, 5], "int18 | tensor pow2 constant(0.00390625)">
// CHECK: %24, %25 = qcc.pack %23 : (!qcc.tensor<[3, 5], "int18 | tensor pow2 constant(0.00390625)">) -> (!qcc.tensor<[3, 20], u8>, !qcc.tensor<[1, 1], f32>)
// CHECK: %26 = qcc.unpack %24, %25 : (!qcc.tensor<[3, 20], u8>, !qcc.tensor<[1, 1], f32>) -> !qcc.tensor<[3, 5], "int18 | tensor pow2 constant(0.00390625)">
// CHECK: qcc.return %1 : !qcc.tensor<[m, 40], f32>
