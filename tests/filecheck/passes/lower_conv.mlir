// RUN: qcc-opt %s -p 'lower-conv' | filecheck %s
// RUN: qcc-opt %s -p 'lower-conv{recipe="float"}' | filecheck %s --check-prefix FLOAT

// A convolution with one group becomes a contraction of its windows; the layer keeps its name and place.
// CHECK-LABEL: qcc.program @plain
// CHECK-NEXT:  %[[W:.+]] = qcc.weight "stem.conv.weight"
// CHECK-NEXT:  %[[B:.+]] = qcc.weight "stem.conv.bias"
// CHECK-NEXT:  %[[ROWS:.+]] = qcc.unfold %x {at = "stem (net.py:3)", window = array<i64: 3, 3>, stride = array<i64: 2, 2>, padding = array<i64: 1, 1>, dilation = array<i64: 1, 1>} : {{.+}} -> !qcc.tensor<[s0, 4, 4, 27], f32>
// CHECK-NEXT:  %[[FLAT:.+]] = qcc.reshape %[[W]] {{.+}} -> !qcc.tensor<[8, 27], f32>
// CHECK-NEXT:  %[[Y:.+]] = qcc.linear %[[ROWS]], %[[FLAT]] bias %[[B]] {at = "stem (net.py:3)", layer = "stem.conv"} : {{.+}} -> !qcc.tensor<[s0, 4, 4, 8], f32>
// CHECK-NEXT:  %[[OUT:.+]] = qcc.transpose %[[Y]] {at = "stem (net.py:3)", permutation = array<i64: 0, 3, 1, 2>} : {{.+}} -> !qcc.tensor<[s0, 8, 4, 4], f32>
// CHECK-NEXT:  qcc.return %[[OUT]]
// FLOAT-LABEL: qcc.program @plain
// FLOAT:       qcc.conv
// FLOAT-NEXT:  qcc.return
qcc.program @plain("x" %x: !qcc.tensor<[s0, 3, 8, 8], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %w = qcc.weight "stem.conv.weight" : !qcc.tensor<[8, 3, 3, 3], f32>
  %b = qcc.weight "stem.conv.bias" : !qcc.tensor<[8], f32>
  %y = qcc.conv %x, %w bias %b {at = "stem (net.py:3)", stride = array<i64: 2, 2>, padding = array<i64: 1, 1>, dilation = array<i64: 1, 1>, groups = 1 : i64} : (!qcc.tensor<[s0, 3, 8, 8], f32>, !qcc.tensor<[8, 3, 3, 3], f32>, !qcc.tensor<[8], f32>) -> !qcc.tensor<[s0, 8, 4, 4], f32>
  qcc.return %y : !qcc.tensor<[s0, 8, 4, 4], f32>
}

// Windows of one element need no unfolding, whatever the number of axes.
// CHECK-LABEL: qcc.program @pointwise
// CHECK:       %[[ROWS:.+]] = qcc.transpose %x {permutation = array<i64: 0, 2, 1>} : {{.+}} -> !qcc.tensor<[1, s0, 5], f32>
// CHECK-NEXT:  %[[FLAT:.+]] = qcc.reshape %{{.+}} : {{.+}} -> !qcc.tensor<[4, 5], f32>
// CHECK-NEXT:  qcc.linear %[[ROWS]], %[[FLAT]] {layer = "head"} : {{.+}} -> !qcc.tensor<[1, s0, 4], f32>
// CHECK-NEXT:  qcc.transpose
// CHECK-NEXT:  qcc.return
qcc.program @pointwise("x" %x: !qcc.tensor<[1, 5, s0], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %w = qcc.weight "head.weight" : !qcc.tensor<[4, 5, 1], f32>
  %y = qcc.conv %x, %w {stride = array<i64: 1>, padding = array<i64: 0>, dilation = array<i64: 1>, groups = 1 : i64} : (!qcc.tensor<[1, 5, s0], f32>, !qcc.tensor<[4, 5, 1], f32>) -> !qcc.tensor<[1, 4, s0], f32>
  qcc.return %y : !qcc.tensor<[1, 4, s0], f32>
}

// With a stride they do.
// CHECK-LABEL: qcc.program @downsample
// CHECK:       qcc.unfold %x {window = array<i64: 1, 1>, stride = array<i64: 2, 2>
qcc.program @downsample("x" %x: !qcc.tensor<[1, 4, 7, 7], f32>) -> ["y"] symbols [] {
  %w = qcc.weight "down.weight" : !qcc.tensor<[6, 4, 1, 1], f32>
  %y = qcc.conv %x, %w {stride = array<i64: 2, 2>, padding = array<i64: 0, 0>, dilation = array<i64: 1, 1>, groups = 1 : i64} : (!qcc.tensor<[1, 4, 7, 7], f32>, !qcc.tensor<[6, 4, 1, 1], f32>) -> !qcc.tensor<[1, 6, 4, 4], f32>
  qcc.return %y : !qcc.tensor<[1, 6, 4, 4], f32>
}

// Several groups are several contractions: they keep their kernel.
// CHECK-LABEL: qcc.program @depthwise
// CHECK-NEXT:  qcc.weight
// CHECK-NEXT:  qcc.conv {{.+}} groups = 4 : i64
// CHECK-NEXT:  qcc.return
qcc.program @depthwise("x" %x: !qcc.tensor<[1, 4, 7, 7], f32>) -> ["y"] symbols [] {
  %w = qcc.weight "depthwise.weight" : !qcc.tensor<[4, 1, 3, 3], f32>
  %y = qcc.conv %x, %w {stride = array<i64: 1, 1>, padding = array<i64: 1, 1>, dilation = array<i64: 1, 1>, groups = 4 : i64} : (!qcc.tensor<[1, 4, 7, 7], f32>, !qcc.tensor<[4, 1, 3, 3], f32>) -> !qcc.tensor<[1, 4, 7, 7], f32>
  qcc.return %y : !qcc.tensor<[1, 4, 7, 7], f32>
}

// A filter computed at run time cannot be quantized ahead.
// CHECK-LABEL: qcc.program @computed
// CHECK-NEXT:  qcc.conv
// CHECK-NEXT:  qcc.return
qcc.program @computed("x" %x: !qcc.tensor<[1, 4, 7, 7], f32>, "w" %w: !qcc.tensor<[2, 4, 3, 3], f32>) -> ["y"] symbols [] {
  %y = qcc.conv %x, %w {stride = array<i64: 1, 1>, padding = array<i64: 0, 0>, dilation = array<i64: 1, 1>, groups = 1 : i64} : (!qcc.tensor<[1, 4, 7, 7], f32>, !qcc.tensor<[2, 4, 3, 3], f32>) -> !qcc.tensor<[1, 2, 5, 5], f32>
  qcc.return %y : !qcc.tensor<[1, 2, 5, 5], f32>
}
