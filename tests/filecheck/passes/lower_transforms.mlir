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

// What a format loses of some channels stands behind all of them.
// CHECK-LABEL: qcc.program @residual
// CHECK-NEXT:  %[[Q:.+]] = qcc.quantize %x : {{.+}} -> !qcc.tensor<[s0, 32], "fp2_1 | (1,16) e4m3, tensor f32 | dynamic">
// CHECK-NEXT:  %[[D:.+]] = qcc.dequantize %[[Q]]
// CHECK-NEXT:  %[[L:.+]] = qcc.binary sub %x, %[[D]]
// CHECK-NEXT:  %[[S:.+]] = qcc.index %[[L]][%s] {axis = 1 : i64}
// CHECK-NEXT:  qcc.concat %x, %[[S]] {axis = 1 : i64}
qcc.program @residual("x" %x: !qcc.tensor<[s0, 32], f32>, "s" %s: !qcc.tensor<[16], i64>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %y = qcc.expand_k residual %x, %s {format = #qcc.qtype<"fp2_1 | (1,16) e4m3, tensor f32 | dynamic">} : (!qcc.tensor<[s0, 32], f32>, !qcc.tensor<[16], i64>) -> !qcc.tensor<[s0, 48], f32>
  qcc.return %y : !qcc.tensor<[s0, 48], f32>
}
