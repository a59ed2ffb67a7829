// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @main("x" %x: !qcc.tensor<[s, 4], f32>) -> ["y", "z"] symbols [#qcc.symbol<s in [1, inf]>] {
  %g = qcc.weight "g" : !qcc.tensor<[4], f32>
  %n, %q = qcc.kernel "norm" (
    %a = %x : !qcc.tensor<[s, 4], f32>,
    %b = %g : !qcc.tensor<[4], f32>
  ) -> (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], "int8 | row f32 | dynamic">) attributes {at = "norm (m.py:1)"} {
    %0 = qcc.norm rms %a weight %b : !qcc.tensor<[4], f32> {eps = 1.0e-05 : f64} : !qcc.tensor<[s, 4], f32> -> !qcc.tensor<[s, 4], f32>
    %1 = qcc.quantize %0 : !qcc.tensor<[s, 4], f32> -> !qcc.tensor<[s, 4], "int8 | row f32 | dynamic">
    qcc.yield %0, %1 : !qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], "int8 | row f32 | dynamic">
  }
  %w = qcc.weight "w" : !qcc.tensor<[4, 4], "int8 | row f32">
  %y = qcc.kernel "up" (
    %a = %q : !qcc.tensor<[s, 4], "int8 | row f32 | dynamic">,
    %b = %w : !qcc.tensor<[4, 4], "int8 | row f32">,
    %r = %x : !qcc.tensor<[s, 4], f32>
  ) -> (!qcc.tensor<[s, 4], f32>) accumulator 32 why "group_after: 1 instr/weight" {
    %0 = qcc.contract %a, %b {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], "int8 | row f32 | dynamic">, !qcc.tensor<[4, 4], "int8 | row f32">) -> !qcc.tensor<[s, 4], f32>
    %1 = qcc.unary gelu %0 : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    %2 = qcc.binary add %1, %r : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    qcc.yield %2 : !qcc.tensor<[s, 4], f32>
  }
  qcc.return %n, %y : !qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>
}

// CHECK:      %n, %q = qcc.kernel "norm" (
// CHECK-NEXT:     %a = %x : !qcc.tensor<[s, 4], f32>,
// CHECK-NEXT:     %b = %g : !qcc.tensor<[4], f32>
// CHECK-NEXT: ) -> (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], "int8 | (1,-1) f32 | dynamic">) attributes {at = "norm (m.py:1)"} {
// CHECK-NEXT:   %0 = qcc.norm rms %a weight %b
// CHECK-NEXT:   %1 = qcc.quantize %0
// CHECK-NEXT:   qcc.yield %0, %1 : !qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], "int8 | (1,-1) f32 | dynamic">
// CHECK-NEXT: }
// CHECK-NEXT: %w = qcc.weight "w"
// CHECK-NEXT: %y = qcc.kernel "up" (
// CHECK-NEXT:     %a = %q :
// CHECK-NEXT:     %b = %w :
// CHECK-NEXT:     %r = %x :
// CHECK-NEXT: ) -> (!qcc.tensor<[s, 4], f32>) accumulator 32 why "group_after: 1 instr/weight" {
// CHECK-NEXT:   %0 = qcc.contract %a, %b
// CHECK-NEXT:   %1 = qcc.unary gelu %0
// CHECK-NEXT:   %2 = qcc.binary add %1, %r
// CHECK: qcc.yield %2 : !qcc.tensor<[s, 4], f32>
// CHECK-NEXT: }
// CHECK-NEXT: qcc.return %n, %y
