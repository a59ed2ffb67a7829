// RUN: qcc-opt %s -p 'round-folds' --weights %weights | filecheck %s

// The program stays as it is; what is stored is rounded.
// CHECK: qcc.weight "w" : !qcc.tensor<[4, 8], bf16>
// CHECK: qcc.linear
qcc.program @main("x" %x: !qcc.tensor<[s0, 8], bf16>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %w = qcc.weight "w" : !qcc.tensor<[4, 8], bf16>
  %y = qcc.linear %x, %w : (!qcc.tensor<[s0, 8], bf16>, !qcc.tensor<[4, 8], bf16>) -> !qcc.tensor<[s0, 4], bf16>
  qcc.return %y : !qcc.tensor<[s0, 4], bf16>
}
