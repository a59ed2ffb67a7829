// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @caches("rows" %rows: !qcc.tensor<[1, 2, n, 8], f32>, "at" %at: !qcc.tensor<[n], i64>) -> ["read", "rounded"] symbols [#qcc.symbol<n in [1, 16]>] {
  %codes = qcc.state "k.codes" : !qcc.tensor<[1, 2, 16, 4], u8>
  %scale = qcc.state "k.scale" : !qcc.tensor<[1, 2, 4, 8], f16>
  %zero = qcc.state "k.zero" : !qcc.tensor<[1, 2, 4, 8], f16>
  %recent = qcc.state "k.recent" : !qcc.tensor<[1, 2, 4, 8], f32>
  %c, %s, %z, %r = qcc.cache_append %rows at %at in %codes, %scale, %zero, %recent {format = #qcc.qtype<"uint4 | (4,1) f16 | post f16 | dynamic">, window = 0 : i64} : (!qcc.tensor<[1, 2, n, 8], f32>, !qcc.tensor<[n], i64>, !qcc.tensor<[1, 2, 16, 4], u8>, !qcc.tensor<[1, 2, 4, 8], f16>, !qcc.tensor<[1, 2, 4, 8], f16>, !qcc.tensor<[1, 2, 4, 8], f32>) -> (!qcc.tensor<[1, 2, 16, 4], u8>, !qcc.tensor<[1, 2, 4, 8], f16>, !qcc.tensor<[1, 2, 4, 8], f16>, !qcc.tensor<[1, 2, 4, 8], f32>)
  %k = qcc.cache_read %c, %s, %z, %r up to %at {format = #qcc.qtype<"uint4 | (4,1) f16 | post f16 | dynamic">, window = 0 : i64} : (!qcc.tensor<[n], i64>, !qcc.tensor<[1, 2, 16, 4], u8>, !qcc.tensor<[1, 2, 4, 8], f16>, !qcc.tensor<[1, 2, 4, 8], f16>, !qcc.tensor<[1, 2, 4, 8], f32>) -> !qcc.tensor<[1, 2, 16, 8], f32>
  %v = qcc.cache_round %rows {format = #qcc.qtype<"int4 | (1,-1) f16 | dynamic">, window = 2 : i64} : (!qcc.tensor<[1, 2, n, 8], f32>) -> !qcc.tensor<[1, 2, n, 8], f32>
  qcc.return %k, %v : !qcc.tensor<[1, 2, 16, 8], f32>, !qcc.tensor<[1, 2, n, 8], f32>
}
// CHECK:      %{{.+}}, %{{.+}}, %{{.+}}, %{{.+}} = qcc.cache_append %rows at %at in %codes, %scale, %zero, %recent {format = #qcc.qtype<"uint4 | (4,1) f16 | post f16 | dynamic">, window = 0 : i64}
// CHECK-NEXT: %k = qcc.cache_read %c, %s, %z, %r up to %at {format = #qcc.qtype<"uint4 | (4,1) f16 | post f16 | dynamic">, window = 0 : i64}
// CHECK-NEXT: %v = qcc.cache_round %rows {format = #qcc.qtype<"int4 | (1,-1) f16 | dynamic">, window = 2 : i64} : (!qcc.tensor<[1, 2, n, 8], f32>) -> !qcc.tensor<[1, 2, n, 8], f32>
