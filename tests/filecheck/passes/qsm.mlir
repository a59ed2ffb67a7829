// RUN: not qcc-opt %s -p 'qsm{illegal="keep"}' --weights %weights | filecheck %s --check-prefix SAMPLES
// RUN: not qcc-opt %s -p 'qsm' --weights %weights | filecheck %s

// What is legal needs samples, which text alone has not.
// SAMPLES: transform qsm needs calibration, and no samples were given
qcc.program @mlp("x" %x: !qcc.tensor<[s0, 8], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %u = qcc.weight "up.weight" : !qcc.tensor<[12, 8], f32>
  %d = qcc.weight "down.weight" : !qcc.tensor<[8, 12], f32>
  %g = qcc.weight "norm.weight" : !qcc.tensor<[8], f32>
  %n = qcc.norm rms %x weight %g : !qcc.tensor<[8], f32> {at = "norm (net.py:1)", eps = 1.0e-06 : f64} : !qcc.tensor<[s0, 8], f32> -> !qcc.tensor<[s0, 8], f32>
  %a = qcc.linear %n, %u : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[12, 8], f32>) -> !qcc.tensor<[s0, 12], f32>
  %b = qcc.unary silu %a : (!qcc.tensor<[s0, 12], f32>) -> !qcc.tensor<[s0, 12], f32>
  %y = qcc.linear %b, %d : (!qcc.tensor<[s0, 12], f32>, !qcc.tensor<[8, 12], f32>) -> !qcc.tensor<[s0, 8], f32>
  qcc.return %y : !qcc.tensor<[s0, 8], f32>
}

// A norm that feeds a residual as well takes no scale: the next norm would not undo it.
// CHECK: migrating quantization steps into norms is not legal at 1 place
// CHECK: next (net.py:5): qcc.norm is in the way of the diagonal: a norm divides by a sum over all channels
// CHECK: fix: leave the channels alone that this norm reads
qcc.program @shared("x" %x: !qcc.tensor<[s0, 8], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %u = qcc.weight "up.weight" : !qcc.tensor<[12, 8], f32>
  %d = qcc.weight "down.weight" : !qcc.tensor<[8, 12], f32>
  %g = qcc.weight "norm.weight" : !qcc.tensor<[8], f32>
  %n = qcc.norm rms %x weight %g : !qcc.tensor<[8], f32> {at = "norm (net.py:1)", eps = 1.0e-06 : f64} : !qcc.tensor<[s0, 8], f32> -> !qcc.tensor<[s0, 8], f32>
  %a = qcc.linear %n, %u : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[12, 8], f32>) -> !qcc.tensor<[s0, 12], f32>
  %b = qcc.unary silu %a : (!qcc.tensor<[s0, 12], f32>) -> !qcc.tensor<[s0, 12], f32>
  %y = qcc.linear %b, %d : (!qcc.tensor<[s0, 12], f32>, !qcc.tensor<[8, 12], f32>) -> !qcc.tensor<[s0, 8], f32>
  %t = qcc.binary add %n, %y : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[s0, 8], f32>) -> !qcc.tensor<[s0, 8], f32>
  %z = qcc.norm rms %t weight %g : !qcc.tensor<[8], f32> {at = "next (net.py:5)", eps = 1.0e-06 : f64} : !qcc.tensor<[s0, 8], f32> -> !qcc.tensor<[s0, 8], f32>
  qcc.return %z : !qcc.tensor<[s0, 8], f32>
}
