// RUN: qcc-opt %s -p 'centre-streams' --weights %weights | filecheck %s
// RUN: not qcc-opt %s -p 'centre-streams,rotate-streams' --weights %weights | filecheck %s --check-prefix ROTATED

// Both norms read a stream without a mean. The table is untied: the head reads it as it was.
// CHECK-LABEL: qcc.program @model
// CHECK:       %[[E:.+]] = qcc.weight "embed.weight"
// CHECK:       %[[C:.+]] = qcc.weight "embed.weight/centred"
// CHECK:       qcc.embedding %[[C]], %ids
// CHECK-NEXT:  qcc.norm rms %{{.+}} {eps
// CHECK:       %[[M:.+]] = qcc.norm rms %{{.+}} weight
// CHECK-NEXT:  qcc.linear %[[M]], %[[E]]
// ROTATED: rotating the residual stream is not legal
// ROTATED: norm (net.py:9): qcc.norm is in the way of the rotation: it scales each channel by its weight
// ROTATED: fix: fold its weight into the layers that read it first (transform fold_norm)
qcc.program @model("ids" %ids: !qcc.tensor<[s0], i64>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %e = qcc.weight "embed.weight" : !qcc.tensor<[20, 8], f32>
  %u = qcc.weight "up.weight" : !qcc.tensor<[8, 8], f32>
  %g = qcc.weight "norm.weight" : !qcc.tensor<[8], f32>
  %x = qcc.embedding %e, %ids : (!qcc.tensor<[20, 8], f32>, !qcc.tensor<[s0], i64>) -> !qcc.tensor<[s0, 8], f32>
  %n = qcc.norm layer %x {eps = 1.0e-06 : f64} : !qcc.tensor<[s0, 8], f32> -> !qcc.tensor<[s0, 8], f32>
  %a = qcc.linear %n, %u : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[8, 8], f32>) -> !qcc.tensor<[s0, 8], f32>
  %z = qcc.binary add %x, %a : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[s0, 8], f32>) -> !qcc.tensor<[s0, 8], f32>
  %m = qcc.norm layer %z weight %g : !qcc.tensor<[8], f32> {at = "norm (net.py:9)", eps = 1.0e-06 : f64} : !qcc.tensor<[s0, 8], f32> -> !qcc.tensor<[s0, 8], f32>
  %y = qcc.linear %m, %e : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[20, 8], f32>) -> !qcc.tensor<[s0, 20], f32>
  qcc.return %y : !qcc.tensor<[s0, 20], f32>
}
