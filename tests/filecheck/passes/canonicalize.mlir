// RUN: qcc-opt %s -p canonicalize | filecheck %s

// CHECK-LABEL: @nothing_moves
// CHECK-NEXT: qcc.return %x
qcc.program @nothing_moves("x" %x : !qcc.tensor<[s, 8], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %one = qcc.constant 1.0 : f64 : !qcc.tensor<[1], f32>
  %a = qcc.reshape %x : (!qcc.tensor<[s, 8], f32>) -> !qcc.tensor<[s, 2, 4], f32>
  %b = qcc.transpose %a {permutation = array<i64: 1, 0, 2>} : (!qcc.tensor<[s, 2, 4], f32>) -> !qcc.tensor<[2, s, 4], f32>
  %c = qcc.transpose %b {permutation = array<i64: 1, 0, 2>} : (!qcc.tensor<[2, s, 4], f32>) -> !qcc.tensor<[s, 2, 4], f32>
  %d = qcc.reshape %c : (!qcc.tensor<[s, 2, 4], f32>) -> !qcc.tensor<[s, 8], f32>
  %e = qcc.slice %d {axis = 0 : i64, start = #qcc.dim<0>, step = 1 : i64} : (!qcc.tensor<[s, 8], f32>) -> !qcc.tensor<[s, 8], f32>
  %f = qcc.cast %e : (!qcc.tensor<[s, 8], f32>) -> !qcc.tensor<[s, 8], f32>
  %ones = qcc.expand %one : (!qcc.tensor<[1], f32>) -> !qcc.tensor<[s, 8], f32>
  %y = qcc.binary mul %f, %ones : (!qcc.tensor<[s, 8], f32>, !qcc.tensor<[s, 8], f32>) -> !qcc.tensor<[s, 8], f32>
  qcc.return %y : !qcc.tensor<[s, 8], f32>
}

// Equal operations become one wherever they come from; a write to state stays.
// CHECK-LABEL: @equal
// CHECK: [[E:%.*]] = qcc.unary exp %x {at = "first"}
// CHECK-NEXT: qcc.binary add [[E]], [[E]]
// CHECK-NEXT: qcc.update_state "s"
qcc.program @equal("x" %x : !qcc.tensor<[4], f32>) -> ["y"] symbols [] {
  %a = qcc.unary exp %x {at = "first"} : (!qcc.tensor<[4], f32>) -> !qcc.tensor<[4], f32>
  %b = qcc.unary exp %x {at = "second"} : (!qcc.tensor<[4], f32>) -> !qcc.tensor<[4], f32>
  %dead = qcc.unary neg %x : (!qcc.tensor<[4], f32>) -> !qcc.tensor<[4], f32>
  %y = qcc.binary add %a, %b : (!qcc.tensor<[4], f32>, !qcc.tensor<[4], f32>) -> !qcc.tensor<[4], f32>
  qcc.update_state "s", %y : !qcc.tensor<[4], f32>
  qcc.return %y : !qcc.tensor<[4], f32>
}

// A transpose, a slice that leaves something out, a rounding: none of these may go.
// CHECK-LABEL: @something_moves
// CHECK: qcc.transpose
// CHECK: qcc.slice
// CHECK: qcc.cast
// CHECK: qcc.cast
qcc.program @something_moves("x" %x : !qcc.tensor<[4, 4], f32>) -> ["y"] symbols [] {
  %a = qcc.transpose %x {permutation = array<i64: 1, 0>} : (!qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[4, 4], f32>
  %b = qcc.slice %a {axis = 0 : i64, start = #qcc.dim<1>, step = 1 : i64} : (!qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[3, 4], f32>
  %c = qcc.cast %b : (!qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[3, 4], f16>
  %y = qcc.cast %c : (!qcc.tensor<[3, 4], f16>) -> !qcc.tensor<[3, 4], f32>
  qcc.return %y : !qcc.tensor<[3, 4], f32>
}

// The expansion makes the shape of the product: broadcasting would not.
// CHECK-LABEL: @needed_expand
// CHECK: qcc.expand
qcc.program @needed_expand("x" %x : !qcc.tensor<[1, 4], f32>) -> ["y"] symbols [] {
  %a = qcc.expand %x : (!qcc.tensor<[1, 4], f32>) -> !qcc.tensor<[3, 4], f32>
  %y = qcc.binary add %a, %x : (!qcc.tensor<[3, 4], f32>, !qcc.tensor<[1, 4], f32>) -> !qcc.tensor<[3, 4], f32>
  qcc.return %y : !qcc.tensor<[3, 4], f32>
}
