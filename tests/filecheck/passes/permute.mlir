// RUN: qcc-opt %s -p 'permute{by="weights"}' --weights %weights | filecheck %s
// RUN: not qcc-opt %s -p 'permute' --weights %weights | filecheck %s --check-prefix SAMPLES
// RUN: not qcc-opt %s -p 'permute{by="chance"}' --weights %weights | filecheck %s --check-prefix WORD

// The angles of queries and keys are read in their order, once for both; all else is in stored weights.
// CHECK-LABEL: qcc.program @attention
// CHECK-NEXT:  %[[N:.+]] = qcc.weight "permutation" {{.+}} : !qcc.tensor<[4], i64>
// CHECK-NEXT:  %[[S:.+]] = qcc.index %sin[%[[N]]] {at = "attn (net.py:7)", axis = 1 : i64}
// CHECK-NEXT:  %[[M:.+]] = qcc.weight "permutation"
// CHECK-NEXT:  %[[C:.+]] = qcc.index %cos[%[[M]]] {at = "attn (net.py:7)", axis = 1 : i64}
// CHECK:       qcc.rope half %{{.+}}, %[[C]], %[[S]]
// CHECK:       qcc.rope half %{{.+}}, %[[C]], %[[S]]
// CHECK-NOT:   qcc.permute
// CHECK:       qcc.return
// SAMPLES: transform permute needs calibration, and no samples were given
// WORD: channels cannot be sorted by 'chance'
// WORD-NEXT: fix: write activations or weights
qcc.program @attention("x" %x: !qcc.tensor<[1, s0, 8], f32>, "cos" %cos: !qcc.tensor<[s0, 4], f32>, "sin" %sin: !qcc.tensor<[s0, 4], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 6]>] {
  %wq = qcc.weight "q.weight" : !qcc.tensor<[4, 8], f32>
  %wk = qcc.weight "k.weight" : !qcc.tensor<[4, 8], f32>
  %wv = qcc.weight "v.weight" : !qcc.tensor<[4, 8], f32>
  %wo = qcc.weight "o.weight" : !qcc.tensor<[8, 4], f32>
  %q = qcc.linear %x, %wq : (!qcc.tensor<[1, s0, 8], f32>, !qcc.tensor<[4, 8], f32>) -> !qcc.tensor<[1, s0, 4], f32>
  %k = qcc.linear %x, %wk : (!qcc.tensor<[1, s0, 8], f32>, !qcc.tensor<[4, 8], f32>) -> !qcc.tensor<[1, s0, 4], f32>
  %v = qcc.linear %x, %wv : (!qcc.tensor<[1, s0, 8], f32>, !qcc.tensor<[4, 8], f32>) -> !qcc.tensor<[1, s0, 4], f32>
  %qh = qcc.reshape %q : (!qcc.tensor<[1, s0, 4], f32>) -> !qcc.tensor<[1, 1, s0, 4], f32>
  %kh = qcc.reshape %k : (!qcc.tensor<[1, s0, 4], f32>) -> !qcc.tensor<[1, 1, s0, 4], f32>
  %vh = qcc.reshape %v : (!qcc.tensor<[1, s0, 4], f32>) -> !qcc.tensor<[1, 1, s0, 4], f32>
  %qr = qcc.rope half %qh, %cos, %sin {at = "attn (net.py:7)"} : (!qcc.tensor<[1, 1, s0, 4], f32>, !qcc.tensor<[s0, 4], f32>, !qcc.tensor<[s0, 4], f32>) -> !qcc.tensor<[1, 1, s0, 4], f32>
  %kr = qcc.rope half %kh, %cos, %sin {at = "attn (net.py:7)"} : (!qcc.tensor<[1, 1, s0, 4], f32>, !qcc.tensor<[s0, 4], f32>, !qcc.tensor<[s0, 4], f32>) -> !qcc.tensor<[1, 1, s0, 4], f32>
  %a = qcc.attention %qr, %kr, %vh {scale = 0.5 : f64, causal = false} : (!qcc.tensor<[1, 1, s0, 4], f32>, !qcc.tensor<[1, 1, s0, 4], f32>, !qcc.tensor<[1, 1, s0, 4], f32>) -> !qcc.tensor<[1, 1, s0, 4], f32>
  %r = qcc.reshape %a : (!qcc.tensor<[1, 1, s0, 4], f32>) -> !qcc.tensor<[1, s0, 4], f32>
  %y = qcc.linear %r, %wo : (!qcc.tensor<[1, s0, 4], f32>, !qcc.tensor<[8, 4], f32>) -> !qcc.tensor<[1, s0, 8], f32>
  qcc.return %y : !qcc.tensor<[1, s0, 8], f32>
}
