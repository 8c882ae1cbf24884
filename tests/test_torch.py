"""`bnfold.torch.export`: from a module to a verified, folded file. Run by `make torch`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import bnfold
import bnfold.torch
from bnfold import NotEqualError, Options, UsageError

try:
    import torch
    from torch import nn
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="needs PyTorch: make torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters have many


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trained(module: Any) -> Any:
    """With statistics and parameters as training leaves them: none of them 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d):
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.normal_(part.weight, 1, 0.2, generator=generator)
            nn.init.normal_(part.bias, 0, 0.2, generator=generator)
    return module


def network() -> Any:
    torch.manual_seed(0)
    return trained(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8),
            nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10),
        )
    )  # fmt: skip


def image() -> Any:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@needs_torch
@pytest.mark.parametrize("dynamo", [True, False])
def test_a_module_becomes_a_folded_file_that_gives_what_it_gives(dynamo: bool) -> None:
    module, x = network(), image()
    result = bnfold.torch.export(module, (x,), "model.onnx", dynamo=dynamo)
    assert (result.before.batch_norms, result.after.batch_norms) == (3, 0)  # by us, not before
    assert result.comparison is not None
    assert result.comparison.equal
    (difference,) = result.differences
    assert difference.equal
    onnx.checker.check_model("model.onnx", full_check=True)
    session = onnxruntime.InferenceSession("model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    assert np.max(np.abs(found - expected)) <= difference.bound


@needs_torch
def test_the_module_is_left_as_it_was() -> None:
    module = network()
    module.train()
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    bnfold.torch.export(module, (image(),), "model.onnx")
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@needs_torch
def test_an_export_that_gives_other_results_than_the_module_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    export = bnfold.torch._export

    def wrong(module: Any, *others: Any) -> None:
        other = network().eval()
        with torch.no_grad():
            other[6].bias[3] += 1e-3
        export(other, *others)

    monkeypatch.setattr(bnfold.torch, "_export", wrong)
    with pytest.raises(NotEqualError, match=r"differs from the module's by 0\.00"):
        bnfold.torch.export(network(), (image(),), "model.onnx")
    assert not Path("model.onnx").exists()


@needs_torch
def test_several_inputs_outputs_and_keywords() -> None:
    class Two(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.second = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

        def forward(self, a: Any, b: Any) -> Any:
            summed = self.first(a) + self.second(b)
            return {"sum": summed, "parts": (self.first(a), summed.argmax(1))}

    x = image()
    result = bnfold.torch.export(trained(Two()), (x,), "model.onnx", kwargs={"b": x * 2})
    assert len(result.differences) == 3
    assert all(difference.equal for difference in result.differences)


@needs_torch
def test_options_and_external_data_reach_the_fold() -> None:
    result = bnfold.torch.export(
        network(), (image(),), "out.onnx", options=Options(skip=("*batch_norm*1*",)),
        external_data="weights.bin", opset_version=18,
    )  # fmt: skip
    assert result.after.batch_norms == 1
    assert [path.name for path in result.data_files] == ["weights.bin"]
    assert Path("weights.bin").exists()
    assert onnx.load("out.onnx").opset_import[0].version == 18


@needs_torch
def test_a_module_that_onnxruntime_cannot_run_is_not_said_to_be_compared() -> None:
    with pytest.raises(bnfold.UndecidedError, match="was not run"):
        bnfold.torch.export(network().double(), (image().double(),), "model.onnx", dynamo=False)
    assert not Path("model.onnx").exists()


def test_without_pytorch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="pip install torch onnxscript"):
        bnfold.torch.export(None, (), "model.onnx")  # type: ignore[arg-type, unused-ignore]
