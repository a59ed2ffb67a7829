// RUN: qcc-opt %s -p 'quantize-values' --split-input-file | filecheck %s
// RUN: qcc-opt %s -p 'quantize-values{recipe="fixed6"}' --split-input-file | filecheck %s --check-prefix SIX

// Sums go into the activation as they are; what comes out is rounded once. Products read codes.
// CHECK-LABEL: qcc.program @layers
// CHECK-NEXT:  %[[X:.+]] = qcc.quantize %x : {{.+}} -> !qcc.tensor<[s0, 4], "int8n | tensor pow2 ceil">
// CHECK-NEXT:  %[[DX:.+]] = qcc.dequantize %[[X]]
// CHECK:       %[[Y:.+]] = qcc.contract %[[DX]], %w {layer = "up", exactness = #qcc<exactness E1>}
// CHECK-NEXT:  %[[R:.+]] = qcc.unary relu %[[Y]]
// CHECK-NEXT:  %[[Q:.+]] = qcc.quantize %[[R]] : {{.+}} -> !qcc.tensor<[s0, 6], "int8n | tensor pow2 ceil">
// CHECK-NEXT:  %[[D:.+]] = qcc.dequantize %[[Q]]
// CHECK-NEXT:  qcc.return %[[D]]
// SIX-LABEL: qcc.program @layers
// SIX-NEXT:  qcc.quantize %x : {{.+}} "int6n | tensor pow2 ceil">
qcc.program @layers("x" %x: !qcc.tensor<[s0, 4], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %w = qcc.weight "up.weight:int8n | row f32" : !qcc.tensor<[6, 4], "int8n | row f32">
  %q = qcc.quantize %x : !qcc.tensor<[s0, 4], f32> -> !qcc.tensor<[s0, 4], "int8n | tensor pow2 ceil">
  %y = qcc.contract %q, %w {layer = "up", plan = #qcc<plan group_after>, exactness = #qcc<exactness E1>} : (!qcc.tensor<[s0, 4], "int8n | tensor pow2 ceil">, !qcc.tensor<[6, 4], "int8n | row f32">) -> !qcc.tensor<[s0, 6], f32>
  %r = qcc.unary relu %y : (!qcc.tensor<[s0, 6], f32>) -> !qcc.tensor<[s0, 6], f32>
  qcc.return %r : !qcc.tensor<[s0, 6], f32>
}

// -----

// A tabulated function reads two bits more, a norm sixteen; a product that reads what a norm reads is narrowed.
// CHECK-LABEL: qcc.program @widths
// CHECK:       qcc.quantize %x : {{.+}} "int16n | tensor pow2 ceil">
// CHECK:       qcc.norm
// CHECK-NEXT:  qcc.quantize {{.+}} "int10n | tensor pow2 ceil">
// CHECK-NEXT:  qcc.dequantize
// CHECK-NEXT:  qcc.unary gelu
// CHECK-NEXT:  qcc.quantize {{.+}} "int8n | tensor pow2 ceil">
// CHECK-NEXT:  %[[G:.+]] = qcc.dequantize
// CHECK-NEXT:  qcc.quantize %{{.+}} : {{.+}} "int8n | tensor pow2 ceil">
// CHECK-NEXT:  %[[N:.+]] = qcc.dequantize
// CHECK-NEXT:  qcc.binary mul %[[G]], %[[N]]
qcc.program @widths("x" %x: !qcc.tensor<[2, 4], f32>) -> ["y"] symbols [] {
  %n = qcc.norm rms %x {eps = 1.000000e-05 : f64} : !qcc.tensor<[2, 4], f32> -> !qcc.tensor<[2, 4], f32>
  %g = qcc.unary gelu %n : (!qcc.tensor<[2, 4], f32>) -> !qcc.tensor<[2, 4], f32>
  %y = qcc.binary mul %g, %x : (!qcc.tensor<[2, 4], f32>, !qcc.tensor<[2, 4], f32>) -> !qcc.tensor<[2, 4], f32>
  qcc.return %y : !qcc.tensor<[2, 4], f32>
}

// -----

// Codes that are only moved, picked or limited stay codes of one scale.
// CHECK-LABEL: qcc.program @moves
// CHECK-NEXT:  qcc.quantize %x
// CHECK-NEXT:  qcc.dequantize
// CHECK-NEXT:  qcc.pool max
// CHECK-NEXT:  qcc.reshape
// CHECK-NEXT:  qcc.unary relu
// CHECK-NEXT:  qcc.return
qcc.program @moves("x" %x: !qcc.tensor<[1, 2, 4], f32>) -> ["y"] symbols [] {
  %p = qcc.pool max %x {window = array<i64: 2>, stride = array<i64: 2>, padding = array<i64: 0>} : (!qcc.tensor<[1, 2, 4], f32>) -> !qcc.tensor<[1, 2, 2], f32>
  %r = qcc.reshape %p : (!qcc.tensor<[1, 2, 2], f32>) -> !qcc.tensor<[1, 4], f32>
  %y = qcc.unary relu %r : (!qcc.tensor<[1, 4], f32>) -> !qcc.tensor<[1, 4], f32>
  qcc.return %y : !qcc.tensor<[1, 4], f32>
}
