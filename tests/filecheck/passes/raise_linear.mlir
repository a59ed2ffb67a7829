// RUN: qcc-opt %s -p raise-linear | filecheck %s

// CHECK-LABEL: @sandwich
// CHECK: [[W:%.*]] = qcc.weight "w"
// CHECK: [[B:%.*]] = qcc.weight "b"
// CHECK-NEXT: [[Y:%.*]] = qcc.linear %x, [[W]] bias [[B]] {at = "head"} : (!qcc.tensor<[s, t, 4], f32>, !qcc.tensor<[3, 4], f32>, !qcc.tensor<[3], f32>) -> !qcc.tensor<[s, t, 3], f32>
// CHECK-NEXT: qcc.return [[Y]]
qcc.program @sandwich("x" %x : !qcc.tensor<[s, t, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>, #qcc.symbol<t in [1, inf]>] {
  %w = qcc.weight "w" : !qcc.tensor<[3, 4], f32>
  %b = qcc.weight "b" : !qcc.tensor<[3], f32>
  %flat = qcc.reshape %x : (!qcc.tensor<[s, t, 4], f32>) -> !qcc.tensor<["s*t", 4], f32>
  %wt = qcc.transpose %w {permutation = array<i64: 1, 0>} : (!qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[4, 3], f32>
  %mm = qcc.matmul %flat, %wt {at = "head"} : (!qcc.tensor<["s*t", 4], f32>, !qcc.tensor<[4, 3], f32>) -> !qcc.tensor<["s*t", 3], f32>
  %sum = qcc.binary add %b, %mm {at = "head"} : (!qcc.tensor<[3], f32>, !qcc.tensor<["s*t", 3], f32>) -> !qcc.tensor<["s*t", 3], f32>
  %y = qcc.reshape %sum {at = "head"} : (!qcc.tensor<["s*t", 3], f32>) -> !qcc.tensor<[s, t, 3], f32>
  qcc.return %y : !qcc.tensor<[s, t, 3], f32>
}

// A weight stored [K, N] is transposed for fold-constants to fold.
// CHECK-LABEL: @stored_transposed
// CHECK: qcc.transpose %w
// CHECK-NEXT: qcc.linear %x
qcc.program @stored_transposed("x" %x : !qcc.tensor<[2, 4], f32>) -> ["y"] symbols [] {
  %w = qcc.weight "v" : !qcc.tensor<[4, 3], f32>
  %y = qcc.matmul %x, %w : (!qcc.tensor<[2, 4], f32>, !qcc.tensor<[4, 3], f32>) -> !qcc.tensor<[2, 3], f32>
  qcc.return %y : !qcc.tensor<[2, 3], f32>
}

// A product of two computed values is no layer.
// CHECK-LABEL: @computed
// CHECK: qcc.matmul %x, %z
// CHECK-NOT: qcc.linear
qcc.program @computed("x" %x : !qcc.tensor<[2, 4], f32>, "z" %z : !qcc.tensor<[4, 3], f32>) -> ["y"] symbols [] {
  %y = qcc.matmul %x, %z : (!qcc.tensor<[2, 4], f32>, !qcc.tensor<[4, 3], f32>) -> !qcc.tensor<[2, 3], f32>
  qcc.return %y : !qcc.tensor<[2, 3], f32>
}

// A product that another operation reads keeps its addition.
// CHECK-LABEL: @read_twice
// CHECK: qcc.linear
// CHECK-NOT: bias
// CHECK: qcc.binary add
qcc.program @read_twice("x" %x : !qcc.tensor<[2, 4], f32>) -> ["y", "z"] symbols [] {
  %w = qcc.weight "w" : !qcc.tensor<[3, 4], f32>
  %b = qcc.weight "b" : !qcc.tensor<[3], f32>
  %y = qcc.linear %x, %w : (!qcc.tensor<[2, 4], f32>, !qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[2, 3], f32>
  %z = qcc.binary add %y, %b : (!qcc.tensor<[2, 3], f32>, !qcc.tensor<[3], f32>) -> !qcc.tensor<[2, 3], f32>
  qcc.return %y, %z : !qcc.tensor<[2, 3], f32>, !qcc.tensor<[2, 3], f32>
}

// A residual of the layer's own shape is no bias.
// CHECK-LABEL: @residual
// CHECK: qcc.linear
// CHECK-NEXT: qcc.binary add
qcc.program @residual("x" %x : !qcc.tensor<[2, 3], f32>) -> ["z"] symbols [] {
  %w = qcc.weight "s" : !qcc.tensor<[3, 3], f32>
  %y = qcc.linear %x, %w : (!qcc.tensor<[2, 3], f32>, !qcc.tensor<[3, 3], f32>) -> !qcc.tensor<[2, 3], f32>
  %z = qcc.binary add %y, %x : (!qcc.tensor<[2, 3], f32>, !qcc.tensor<[2, 3], f32>) -> !qcc.tensor<[2, 3], f32>
  qcc.return %z : !qcc.tensor<[2, 3], f32>
}
