// RUN: qcc-opt %s -p annotate-groups | filecheck %s

// CHECK-LABEL: @block
// CHECK: qcc.linear %x, %q {fuse_group = "layer.0.attn.q_k"}
// CHECK-NEXT: qcc.linear %x, %k {fuse_group = "layer.0.attn.q_k"}
// CHECK-NEXT: qcc.binary mul
// CHECK-NEXT: qcc.linear {{.*}} {residual_stream = 0 : i64}
// CHECK-NEXT: qcc.binary add %x, {{.*}} {residual_stream = 0 : i64}
// CHECK-NEXT: qcc.binary add %e, {{%.*}} : (
qcc.program @block("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %q = qcc.weight "layer.0.attn.q.weight" : !qcc.tensor<[4, 4], f32>
  %k = qcc.weight "layer.0.attn.k.weight" : !qcc.tensor<[4, 4], f32>
  %o = qcc.weight "layer.0.attn.o.weight" : !qcc.tensor<[4, 4], f32>
  %shift = qcc.weight "shift" : !qcc.tensor<[4], f32>
  %a = qcc.linear %x, %q : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %b = qcc.linear %x, %k : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %c = qcc.binary mul %a, %b : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %d = qcc.linear %c, %o : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %e = qcc.binary add %x, %d : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
  %y = qcc.binary add %e, %shift : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4], f32>) -> !qcc.tensor<[s, 4], f32>
  qcc.return %y : !qcc.tensor<[s, 4], f32>
}
