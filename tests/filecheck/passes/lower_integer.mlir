// RUN: qcc-opt %s -p 'lower-integer' | filecheck %s
// RUN: qcc-opt %s -p 'lower-integer,fuse-epilogue{rules="integer_contract: requant > lookup"},prove-overflow{accumulator-bits=32}' | filecheck %s --check-prefix FUSED

// The weights are in lower_integer.safetensors: one in int4 with a scale a row, a bias, and three scales.
// CHECK-LABEL: qcc.program @main
// CHECK-DAG:   %[[TABLE:.+]] = qcc.weight "gate/table" {{.*}}: !qcc.tensor<[15], i8>
// CHECK-DAG:   %[[M:.+]] = qcc.weight "gate/multiplier" {{.*}}: !qcc.tensor<[3], i32>
// CHECK-DAG:   %[[S:.+]] = qcc.weight "gate/shift" {{.*}}: !qcc.tensor<[3], i32>
// CHECK-DAG:   %[[B:.+]] = qcc.weight "up/bias" {{.*}}: !qcc.tensor<[3], i32>
// CHECK:       %[[Q:.+]] = qcc.quantize %x parameters
// CHECK-NEXT:  %[[I:.+]] = qcc.codes %[[Q]] : {{.+}} -> !qcc.tensor<[s0, 4], i8>
// CHECK:       %[[A:.+]] = qcc.integer_contract %[[I]], %w bias %[[B]] {at = "up (net.py:3)", layer = "up", groups = 1 : i64} : {{.+}} -> !qcc.tensor<[s0, 3], i32>
// CHECK:       %[[R:.+]] = qcc.requant %[[A]], %[[M]], %[[S]] {at = "gate (net.py:4)", low = -7 : i64, high = 7 : i64} : {{.+}} -> !qcc.tensor<[s0, 3], i8>
// CHECK-NEXT:  %[[T:.+]] = qcc.lookup %[[R]], %[[TABLE]] {at = "gate (net.py:4)", low = -7 : i64} : {{.+}} -> !qcc.tensor<[s0, 3], i8>
// CHECK:       %[[C:.+]] = qcc.of_codes %[[T]] parameters %s2
// CHECK-NEXT:  %[[Y:.+]] = qcc.dequantize %[[C]]
// CHECK-NEXT:  qcc.return %[[Y]]
// FUSED:       qcc.kernel "up"
// FUSED:       accumulator 32
// FUSED:         qcc.integer_contract
// FUSED-NEXT:    qcc.requant
// FUSED-NEXT:    qcc.lookup
// FUSED-NEXT:    qcc.yield
qcc.program @main("x" %x: !qcc.tensor<[s0, 4], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %w = qcc.weight "up" : !qcc.tensor<[3, 4], "int4 | (1,-1) f32">
  %b = qcc.weight "b" : !qcc.tensor<[3], f32>
  %s0 = qcc.weight "s0" : !qcc.tensor<[1, 1], f32>
  %s1 = qcc.weight "s1" : !qcc.tensor<[1, 1], f32>
  %s2 = qcc.weight "s2" : !qcc.tensor<[1, 1], f32>
  %q = qcc.quantize %x parameters %s0 : !qcc.tensor<[1, 1], f32> : !qcc.tensor<[s0, 4], f32> -> !qcc.tensor<[s0, 4], "int8n | tensor f32">
  %d = qcc.dequantize %q : (!qcc.tensor<[s0, 4], "int8n | tensor f32">) -> !qcc.tensor<[s0, 4], f32>
  %a = qcc.contract %d, %w bias %b {at = "up (net.py:3)", layer = "up", exactness = #qcc<exactness E1>} : (!qcc.tensor<[s0, 4], f32>, !qcc.tensor<[3, 4], "int4 | (1,-1) f32">, !qcc.tensor<[3], f32>) -> !qcc.tensor<[s0, 3], f32>
  %r = qcc.quantize %a parameters %s1 : !qcc.tensor<[1, 1], f32> {at = "gate (net.py:4)"} : !qcc.tensor<[s0, 3], f32> -> !qcc.tensor<[s0, 3], "int4n | tensor f32">
  %e = qcc.dequantize %r : (!qcc.tensor<[s0, 3], "int4n | tensor f32">) -> !qcc.tensor<[s0, 3], f32>
  %t = qcc.unary sigmoid %e {at = "gate (net.py:4)"} : (!qcc.tensor<[s0, 3], f32>) -> !qcc.tensor<[s0, 3], f32>
  %u = qcc.quantize %t parameters %s2 : !qcc.tensor<[1, 1], f32> {at = "gate (net.py:4)"} : !qcc.tensor<[s0, 3], f32> -> !qcc.tensor<[s0, 3], "int8n | tensor f32">
  %y = qcc.dequantize %u : (!qcc.tensor<[s0, 3], "int8n | tensor f32">) -> !qcc.tensor<[s0, 3], f32>
  qcc.return %y : !qcc.tensor<[s0, 3], f32>
}
