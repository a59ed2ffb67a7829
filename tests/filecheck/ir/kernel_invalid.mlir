// RUN: qcc-opt %s --verify-diagnostics --split-input-file | filecheck %s

// CHECK: qcc.kernel at up (m.py:2): has 2 roots (qcc.linear, qcc.linear), and a kernel has at most one
qcc.program @main("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %w = qcc.weight "w" : !qcc.tensor<[4, 4], f32>
  %y = qcc.kernel "up" (%a = %x : !qcc.tensor<[s, 4], f32>, %b = %w : !qcc.tensor<[4, 4], f32>) -> (!qcc.tensor<[s, 4], f32>) attributes {at = "up (m.py:2)"} {
    %0 = qcc.linear %a, %b : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    %1 = qcc.linear %0, %b : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    qcc.yield %1 : !qcc.tensor<[s, 4], f32>
  }
  qcc.return %y : !qcc.tensor<[s, 4], f32>
}

// -----

// CHECK: qcc.kernel: its outputs are not the outputs of its region
qcc.program @main("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %y = qcc.kernel "up" (%a = %x : !qcc.tensor<[s, 4], f32>) -> (!qcc.tensor<[s, 4], f16>) {
    %0 = qcc.unary relu %a : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    qcc.yield %0 : !qcc.tensor<[s, 4], f32>
  }
  qcc.return %x : !qcc.tensor<[s, 4], f32>
}

// -----

// CHECK: qcc.kernel: qcc.state cannot stand in the prologue of a kernel
qcc.program @main("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %y = qcc.kernel "up" (%a = %x : !qcc.tensor<[s, 4], f32>) -> (!qcc.tensor<[1, 4], f32>) {
    %0 = qcc.state "k" : !qcc.tensor<[1, 4], f32>
    qcc.yield %0 : !qcc.tensor<[1, 4], f32>
  }
  qcc.return %x : !qcc.tensor<[s, 4], f32>
}

// -----

// CHECK: qcc.kernel: qcc.kernel cannot stand in the prologue of a kernel
qcc.program @main("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %y = qcc.kernel "up" (%a = %x : !qcc.tensor<[s, 4], f32>) -> (!qcc.tensor<[s, 4], f32>) {
    %0 = qcc.kernel "inner" (%b = %a : !qcc.tensor<[s, 4], f32>) -> (!qcc.tensor<[s, 4], f32>) {
      %1 = qcc.unary relu %b : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
      qcc.yield %1 : !qcc.tensor<[s, 4], f32>
    }
    qcc.yield %0 : !qcc.tensor<[s, 4], f32>
  }
  qcc.return %x : !qcc.tensor<[s, 4], f32>
}

// -----

// CHECK: qcc.kernel: qcc.binary does not read the value before it, which nothing else may read
qcc.program @main("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %w = qcc.weight "w" : !qcc.tensor<[4, 4], f32>
  %y = qcc.kernel "up" (%a = %x : !qcc.tensor<[s, 4], f32>, %b = %w : !qcc.tensor<[4, 4], f32>) -> (!qcc.tensor<[s, 4], f32>) {
    %0 = qcc.linear %a, %b : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    %1 = qcc.binary mul %0, %0 : (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    qcc.yield %1 : !qcc.tensor<[s, 4], f32>
  }
  qcc.return %x : !qcc.tensor<[s, 4], f32>
}

// -----

// CHECK: qcc.kernel: qcc.binary leads from [1, 4] to [s, 4]; an epilogue keeps its shape
qcc.program @main("x" %x : !qcc.tensor<[s, 4], f32>, "z" %z : !qcc.tensor<[1, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %w = qcc.weight "w" : !qcc.tensor<[4, 4], f32>
  %y = qcc.kernel "up" (%a = %z : !qcc.tensor<[1, 4], f32>, %b = %w : !qcc.tensor<[4, 4], f32>, %r = %x : !qcc.tensor<[s, 4], f32>) -> (!qcc.tensor<[s, 4], f32>) {
    %0 = qcc.linear %a, %b : (!qcc.tensor<[1, 4], f32>, !qcc.tensor<[4, 4], f32>) -> !qcc.tensor<[1, 4], f32>
    %1 = qcc.binary add %0, %r : (!qcc.tensor<[1, 4], f32>, !qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    qcc.yield %1 : !qcc.tensor<[s, 4], f32>
  }
  qcc.return %x : !qcc.tensor<[s, 4], f32>
}

// -----

// CHECK: qcc.kernel: nothing reads the result of qcc.unary in its region
qcc.program @main("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %y = qcc.kernel "up" (%a = %x : !qcc.tensor<[s, 4], f32>) -> (!qcc.tensor<[s, 4], f32>) {
    %0 = qcc.unary relu %a : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    %1 = qcc.unary silu %a : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    qcc.yield %1 : !qcc.tensor<[s, 4], f32>
  }
  qcc.return %x : !qcc.tensor<[s, 4], f32>
}

// -----

// CHECK: qcc.kernel: yields an argument as it is
qcc.program @main("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %y = qcc.kernel "up" (%a = %x : !qcc.tensor<[s, 4], f32>) -> (!qcc.tensor<[s, 4], f32>) {
    qcc.yield %a : !qcc.tensor<[s, 4], f32>
  }
  qcc.return %x : !qcc.tensor<[s, 4], f32>
}

// -----

// CHECK: qcc.kernel: an accumulator of 16 bits is neither of 32 nor of 64
qcc.program @main("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %y = qcc.kernel "up" (%a = %x : !qcc.tensor<[s, 4], f32>) -> (!qcc.tensor<[s, 4], f32>) accumulator 16 {
    %0 = qcc.unary relu %a : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    qcc.yield %0 : !qcc.tensor<[s, 4], f32>
  }
  qcc.return %x : !qcc.tensor<[s, 4], f32>
}

// -----

// CHECK: qcc.kernel: has no root that an accumulator or a plan could be said of
qcc.program @main("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %y = qcc.kernel "up" (%a = %x : !qcc.tensor<[s, 4], f32>) -> (!qcc.tensor<[s, 4], f32>) accumulator 32 {
    %0 = qcc.unary relu %a : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    qcc.yield %0 : !qcc.tensor<[s, 4], f32>
  }
  qcc.return %x : !qcc.tensor<[s, 4], f32>
}

// -----

// CHECK: qcc.yield: yields a value twice
qcc.program @main("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %y, %z = qcc.kernel "up" (%a = %x : !qcc.tensor<[s, 4], f32>) -> (!qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>) {
    %0 = qcc.unary relu %a : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 4], f32>
    qcc.yield %0, %0 : !qcc.tensor<[s, 4], f32>, !qcc.tensor<[s, 4], f32>
  }
  qcc.return %x : !qcc.tensor<[s, 4], f32>
}
