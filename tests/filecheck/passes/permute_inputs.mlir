// RUN: qcc-opt %s -p 'permute-inputs{by="weights"}' --weights %weights | filecheck %s
// RUN: qcc-opt %s -p 'permute-inputs{by="weights"},permute-inputs{by="weights"}' --weights %weights | filecheck %s --check-prefix ONCE
// RUN: not qcc-opt %s -p 'permute-inputs{by="size"}' --weights %weights | filecheck %s --check-prefix SIZE
// RUN: not qcc-opt %s -p 'permute-inputs' --weights %weights | filecheck %s --check-prefix SAMPLES

// Layers that read one value read it in one order; the sum reads it as it was.
// CHECK-LABEL: qcc.program @mlp
// CHECK:       %[[N:.+]] = qcc.norm
// CHECK-NEXT:  %[[O:.+]] = qcc.weight "input_order" : !qcc.tensor<[8], i64>
// CHECK-NEXT:  %[[P:.+]] = qcc.permute %[[N]], %[[O]] {axis = 1 : i64}
// CHECK:       qcc.linear %[[P]], %{{.+}}
// CHECK:       qcc.linear %[[P]], %{{.+}}
// CHECK:       qcc.permute %{{.+}} -> !qcc.tensor<[s0, 12], f32>
// CHECK-NEXT:  qcc.linear
// CHECK-NEXT:  qcc.binary add %[[N]]
// ONCE-COUNT-2: qcc.permute
// ONCE-NOT:    qcc.permute
// SIZE:        channels cannot be sorted by 'size'
// SIZE:        fix: write activations or weights
// SAMPLES:     transform permute-inputs needs calibration, and no samples were given
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
