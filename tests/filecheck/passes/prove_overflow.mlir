// RUN: qcc-opt %s -p 'fuse-epilogue,prove-overflow{accumulator-bits=64}' | filecheck %s

// 32768 products of -128..127 and -8..7 stay within 2^25; 131072 of -128..127 and -128..127 reach 2^31, one too many.
// CHECK-LABEL: @main
// CHECK: qcc.kernel "narrow"
// CHECK: ) accumulator 32 {
// CHECK: qcc.kernel "wide"
// CHECK: ) accumulator 64 {
// CHECK: qcc.kernel "groups"
// CHECK: ) accumulator 32 {
// CHECK: qcc.kernel "float"
// CHECK: ) -> (!qcc.tensor<[s, 2], f32>) {
qcc.program @main("x" %x : !qcc.tensor<[s, 131072], f32>) -> ["a", "b", "c", "d"] symbols [#qcc.symbol<s in [1, inf]>] {
  %q = qcc.quantize %x : !qcc.tensor<[s, 131072], f32> -> !qcc.tensor<[s, 131072], "int8 | row f32 | dynamic">
  %0 = qcc.weight "narrow" : !qcc.tensor<[2, 131072], "int4 | row f16">
  %a = qcc.contract %q, %0 {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 131072], "int8 | row f32 | dynamic">, !qcc.tensor<[2, 131072], "int4 | row f16">) -> !qcc.tensor<[s, 2], f32>
  %1 = qcc.weight "wide" : !qcc.tensor<[2, 131072], "int8 | row f16">
  %b = qcc.contract %q, %1 {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 131072], "int8 | row f32 | dynamic">, !qcc.tensor<[2, 131072], "int8 | row f16">) -> !qcc.tensor<[s, 2], f32>
  %2 = qcc.weight "groups" : !qcc.tensor<[2, 131072], "int8 | (1,128) f16">
  %c = qcc.contract %q, %2 {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 131072], "int8 | row f32 | dynamic">, !qcc.tensor<[2, 131072], "int8 | (1,128) f16">) -> !qcc.tensor<[s, 2], f32>
  %3 = qcc.weight "float" : !qcc.tensor<[2, 131072], "int8 | row f16">
  %d = qcc.contract %x, %3 {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 131072], f32>, !qcc.tensor<[2, 131072], "int8 | row f16">) -> !qcc.tensor<[s, 2], f32>
  qcc.return %a, %b, %c, %d : !qcc.tensor<[s, 2], f32>, !qcc.tensor<[s, 2], f32>, !qcc.tensor<[s, 2], f32>, !qcc.tensor<[s, 2], f32>
}
