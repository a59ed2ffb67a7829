// RUN: qcc-opt %s -p 'rotate-inputs{block=4}' --weights %weights | filecheck %s
// RUN: qcc-opt %s -p 'rotate-inputs' --weights %weights | filecheck %s --check-prefix WHOLE
// RUN: qcc-opt %s -p 'rotate-inputs,rotate-inputs' --weights %weights | filecheck %s --check-prefix ONCE
// RUN: not qcc-opt %s -p 'rotate-inputs{block=8}' --weights %weights | filecheck %s --check-prefix EIGHT
// RUN: not qcc-opt %s -p 'rotate-inputs{block=6}' --weights %weights | filecheck %s --check-prefix SIX

// Layers that read one value read it rotated; the sum reads it as it was.
// CHECK-LABEL: qcc.program @mlp
// CHECK:       %[[N:.+]] = qcc.norm
// CHECK-NEXT:  %[[R:.+]] = qcc.rotate block_hadamard %[[N]] {{.*}}axis = 1 : i64, block = 4 : i64
// CHECK-NEXT:  qcc.linear %[[R]], %{{.+}}
// CHECK-NEXT:  qcc.linear %[[R]], %{{.+}}
// CHECK:       qcc.rotate block_hadamard %{{.+}} -> !qcc.tensor<[s0, 12], f32>
// CHECK-NEXT:  qcc.linear
// CHECK-NEXT:  qcc.binary add %[[N]]
// WHOLE:       qcc.rotate hadamard %{{.+}} {{.*}}block = 8 : i64
// WHOLE:       qcc.rotate hadamard %{{.+}} {{.*}}block = 12 : i64
// ONCE-COUNT-2: qcc.rotate
// ONCE-NOT:    qcc.rotate
// EIGHT:       the inputs of layers cannot be rotated
// EIGHT-NEXT:  down: 12 columns are no whole blocks of 8
// EIGHT:       fix: use blocks of
// SIX:         there is no Hadamard matrix of 6 channels here
qcc.program @mlp("x" %x: !qcc.tensor<[s0, 8], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %u = qcc.weight "up.weight" : !qcc.tensor<[12, 8], f32>
  %g = qcc.weight "gate.weight" : !qcc.tensor<[12, 8], f32>
  %d = qcc.weight "down.weight" : !qcc.tensor<[8, 12], f32>
  %n = qcc.norm rms %x {eps = 1.0e-06 : f64} : !qcc.tensor<[s0, 8], f32> -> !qcc.tensor<[s0, 8], f32>
  %a = qcc.linear %n, %u : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[12, 8], f32>) -> !qcc.tensor<[s0, 12], f32>
  %b = qcc.linear %n, %g : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[12, 8], f32>) -> !qcc.tensor<[s0, 12], f32>
  %c = qcc.unary silu %b : (!qcc.tensor<[s0, 12], f32>) -> !qcc.tensor<[s0, 12], f32>
  %p = qcc.binary mul %c, %a : (!qcc.tensor<[s0, 12], f32>, !qcc.tensor<[s0, 12], f32>) -> !qcc.tensor<[s0, 12], f32>
  %y = qcc.linear %p, %d : (!qcc.tensor<[s0, 12], f32>, !qcc.tensor<[8, 12], f32>) -> !qcc.tensor<[s0, 8], f32>
  %z = qcc.binary add %n, %y : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[s0, 8], f32>) -> !qcc.tensor<[s0, 8], f32>
  qcc.return %z : !qcc.tensor<[s0, 8], f32>
}
