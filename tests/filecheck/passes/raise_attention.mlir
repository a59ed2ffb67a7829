// RUN: qcc-opt %s -p raise-attention | filecheck %s

// CHECK-LABEL: @plain
// CHECK: qcc.attention %q, %k, %v {scale = 2.500000e-01 : f64, causal = false}
// CHECK-NEXT: qcc.return
qcc.program @plain("q" %q : !qcc.tensor<[b, 4, s, 16], f32>, "k" %k : !qcc.tensor<[b, 4, t, 16], f32>, "v" %v : !qcc.tensor<[b, 4, t, 8], f32>) -> ["y"] symbols [#qcc.symbol<b in [1, inf]>, #qcc.symbol<s in [1, inf]>, #qcc.symbol<t in [1, inf]>] {
  %c = qcc.constant 0.25 : f64 : !qcc.tensor<[], f32>
  %kt = qcc.transpose %k {permutation = array<i64: 0, 1, 3, 2>} : (!qcc.tensor<[b, 4, t, 16], f32>) -> !qcc.tensor<[b, 4, 16, t], f32>
  %p = qcc.matmul %q, %kt : (!qcc.tensor<[b, 4, s, 16], f32>, !qcc.tensor<[b, 4, 16, t], f32>) -> !qcc.tensor<[b, 4, s, t], f32>
  %z = qcc.binary mul %p, %c : (!qcc.tensor<[b, 4, s, t], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[b, 4, s, t], f32>
  %w = qcc.softmax %z {axis = 3 : i64} : (!qcc.tensor<[b, 4, s, t], f32>) -> !qcc.tensor<[b, 4, s, t], f32>
  %y = qcc.matmul %w, %v : (!qcc.tensor<[b, 4, s, t], f32>, !qcc.tensor<[b, 4, t, 8], f32>) -> !qcc.tensor<[b, 4, s, 8], f32>
  qcc.return %y : !qcc.tensor<[b, 4, s, 8], f32>
}

// Safe softmax, a mask made of a truth value, and repeated key and value heads.
// CHECK-LABEL: @safe_grouped
// CHECK: qcc.attention %q, %k, %k mask %m
// CHECK-NEXT: qcc.return
qcc.program @safe_grouped("q" %q : !qcc.tensor<[2, 4, 3, 16], f32>, "k" %k : !qcc.tensor<[2, 2, 5, 16], f32>, "m" %m : !qcc.tensor<[2, 1, 3, 5], i1>) -> ["y"] symbols [] {
  %least = qcc.constant 0xFFF0000000000000 : f64 : !qcc.tensor<[], f32>
  %zero = qcc.constant 0.0 : f64 : !qcc.tensor<[], f32>
  %k5 = qcc.reshape %k : (!qcc.tensor<[2, 2, 5, 16], f32>) -> !qcc.tensor<[2, 2, 1, 5, 16], f32>
  %kw = qcc.expand %k5 : (!qcc.tensor<[2, 2, 1, 5, 16], f32>) -> !qcc.tensor<[2, 2, 2, 5, 16], f32>
  %kr = qcc.reshape %kw : (!qcc.tensor<[2, 2, 2, 5, 16], f32>) -> !qcc.tensor<[2, 4, 5, 16], f32>
  %kt = qcc.transpose %kr {permutation = array<i64: 0, 1, 3, 2>} : (!qcc.tensor<[2, 4, 5, 16], f32>) -> !qcc.tensor<[2, 4, 16, 5], f32>
  %p = qcc.matmul %q, %kt : (!qcc.tensor<[2, 4, 3, 16], f32>, !qcc.tensor<[2, 4, 16, 5], f32>) -> !qcc.tensor<[2, 4, 3, 5], f32>
  %a = qcc.where %m, %zero, %least : (!qcc.tensor<[2, 1, 3, 5], i1>, !qcc.tensor<[], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[2, 1, 3, 5], f32>
  %z = qcc.binary add %p, %a : (!qcc.tensor<[2, 4, 3, 5], f32>, !qcc.tensor<[2, 1, 3, 5], f32>) -> !qcc.tensor<[2, 4, 3, 5], f32>
  %w = qcc.softmax %z {axis = 3 : i64} : (!qcc.tensor<[2, 4, 3, 5], f32>) -> !qcc.tensor<[2, 4, 3, 5], f32>
  %e = qcc.binary eq %z, %least : (!qcc.tensor<[2, 4, 3, 5], f32>, !qcc.tensor<[], f32>) -> !qcc.tensor<[2, 4, 3, 5], i1>
  %all = qcc.reduce all %e {axes = array<i64: 3>, keep = true} : (!qcc.tensor<[2, 4, 3, 5], i1>) -> !qcc.tensor<[2, 4, 3, 1], i1>
  %s = qcc.where %all, %zero, %w : (!qcc.tensor<[2, 4, 3, 1], i1>, !qcc.tensor<[], f32>, !qcc.tensor<[2, 4, 3, 5], f32>) -> !qcc.tensor<[2, 4, 3, 5], f32>
  %y = qcc.matmul %s, %kr : (!qcc.tensor<[2, 4, 3, 5], f32>, !qcc.tensor<[2, 4, 5, 16], f32>) -> !qcc.tensor<[2, 4, 3, 16], f32>
  qcc.return %y : !qcc.tensor<[2, 4, 3, 16], f32>
}

// Plain softmax gives NaN for a row that the mask empties, attention gives zeros.
// CHECK-LABEL: @unsafe
// CHECK-NOT: qcc.attention
// CHECK: qcc.return
qcc.program @unsafe("q" %q : !qcc.tensor<[2, 4, 3, 16], f32>, "a" %a : !qcc.tensor<[3, 3], f32>) -> ["y"] symbols [] {
  %kt = qcc.transpose %q {permutation = array<i64: 0, 1, 3, 2>} : (!qcc.tensor<[2, 4, 3, 16], f32>) -> !qcc.tensor<[2, 4, 16, 3], f32>
  %p = qcc.matmul %q, %kt : (!qcc.tensor<[2, 4, 3, 16], f32>, !qcc.tensor<[2, 4, 16, 3], f32>) -> !qcc.tensor<[2, 4, 3, 3], f32>
  %z = qcc.binary add %p, %a : (!qcc.tensor<[2, 4, 3, 3], f32>, !qcc.tensor<[3, 3], f32>) -> !qcc.tensor<[2, 4, 3, 3], f32>
  %w = qcc.softmax %z {axis = 3 : i64} : (!qcc.tensor<[2, 4, 3, 3], f32>) -> !qcc.tensor<[2, 4, 3, 3], f32>
  %y = qcc.matmul %w, %q : (!qcc.tensor<[2, 4, 3, 3], f32>, !qcc.tensor<[2, 4, 3, 16], f32>) -> !qcc.tensor<[2, 4, 3, 16], f32>
  qcc.return %y : !qcc.tensor<[2, 4, 3, 16], f32>
}

// Softmax over another axis.
// CHECK-LABEL: @other_axis
// CHECK-NOT: qcc.attention
// CHECK: qcc.return
qcc.program @other_axis("q" %q : !qcc.tensor<[2, 4, 3, 16], f32>) -> ["y"] symbols [] {
  %kt = qcc.transpose %q {permutation = array<i64: 0, 1, 3, 2>} : (!qcc.tensor<[2, 4, 3, 16], f32>) -> !qcc.tensor<[2, 4, 16, 3], f32>
  %p = qcc.matmul %q, %kt : (!qcc.tensor<[2, 4, 3, 16], f32>, !qcc.tensor<[2, 4, 16, 3], f32>) -> !qcc.tensor<[2, 4, 3, 3], f32>
  %w = qcc.softmax %p {axis = 2 : i64} : (!qcc.tensor<[2, 4, 3, 3], f32>) -> !qcc.tensor<[2, 4, 3, 3], f32>
  %y = qcc.matmul %w, %q : (!qcc.tensor<[2, 4, 3, 3], f32>, !qcc.tensor<[2, 4, 3, 16], f32>) -> !qcc.tensor<[2, 4, 3, 16], f32>
  qcc.return %y : !qcc.tensor<[2, 4, 3, 16], f32>
}
