// RUN: qcc-opt %s | qcc-opt | filecheck %s

// CHECK:      qcc.unfold %x {window = array<i64: 3, 5>, stride = array<i64: 2, 1>, padding = array<i64: 1, 2>, dilation = array<i64: 1, 2>}
// CHECK-SAME: (!qcc.tensor<[s0, 3, 8, s1], f16>) -> !qcc.tensor<[s0, 4, "s1 - 4", 45], f16>
qcc.program @main("x" %x: !qcc.tensor<[s0, 3, 8, s1], f16>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>, #qcc.symbol<s1 in [5, 64]>] {
  %y = qcc.unfold %x {window = array<i64: 3, 5>, stride = array<i64: 2, 1>, padding = array<i64: 1, 2>, dilation = array<i64: 1, 2>} : (!qcc.tensor<[s0, 3, 8, s1], f16>) -> !qcc.tensor<[s0, 4, "s1 - 4", 45], f16>
  qcc.return %y : !qcc.tensor<[s0, 4, "s1 - 4", 45], f16>
}
