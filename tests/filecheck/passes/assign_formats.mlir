// RUN: qcc-opt %s -p 'assign-formats' | filecheck %s
// RUN: qcc-opt %s -p 'assign-formats{recipe="spqr-w3"}' | filecheck %s --check-prefix SPARSE
// RUN: qcc-opt %s -p 'assign-formats{recipe="zeroquantfp-w4a8"}' | filecheck %s --check-prefix FACTORS

// A linear layer becomes a contraction of quantized operands; what is kept apart of a weight is in its type, and how
// it is found in attributes. A table tied to a layer takes the layer's format.
// CHECK-LABEL: qcc.program @tied
// CHECK-DAG:   %[[E:.+]] = qcc.quantize %t : {{.+}} -> !qcc.tensor<[97, 64], "int8 | (1,-1) f32">
// CHECK:       %[[H:.+]] = qcc.embedding %[[E]]
// CHECK:       %[[X:.+]] = qcc.quantize %[[H]] : {{.+}} "int8 | (1,-1) f32 | dynamic">
// CHECK:       %[[W:.+]] = qcc.quantize %t : {{.+}} -> !qcc.tensor<[97, 64], "int8 | (1,-1) f32">
// CHECK-NEXT:  qcc.contract %[[X]], %[[W]]
// SPARSE-LABEL: qcc.program @tied
// SPARSE:       qcc.quantize %t {solver = "descent", outliers = "sensitivity"} : {{.+}} | sparse(csr, f16, 0.0075)">
// SPARSE:       %[[H:.+]] = qcc.embedding
// SPARSE:       %[[W:.+]] = qcc.quantize %t {solver = "descent", outliers = "sensitivity"} : {{.+}} | sparse(csr, f16, 0.0075)">
// SPARSE-NEXT:  qcc.contract %[[H]], %[[W]]
// FACTORS-LABEL: qcc.program @tied
// FACTORS:       qcc.quantize %t : {{.+}} "fp2_1 | (1,64) pow2 ceil, (1,-1) f16 | lowrank(8, i8)">
// FACTORS:       %[[X:.+]] = qcc.quantize {{.+}} "fp4_3 | (1,-1) f32 | dynamic">
// FACTORS:       %[[W:.+]] = qcc.quantize %t : {{.+}} "fp2_1 | (1,64) pow2 ceil, (1,-1) f16 | lowrank(8, i8)">
// FACTORS-NEXT:  qcc.contract %[[X]], %[[W]]
qcc.program @tied("ids" %ids: !qcc.tensor<[s0], i64>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %t = qcc.weight "embed.weight" : !qcc.tensor<[97, 64], f32>
  %h = qcc.embedding %t, %ids : (!qcc.tensor<[97, 64], f32>, !qcc.tensor<[s0], i64>) -> !qcc.tensor<[s0, 64], f32>
  %y = qcc.linear %h, %t : (!qcc.tensor<[s0, 64], f32>, !qcc.tensor<[97, 64], f32>) -> !qcc.tensor<[s0, 97], f32>
  qcc.return %y : !qcc.tensor<[s0, 97], f32>
}
