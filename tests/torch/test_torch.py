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


def block() -> Any:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def made(forward: Any) -> Any:
    """A module of one block and this function."""

    class Made(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.block = trained(block())

    Made.forward = forward
    return Made()


def export(forward: Any, *args: Any, **options: Any) -> Any:
    return bnfold.torch.export(made(forward), args, "model.onnx", **options)


@needs_torch
@pytest.mark.parametrize(
    "ending",
    [
        lambda self, a: self.block(a).mean(),
        lambda self, a: self.block(a).log(),
        lambda self, a: self.block(a).masked_fill(a[:, :1, 2:, 2:] > 0, -float("inf")),
        lambda self, a: torch.cat([self.block(a), torch.full_like(a[:, :, 2:, 2:], -3e38)], 1),
        lambda self, a: (self.block(a), self.block(a).argmax(1), a),
    ],
    ids=["0-dim", "NaN", "infinite", "masks", "integers and an input"],
)
def test_outputs_of_all_kinds(ending: Any) -> None:
    assert all(difference.equal for difference in export(ending, image()).differences)


def in_batch_mode(self: Any, a: Any) -> Any:
    """What dynamo exports in inference mode, whatever it says."""
    x = self.block[0](a)
    x = nn.functional.batch_norm(x, self.block[1].running_mean, self.block[1].running_var,
                                 training=True)  # fmt: skip
    return torch.cat([x, torch.full_like(x, torch.finfo(x.dtype).min)], 1)


@needs_torch
def test_a_wrong_export_does_not_hide_behind_numbers_that_mask() -> None:
    with pytest.raises(NotEqualError):
        export(in_batch_mode, image())
    assert not Path("model.onnx").exists()


@needs_torch
def test_a_wrong_export_does_not_hide_behind_a_float64_that_is_another_function() -> None:
    def forward(self: Any, a: Any) -> Any:
        x = in_batch_mode(self, a)[:, :4]
        return x * 2 if a.dtype == torch.float64 else x

    with pytest.raises(NotEqualError):
        export(forward, image())


@needs_torch
def test_a_random_module_is_not_decided() -> None:
    import random

    with pytest.raises(bnfold.UndecidedError, match="it is random"):
        export(lambda self, a: self.block(a) * (1 + random.random()), image())


@needs_torch
@pytest.mark.parametrize("dynamo", [True, False])
def test_tensors_and_buffers_are_left_as_they_are(dynamo: bool) -> None:
    def forward(self: Any, a: Any) -> Any:
        a.mul_(2)
        self.block[1].num_batches_tracked += 1
        return self.block(a)

    module, x = made(forward), image()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    bnfold.torch.export(module, (x,), "model.onnx", dynamo=dynamo)
    assert torch.equal(x, image())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@needs_torch
@pytest.mark.parametrize("seed", range(3))
def test_half_precision(seed: int) -> None:
    torch.manual_seed(seed)
    module = trained(nn.Sequential(block(), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))
    result = bnfold.torch.export(module.half(), (image().half(),), "model.onnx")
    assert result.after.batch_norms == 0
    assert result.differences[0].equal


@needs_torch
def test_keywords_in_another_order_and_with_the_old_exporter() -> None:
    def forward(self: Any, a: Any, b: Any) -> Any:
        return self.block(a) - self.block(b) * 2

    x = image()
    result = export(forward, dynamo=False, kwargs={"b": x * 3, "a": x})
    assert result.differences[0].equal


@needs_torch
def test_an_input_that_the_exporter_drops_is_said() -> None:
    with pytest.raises(UsageError, match="called with 2 tensors, and the export has 1"):
        export(lambda self, a, b: self.block(b), image(), image() * 2, dynamo=False)


@needs_torch
@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("missing/model.onnx", {}, "it is a folder, or in none"),
        (".", {}, "it is a folder, or in none"),
        ("model.onnx", {"external_data": True}, "neither 'keep'"),
        ("model.onnx", {"f": "other.onnx"}, "'f' is no option here"),
        ("model.onnx", {"kwargs": {"q": 1}}, "cannot be called with these arguments"),
    ],
)
def test_wrong_usage_is_said_at_once(path: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        bnfold.torch.export(network(), (image(),), path, **options)
    assert not list(Path.cwd().iterdir())


@needs_torch
def test_what_pytorch_cannot_export_is_a_model_error() -> None:
    with pytest.raises(bnfold.ModelError, match="PyTorch cannot export the module"):
        export(lambda self, a: self.block(a) if a.sum() > 0 else a, image())


def test_without_pytorch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="pip install torch onnxscript"):
        bnfold.torch.export(None, (), "model.onnx")  # type: ignore[arg-type, unused-ignore]
