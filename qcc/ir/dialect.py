"""The dialect `qcc`: one list of operations and one of attributes."""

from __future__ import annotations

from xdsl.ir import Attribute, Dialect, Operation

from qcc.ir import elementwise, gather, nn, program, quant, shape, storage, transform, transformer, types

OPERATIONS: list[type[Operation]] = [
    program.ProgramOp,
    program.ReturnOp,
    program.WeightOp,
    program.StateOp,
    program.UpdateStateOp,
    program.ConstantOp,
    program.DimOp,
    program.IotaOp,
    elementwise.UnaryOp,
    elementwise.BinaryOp,
    elementwise.WhereOp,
    elementwise.CastOp,
    shape.ReshapeOp,
    shape.TransposeOp,
    shape.ExpandOp,
    shape.SliceOp,
    shape.ConcatOp,
    shape.PadOp,
    gather.IndexOp,
    gather.GatherOp,
    gather.IndexUpdateOp,
    gather.SliceUpdateOp,
    gather.ReduceOp,
    gather.CumulativeSumOp,
    nn.LinearOp,
    nn.MatmulOp,
    nn.ConvOp,
    nn.EmbeddingOp,
    nn.SoftmaxOp,
    nn.PoolOp,
    transformer.NormOp,
    transformer.BatchNormOp,
    transformer.RopeOp,
    transformer.AttentionOp,
    quant.QuantizeOp,
    quant.DequantizeOp,
    quant.QparamsOp,
    quant.RequantOp,
    quant.ContractOp,
    transform.RotateOp,
    transform.PermuteOp,
    transform.ScaleAxisOp,
    transform.ExpandKOp,
    transform.SliceBitsOp,
    transform.AddLowrankOp,
    transform.AddSparseOp,
    storage.CacheOp,
    storage.PackOp,
    storage.UnpackOp,
]

ATTRIBUTES: list[type[Attribute]] = [
    types.DimAttr,
    types.QTypeAttr,
    types.TensorType,
    types.SymbolAttr,
    elementwise.UnaryFunctionAttr,
    elementwise.BinaryFunctionAttr,
    gather.ReductionAttr,
    nn.PoolKindAttr,
    transformer.NormKindAttr,
    transformer.RopePairingAttr,
    quant.PlanAttr,
    quant.ExactnessAttr,
    transform.RotationKindAttr,
    transform.ExpansionModeAttr,
    storage.CachePolicyAttr,
]

QCC = Dialect("qcc", OPERATIONS, ATTRIBUTES)
