// RUN: qcc-opt %s --verify-diagnostics --split-input-file | filecheck %s

// CHECK: qcc.codes: i8 does not hold codes from 0 to 255
qcc.program @main("x" %x : !qcc.tensor<[2], "uint8 | tensor f32 | pre u8">) -> ["y"] symbols [] {
  %y = qcc.codes %x : (!qcc.tensor<[2], "uint8 | tensor f32 | pre u8">) -> !qcc.tensor<[2], i8>
  qcc.return %y : !qcc.tensor<[2], i8>
}

// -----

// CHECK: qcc.integer_contract at up (net.py:3): input [2, 5] does not meet 2 groups of [4, 3]
qcc.program @main("x" %x : !qcc.tensor<[2, 5], i8>, "w" %w : !qcc.tensor<[4, 3], "int4 | row f16">) -> ["y"] symbols [] {
  %y = qcc.integer_contract %x, %w {at = "up (net.py:3)", groups = 2 : i64} : (!qcc.tensor<[2, 5], i8>, !qcc.tensor<[4, 3], "int4 | row f16">) -> !qcc.tensor<[2, 4], i32>
  qcc.return %y : !qcc.tensor<[2, 4], i32>
}

// -----

// CHECK: qcc.integer_contract: sums must be i32 or i64, got i8
qcc.program @main("x" %x : !qcc.tensor<[2, 3], i8>, "w" %w : !qcc.tensor<[4, 3], "int4 | row f16">) -> ["y"] symbols [] {
  %y = qcc.integer_contract %x, %w {groups = 1 : i64} : (!qcc.tensor<[2, 3], i8>, !qcc.tensor<[4, 3], "int4 | row f16">) -> !qcc.tensor<[2, 4], i8>
  qcc.return %y : !qcc.tensor<[2, 4], i8>
}

// -----

// CHECK: qcc.requant: clamps to -200..127, which i8 does not hold or which is empty
qcc.program @main("x" %x : !qcc.tensor<[2], i32>, "m" %m : !qcc.tensor<[1], i32>) -> ["y"] symbols [] {
  %y = qcc.requant %x, %m, %m {low = -200 : i64} : (!qcc.tensor<[2], i32>, !qcc.tensor<[1], i32>, !qcc.tensor<[1], i32>) -> !qcc.tensor<[2], i8>
  qcc.return %y : !qcc.tensor<[2], i8>
}

// -----

// CHECK: qcc.lookup: input must be an integer tensor, got !qcc.tensor<[2], f32>
qcc.program @main("x" %x : !qcc.tensor<[2], f32>, "t" %t : !qcc.tensor<[4], i8>) -> ["y"] symbols [] {
  %y = qcc.lookup %x, %t {low = 0 : i64} : (!qcc.tensor<[2], f32>, !qcc.tensor<[4], i8>) -> !qcc.tensor<[2], i8>
  qcc.return %y : !qcc.tensor<[2], i8>
}

// -----

// CHECK: qcc.integer_softmax: unit 255 is outside 1..127
qcc.program @main("x" %x : !qcc.tensor<[2, 4], i8>, "t" %t : !qcc.tensor<[4], i32>) -> ["y"] symbols [] {
  %y = qcc.integer_softmax %x, %t {unit = 255 : i64} : (!qcc.tensor<[2, 4], i8>, !qcc.tensor<[4], i32>) -> !qcc.tensor<[2, 4], i8>
  qcc.return %y : !qcc.tensor<[2, 4], i8>
}

// -----

// CHECK: qcc.integer_norm: multiplier !qcc.tensor<[3], i32> does not fit [2, 4]
qcc.program @main("x" %x : !qcc.tensor<[2, 4], i8>, "m" %m : !qcc.tensor<[3], i32>, "s" %s : !qcc.tensor<[1], i32>) -> ["y"] symbols [] {
  %y = qcc.integer_norm rms %x, %m, %s {eps = 0 : i64} : (!qcc.tensor<[2, 4], i8>, !qcc.tensor<[3], i32>, !qcc.tensor<[1], i32>) -> !qcc.tensor<[2, 4], i8>
  qcc.return %y : !qcc.tensor<[2, 4], i8>
}

// -----

// CHECK: qcc.pool: average does not take i8
qcc.program @main("x" %x : !qcc.tensor<[1, 2, 4], i8>) -> ["y"] symbols [] {
  %y = qcc.pool average %x {window = array<i64: 2>, stride = array<i64: 2>, padding = array<i64: 0>} : (!qcc.tensor<[1, 2, 4], i8>) -> !qcc.tensor<[1, 2, 2], i8>
  qcc.return %y : !qcc.tensor<[1, 2, 2], i8>
}
