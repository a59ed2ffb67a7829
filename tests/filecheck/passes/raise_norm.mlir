// RUN: qcc-opt %s -p raise-norm | filecheck %s

// CHECK-LABEL: @rms
// CHECK: qcc.norm rms %x weight %w : !qcc.tensor<[8], f32> {eps = 1.000000e-06 : f64} : !qcc.tensor<[s, 8], f32> -> !qcc.tensor<[s, 8], f32>
// CHECK-NEXT: qcc.return
qcc.program @rms("x" %x : !qcc.tensor<[s, 8], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %w = qcc.weight "w" : !qcc.tensor<[8], f32>
  %eps = qcc.constant 1.0e-06 : f64 : !qcc.tensor<[], f32>
  %sq = qcc.binary mul %x, %x : (!qcc.tensor<[s, 8], f32>, !qcc.tensor<[s, 8], f32>) -> !qcc.tensor<[s, 8], f32>
  %m = qcc.reduce mean %sq {axes = array<i64: 1>, keep = true} : (!qcc.tensor<[s, 8], f32>) -> !qcc.tensor<[s, 1], f32>
  %a = qcc.binary add %m, %eps : (!qcc.tensor<[s, 1], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[s, 1], f32>
  %r = qcc.unary rsqrt %a : (!qcc.tensor<[s, 1], f32>) -> !qcc.tensor<[s, 1], f32>
  %n = qcc.binary mul %x, %r : (!qcc.tensor<[s, 8], f32>, !qcc.tensor<[s, 1], f32>) -> !qcc.tensor<[s, 8], f32>
  %y = qcc.binary mul %w, %n : (!qcc.tensor<[8], f32>, !qcc.tensor<[s, 8], f32>) -> !qcc.tensor<[s, 8], f32>
  qcc.return %y : !qcc.tensor<[s, 8], f32>
}

// CHECK-LABEL: @rms_plus1
// CHECK: qcc.norm rms_plus1 %x weight %w
// CHECK-NOT: qcc.binary
qcc.program @rms_plus1("x" %x : !qcc.tensor<[2, 8], bf16>) -> ["y"] symbols [] {
  %w = qcc.weight "v" : !qcc.tensor<[8], bf16>
  %eps = qcc.constant 1.0e-06 : f64 : !qcc.tensor<[], f32>
  %one = qcc.constant 1.0 : f64 : !qcc.tensor<[], f32>
  %f = qcc.cast %x : (!qcc.tensor<[2, 8], bf16>) -> !qcc.tensor<[2, 8], f32>
  %sq = qcc.binary mul %f, %f : (!qcc.tensor<[2, 8], f32>, !qcc.tensor<[2, 8], f32>) -> !qcc.tensor<[2, 8], f32>
  %m = qcc.reduce mean %sq {axes = array<i64: 1>, keep = true} : (!qcc.tensor<[2, 8], f32>) -> !qcc.tensor<[2, 1], f32>
  %a = qcc.binary add %m, %eps : (!qcc.tensor<[2, 1], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[2, 1], f32>
  %r = qcc.unary rsqrt %a : (!qcc.tensor<[2, 1], f32>) -> !qcc.tensor<[2, 1], f32>
  %n = qcc.binary mul %f, %r : (!qcc.tensor<[2, 8], f32>, !qcc.tensor<[2, 1], f32>) -> !qcc.tensor<[2, 8], f32>
  %wf = qcc.cast %w : (!qcc.tensor<[8], bf16>) -> !qcc.tensor<[8], f32>
  %w1 = qcc.binary add %wf, %one : (!qcc.tensor<[8], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[8], f32>
  %s = qcc.binary mul %n, %w1 : (!qcc.tensor<[2, 8], f32>, !qcc.tensor<[8], f32>) -> !qcc.tensor<[2, 8], f32>
  %y = qcc.cast %s : (!qcc.tensor<[2, 8], f32>) -> !qcc.tensor<[2, 8], bf16>
  qcc.return %y : !qcc.tensor<[2, 8], bf16>
}

// The weight multiplies in f32, before the rounding: the f32 norm is raised, its casts stay.
// CHECK-LABEL: @late_rounding
// CHECK: qcc.norm rms %f weight %wf : !qcc.tensor<[8], f32> {{.*}} !qcc.tensor<[2, 8], f32> -> !qcc.tensor<[2, 8], f32>
// CHECK-NEXT: qcc.cast
qcc.program @late_rounding("x" %x : !qcc.tensor<[2, 8], bf16>) -> ["y"] symbols [] {
  %w = qcc.weight "v" : !qcc.tensor<[8], bf16>
  %f = qcc.cast %x : (!qcc.tensor<[2, 8], bf16>) -> !qcc.tensor<[2, 8], f32>
  %n = qcc.norm rms %f {eps = 1.0e-06 : f64} : !qcc.tensor<[2, 8], f32> -> !qcc.tensor<[2, 8], f32>
  %wf = qcc.cast %w : (!qcc.tensor<[8], bf16>) -> !qcc.tensor<[8], f32>
  %s = qcc.binary mul %n, %wf : (!qcc.tensor<[2, 8], f32>, !qcc.tensor<[8], f32>) -> !qcc.tensor<[2, 8], f32>
  %y = qcc.cast %s : (!qcc.tensor<[2, 8], f32>) -> !qcc.tensor<[2, 8], bf16>
  qcc.return %y : !qcc.tensor<[2, 8], bf16>
}

// A mean over another axis is no norm of the last one.
// CHECK-LABEL: @other_axis
// CHECK-NOT: qcc.norm
// CHECK: qcc.return
qcc.program @other_axis("x" %x : !qcc.tensor<[8, 8], f32>) -> ["y"] symbols [] {
  %eps = qcc.constant 1.0e-06 : f64 : !qcc.tensor<[], f32>
  %sq = qcc.binary mul %x, %x : (!qcc.tensor<[8, 8], f32>, !qcc.tensor<[8, 8], f32>) -> !qcc.tensor<[8, 8], f32>
  %m = qcc.reduce mean %sq {axes = array<i64: 0>, keep = true} : (!qcc.tensor<[8, 8], f32>) -> !qcc.tensor<[1, 8], f32>
  %a = qcc.binary add %m, %eps : (!qcc.tensor<[1, 8], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[1, 8], f32>
  %r = qcc.unary rsqrt %a : (!qcc.tensor<[1, 8], f32>) -> !qcc.tensor<[1, 8], f32>
  %y = qcc.binary mul %x, %r : (!qcc.tensor<[8, 8], f32>, !qcc.tensor<[1, 8], f32>) -> !qcc.tensor<[8, 8], f32>
  qcc.return %y : !qcc.tensor<[8, 8], f32>
}

// The mean square of another value is no norm either.
// CHECK-LABEL: @other_value
// CHECK-NOT: qcc.norm
// CHECK: qcc.return
qcc.program @other_value("x" %x : !qcc.tensor<[2, 8], f32>, "z" %z : !qcc.tensor<[2, 8], f32>) -> ["y"] symbols [] {
  %eps = qcc.constant 1.0e-06 : f64 : !qcc.tensor<[], f32>
  %sq = qcc.binary mul %z, %z : (!qcc.tensor<[2, 8], f32>, !qcc.tensor<[2, 8], f32>) -> !qcc.tensor<[2, 8], f32>
  %m = qcc.reduce mean %sq {axes = array<i64: 1>, keep = true} : (!qcc.tensor<[2, 8], f32>) -> !qcc.tensor<[2, 1], f32>
  %a = qcc.binary add %m, %eps : (!qcc.tensor<[2, 1], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[2, 1], f32>
  %r = qcc.unary rsqrt %a : (!qcc.tensor<[2, 1], f32>) -> !qcc.tensor<[2, 1], f32>
  %y = qcc.binary mul %x, %r : (!qcc.tensor<[2, 8], f32>, !qcc.tensor<[2, 1], f32>) -> !qcc.tensor<[2, 8], f32>
  qcc.return %y : !qcc.tensor<[2, 8], f32>
}
