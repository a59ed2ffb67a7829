// RUN: qcc-opt %s -p raise-activation | filecheck %s

// CHECK-LABEL: @silu
// CHECK: qcc.unary silu %x
// CHECK-NEXT: qcc.return
qcc.program @silu("x" %x : !qcc.tensor<[s], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %g = qcc.unary sigmoid %x : (!qcc.tensor<[s], f32>) -> !qcc.tensor<[s], f32>
  %y = qcc.binary mul %g, %x : (!qcc.tensor<[s], f32>, !qcc.tensor<[s], f32>) -> !qcc.tensor<[s], f32>
  qcc.return %y : !qcc.tensor<[s], f32>
}

// CHECK-LABEL: @gelu_tanh
// CHECK: qcc.unary gelu_tanh %x {at = "act"}
// CHECK-NEXT: qcc.return
qcc.program @gelu_tanh("x" %x : !qcc.tensor<[s], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %half = qcc.constant 0.5 : f64 : !qcc.tensor<[], f32>
  %one = qcc.constant 1.0 : f64 : !qcc.tensor<[], f32>
  %root = qcc.constant 0.7978845608028654 : f64 : !qcc.tensor<[], f32>
  %cubic = qcc.constant 0.044715 : f64 : !qcc.tensor<[], f32>
  %x2 = qcc.binary mul %x, %x : (!qcc.tensor<[s], f32>, !qcc.tensor<[s], f32>) -> !qcc.tensor<[s], f32>
  %x3 = qcc.binary mul %x2, %x : (!qcc.tensor<[s], f32>, !qcc.tensor<[s], f32>) -> !qcc.tensor<[s], f32>
  %c = qcc.binary mul %x3, %cubic : (!qcc.tensor<[s], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[s], f32>
  %d = qcc.binary add %x, %c : (!qcc.tensor<[s], f32>, !qcc.tensor<[s], f32>) -> !qcc.tensor<[s], f32>
  %e = qcc.binary mul %d, %root : (!qcc.tensor<[s], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[s], f32>
  %t = qcc.unary tanh %e : (!qcc.tensor<[s], f32>) -> !qcc.tensor<[s], f32>
  %u = qcc.binary add %t, %one : (!qcc.tensor<[s], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[s], f32>
  %v = qcc.binary mul %x, %half : (!qcc.tensor<[s], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[s], f32>
  %y = qcc.binary mul %v, %u {at = "act"} : (!qcc.tensor<[s], f32>, !qcc.tensor<[s], f32>) -> !qcc.tensor<[s], f32>
  qcc.return %y : !qcc.tensor<[s], f32>
}

// A gate of another value is no silu.
// CHECK-LABEL: @gated
// CHECK: qcc.unary sigmoid %z
// CHECK-NEXT: qcc.binary mul
qcc.program @gated("x" %x : !qcc.tensor<[4], f32>, "z" %z : !qcc.tensor<[4], f32>) -> ["y"] symbols [] {
  %g = qcc.unary sigmoid %z : (!qcc.tensor<[4], f32>) -> !qcc.tensor<[4], f32>
  %y = qcc.binary mul %g, %x : (!qcc.tensor<[4], f32>, !qcc.tensor<[4], f32>) -> !qcc.tensor<[4], f32>
  qcc.return %y : !qcc.tensor<[4], f32>
}

// x * sigmoid(1.702 x) only resembles a gelu.
// CHECK-LABEL: @quick_gelu
// CHECK-NOT: {{silu|gelu %}}
// CHECK: qcc.return
qcc.program @quick_gelu("x" %x : !qcc.tensor<[4], f32>) -> ["y"] symbols [] {
  %c = qcc.constant 1.702 : f64 : !qcc.tensor<[], f32>
  %s = qcc.binary mul %x, %c : (!qcc.tensor<[4], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[4], f32>
  %g = qcc.unary sigmoid %s : (!qcc.tensor<[4], f32>) -> !qcc.tensor<[4], f32>
  %y = qcc.binary mul %g, %x : (!qcc.tensor<[4], f32>, !qcc.tensor<[4], f32>) -> !qcc.tensor<[4], f32>
  qcc.return %y : !qcc.tensor<[4], f32>
}

// erf of x over 1.5 instead of the root of 2.
// CHECK-LABEL: @wrong_constant
// CHECK-NOT: qcc.unary gelu
// CHECK: qcc.return
qcc.program @wrong_constant("x" %x : !qcc.tensor<[4], f32>) -> ["y"] symbols [] {
  %half = qcc.constant 0.5 : f64 : !qcc.tensor<[], f32>
  %one = qcc.constant 1.0 : f64 : !qcc.tensor<[], f32>
  %c = qcc.constant 1.5 : f64 : !qcc.tensor<[], f32>
  %s = qcc.binary div %x, %c : (!qcc.tensor<[4], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[4], f32>
  %e = qcc.unary erf %s : (!qcc.tensor<[4], f32>) -> !qcc.tensor<[4], f32>
  %u = qcc.binary add %e, %one : (!qcc.tensor<[4], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[4], f32>
  %v = qcc.binary mul %x, %half : (!qcc.tensor<[4], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[4], f32>
  %y = qcc.binary mul %v, %u : (!qcc.tensor<[4], f32>, !qcc.tensor<[4], f32>) -> !qcc.tensor<[4], f32>
  qcc.return %y : !qcc.tensor<[4], f32>
}
