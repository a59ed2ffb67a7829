// RUN: qcc-opt %s -p 'lower-transforms' --weights %weights | filecheck %s
// RUN: qcc-opt %s -p 'lower-transforms{keep="rotate"}' --weights %weights | filecheck %s --check-prefix KEPT

// A Hadamard matrix of 16 is that of 4 times that of 4: two small products.
// CHECK-LABEL: qcc.program @all
// CHECK:       %[[X:.+]] = qcc.reshape %x {{.+}} -> !qcc.tensor<[s0, 2, 4, 4], f32>
// CHECK:       %[[H:.+]] = qcc.weight "hadamard.4.f32" : !qcc.tensor<[4, 4], f32>
// CHECK:       %[[A:.+]] = qcc.matmul %[[X]], %[[H]]
// CHECK-NEXT:  %[[T:.+]] = qcc.transpose %[[A]] {{.*}}permutation = array<i64: 0, 1, 3, 2>
// CHECK:       %[[B:.+]] = qcc.matmul %[[T]]
// CHECK:       qcc.reshape %{{.+}} -> !qcc.tensor<[s0, 32], f32>
// CHECK:       qcc.index
// CHECK:       qcc.binary mul
// CHECK:       qcc.index %{{.+}}[%{{.+}}] {axis = 1 : i64}
// CHECK-NOT:   qcc.rotate
// KEPT:        qcc.rotate block_hadamard
// KEPT-NOT:    qcc.scale_axis
qcc.program @all("x" %x: !qcc.tensor<[s0, 32], f32>, "order" %order: !qcc.tensor<[32], i64>, "f" %f: !qcc.tensor<[s0], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %unused = qcc.weight "unused" : !qcc.tensor<[1], f32>
  %r = qcc.rotate block_hadamard %x {axis = 1 : i64, block = 16 : i64, inverse = false} : (!qcc.tensor<[s0, 32], f32>) -> !qcc.tensor<[s0, 32], f32>
  %p = qcc.permute %r, %order {axis = 1 : i64} : (!qcc.tensor<[s0, 32], f32>, !qcc.tensor<[32], i64>) -> !qcc.tensor<[s0, 32], f32>
  %s = qcc.scale_axis %p, %f {axis = 0 : i64} : (!qcc.tensor<[s0, 32], f32>, !qcc.tensor<[s0], f32>) -> !qcc.tensor<[s0, 32], f32>
  %e = qcc.expand_k duplicate %s, %order : (!qcc.tensor<[s0, 32], f32>, !qcc.tensor<[32], i64>) -> !qcc.tensor<[s0, 32], f32>
  qcc.return %e : !qcc.tensor<[s0, 32], f32>
}
