// RUN: qcc-opt %s -p calibrate | filecheck %s

// What is computed at run time, what has its parameters, and weights wait for nothing.
// CHECK: qcc.program @main
// CHECK: %a = qcc.quantize %x : !qcc.tensor<[m, 8], f32> -> !qcc.tensor<[m, 8], "int8n | (1,-1) f32 | dynamic">
// CHECK: %b = qcc.quantize %x parameters %s : !qcc.tensor<[1, 1], f32> : !qcc.tensor<[m, 8], f32> -> !qcc.tensor<[m, 8], "int8n | tensor f32">
// CHECK: %q = qcc.quantize %w : !qcc.tensor<[4, 8], f32> -> !qcc.tensor<[4, 8], "int4 | (1,-1) f16">
qcc.program @main("x" %x : !qcc.tensor<[m, 8], f32>, "s" %s : !qcc.tensor<[1, 1], f32>) -> ["y", "z"] symbols [#qcc.symbol<m in [0, inf]>] {
  %a = qcc.quantize %x : !qcc.tensor<[m, 8], f32> -> !qcc.tensor<[m, 8], "int8n | (1,-1) f32 | dynamic">
  %b = qcc.quantize %x parameters %s : !qcc.tensor<[1, 1], f32> : !qcc.tensor<[m, 8], f32> -> !qcc.tensor<[m, 8], "int8n | tensor f32">
  %w = qcc.weight "w" : !qcc.tensor<[4, 8], f32>
  %q = qcc.quantize %w : !qcc.tensor<[4, 8], f32> -> !qcc.tensor<[4, 8], "int4 | (1,-1) f16">
  %y = qcc.contract %a, %q {exactness = #qcc<exactness E1>} : (!qcc.tensor<[m, 8], "int8n | (1,-1) f32 | dynamic">, !qcc.tensor<[4, 8], "int4 | (1,-1) f16">) -> !qcc.tensor<[m, 4], f32>
  %z = qcc.contract %b, %q {exactness = #qcc<exactness E1>} : (!qcc.tensor<[m, 8], "int8n | tensor f32">, !qcc.tensor<[4, 8], "int4 | (1,-1) f16">) -> !qcc.tensor<[m, 4], f32>
  qcc.return %y, %z : !qcc.tensor<[m, 4], f32>, !qcc.tensor<[m, 4], f32>
}
