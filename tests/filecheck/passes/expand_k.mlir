// RUN: qcc-opt %s -p 'expand-k{share=0.2 multiple=4}' --weights %weights | filecheck %s
// RUN: not qcc-opt %s -p 'expand-k{drop=true}' --weights %weights | filecheck %s --check-prefix SAMPLES
// RUN: not qcc-opt %s -p 'expand-k{share=2.0}' --weights %weights | filecheck %s --check-prefix SHARE

// Widths grow to the next multiple: 8 to 12, and 12 to 16.
// CHECK-LABEL: qcc.program @mlp
// CHECK:       %[[N:.+]] = qcc.norm
// CHECK-NEXT:  %[[S:.+]] = qcc.weight "expansion" : !qcc.tensor<[12], i64>
// CHECK-NEXT:  %[[E:.+]] = qcc.expand_k duplicate %[[N]], %[[S]]
// CHECK-NEXT:  qcc.linear %[[E]], %{{.+}} : (!qcc.tensor<[s0, 12], f32>, !qcc.tensor<[12, 12], f32>)
// CHECK:       qcc.expand_k duplicate %{{.+}}, %{{.+}} : {{.+}} -> !qcc.tensor<[s0, 16], f32>
// SAMPLES: transform expand_k with drop needs calibration
// SHARE: share=2.0, multiple=8
qcc.program @mlp("x" %x: !qcc.tensor<[s0, 8], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %u = qcc.weight "up.weight" : !qcc.tensor<[12, 8], f32>
  %d = qcc.weight "down.weight" : !qcc.tensor<[8, 12], f32>
  %g = qcc.weight "norm.weight" : !qcc.tensor<[8], f32>
  %n = qcc.norm rms %x weight %g : !qcc.tensor<[8], f32> {at = "norm (net.py:1)", eps = 1.0e-06 : f64} : !qcc.tensor<[s0, 8], f32> -> !qcc.tensor<[s0, 8], f32>
  %a = qcc.linear %n, %u : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[12, 8], f32>) -> !qcc.tensor<[s0, 12], f32>
  %b = qcc.unary silu %a : (!qcc.tensor<[s0, 12], f32>) -> !qcc.tensor<[s0, 12], f32>
  %y = qcc.linear %b, %d : (!qcc.tensor<[s0, 12], f32>, !qcc.tensor<[8, 12], f32>) -> !qcc.tensor<[s0, 8], f32>
  qcc.return %y : !qcc.tensor<[s0, 8], f32>
}
