// RUN: qcc-opt %s -p 'rotate-values' --weights %weights | filecheck %s
// RUN: qcc-opt %s -p 'rotate-keys' --weights %weights | filecheck %s --check-prefix KEYS
// RUN: qcc-opt %s -p 'rotate-keys{block=2}' --weights %weights | filecheck %s --check-prefix BLOCKS

// Values rotate in stored weights alone.
// CHECK-LABEL: qcc.program @attention
// CHECK-NOT:   qcc.rotate
// CHECK:       qcc.return

// Queries and keys rotate behind the rotary embedding, the keys on their way into the cache.
// KEYS-LABEL: qcc.program @attention
// KEYS:       %[[Q:.+]] = qcc.rope half
// KEYS-NEXT:  %[[QR:.+]] = qcc.rotate hadamard %[[Q]] {at = "attn (net.py:7)", axis = 3 : i64, block = 4 : i64, inverse = false}
// KEYS:       %[[K:.+]] = qcc.rope half
// KEYS-NEXT:  %[[KR:.+]] = qcc.rotate hadamard %[[K]] {{.*}}block = 4 : i64
// KEYS:       %[[CACHE:.+]] = qcc.index_update %{{.+}}, %[[KR]]
// KEYS:       qcc.attention %[[QR]], %[[CACHE]]
// BLOCKS:     qcc.rotate block_hadamard {{.*}}block = 2 : i64
qcc.program @attention("x" %x: !qcc.tensor<[1, s0, 8], f32>, "cos" %cos: !qcc.tensor<[s0, 4], f32>, "sin" %sin: !qcc.tensor<[s0, 4], f32>, "at" %at: !qcc.tensor<[s0], i64>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 6]>] {
  %wq = qcc.weight "q.weight" : !qcc.tensor<[8, 8], f32>
  %wk = qcc.weight "k.weight" : !qcc.tensor<[4, 8], f32>
  %wv = qcc.weight "v.weight" : !qcc.tensor<[4, 8], f32>
  %wo = qcc.weight "o.weight" : !qcc.tensor<[8, 8], f32>
  %cache = qcc.state "keys" : !qcc.tensor<[1, 1, 6, 4], f32>
  %values = qcc.state "values" : !qcc.tensor<[1, 1, 6, 4], f32>
  %q = qcc.linear %x, %wq : (!qcc.tensor<[1, s0, 8], f32>, !qcc.tensor<[8, 8], f32>) -> !qcc.tensor<[1, s0, 8], f32>
  %k = qcc.linear %x, %wk : (!qcc.tensor<[1, s0, 8], f32>, !qcc.tensor<[4, 8], f32>) -> !qcc.tensor<[1, s0, 4], f32>
  %v = qcc.linear %x, %wv : (!qcc.tensor<[1, s0, 8], f32>, !qcc.tensor<[4, 8], f32>) -> !qcc.tensor<[1, s0, 4], f32>
  %q4 = qcc.reshape %q : (!qcc.tensor<[1, s0, 8], f32>) -> !qcc.tensor<[1, s0, 2, 4], f32>
  %qh = qcc.transpose %q4 {permutation = array<i64: 0, 2, 1, 3>} : (!qcc.tensor<[1, s0, 2, 4], f32>) -> !qcc.tensor<[1, 2, s0, 4], f32>
  %kh = qcc.reshape %k : (!qcc.tensor<[1, s0, 4], f32>) -> !qcc.tensor<[1, 1, s0, 4], f32>
  %vh = qcc.reshape %v : (!qcc.tensor<[1, s0, 4], f32>) -> !qcc.tensor<[1, 1, s0, 4], f32>
  %qr = qcc.rope half %qh, %cos, %sin {at = "attn (net.py:7)"} : (!qcc.tensor<[1, 2, s0, 4], f32>, !qcc.tensor<[s0, 4], f32>, !qcc.tensor<[s0, 4], f32>) -> !qcc.tensor<[1, 2, s0, 4], f32>
  %kr = qcc.rope half %kh, %cos, %sin {at = "attn (net.py:7)"} : (!qcc.tensor<[1, 1, s0, 4], f32>, !qcc.tensor<[s0, 4], f32>, !qcc.tensor<[s0, 4], f32>) -> !qcc.tensor<[1, 1, s0, 4], f32>
  %keys = qcc.index_update %cache[%at], %kr {axis = 2 : i64} : (!qcc.tensor<[1, 1, 6, 4], f32>, !qcc.tensor<[1, 1, s0, 4], f32>, !qcc.tensor<[s0], i64>) -> !qcc.tensor<[1, 1, 6, 4], f32>
  %rows = qcc.index_update %values[%at], %vh {axis = 2 : i64} : (!qcc.tensor<[1, 1, 6, 4], f32>, !qcc.tensor<[1, 1, s0, 4], f32>, !qcc.tensor<[s0], i64>) -> !qcc.tensor<[1, 1, 6, 4], f32>
  %a = qcc.attention %qr, %keys, %rows {scale = 0.5 : f64, causal = false} : (!qcc.tensor<[1, 2, s0, 4], f32>, !qcc.tensor<[1, 1, 6, 4], f32>, !qcc.tensor<[1, 1, 6, 4], f32>) -> !qcc.tensor<[1, 2, s0, 4], f32>
  %t = qcc.transpose %a {permutation = array<i64: 0, 2, 1, 3>} : (!qcc.tensor<[1, 2, s0, 4], f32>) -> !qcc.tensor<[1, s0, 2, 4], f32>
  %r = qcc.reshape %t : (!qcc.tensor<[1, s0, 2, 4], f32>) -> !qcc.tensor<[1, s0, 8], f32>
  %y = qcc.linear %r, %wo : (!qcc.tensor<[1, s0, 8], f32>, !qcc.tensor<[8, 8], f32>) -> !qcc.tensor<[1, s0, 8], f32>
  qcc.update_state "keys", %keys : !qcc.tensor<[1, 1, 6, 4], f32>
  qcc.update_state "values", %rows : !qcc.tensor<[1, 1, 6, 4], f32>
  qcc.return %y : !qcc.tensor<[1, s0, 8], f32>
}
