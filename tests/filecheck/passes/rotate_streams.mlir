// RUN: qcc-opt %s -p 'rotate-streams' --weights %weights | filecheck %s
// RUN: not qcc-opt %s -p 'rotate-streams{block=3}' --weights %weights | filecheck %s --check-prefix BLOCK

// Nothing is computed at run time: the operations stay, and the table that is also the head is untied only where its
// two roles ask for different tensors, which a rotation does not.
// CHECK-LABEL: qcc.program @model
// CHECK-NEXT:  %[[E:.+]] = qcc.weight "embed.weight"
// CHECK-NEXT:  qcc.weight "up.weight"
// CHECK-NEXT:  qcc.weight "down.weight"
// CHECK-NEXT:  %[[X:.+]] = qcc.embedding %[[E]], %ids
// CHECK-NEXT:  qcc.norm rms %[[X]]
// CHECK-NOT:   qcc.rotate
// CHECK:       qcc.linear %{{.+}}, %[[E]]
// BLOCK: blocks of 3 do not divide 8 channels
// BLOCK-NEXT: fix: use blocks of 8
qcc.program @model("ids" %ids: !qcc.tensor<[s0], i64>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %e = qcc.weight "embed.weight" : !qcc.tensor<[20, 8], f32>
  %u = qcc.weight "up.weight" : !qcc.tensor<[16, 8], f32>
  %d = qcc.weight "down.weight" : !qcc.tensor<[8, 16], f32>
  %x = qcc.embedding %e, %ids : (!qcc.tensor<[20, 8], f32>, !qcc.tensor<[s0], i64>) -> !qcc.tensor<[s0, 8], f32>
  %n = qcc.norm rms %x {eps = 1.0e-06 : f64} : !qcc.tensor<[s0, 8], f32> -> !qcc.tensor<[s0, 8], f32>
  %a = qcc.linear %n, %u : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[16, 8], f32>) -> !qcc.tensor<[s0, 16], f32>
  %b = qcc.unary silu %a : (!qcc.tensor<[s0, 16], f32>) -> !qcc.tensor<[s0, 16], f32>
  %c = qcc.linear %b, %d : (!qcc.tensor<[s0, 16], f32>, !qcc.tensor<[8, 16], f32>) -> !qcc.tensor<[s0, 8], f32>
  %z = qcc.binary add %x, %c : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[s0, 8], f32>) -> !qcc.tensor<[s0, 8], f32>
  %m = qcc.norm rms %z {eps = 1.0e-06 : f64} : !qcc.tensor<[s0, 8], f32> -> !qcc.tensor<[s0, 8], f32>
  %y = qcc.linear %m, %e : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[20, 8], f32>) -> !qcc.tensor<[s0, 20], f32>
  qcc.return %y : !qcc.tensor<[s0, 20], f32>
}
