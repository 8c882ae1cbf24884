"""Makes the models of the benchmark. Their weights are random; their shapes are what matters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __name__ == "__main__":  # a runner that is large makes its children look large
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper


class Builder:
    """A graph that grows at its end."""

    def __init__(self, *shape: int) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        self.last = "x"

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        """A node that reads `inputs`, by default what was added last."""
        output = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs or [self.last], [output], **attributes))
        self.last = output
        return output

    def weight(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> str:
        """An initializer of normally distributed numbers."""
        values = self.rng.standard_normal(shape, np.float32) * np.float32(scale)
        name = f"w{len(self.initializers)}"
        values = values + np.float32(shift) if shift else values
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        """A convolution with its BatchNormalization."""
        weight = self.weight(outputs, inputs, kernel, kernel, scale=(inputs * kernel**2) ** -0.5)
        self.add("Conv", self.last, weight, strides=[stride] * 2, pads=[kernel // 2] * 4)
        gamma, beta = self.weight(outputs, scale=0.1, shift=1), self.weight(outputs, scale=0.1)
        mean = self.weight(outputs, scale=0.1)
        variance = self.weight(outputs, scale=0.05, shift=1)
        return self.add("BatchNormalization", self.last, gamma, beta, mean, variance)

    def model(self) -> onnx.ModelProto:
        """The model, with its last value as output."""
        output = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "g", [self.input], [output], self.initializers)
        opset = helper.make_opsetid("", 17)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        model.graph.output[0].CopyFrom(self.typed(output))  # some peers ask for that
        return model

    def typed(self, output: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
        """The output with its shape, inferred without the weights' values: 2 GiB are too many."""
        empty = [TensorProto(name=t.name, data_type=t.data_type, dims=t.dims)
                 for t in self.initializers]  # fmt: skip
        graph = helper.make_graph(self.nodes, "g", [self.input], [output], empty)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        return onnx.shape_inference.infer_shapes(model).graph.output[0]


def resnet50() -> onnx.ModelProto:
    """The 53 convolutions of ResNet-50 (He et al. 2015) with their BatchNormalizations."""
    b = Builder(1, 3, 224, 224)
    b.conv(3, 64, 7, 2)
    b.add("Relu")
    b.add("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(blocks):
            source, step = b.last, stride if number == 0 else 1
            b.conv(channels, width, 1)
            b.add("Relu")
            b.conv(width, width, 3, step)
            b.add("Relu")
            left = b.conv(width, 4 * width, 1)
            if number == 0:
                b.last = source
                source = b.conv(channels, 4 * width, 1, step)
            channels = 4 * width
            b.add("Add", left, source)
            b.add("Relu")
    b.add("GlobalAveragePool")
    b.add("Flatten")
    b.add("Gemm", b.last, b.weight(2048, 1000, scale=0.02), b.weight(1000))
    return b.model()


def chain(pairs: int, channels: int, size: int = 8) -> onnx.ModelProto:
    """Convolution, BatchNormalization, Relu; and again, on `size` × `size` pixels."""
    b = Builder(1, channels, size, size)
    for _ in range(pairs):
        b.conv(channels, channels, 3)
        b.add("Relu")
    return b.model()


def stem(blocks: int, width: int) -> onnx.ModelProto:
    """One BatchNormalization in front of matrices that no fold touches."""
    b = Builder(1, 3, 32, 32)
    b.conv(3, 64, 3, 2)
    b.add("Relu")
    b.add("GlobalAveragePool")
    b.add("Flatten")
    b.add("MatMul", b.last, b.weight(64, width, scale=0.1))
    for _ in range(blocks):
        b.add("MatMul", b.last, b.weight(width, width, scale=width**-0.5))
        b.add("Relu")
    return b.model()


def sample() -> onnx.ModelProto:
    """A trained multilayer perceptron of 34 kB."""
    return onnx.load(Path(__file__).parents[1] / "sample_models" / "digits_mlp.onnx")


MODELS: dict[str, tuple[str, Callable[[], onnx.ModelProto], bool]] = {
    "resnet50": ("ResNet-50, 102 MB", resnet50, False),
    "pairs1000": ("1,000 pairs, 32 × 32 pixels", lambda: chain(1000, 16, 32), False),
    "activations": ("13 pairs, 480 × 480 pixels", lambda: chain(13, 16, 480), False),
    "digits_mlp": ("digits_mlp, 34 kB", sample, False),
    "pairs5000": ("5,000 pairs", lambda: chain(5000, 16), False),
    "single": ("1.06 GB in one file, every weight folded", lambda: chain(28, 1024), False),
    "external": ("2.5 GB of external data, every weight folded", lambda: chain(66, 1024), True),
    "stem": ("1.07 GB in one file, one weight folded", lambda: stem(16, 4096), False),
}


QUICK = ("resnet50", "pairs1000", "activations", "digits_mlp")  # minutes, all others an hour


def main() -> None:
    """Write the named model to the given path."""
    name, path = sys.argv[1], Path(sys.argv[2])
    path.parent.mkdir(parents=True, exist_ok=True)
    _, build, external = MODELS[name]
    onnx.save(build(), path, save_as_external_data=external, location=f"{path.name}.data")


if __name__ == "__main__":
    main()
