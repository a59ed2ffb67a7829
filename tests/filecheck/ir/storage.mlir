// RUN: qcc-opt %s | qcc-opt | filecheck %s

qcc.program @main("rows" %rows: !qcc.tensor<[1, 2, 3, 8], f32>, "positions" %positions: !qcc.tensor<[3], i64>) -> ["y"] symbols [] {
  %0 = qcc.state "kv" : !qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">
  %1 = qcc.cache token %0, %rows, %positions : (!qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">, !qcc.tensor<[1, 2, 3, 8], f32>, !qcc.tensor<[3], i64>) -> !qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">
  qcc.update_state "kv", %1 : !qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">
  %2, %3 = qcc.pack %1 : (!qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">) -> (!qcc.tensor<[1, 2, 16, 8], u8>, !qcc.tensor<[1, 2, 16, 1], f32>)
  %4 = qcc.unpack %2, %3 : (!qcc.tensor<[1, 2, 16, 8], u8>, !qcc.tensor<[1, 2, 16, 1], f32>) -> !qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">
  qcc.return %4 : !qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">
}

// CHECK: qcc.program @main("rows" %rows: !qcc.tensor<[1, 2, 3, 8], f32>, "positions" %positions: !qcc.tensor<[3], i64>) -> ["y"] symbols [] {
// CHECK: %0 = qcc.state "kv" : !qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">
// CHECK: %1 = qcc.cache token %0, %rows, %positions : (!qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">, !qcc.tensor<[1, 2, 3, 8], f32>, !qcc.tensor<[3], i64>) -> !qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">
// CHECK: qcc.update_state "kv", %1 : !qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">
// CHECK: %2, %3 = qcc.pack %1 : (!qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">) -> (!qcc.tensor<[1, 2, 16, 8], u8>, !qcc.tensor<[1, 2, 16, 1], f32>)
// CHECK: %4 = qcc.unpack %2, %3 : (!qcc.tensor<[1, 2, 16, 8], u8>, !qcc.tensor<[1, 2, 16, 1], f32>) -> !qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">
// CHECK: qcc.return %4 : !qcc.tensor<[1, 2, 16, 8], "int8n | (1,-1) f32 | dynamic">
