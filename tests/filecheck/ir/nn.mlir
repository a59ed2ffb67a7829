// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>, "ids" %ids: !qcc.tensor<[b, s], i64>, "image" %image: !qcc.tensor<[b, 3, "2*s", 9], f32>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
  %0 = qcc.weight "w" : !qcc.tensor<[3, 4], f32>
  %1 = qcc.linear %x, %0 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[b, s, 3], f32>
  %2 = qcc.weight "b" : !qcc.tensor<[3], f32>
  %3 = qcc.linear %x, %0 bias %2 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[3, 4], f32>, !qcc.tensor<[3], f32>) -> !qcc.tensor<[b, s, 3], f32>
  %4 = qcc.transpose %0 {permutation = array<i64: 1, 0>} : (!qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[4, 3], f32>
  %5 = qcc.matmul %x, %4 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[4, 3], f32>) -> !qcc.tensor<[b, s, 3], f32>
  %6 = qcc.weight "k" : !qcc.tensor<[6, 1, 3, 3], f32>
  %7 = qcc.weight "kb" : !qcc.tensor<[6], f32>
  %8 = qcc.conv %image, %6 bias %7 {stride = array<i64: 2, 2>, padding = array<i64: 1, 1>, dilation = array<i64: 1, 1>, groups = 3 : i64} : (!qcc.tensor<[b, 3, "2*s", 9], f32>, !qcc.tensor<[6, 1, 3, 3], f32>, !qcc.tensor<[6], f32>) -> !qcc.tensor<[b, 6, s, 5], f32>
  %9 = qcc.embedding %0, %ids : (!qcc.tensor<[3, 4], f32>, !qcc.tensor<[b, s], i64>) -> !qcc.tensor<[b, s, 4], f32>
  %10 = qcc.softmax %x {axis = 2 : i64} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
  %11 = qcc.pool average_valid %image {window = array<i64: 3, 3>, stride = array<i64: 2, 2>, padding = array<i64: 1, 1>} : (!qcc.tensor<[b, 3, "2*s", 9], f32>) -> !qcc.tensor<[b, 3, s, 5], f32>
  qcc.return %1 : !qcc.tensor<[b, s, 3], f32>
}

// CHECK: qcc.program @main("x" %x: !qcc.tensor<[b, s, 4], f32>, "ids" %ids: !qcc.tensor<[b, s], i64>, "image" %image: !qcc.tensor<[b, 3, "2*s", 9], f32>) -> ["y"] symbols [#qcc.symbol<b in [1, 8]>, #qcc.symbol<s in [1, inf]>] {
// CHECK: %0 = qcc.weight "w" : !qcc.tensor<[3, 4], f32>
// CHECK: %1 = qcc.linear %x, %0 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[b, s, 3], f32>
// CHECK: %2 = qcc.weight "b" : !qcc.tensor<[3], f32>
// CHECK: %3 = qcc.linear %x, %0 bias %2 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[3, 4], f32>, !qcc.tensor<[3], f32>) -> !qcc.tensor<[b, s, 3], f32>
// CHECK: %4 = qcc.transpose %0 {permutation = array<i64: 1, 0>} : (!qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[4, 3], f32>
// CHECK: %5 = qcc.matmul %x, %4 : (!qcc.tensor<[b, s, 4], f32>, !qcc.tensor<[4, 3], f32>) -> !qcc.tensor<[b, s, 3], f32>
// CHECK: %6 = qcc.weight "k" : !qcc.tensor<[6, 1, 3, 3], f32>
// CHECK: %7 = qcc.weight "kb" : !qcc.tensor<[6], f32>
// CHECK: %8 = qcc.conv %image, %6 bias %7 {stride = array<i64: 2, 2>, padding = array<i64: 1, 1>, dilation = array<i64: 1, 1>, groups = 3 : i64} : (!qcc.tensor<[b, 3, "2*s", 9], f32>, !qcc.tensor<[6, 1, 3, 3], f32>, !qcc.tensor<[6], f32>) -> !qcc.tensor<[b, 6, s, 5], f32>
// CHECK: %9 = qcc.embedding %0, %ids : (!qcc.tensor<[3, 4], f32>, !qcc.tensor<[b, s], i64>) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %10 = qcc.softmax %x {axis = 2 : i64} : (!qcc.tensor<[b, s, 4], f32>) -> !qcc.tensor<[b, s, 4], f32>
// CHECK: %11 = qcc.pool average_valid %image {window = array<i64: 3, 3>, stride = array<i64: 2, 2>, padding = array<i64: 1, 1>} : (!qcc.tensor<[b, 3, "2*s", 9], f32>) -> !qcc.tensor<[b, 3, s, 5], f32>
// CHECK: qcc.return %1 : !qcc.tensor<[b, s, 3], f32>
