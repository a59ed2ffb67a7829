// RUN: qcc-opt %s -p raise-rope | filecheck %s

// CHECK-LABEL: @half
// CHECK: qcc.rope half %x, %c, %s : (!qcc.tensor<[b, 2, t, 8], f32>, !qcc.tensor<[1, 1, t, 8], f32>, !qcc.tensor<[1, 1, t, 8], f32>)
// CHECK-NEXT: qcc.return
qcc.program @half("x" %x : !qcc.tensor<[b, 2, t, 8], f32>, "c" %c : !qcc.tensor<[1, 1, t, 8], f32>, "s" %s : !qcc.tensor<[1, 1, t, 8], f32>) -> ["y"] symbols [#qcc.symbol<b in [1, inf]>, #qcc.symbol<t in [1, inf]>] {
  %p = qcc.binary mul %x, %c : (!qcc.tensor<[b, 2, t, 8], f32>, !qcc.tensor<[1, 1, t, 8], f32>) -> !qcc.tensor<[b, 2, t, 8], f32>
  %x1 = qcc.slice %x {axis = 3 : i64, start = #qcc.dim<0>, step = 1 : i64} : (!qcc.tensor<[b, 2, t, 8], f32>) -> !qcc.tensor<[b, 2, t, 4], f32>
  %x2 = qcc.slice %x {axis = 3 : i64, start = #qcc.dim<4>, step = 1 : i64} : (!qcc.tensor<[b, 2, t, 8], f32>) -> !qcc.tensor<[b, 2, t, 4], f32>
  %n = qcc.unary neg %x2 : (!qcc.tensor<[b, 2, t, 4], f32>) -> !qcc.tensor<[b, 2, t, 4], f32>
  %r = qcc.concat %n, %x1 {axis = 3 : i64} : (!qcc.tensor<[b, 2, t, 4], f32>, !qcc.tensor<[b, 2, t, 4], f32>) -> !qcc.tensor<[b, 2, t, 8], f32>
  %q = qcc.binary mul %r, %s : (!qcc.tensor<[b, 2, t, 8], f32>, !qcc.tensor<[1, 1, t, 8], f32>) -> !qcc.tensor<[b, 2, t, 8], f32>
  %y = qcc.binary add %p, %q : (!qcc.tensor<[b, 2, t, 8], f32>, !qcc.tensor<[b, 2, t, 8], f32>) -> !qcc.tensor<[b, 2, t, 8], f32>
  qcc.return %y : !qcc.tensor<[b, 2, t, 8], f32>
}

// The first half is negated instead of the second: it turns the other way.
// CHECK-LABEL: @other_way
// CHECK-NOT: qcc.rope
// CHECK: qcc.return
qcc.program @other_way("x" %x : !qcc.tensor<[3, 8], f32>, "c" %c : !qcc.tensor<[3, 8], f32>, "s" %s : !qcc.tensor<[3, 8], f32>) -> ["y"] symbols [] {
  %p = qcc.binary mul %x, %c : (!qcc.tensor<[3, 8], f32>, !qcc.tensor<[3, 8], f32>) -> !qcc.tensor<[3, 8], f32>
  %x1 = qcc.slice %x {axis = 1 : i64, start = #qcc.dim<0>, step = 1 : i64} : (!qcc.tensor<[3, 8], f32>) -> !qcc.tensor<[3, 4], f32>
  %x2 = qcc.slice %x {axis = 1 : i64, start = #qcc.dim<4>, step = 1 : i64} : (!qcc.tensor<[3, 8], f32>) -> !qcc.tensor<[3, 4], f32>
  %n = qcc.unary neg %x1 : (!qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[3, 4], f32>
  %r = qcc.concat %x2, %n {axis = 1 : i64} : (!qcc.tensor<[3, 4], f32>, !qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[3, 8], f32>
  %q = qcc.binary mul %r, %s : (!qcc.tensor<[3, 8], f32>, !qcc.tensor<[3, 8], f32>) -> !qcc.tensor<[3, 8], f32>
  %y = qcc.binary add %p, %q : (!qcc.tensor<[3, 8], f32>, !qcc.tensor<[3, 8], f32>) -> !qcc.tensor<[3, 8], f32>
  qcc.return %y : !qcc.tensor<[3, 8], f32>
}

// The halves are of two values.
// CHECK-LABEL: @two_values
// CHECK-NOT: qcc.rope
// CHECK: qcc.return
qcc.program @two_values("x" %x : !qcc.tensor<[3, 8], f32>, "z" %z : !qcc.tensor<[3, 8], f32>, "s" %s : !qcc.tensor<[3, 8], f32>) -> ["y"] symbols [] {
  %p = qcc.binary mul %x, %s : (!qcc.tensor<[3, 8], f32>, !qcc.tensor<[3, 8], f32>) -> !qcc.tensor<[3, 8], f32>
  %x1 = qcc.slice %x {axis = 1 : i64, start = #qcc.dim<0>, step = 1 : i64} : (!qcc.tensor<[3, 8], f32>) -> !qcc.tensor<[3, 4], f32>
  %x2 = qcc.slice %z {axis = 1 : i64, start = #qcc.dim<4>, step = 1 : i64} : (!qcc.tensor<[3, 8], f32>) -> !qcc.tensor<[3, 4], f32>
  %n = qcc.unary neg %x2 : (!qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[3, 4], f32>
  %r = qcc.concat %n, %x1 {axis = 1 : i64} : (!qcc.tensor<[3, 4], f32>, !qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[3, 8], f32>
  %q = qcc.binary mul %r, %s : (!qcc.tensor<[3, 8], f32>, !qcc.tensor<[3, 8], f32>) -> !qcc.tensor<[3, 8], f32>
  %y = qcc.binary add %p, %q : (!qcc.tensor<[3, 8], f32>, !qcc.tensor<[3, 8], f32>) -> !qcc.tensor<[3, 8], f32>
  qcc.return %y : !qcc.tensor<[3, 8], f32>
}
