// RUN: qcc-opt %s -p 'fuse-epilogue{rules="contract: gelu|silu > mul > add","linear: relu"}' | filecheck %s

// An activation and a residual join the contraction; the kernel stands where the contraction stood.
// CHECK-LABEL: @chain
// CHECK:      [[Y:%.*]] = qcc.kernel "layers.0.up" (
// CHECK-NEXT:   %input = %q : !qcc.tensor<[s, 4], "int8 | (1,-1) f32 | dynamic">,
// CHECK-NEXT:   %weight = %w : !qcc.tensor<[4, 4], "int4 | (1,-1) f16">,
// CHECK-NEXT:   %other = %x : !qcc.tensor<[s, 4], f32>
// CHECK-NEXT: ) -> (!qcc.tensor<[s, 4], f32>) attributes {at = "net (m.py:3)"} {
// CHECK-NEXT:   qcc.contract %input, %weight {at = "net.up (m.py:1)"
// CHECK-NEXT:   qcc.unary gelu
// CHECK-NEXT:   qcc.binary add %other,
// CHECK-NEXT:   qcc.yield
// CHECK-NEXT: }
// CHECK-NEXT: qcc.constant
// CHECK-NEXT: qcc.return [[Y]]
qcc.program @chain("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %q = qcc.quantize %x : !qcc.tensor<[s, 4], f32> -> !qcc.tensor<[s, 4], "int8 | row f32 | dynamic">
  %w = qcc.weight "layers.0.up.weight:int4 | (1,-1) f16" : !qcc.tensor<[4, 4], "int4 | row f16">
  %0 = qcc.contract %q, %w {at = "net.up (m.py:1)", exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], "int8 | row f32 | dynamic">, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  %c = qcc.constant 1.0 : f64 : !qcc.tensor<[], f32>
  %1 = qcc.unary gelu %0 {at = "net.act (m.py:2)"} : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %2 = qcc.binary add %x, %1 {at = "net (m.py:3)"} : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  qcc.return %2 : !qcc.tensor<[s, 4], f32>
}

// A gate: the activation joins the first contraction, the multiply the second, which can read what the first has made.
// CHECK-LABEL: @gate
// CHECK:      qcc.kernel "gate" (
// CHECK:        qcc.contract
// CHECK-NEXT:   qcc.unary silu
// CHECK-NEXT:   qcc.yield
// CHECK:      qcc.kernel "up" (
// CHECK:        qcc.contract
// CHECK-NEXT:   qcc.binary mul %other,
// CHECK-NEXT:   qcc.yield
qcc.program @gate("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %v = qcc.weight "gate.weight" : !qcc.tensor<[8, 4], "int4 | row f16">
  %w = qcc.weight "up.weight" : !qcc.tensor<[8, 4], "int4 | row f16">
  %0 = qcc.contract %x, %v {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[8, 4], "int4 | row f16">) -> !qcc.tensor<[s, 8], f32>
  %1 = qcc.contract %x, %w {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[8, 4], "int4 | row f16">) -> !qcc.tensor<[s, 8], f32>
  %2 = qcc.unary silu %0 : (!qcc.tensor<[s, 8], f32>) -> !qcc.tensor<[s, 8], f32>
  %3 = qcc.binary mul %2, %1 : (!qcc.tensor<[s, 8], f32>, !qcc.tensor<[s, 8], f32>) -> !qcc.tensor<[s, 8], f32>
  qcc.return %3 : !qcc.tensor<[s, 8], f32>
}

// A contraction whose value another operation reads has a kernel by itself.
// CHECK-LABEL: @read_twice
// CHECK:      qcc.kernel "w" (
// CHECK:        qcc.contract
// CHECK-NEXT:   qcc.yield
// CHECK-NEXT: }
// CHECK-NEXT: qcc.unary gelu
qcc.program @read_twice("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y", "z"] symbols [#qcc.symbol<s in [1, inf]>] {
  %w = qcc.weight "w" : !qcc.tensor<[4, 4], "int4 | row f16">
  %0 = qcc.contract %x, %w {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  %1 = qcc.unary gelu %0 : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  qcc.return %0, %1 : !qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>
}

// A residual that is computed after the contraction stays outside, and so does a vector that would be broadcast,
// a square of the value itself, and what the rules have in another order.
// CHECK-LABEL: @not_these
// CHECK:      qcc.kernel "w" (
// CHECK:        qcc.contract
// CHECK-NEXT:   qcc.yield
// CHECK:      qcc.binary add
// CHECK:      qcc.kernel "w" (
// CHECK:        qcc.contract
// CHECK-NEXT:   qcc.yield
// CHECK:      qcc.binary add
// CHECK:      qcc.kernel "w" (
// CHECK:        qcc.contract
// CHECK-NEXT:   qcc.yield
// CHECK:      qcc.binary mul
// CHECK:      qcc.kernel "w" (
// CHECK:        qcc.contract
// CHECK-NEXT:   qcc.binary add
// CHECK-NEXT:   qcc.yield
// CHECK:      qcc.unary gelu
qcc.program @not_these("x" %x : !qcc.tensor<[s, 4], f32>) -> ["a", "b", "c", "d"] symbols [#qcc.symbol<s in [1, inf]>] {
  %w = qcc.weight "w" : !qcc.tensor<[4, 4], "int4 | row f16">
  %v = qcc.weight "v" : !qcc.tensor<[4], f32>
  %0 = qcc.contract %x, %w {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  %r = qcc.unary exp %x : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %a = qcc.binary add %0, %r : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %1 = qcc.contract %x, %w {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  %b = qcc.binary add %1, %v : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4], f32>) -> !qcc.tensor<[s, 4], f32>
  %2 = qcc.contract %x, %w {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  %c = qcc.binary mul %2, %2 : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %3 = qcc.contract %x, %w {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  %4 = qcc.binary add %3, %x : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %d = qcc.unary gelu %4 : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  qcc.return %a, %b, %c, %d : !qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>
}

// A float layer has a kernel only where something joins it.
// CHECK-LABEL: @float
// CHECK:      qcc.kernel "w" (
// CHECK:        qcc.linear
// CHECK-NEXT:   qcc.unary relu
// CHECK:      qcc.linear
// CHECK-NEXT: qcc.unary gelu
qcc.program @float("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y", "z"] symbols [#qcc.symbol<s in [1, inf]>] {
  %w = qcc.weight "w" : !qcc.tensor<[4, 4], f32>
  %0 = qcc.linear %x, %w : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %1 = qcc.unary relu %0 : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %2 = qcc.linear %x, %w : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %3 = qcc.unary gelu %2 : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  qcc.return %1, %3 : !qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>
}
