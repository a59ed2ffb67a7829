// RUN: qcc-opt %s -p 'fold-norm{illegal="keep"}' --weights %weights | filecheck %s
// RUN: not qcc-opt %s -p 'fold-norm' --weights %weights | filecheck %s --check-prefix REFUSED

// A norm that scales by one plus its weight becomes one without weight.
// CHECK-LABEL: qcc.program @plus_one
// CHECK-NEXT:  %[[A:.+]] = qcc.weight "a.weight"
// CHECK-NEXT:  %[[B:.+]] = qcc.weight "b.weight"
// CHECK-NEXT:  %[[N:.+]] = qcc.norm rms %x {at = "norm (net.py:1)", eps = 1.000000e-06 : f64}
// CHECK-NEXT:  qcc.linear %[[N]], %[[A]]
// CHECK-NEXT:  qcc.linear %[[N]], %[[B]]
qcc.program @plus_one("x" %x: !qcc.tensor<[s0, 8], f32>) -> ["y", "z"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %g = qcc.weight "norm.weight" : !qcc.tensor<[8], f32>
  %a = qcc.weight "a.weight" : !qcc.tensor<[4, 8], f32>
  %b = qcc.weight "b.weight" : !qcc.tensor<[3, 8], f32>
  %n = qcc.norm rms_plus1 %x weight %g : !qcc.tensor<[8], f32> {at = "norm (net.py:1)", eps = 1.0e-06 : f64} : !qcc.tensor<[s0, 8], f32> -> !qcc.tensor<[s0, 8], f32>
  %y = qcc.linear %n, %a : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[4, 8], f32>) -> !qcc.tensor<[s0, 4], f32>
  %z = qcc.linear %n, %b : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[3, 8], f32>) -> !qcc.tensor<[s0, 3], f32>
  qcc.return %y, %z : !qcc.tensor<[s0, 4], f32>, !qcc.tensor<[s0, 3], f32>
}

// A bias goes into the layer's, which is made where there is none.
// CHECK-LABEL: qcc.program @layer
// CHECK:       %[[N:.+]] = qcc.norm layer %x {eps
// CHECK-NEXT:  %[[B:.+]] = qcc.weight "c.bias/norm"
// CHECK-NEXT:  qcc.linear %[[N]], %{{.+}} bias %[[B]]
qcc.program @layer("x" %x: !qcc.tensor<[s0, 8], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %g = qcc.weight "norm2.weight" : !qcc.tensor<[8], f32>
  %h = qcc.weight "norm2.bias" : !qcc.tensor<[8], f32>
  %c = qcc.weight "c.weight" : !qcc.tensor<[4, 8], f32>
  %n = qcc.norm layer %x weight %g : !qcc.tensor<[8], f32> bias %h : !qcc.tensor<[8], f32> {eps = 1.0e-06 : f64} : !qcc.tensor<[s0, 8], f32> -> !qcc.tensor<[s0, 8], f32>
  %y = qcc.linear %n, %c : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[4, 8], f32>) -> !qcc.tensor<[s0, 4], f32>
  qcc.return %y : !qcc.tensor<[s0, 4], f32>
}

// A norm that feeds a residual as well keeps its weight.
// CHECK-LABEL: qcc.program @residual
// CHECK:       qcc.norm rms %x weight {{.+}}not_folded = "qcc.return is in the way
// REFUSED: folding the weights of norms is not legal at 1 place
// REFUSED: the program: qcc.return is in the way of the diagonal: output 'y' of the program must stay
// REFUSED: illegal_folds: keep
qcc.program @residual("x" %x: !qcc.tensor<[s0, 8], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %g = qcc.weight "norm3.weight" : !qcc.tensor<[8], f32>
  %d = qcc.weight "d.weight" : !qcc.tensor<[8, 8], f32>
  %n = qcc.norm rms %x weight %g : !qcc.tensor<[8], f32> {eps = 1.0e-06 : f64} : !qcc.tensor<[s0, 8], f32> -> !qcc.tensor<[s0, 8], f32>
  %l = qcc.linear %n, %d : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[8, 8], f32>) -> !qcc.tensor<[s0, 8], f32>
  %y = qcc.binary add %n, %l : (!qcc.tensor<[s0, 8], f32>, !qcc.tensor<[s0, 8], f32>) -> !qcc.tensor<[s0, 8], f32>
  qcc.return %y : !qcc.tensor<[s0, 8], f32>
}
