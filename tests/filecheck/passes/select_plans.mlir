// RUN: qcc-opt %s -p 'fuse-epilogue,select-plans{costs="group_after weights=1-8 activations=2-8 decode=0.1 mac=0.1 scale=1.0","lookup weights=1-2 activations=2-8 group=4 mac_bit=0.02 table=4.0","dequant_first weights=codes1-8 activations=float decode=0.2" byte-cost=0.5 force="late*=group_after"}' | filecheck %s

// Tables cost their building, which pays with more rows of weights; what is asked for is taken whatever it costs.
// CHECK-LABEL: @main
// CHECK: qcc.kernel "few rows"
// CHECK: ) why "group_after: 0.23 instr/weight, 0.3 kB; lookup: 0.29 instr/weight, 0.3 kB; dequant_first refused: 8-bit activations" {
// CHECK: qcc.contract {{.*}}plan = #qcc<plan group_after>
// CHECK: qcc.kernel "many rows"
// CHECK: ) why "lookup: 0.044 instr/weight, 20.5 kB; group_after: 0.23 instr/weight, 20.5 kB; dequant_first refused: 8-bit activations" {
// CHECK: qcc.contract {{.*}}plan = #qcc<plan lookup>
// CHECK: qcc.kernel "late"
// CHECK: ) why "group_after: 0.23 instr/weight, 20.5 kB, as asked; lookup: 0.044 instr/weight, 20.5 kB; dequant_first refused: 8-bit activations" {
// CHECK: qcc.contract {{.*}}plan = #qcc<plan group_after>
// CHECK: qcc.kernel "float"
// CHECK: ) why "dequant_first: 0.2 instr/weight, 20.5 kB; group_after refused: float activations; lookup refused: float activations" {
// CHECK: qcc.contract {{.*}}plan = #qcc<plan dequant_first>
qcc.program @main("x" %x : !qcc.tensor<[s, 64], f32>) -> ["a", "b", "c", "d"] symbols [#qcc.symbol<s in [1, inf]>] {
  %q = qcc.quantize %x : !qcc.tensor<[s, 64], f32> -> !qcc.tensor<[s, 64], "int8 | row f32 | dynamic">
  %0 = qcc.weight "few rows" : !qcc.tensor<[16, 64], "int2 | (1,32) f16">
  %1 = qcc.weight "many rows" : !qcc.tensor<[1024, 64], "int2 | (1,32) f16">
  %2 = qcc.weight "late" : !qcc.tensor<[1024, 64], "int2 | (1,32) f16">
  %3 = qcc.weight "float" : !qcc.tensor<[1024, 64], "int2 | (1,32) f16">
  %a = qcc.contract %q, %0 {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 64], "int8 | row f32 | dynamic">, !qcc.tensor<[16, 64], "int2 | (1,32) f16">) -> !qcc.tensor<[s, 16], f32>
  %b = qcc.contract %q, %1 {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 64], "int8 | row f32 | dynamic">, !qcc.tensor<[1024, 64], "int2 | (1,32) f16">) -> !qcc.tensor<[s, 1024], f32>
  %c = qcc.contract %q, %2 {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 64], "int8 | row f32 | dynamic">, !qcc.tensor<[1024, 64], "int2 | (1,32) f16">) -> !qcc.tensor<[s, 1024], f32>
  %d = qcc.contract %x, %3 {exactness = #qcc<exactness E1>} : (!qcc.tensor<[s, 64], f32>, !qcc.tensor<[1024, 64], "int2 | (1,32) f16">) -> !qcc.tensor<[s, 1024], f32>
  qcc.return %a, %b, %c, %d : !qcc.tensor<[s, 16], f32>, !qcc.tensor<[s, 1024], f32>, !qcc.tensor<[s, 1024], f32>, !qcc.tensor<[s, 1024], f32>
}
