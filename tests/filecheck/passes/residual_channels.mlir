// RUN: not qcc-opt %s -p 'residual-channels{illegal="keep"}' --weights %weights | filecheck %s --check-prefix SAMPLES
// RUN: not qcc-opt %s -p 'residual-channels' --weights %weights | filecheck %s
// RUN: not qcc-opt %s -p 'residual-channels{multiple=0}' --weights %weights | filecheck %s --check-prefix MULTIPLE

// Which channels stand out needs samples, which text alone has not.
// SAMPLES: transform residual-channels needs calibration, and no samples were given
// MULTIPLE: multiple=0
qcc.program @block("x" %x: !qcc.tensor<[s0, 32], f32>) -> ["y"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %w = qcc.weight "up.weight" : !qcc.tensor<[8, 32], f32>
  %v = qcc.quantize %w : !qcc.tensor<[8, 32], f32> -> !qcc.tensor<[8, 32], "fp2_1 | (1,16) e4m3, tensor f32">
  %q = qcc.quantize %x {at = "up (net.py:1)"} : !qcc.tensor<[s0, 32], f32> -> !qcc.tensor<[s0, 32], "fp2_1 | (1,16) e4m3, tensor f32 | dynamic">
  %y = qcc.contract %q, %v {layer = "up", exactness = #qcc<exactness E1>} : (!qcc.tensor<[s0, 32], "fp2_1 | (1,16) e4m3, tensor f32 | dynamic">, !qcc.tensor<[8, 32], "fp2_1 | (1,16) e4m3, tensor f32">) -> !qcc.tensor<[s0, 8], f32>
  qcc.return %y : !qcc.tensor<[s0, 8], f32>
}

// A residual has no step of its own where one scale goes over all channels, and none where scales are chosen before.
// CHECK: adding residual channels is not legal at 2 places
// CHECK: down: 'int8n | (1,-1) f32 | dynamic' has no blocks along the columns
// CHECK: fix: use a format computed at run time with blocks along the columns, such as nvfp4
// CHECK: out: 'int8n | tensor f32 constant(1)' has scales that are chosen before the residual is known
qcc.program @token("x" %x: !qcc.tensor<[s0, 32], f32>) -> ["y", "z"] symbols [#qcc.symbol<s0 in [1, 64]>] {
  %w = qcc.weight "down.weight" : !qcc.tensor<[8, 32], f32>
  %v = qcc.quantize %w : !qcc.tensor<[8, 32], f32> -> !qcc.tensor<[8, 32], "int8n | row f32">
  %q = qcc.quantize %x {at = "down (net.py:2)"} : !qcc.tensor<[s0, 32], f32> -> !qcc.tensor<[s0, 32], "int8n | token f32 | dynamic">
  %y = qcc.contract %q, %v {layer = "down", exactness = #qcc<exactness E1>} : (!qcc.tensor<[s0, 32], "int8n | token f32 | dynamic">, !qcc.tensor<[8, 32], "int8n | row f32">) -> !qcc.tensor<[s0, 8], f32>
  %r = qcc.quantize %x {at = "out (net.py:3)"} : !qcc.tensor<[s0, 32], f32> -> !qcc.tensor<[s0, 32], "int8n | tensor f32 constant(1)">
  %z = qcc.contract %r, %v {layer = "out", exactness = #qcc<exactness E1>} : (!qcc.tensor<[s0, 32], "int8n | tensor f32 constant(1)">, !qcc.tensor<[8, 32], "int8n | row f32">) -> !qcc.tensor<[s0, 8], f32>
  qcc.return %y, %z : !qcc.tensor<[s0, 8], f32>, !qcc.tensor<[s0, 8], f32>
}
