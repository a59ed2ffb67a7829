// RUN: qcc-opt %s -p 'rotate-activations' --weights %weights | filecheck %s
// RUN: qcc-opt %s -p 'rotate-activations{block=4}' --weights %weights | filecheck %s --check-prefix BLOCKS

// CHECK-LABEL: qcc.program @mlp
// CHECK:       %[[A:.+]] = qcc.unary silu
// CHECK-NEXT:  %[[R:.+]] = qcc.rotate hadamard %[[A]] {{.*}}axis = 1 : i64, block = 12 : i64
// CHECK-NEXT:  qcc.linear %[[R]]
// BLOCKS:      qcc.rotate block_hadamard {{.*}}block = 4 : i64
qcc.program @mlp("x" %x: !qcc.tensor<[s0, 8], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %u = qcc.weight "up.weight" : !qcc.tensor<[12, 8], f32>
  %d = qcc.weight "down.weight" : !qcc.tensor<[8, 12], f32>
  %a = qcc.linear %x, %u : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[12, 8], f32>) -> !qcc.tensor<[s0, 12], f32>
  %b = qcc.unary silu %a : (!qcc.tensor<[s0, 12], f32>) -> !qcc.tensor<[s0, 12], f32>
  %y = qcc.linear %b, %d : (!qcc.tensor<[s0, 12], f32>, !qcc.tensor<[8, 12], f32>) -> !qcc.tensor<[s0, 8], f32>
  qcc.return %y : !qcc.tensor<[s0, 8], f32>
}
