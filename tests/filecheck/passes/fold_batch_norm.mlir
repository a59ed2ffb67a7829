// RUN: qcc-opt %s -p 'fold-batch-norm{illegal="keep"}' --weights %weights | filecheck %s
// RUN: not qcc-opt %s -p 'fold-batch-norm' --weights %weights | filecheck %s --check-prefix REFUSED

// The convolution takes the statistics, the weight and the bias, and gets a bias of its own.
// CHECK-LABEL: qcc.program @plain
// CHECK-NEXT:  %[[W:.+]] = qcc.weight "conv.weight"
// CHECK-NEXT:  %[[B:.+]] = qcc.weight "conv.bias/batch_norm"
// CHECK-NEXT:  %[[Y:.+]] = qcc.conv %x, %[[W]] bias %[[B]] {at = "conv (net.py:3)"
// CHECK-NEXT:  qcc.return %[[Y]]
qcc.program @plain("x" %x: !qcc.tensor<[s0, 3, 8], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %w = qcc.weight "conv.weight" : !qcc.tensor<[4, 3, 3], f32>
  %mean = qcc.weight "bn.mean" : !qcc.tensor<[4], f32>
  %var = qcc.weight "bn.var" : !qcc.tensor<[4], f32>
  %g = qcc.weight "bn.weight" : !qcc.tensor<[4], f32>
  %b = qcc.weight "bn.bias" : !qcc.tensor<[4], f32>
  %c = qcc.conv %x, %w {at = "conv (net.py:3)", stride = array<i64: 1>, padding = array<i64: 1>, dilation = array<i64: 1>, groups = 1 : i64} : (!qcc.tensor<[s0, 3, 8], f32>, !qcc.tensor<[4, 3, 3], f32>) -> !qcc.tensor<[s0, 4, 8], f32>
  %y = qcc.batch_norm %c, %mean, %var weight %g : !qcc.tensor<[4], f32> bias %b : !qcc.tensor<[4], f32> {at = "bn (net.py:4)", eps = 1.0e-05 : f64} : !qcc.tensor<[s0, 4, 8], f32>, !qcc.tensor<[4], f32>, !qcc.tensor<[4], f32> -> !qcc.tensor<[s0, 4, 8], f32>
  qcc.return %y : !qcc.tensor<[s0, 4, 8], f32>
}

// What something else reads too, and what no layer writes, stays and says why.
// CHECK-LABEL: qcc.program @shared
// CHECK:       qcc.batch_norm {{.*}}not_folded = "qcc.batch_norm: something else reads the layer's result too"
// CHECK:       qcc.batch_norm {{.*}}not_folded = "qcc.batch_norm: no layer writes what it reads"
// REFUSED: folding batch norms is not legal at 2 places
// REFUSED: shared (net.py:9): qcc.batch_norm: something else reads the layer's result too
// REFUSED: fix: keep it
// REFUSED: first (net.py:8): qcc.batch_norm: no layer writes what it reads
qcc.program @shared("x" %x: !qcc.tensor<[s0, 4], f32>) -> ["y", "z"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %w = qcc.weight "linear.weight" : !qcc.tensor<[4, 4], f32>
  %mean = qcc.weight "bn1.mean" : !qcc.tensor<[4], f32>
  %var = qcc.weight "bn1.var" : !qcc.tensor<[4], f32>
  %c = qcc.linear %x, %w : (!qcc.tensor<[s0, 4], f32>, !qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[s0, 4], f32>
  %y = qcc.batch_norm %c, %mean, %var {at = "shared (net.py:9)", eps = 1.0e-05 : f64} : !qcc.tensor<[s0, 4], f32>, !qcc.tensor<[4], f32>, !qcc.tensor<[4], f32> -> !qcc.tensor<[s0, 4], f32>
  %t = qcc.binary add %c, %y : (!qcc.tensor<[s0, 4], f32>, !qcc.tensor<[s0, 4], f32>) -> !qcc.tensor<[s0, 4], f32>
  %z = qcc.batch_norm %x, %mean, %var {at = "first (net.py:8)", eps = 1.0e-05 : f64} : !qcc.tensor<[s0, 4], f32>, !qcc.tensor<[4], f32>, !qcc.tensor<[4], f32> -> !qcc.tensor<[s0, 4], f32>
  qcc.return %t, %z : !qcc.tensor<[s0, 4], f32>, !qcc.tensor<[s0, 4], f32>
}
