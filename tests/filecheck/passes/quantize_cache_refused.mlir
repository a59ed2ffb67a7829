// RUN: not qcc-opt %s -p 'quantize-cache{recipe="{\"kv_cache\": {\"format\": \"int8\"}}"}' | filecheck %s

// Every cache that is not proved is named, with what is in the way.
// CHECK:      6 caches cannot be held as codes
// CHECK:      net.attn: keys: the buffer 'k' is also read by qcc.unary
// CHECK-NEXT: net.attn: values: the buffer 'v' is read by qcc.return besides attention
// CHECK-NEXT: net.turned: keys: the buffer 't' is read through other operations than a write of rows along axis 2
// CHECK-NEXT: net.turned: values: what is written into the buffer 'w' is not its next value
// CHECK-NEXT: net.given: keys: the caller keeps them, in inputs of the program
// CHECK-NEXT: net.given: values: the caller keeps them, in inputs of the program
qcc.program @refused("q" %q: !qcc.tensor<[1, 2, n, 8], f32>, "rows" %rows: !qcc.tensor<[1, 2, n, 8], f32>, "at" %at: !qcc.tensor<[n], i64>, "past" %past: !qcc.tensor<[1, 2, 16, 8], f32>) -> ["y", "z", "o", "p", "r"] symbols [#qcc.symbol<n in [1, 16]>] {
  %k = qcc.state "k" : !qcc.tensor<[1, 2, 16, 8], f32>
  %v = qcc.state "v" : !qcc.tensor<[1, 2, 16, 8], f32>
  %t = qcc.state "t" : !qcc.tensor<[1, 2, 8, 16], f32>
  %w = qcc.state "w" : !qcc.tensor<[1, 2, 16, 8], f32>
  %o = qcc.unary abs %k : (!qcc.tensor<[1, 2, 16, 8], f32>) -> !qcc.tensor<[1, 2, 16, 8], f32>
  %nk = qcc.index_update %k[%at], %rows {axis = 2 : i64} : (!qcc.tensor<[1, 2, 16, 8], f32>, !qcc.tensor<[1, 2, n, 8], f32>, !qcc.tensor<[n], i64>) -> !qcc.tensor<[1, 2, 16, 8], f32>
  %nv = qcc.index_update %v[%at], %rows {axis = 2 : i64} : (!qcc.tensor<[1, 2, 16, 8], f32>, !qcc.tensor<[1, 2, n, 8], f32>, !qcc.tensor<[n], i64>) -> !qcc.tensor<[1, 2, 16, 8], f32>
  %y = qcc.attention %q, %nk, %nv {at = "net.attn (net.py:9)", scale = 0.5 : f64, causal = false} : (!qcc.tensor<[1, 2, n, 8], f32>, !qcc.tensor<[1, 2, 16, 8], f32>, !qcc.tensor<[1, 2, 16, 8], f32>) -> !qcc.tensor<[1, 2, n, 8], f32>
  %nt = qcc.transpose %t {permutation = array<i64: 0, 1, 3, 2>} : (!qcc.tensor<[1, 2, 8, 16], f32>) -> !qcc.tensor<[1, 2, 16, 8], f32>
  %nw = qcc.index_update %w[%at], %rows {axis = 2 : i64} : (!qcc.tensor<[1, 2, 16, 8], f32>, !qcc.tensor<[1, 2, n, 8], f32>, !qcc.tensor<[n], i64>) -> !qcc.tensor<[1, 2, 16, 8], f32>
  %z = qcc.attention %q, %nt, %nw {at = "net.turned (net.py:10)", scale = 0.5 : f64, causal = false} : (!qcc.tensor<[1, 2, n, 8], f32>, !qcc.tensor<[1, 2, 16, 8], f32>, !qcc.tensor<[1, 2, 16, 8], f32>) -> !qcc.tensor<[1, 2, n, 8], f32>
  %np = qcc.index_update %past[%at], %rows {axis = 2 : i64} : (!qcc.tensor<[1, 2, 16, 8], f32>, !qcc.tensor<[1, 2, n, 8], f32>, !qcc.tensor<[n], i64>) -> !qcc.tensor<[1, 2, 16, 8], f32>
  %p = qcc.attention %q, %np, %np {at = "net.given (net.py:11)", scale = 0.5 : f64, causal = false} : (!qcc.tensor<[1, 2, n, 8], f32>, !qcc.tensor<[1, 2, 16, 8], f32>, !qcc.tensor<[1, 2, 16, 8], f32>) -> !qcc.tensor<[1, 2, n, 8], f32>
  qcc.update_state "k", %nk : !qcc.tensor<[1, 2, 16, 8], f32>
  qcc.update_state "v", %nv : !qcc.tensor<[1, 2, 16, 8], f32>
  qcc.return %y, %z, %o, %nv, %p : !qcc.tensor<[1, 2, n, 8], f32>, !qcc.tensor<[1, 2, n, 8], f32>, !qcc.tensor<[1, 2, 16, 8], f32>, !qcc.tensor<[1, 2, 16, 8], f32>, !qcc.tensor<[1, 2, n, 8], f32>
}
