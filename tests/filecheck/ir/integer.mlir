// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @main("x" %x: !qcc.tensor<[b, 4], f32>, "s" %s: !qcc.tensor<[1, 1], f32>, "m" %m: !qcc.tensor<[1], i32>, "t" %t: !qcc.tensor<[256], i8>, "e" %e: !qcc.tensor<[9], i32>, "w" %w: !qcc.tensor<[6, 4], "int4 | row f16">, "g" %g: !qcc.tensor<[4, 2], "table ternary(-1, 0, 1) | row f32 mean_abs">, "c" %c: !qcc.tensor<[6], i64>, "k" %k: !qcc.tensor<[b, 4], i1>) -> ["y"] symbols [#qcc.symbol<b in [1, inf]>] {
  %q = qcc.quantize %x parameters %s : !qcc.tensor<[1, 1], f32> : !qcc.tensor<[b, 4], f32> -> !qcc.tensor<[b, 4], "int8 | tensor f32">
  %0 = qcc.codes %q : (!qcc.tensor<[b, 4], "int8 | tensor f32">) -> !qcc.tensor<[b, 4], i8>
  %1 = qcc.integer_contract %0, %w bias %c {groups = 1 : i64} : (!qcc.tensor<[b, 4], i8>, !qcc.tensor<[6, 4], "int4 | row f16">, !qcc.tensor<[6], i64>) -> !qcc.tensor<[b, 6], i64>
  %2 = qcc.requant %1, %m, %m {low = -31 : i64, high = 31 : i64} : (!qcc.tensor<[b, 6], i64>, !qcc.tensor<[1], i32>, !qcc.tensor<[1], i32>) -> !qcc.tensor<[b, 6], i8>
  %3 = qcc.lookup %2, %t {low = -128 : i64} : (!qcc.tensor<[b, 6], i8>, !qcc.tensor<[256], i8>) -> !qcc.tensor<[b, 6], i8>
  %4 = qcc.integer_contract %0, %g {groups = 2 : i64} : (!qcc.tensor<[b, 4], i8>, !qcc.tensor<[4, 2], "table ternary(-1, 0, 1) | row f32 mean_abs">) -> !qcc.tensor<[b, 4], i32>
  %5 = qcc.integer_softmax %4, %e mask %k {unit = 127 : i64} : (!qcc.tensor<[b, 4], i32>, !qcc.tensor<[9], i32>, !qcc.tensor<[b, 4], i1>) -> !qcc.tensor<[b, 4], i8>
  %6 = qcc.integer_norm layer %5, %m, %m {eps = 3 : i64, low = -7 : i64, high = 7 : i64} : (!qcc.tensor<[b, 4], i8>, !qcc.tensor<[1], i32>, !qcc.tensor<[1], i32>) -> !qcc.tensor<[b, 4], i8>
  %7 = qcc.transpose %6 {permutation = array<i64: 1, 0>} : (!qcc.tensor<[b, 4], i8>) -> !qcc.tensor<[4, b], i8>
  %8 = qcc.integer_matmul %7, %3 : (!qcc.tensor<[4, b], i8>, !qcc.tensor<[b, 6], i8>) -> !qcc.tensor<[4, 6], i32>
  %9 = qcc.requant %8, %m, %m : (!qcc.tensor<[4, 6], i32>, !qcc.tensor<[1], i32>, !qcc.tensor<[1], i32>) -> !qcc.tensor<[4, 6], i8>
  %10 = qcc.of_codes %9 parameters %s : !qcc.tensor<[1, 1], f32> : !qcc.tensor<[4, 6], i8> -> !qcc.tensor<[4, 6], "int8 | tensor f32">
  %y = qcc.dequantize %10 : (!qcc.tensor<[4, 6], "int8 | tensor f32">) -> !qcc.tensor<[4, 6], f32>
  qcc.return %y : !qcc.tensor<[4, 6], f32>
}
// CHECK: %0 = qcc.codes %q : (!qcc.tensor<[b, 4], "int8 | tensor f32">) -> !qcc.tensor<[b, 4], i8>
// CHECK: %1 = qcc.integer_contract %0, %w bias %c {groups = 1 : i64} : {{.+}} -> !qcc.tensor<[b, 6], i64>
// CHECK: %2 = qcc.requant %1, %m, %m {low = -31 : i64, high = 31 : i64} : {{.+}} -> !qcc.tensor<[b, 6], i8>
// CHECK: %3 = qcc.lookup %2, %t {low = -128 : i64} : {{.+}} -> !qcc.tensor<[b, 6], i8>
// CHECK: %4 = qcc.integer_contract %0, %g {groups = 2 : i64} : {{.+}} -> !qcc.tensor<[b, 4], i32>
// CHECK: %5 = qcc.integer_softmax %4, %e mask %k {unit = 127 : i64} : {{.+}} -> !qcc.tensor<[b, 4], i8>
// CHECK: %6 = qcc.integer_norm layer %5, %m, %m {eps = 3 : i64, low = -7 : i64, high = 7 : i64} : {{.+}} -> !qcc.tensor<[b, 4], i8>
// CHECK: %8 = qcc.integer_matmul %7, %3 : {{.+}} -> !qcc.tensor<[4, 6], i32>
// CHECK: %10 = qcc.of_codes %9 parameters %s : !qcc.tensor<[1, 1], f32> : !qcc.tensor<[4, 6], i8> -> !qcc.tensor<[4, 6], "int8 | tensor f32">
