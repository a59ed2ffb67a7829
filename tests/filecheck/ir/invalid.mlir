// RUN: qcc-opt %s --verify-diagnostics --split-input-file | filecheck %s

// CHECK: qcc.linear at encoder.dense (model.py:7): input [2, 5] does not meet weight [3, 4]
qcc.program @main("x" %x : !qcc.tensor<[2, 5], f32>) -> ["y"] symbols [] {
  %w = qcc.weight "w" : !qcc.tensor<[3, 4], f32>
  %y = qcc.linear %x, %w {at = "encoder.dense (model.py:7)"} : (!qcc.tensor<[2, 5], f32>, !qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[2, 3], f32>
  qcc.return %y : !qcc.tensor<[2, 3], f32>
}

// -----

// CHECK: qcc.binary: element types differ: f16, f32
qcc.program @main("x" %x : !qcc.tensor<[2], f32>, "z" %z : !qcc.tensor<[2], f16>) -> ["y"] symbols [] {
  %y = qcc.binary add %x, %z : (!qcc.tensor<[2], f32>, !qcc.tensor<[2], f16>) -> !qcc.tensor<[2], f32>
  qcc.return %y : !qcc.tensor<[2], f32>
}

// -----

// CHECK: qcc.binary: shapes [s] and [t] do not broadcast
qcc.program @main("x" %x : !qcc.tensor<[s], f32>, "z" %z : !qcc.tensor<[t], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>, #qcc.symbol<t in [1, inf]>] {
  %y = qcc.binary add %x, %z : (!qcc.tensor<[s], f32>, !qcc.tensor<[t], f32>) -> !qcc.tensor<[s], f32>
  qcc.return %y : !qcc.tensor<[s], f32>
}

// -----

// CHECK: qcc.reshape: [s, 4] and [s, 5] hold different numbers of elements
qcc.program @main("x" %x : !qcc.tensor<[s, 4], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %y = qcc.reshape %x : (!qcc.tensor<[s, 4], f32>) -> !qcc.tensor<[s, 5], f32>
  qcc.return %y : !qcc.tensor<[s, 5], f32>
}

// -----

// CHECK: qcc.program: no input dimension mentions symbol t
qcc.program @main("x" %x : !qcc.tensor<[s], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>, #qcc.symbol<t in [1, inf]>] {
  qcc.return %x : !qcc.tensor<[s], f32>
}

// -----

// CHECK: qcc.program: !qcc.tensor<[t], f32> uses unknown symbol t
qcc.program @main("x" %x : !qcc.tensor<[s], f32>) -> ["y"] symbols [#qcc.symbol<s in [1, inf]>] {
  %y = qcc.constant 1.0 : f64 : !qcc.tensor<[t], f32>
  qcc.return %x : !qcc.tensor<[s], f32>
}

// -----

// CHECK: qcc.attention: 3 query heads do not group over 2 key heads
qcc.program @main("q" %q : !qcc.tensor<[1, 3, 4, 8], f32>, "k" %k : !qcc.tensor<[1, 2, 4, 8], f32>) -> ["y"] symbols [] {
  %y = qcc.attention %q, %k, %k {scale = 1.0 : f64, causal = false} : (!qcc.tensor<[1, 3, 4, 8], f32>, !qcc.tensor<[1, 2, 4, 8], f32>, !qcc.tensor<[1, 2, 4, 8], f32>) -> !qcc.tensor<[1, 3, 4, 8], f32>
  qcc.return %y : !qcc.tensor<[1, 3, 4, 8], f32>
}

// -----

// CHECK: qcc.contract: weight must be quantized; qcc.linear takes floats
qcc.program @main("x" %x : !qcc.tensor<[2, 4], f32>) -> ["y"] symbols [] {
  %w = qcc.weight "w" : !qcc.tensor<[3, 4], f32>
  %y = qcc.contract %x, %w {exactness = #qcc<exactness E0>} : (!qcc.tensor<[2, 4], f32>, !qcc.tensor<[3, 4], f32>) -> !qcc.tensor<[2, 3], f32>
  qcc.return %y : !qcc.tensor<[2, 3], f32>
}

// -----

// CHECK: qcc.rotate: no Hadamard matrix of size 6 is known here
qcc.program @main("x" %x : !qcc.tensor<[2, 6], f32>) -> ["y"] symbols [] {
  %y = qcc.rotate hadamard %x {axis = 1 : i64, block = 6 : i64, inverse = false} : (!qcc.tensor<[2, 6], f32>) -> !qcc.tensor<[2, 6], f32>
  qcc.return %y : !qcc.tensor<[2, 6], f32>
}

// -----

// CHECK: qcc.quantize: 2 parameters where 'int8 | (1,-1) f32' takes 1: scale0
qcc.program @main("x" %x : !qcc.tensor<[2, 6], f32>, "s" %s : !qcc.tensor<[2, 1], f32>) -> ["y"] symbols [] {
  %q = qcc.quantize %x parameters %s, %s : !qcc.tensor<[2, 1], f32>, !qcc.tensor<[2, 1], f32> : !qcc.tensor<[2, 6], f32> -> !qcc.tensor<[2, 6], "int8 | row f32">
  qcc.return %x : !qcc.tensor<[2, 6], f32>
}

// -----

// CHECK: qcc.quantize: parameters do not fit 'uint8 | tensor f32 | pre u8': zero is !qcc.tensor<[1, 1], f32>, not !qcc.tensor<[1, 1], i32>
qcc.program @main("x" %x : !qcc.tensor<[2, 6], f32>, "s" %s : !qcc.tensor<[1, 1], f32>) -> ["y"] symbols [] {
  %q = qcc.quantize %x parameters %s, %s : !qcc.tensor<[1, 1], f32>, !qcc.tensor<[1, 1], f32> : !qcc.tensor<[2, 6], f32> -> !qcc.tensor<[2, 6], "uint8 | tensor f32 | pre u8">
  qcc.return %x : !qcc.tensor<[2, 6], f32>
}

// -----

// CHECK: qcc.quantize: 2 parameters where 'fp2_1 | (1,16) e4m3, tensor f32 | dynamic_local' takes 1: scale1
qcc.program @main("x" %x : !qcc.tensor<[2, 32], f32>, "s" %s : !qcc.tensor<[1, 1], f32>) -> ["y"] symbols [] {
  %q = qcc.quantize %x parameters %s, %s : !qcc.tensor<[1, 1], f32>, !qcc.tensor<[1, 1], f32> : !qcc.tensor<[2, 32], f32> -> !qcc.tensor<[2, 32], "fp2_1 | (1,16) e4m3, tensor f32 | dynamic_local">
  qcc.return %x : !qcc.tensor<[2, 32], f32>
}

// -----

// CHECK: qcc.qparams: 1 parameters where 'table(-1, 0, 1; -2, 0, 2) by u1 (1,-1) | (1,-1) f32' takes 2: scale0, selector
qcc.program @main("x" %x : !qcc.tensor<[2, 32], f32>) -> ["y"] symbols [] {
  %s = qcc.qparams %x {format = #qcc.qtype<"table(-1, 0, 1; -2, 0, 2) by u1 row | row f32">} : (!qcc.tensor<[2, 32], f32>) -> !qcc.tensor<[2, 1], f32>
  qcc.return %s : !qcc.tensor<[2, 1], f32>
}

// -----

// CHECK: qcc.slice_bits: only integer codes have bits to slice, got !qcc.tensor<[2, 32], "fp4_3 | (1,32) e8m0 floor">
qcc.program @main("x" %x : !qcc.tensor<[2, 32], f32>) -> ["y"] symbols [] {
  %w = qcc.weight "w" : !qcc.tensor<[2, 32], "fp4_3 | (1,32) e8m0 floor">
  %s = qcc.slice_bits %w {bits = 4 : i64} : (!qcc.tensor<[2, 32], "fp4_3 | (1,32) e8m0 floor">) -> !qcc.tensor<[2, 32], "fp4_3 | (1,32) e8m0 floor">
  qcc.return %x : !qcc.tensor<[2, 32], f32>
}

// -----

// CHECK: side tensors (sparse(csr, f16, 0.01)) are not part of packed storage
qcc.program @main("x" %x : !qcc.tensor<[2, 32], f32>) -> ["y"] symbols [] {
  %w = qcc.weight "w" : !qcc.tensor<[2, 32], "int4 | (1,32) f16 | sparse(csr, f16, 0.01)">
  %p, %s = qcc.pack %w : (!qcc.tensor<[2, 32], "int4 | (1,32) f16 | sparse(csr, f16, 0.01)">) -> (!qcc.tensor<[2, 16], u8>, !qcc.tensor<[2, 1], f32>)
  qcc.return %x : !qcc.tensor<[2, 32], f32>
}

// -----

// CHECK: qcc.cache_round: a cache cannot be kept in 'int8 | (1,-1) f16': scales are dynamic
qcc.program @main("k" %k : !qcc.tensor<[1, 2, 5, 8], f32>) -> ["y"] symbols [] {
  %y = qcc.cache_round %k {format = #qcc.qtype<"int8 | (1,-1) f16">, window = 0 : i64} : (!qcc.tensor<[1, 2, 5, 8], f32>) -> !qcc.tensor<[1, 2, 5, 8], f32>
  qcc.return %y : !qcc.tensor<[1, 2, 5, 8], f32>
}

// -----

// CHECK: qcc.cache_read: the parts are !qcc.tensor<[1, 2, 16, 8], u8>; of a cache [1, 2, 16, 8] they are codes !qcc.tensor<[1, 2, 16, 4], u8>, scale !qcc.tensor<[1, 2, 16, 1], f16>, recent !qcc.tensor<[1, 2, 3, 8], f32>
qcc.program @main("c" %c : !qcc.tensor<[1, 2, 16, 8], u8>, "at" %at : !qcc.tensor<[n], i64>) -> ["y"] symbols [#qcc.symbol<n in [1, inf]>] {
  %y = qcc.cache_read %c up to %at {format = #qcc.qtype<"int4 | (1,-1) f16 | dynamic">, window = 2 : i64} : (!qcc.tensor<[n], i64>, !qcc.tensor<[1, 2, 16, 8], u8>) -> !qcc.tensor<[1, 2, 16, 8], f32>
  qcc.return %y : !qcc.tensor<[1, 2, 16, 8], f32>
}
