// RUN: qcc-opt %s -p fuse-epilogue,fuse-prologue | filecheck %s

// Norm and quantization that only the contraction needs are computed in its kernel.
// CHECK-LABEL: @only_reader
// CHECK:      qcc.kernel "up" (
// CHECK-NEXT:   %input = %x : !qcc.tensor<[s, 4], f32>,
// CHECK-NEXT:   %weight = %g : !qcc.tensor<[4], f32>,
// CHECK-NEXT:   %weight_1 = %w : !qcc.tensor<[4, 4], "int4 | (1,-1) f16">
// CHECK-NEXT: ) -> (!qcc.tensor<[s, 4], f32>) {
// CHECK-NEXT:   qcc.norm rms %input weight %weight
// CHECK-NEXT:   qcc.rotate hadamard
// CHECK-NEXT:   qcc.quantize
// CHECK-NEXT:   qcc.contract {{.*}}, %weight_1
// CHECK-NEXT:   qcc.unary gelu
// CHECK-NEXT:   qcc.yield
qcc.program @only_reader("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %g = qcc.weight "g" : !qcc.tensor<[4], f32>
  %n = qcc.norm rms %x weight %g : !qcc.tensor<[4], f32> {eps = 1.0e-05 : f64} : !qcc.tensor<[s, 4], f32> -> !qcc.tensor<[s, 4], f32>
  %h = qcc.rotate hadamard %n {axis = 1 : i64, block = 4 : i64, inverse = false} : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %q = qcc.quantize %h : !qcc.tensor<[s, 4], f32> -> !qcc.tensor<[s, 4], "int8 | row f32 | dynamic">
  %w = qcc.weight "up.weight" : !qcc.tensor<[4, 4], "int4 | row f16">
  %0 = qcc.contract %q, %w {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], "int8 | row f32 | dynamic">, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  %1 = qcc.unary gelu %0 : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  qcc.return %1 : !qcc.tensor<[s, 4], f32>
}

// Where several contractions read the codes, and something else the norm, one kernel without a root gives both.
// CHECK-LABEL: @several_readers
// CHECK:      %n, %q = qcc.kernel "norm" (
// CHECK:      ) -> (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], "int8 | (1,-1) f32 | dynamic">)
// CHECK-NEXT:   qcc.norm
// CHECK-NEXT:   qcc.quantize
// CHECK-NEXT:   qcc.yield
// CHECK-NEXT: }
// CHECK-NEXT: %v =
// CHECK-NEXT: %w =
// CHECK-NEXT: qcc.kernel "q" (
// CHECK-NEXT:   %input = %q
// CHECK:        qcc.contract
// CHECK:      qcc.kernel "k" (
// CHECK-NEXT:   %input = %q
// CHECK:        %other = %n
// CHECK:        qcc.contract
// CHECK-NEXT:   qcc.binary add
qcc.program @several_readers("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y", "z"] symbols [#qcc.symbol<s in [1, inf]>] {
  %g = qcc.weight "norm.weight" : !qcc.tensor<[4], f32>
  %n = qcc.norm rms %x weight %g : !qcc.tensor<[4], f32> {eps = 1.0e-05 : f64} : !qcc.tensor<[s, 4], f32> -> !qcc.tensor<[s, 4], f32>
  %q = qcc.quantize %n : !qcc.tensor<[s, 4], f32> -> !qcc.tensor<[s, 4], "int8 | row f32 | dynamic">
  %v = qcc.weight "q.weight" : !qcc.tensor<[4, 4], "int4 | row f16">
  %w = qcc.weight "k.weight" : !qcc.tensor<[4, 4], "int4 | row f16">
  %0 = qcc.contract %q, %v {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], "int8 | row f32 | dynamic">, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  %1 = qcc.contract %q, %w {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], "int8 | row f32 | dynamic">, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  %2 = qcc.binary add %1, %n : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  qcc.return %0, %2 : !qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>
}

// A dynamic scale of the whole tensor needs all rows: no kernel computes it row by row.
// CHECK-LABEL: @whole_tensor
// CHECK:      qcc.norm
// CHECK-NEXT: qcc.quantize
// CHECK:      qcc.kernel "up" (
// CHECK:        {
// CHECK-NEXT:   qcc.contract
qcc.program @whole_tensor("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %g = qcc.weight "g" : !qcc.tensor<[4], f32>
  %n = qcc.norm rms %x weight %g : !qcc.tensor<[4], f32> {eps = 1.0e-05 : f64} : !qcc.tensor<[s, 4], f32> -> !qcc.tensor<[s, 4], f32>
  %q = qcc.quantize %n : !qcc.tensor<[s, 4], f32> -> !qcc.tensor<[s, 4], "int8 | tensor f32 | dynamic">
  %w = qcc.weight "up.weight" : !qcc.tensor<[4, 4], "int4 | row f16">
  %0 = qcc.contract %q, %w {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], "int8 | tensor f32 | dynamic">, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  qcc.return %0 : !qcc.tensor<[s, 4], f32>
}

// A norm that is read before the static scale of its quantization is known stays where it is.
// CHECK-LABEL: @late_scale
// CHECK:      qcc.norm
// CHECK-NEXT: qcc.unary exp
// CHECK-NEXT: qcc.reduce
// CHECK-NEXT: qcc.quantize
qcc.program @late_scale("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y", "z"] symbols [#qcc.symbol<s in [1, inf]>] {
  %g = qcc.weight "g" : !qcc.tensor<[4], f32>
  %n = qcc.norm rms %x weight %g : !qcc.tensor<[4], f32> {eps = 1.0e-05 : f64} : !qcc.tensor<[s, 4], f32> -> !qcc.tensor<[s, 4], f32>
  %e = qcc.unary exp %n : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %s = qcc.reduce max %e {axes = array<i64: 0, 1>, keep = true} : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[1, 1], f32>
  %q = qcc.quantize %n scales %s : !qcc.tensor<[1, 1], f32> : !qcc.tensor<[s, 4], f32> -> !qcc.tensor<[s, 4], "int8 | tensor f32">
  %v = qcc.weight "v" : !qcc.tensor<[4, 4], "int4 | row f16">
  %w = qcc.weight "w" : !qcc.tensor<[4, 4], "int4 | row f16">
  %0 = qcc.contract %q, %v {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], "int8 | tensor f32">, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  %1 = qcc.contract %q, %w {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], "int8 | tensor f32">, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  qcc.return %0, %1 : !qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>
}

// The weights of a layer that are not solved yet are no prologue.
// CHECK-LABEL: @unsolved
// CHECK: qcc.quantize %w
// CHECK: qcc.kernel "net.up" (
qcc.program @unsolved("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %w = qcc.weight "w" : !qcc.tensor<[4, 4], f32>
  %q = qcc.quantize %w : !qcc.tensor<[4, 4], f32> -> !qcc.tensor<[4, 4], "int4 | row f16">
  %0 = qcc.contract %x, %q {at = "net.up (m.py:1)", exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], "int4 | row f16">) -> !qcc.tensor<[s, 4], f32>
  qcc.return %0 : !qcc.tensor<[s, 4], f32>
}
