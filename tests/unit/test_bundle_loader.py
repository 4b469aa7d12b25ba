"""From a bundle to a network: what timm saves is served, what is damaged is refused by name."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from predictor.bundle.files import WEIGHTS
from predictor.bundle.loader import load_module, read_weights
from predictor.bundle.manifest import read_manifest
from predictor.bundle.proving import inspect
from predictor.errors import BundleError
from tests.unit.bundles import hub_bundle, set_config

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    hub_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def load(path: Path, **options: bool) -> torch.nn.Module:
    return load_module(read_manifest(path, **options))


def refusal(path: Path, **options: bool) -> str:
    with pytest.raises(BundleError) as refused:
        load(path, **options)
    return refused.value.message


def assert_same_answers(ours: Any, theirs: Any, size: tuple[int, int]) -> None:
    pictures = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(ours(pictures), theirs(pictures))


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("test_efficientnet", {}),
        ("test_convnext.r160_in1k", {}),
        ("test_resnet", {"global_pool": "max"}),
        ("test_vit", {"img_size": 96}),
        ("vit_tiny_patch16_224", {"img_size": 64, "depth": 1}),
    ],
)
def test_what_timm_saves_answers_as_it_did(
    architecture: str, options: dict[str, Any], tmp_path: Path
) -> None:
    theirs = hub_bundle(tmp_path / "m", architecture, options=options)
    if "img_size" in options:
        set_config(tmp_path / "m", "pretrained_cfg.input_size", [3, *[options["img_size"]] * 2])
    ours = load(tmp_path)
    assert not ours.training
    assert_same_answers(ours, theirs, read_manifest(tmp_path).preprocessing.input_size)


@pytest.mark.parametrize("labels", [("real", "fake"), {"0": "real", "1": "fake"}])
def test_labels_as_timm_saves_them(labels: Any, tmp_path: Path) -> None:
    hub_bundle(tmp_path, labels=labels)
    manifest = read_manifest(tmp_path)
    assert manifest.verdicts.fake_labels == (1,)
    assert json.loads(json.dumps(inspect(tmp_path)))["label_names"] == ["real", "fake"]


def test_a_network_of_one_size_is_built_for_the_size_it_was_saved_for(tmp_path: Path) -> None:
    """Until 1.0.20 or so timm saved no model_args: the size was in pretrained_cfg alone."""
    theirs = hub_bundle(tmp_path, "vit_tiny_patch16_224", options={"img_size": 64})
    set_config(tmp_path, "pretrained_cfg.input_size", [3, 64, 64])
    set_config(tmp_path, "model_args", None)
    assert_same_answers(load(tmp_path), theirs, (64, 64))


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("architecture", "resnet_of_mine", "timm 1."),
        ("architecture", "test_efficient", "did you mean test_efficientnet"),
        ("architecture", "hf-hub:timm/resnet18.a1_in1k", "has none such"),
        ("architecture", "test_resnet", "lacks "),
        ("architecture", "test_efficientnet.no_such_tag", "cannot build"),
        ("model_args.depth_of_field", 3, "cannot build test_efficientnet"),
        ("model_args.drop_rate", "much", "get no 2 logits"),
        ("model_args.num_classes", 5, "model_args: num_classes: must be 2"),
        ("model_args.pretrained", True, "model_args: pretrained: is not for a bundle"),
        ("model_args.checkpoint_path", "/x.pth", "model_args: checkpoint_path: is not"),
        ("model_args.cache_dir", "/", "model_args: cache_dir: is not"),
        ("model_args.device", "meta", "model_args: device: is not"),
        ("model_args.features_only", True, "model_args: features_only: is not"),
        ("model_args.global_pool", "", "get no 2 logits"),
    ],
)
def test_what_timm_does_not_build_is_named(place: str, value: Any, says: str, bundle: Path) -> None:
    set_config(bundle, place, value)
    message = refusal(bundle)
    assert says in message
    assert message.startswith("config.json: " if says != "lacks " else WEIGHTS)


def test_a_network_for_grey_pictures_is_refused(tmp_path: Path) -> None:
    hub_bundle(tmp_path, options={"in_chans": 1})
    for place, value in (("input_size", [3, 32, 32]), ("mean", [0.5] * 3), ("std", [0.5] * 3)):
        set_config(tmp_path, f"pretrained_cfg.{place}", value)
    assert "get no 2 logits" in refusal(tmp_path)


def test_a_size_that_the_network_was_not_built_for_is_refused(tmp_path: Path) -> None:
    hub_bundle(tmp_path, "vit_tiny_patch16_224", options={"img_size": 64, "depth": 1})
    set_config(tmp_path, "pretrained_cfg.input_size", [3, 80, 80])
    assert "pictures of 80x80 get no 2 logits" in refusal(tmp_path)


# Weights

HEAD = "classifier.weight"


def with_value(value: float, dtype: torch.dtype) -> Callable[[Tensors], Tensors]:
    def change(tensors: Tensors) -> Tensors:
        changed = tensors[HEAD].clone().to(dtype)
        changed[1, 3] = value
        return {**tensors, HEAD: changed}

    return change


def other_shape(tensors: Tensors) -> Tensors:
    return {**tensors, HEAD: torch.zeros(3, tensors[HEAD].shape[1])}


def enormous(tensors: Tensors) -> Tensors:
    return {k: t * 1e20 if t.is_floating_point() else t for k, t in tensors.items()}


def without_head(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_value(float("nan"), torch.float32), "classifier.weight holds NaN or infinity"),
        (with_value(float("-inf"), torch.float16), "classifier.weight holds NaN or infinity"),
        (with_value(1e300, torch.float64), "classifier.weight holds NaN or infinity"),
        (with_value(1.0, torch.complex64), "classifier.weight holds complex numbers"),
        (enormous, "the answer to a white picture is not"),
        (without_head, "lacks classifier.bias, classifier.weight; is it for another"),
        (lambda _: {}, "lacks "),
        (lambda t: {**t, "head.extra": torch.zeros(1)}, "has unknown head.extra"),
        (other_shape, "classifier.weight has shape (3, "),
    ],
)
def test_weights_that_do_not_fit_are_named(
    change: Callable[[Tensors], Tensors], says: str, bundle: Path
) -> None:
    save_file(change(load_file(bundle / WEIGHTS)), bundle / WEIGHTS)
    assert says in refusal(bundle)


def test_weights_of_another_number_of_classes_are_refused(bundle: Path) -> None:
    set_config(bundle, "num_classes", 3)
    set_config(bundle, "model_args", {})
    set_config(bundle, "label_names", {"0": "fake", "1": "real", "2": "unsure"})
    assert "every label exactly once" in refusal(bundle)
    set_config(bundle, "label_names", ["fake", "real", "Real"])
    assert "has shape (2,)" in refusal(bundle)


def test_half_precision_weights_become_float32(bundle: Path) -> None:
    tensors = load_file(bundle / WEIGHTS)
    half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in tensors.items()}
    save_file(half, bundle / WEIGHTS)
    assert {p.dtype for p in load(bundle).parameters()} == {torch.float32}


def damaged(data: bytes, keep: float, at: float, value: int) -> bytes:
    changed = bytearray(data[: int(len(data) * keep)])
    if changed:
        changed[int((len(changed) - 1) * at)] = value
    return bytes(changed)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    keep=st.just(1.0) | st.floats(0, 1),
    at=st.floats(0, 0.05) | st.floats(0.95, 1),
    value=st.integers(0, 255),
)
def test_damaged_weights_are_read_or_refused(
    name: str, keep: float, at: float, value: int, tmp_path: Path
) -> None:
    """Whatever byte is wrong, and wherever the file was cut: never another exception."""
    file = tmp_path / name
    tensors = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3, dtype=torch.int64)}
    if file.suffix == ".pth":
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    file.write_bytes(damaged(file.read_bytes(), keep, at, value))
    try:
        read_weights(file)
    except BundleError as error:
        message: str | None = error.message
    else:
        message = None
    assert message is None or message.startswith(f"{name}: ")


@pytest.mark.parametrize("data", [b"", b".", b"\x80\x02.", b"PK\x03\x04", pickle.dumps(3)])
def test_what_is_no_checkpoint_is_refused(data: bytes, tmp_path: Path) -> None:
    for name in ("model.pth", "model.safetensors"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BundleError, match=name):
            read_weights(tmp_path / name)


def test_weights_that_are_gone_are_not_called_damaged(tmp_path: Path) -> None:
    for name in ("model.pth", "model.safetensors"):
        with pytest.raises(BundleError, match=f"{name}: cannot be read: No such file"):
            read_weights(tmp_path / name)
    (tmp_path / "model.pth").mkdir()
    with pytest.raises(BundleError, match=r"model\.pth: cannot be read: Is a directory"):
        read_weights(tmp_path / "model.pth")


# Pickles


class Bomb:
    """Unpickled by a careless reader, it makes a directory."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.place,)


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    place = tmp_path / "exploded"
    torch.save({"state_dict": {"a": torch.ones(1)}, "epoch": Bomb(place)}, tmp_path / "m.pth")
    with pytest.raises(BundleError, match="weights_only=True"):
        read_weights(tmp_path / "m.pth")
    assert not place.exists()
    torch.load(tmp_path / "m.pth", weights_only=False)
    assert place.exists(), "the bomb is a dud, so the test proves nothing"


def test_a_bundle_cannot_point_at_a_pickle(bundle: Path, tmp_path: Path) -> None:
    """timm's factory takes `checkpoint_path`, which would go around model.allow_pth."""
    torch.save({"model": Bomb(tmp_path / "exploded")}, tmp_path / "m.pth")
    set_config(bundle, "model_args.checkpoint_path", str(tmp_path / "m.pth"))
    refusal(bundle)
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_is_served_by_choice_only(tmp_path: Path) -> None:
    theirs = hub_bundle(tmp_path, pickled=True)
    assert "set model.allow_pth" in refusal(tmp_path)
    assert_same_answers(load(tmp_path, allow_pth=True), theirs, (160, 160))


def prefixed(tensors: Tensors) -> dict[str, Any]:
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        OrderedDict,
        prefixed,
        lambda t: {"state_dict": prefixed(t), "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda t: {"model": t, "args": ["--lr", "1"]},
        lambda t: {"model": {"state_dict_ema": t}},
    ],
)
def test_what_trainers_write_is_unwrapped(wrap: Callable[[Tensors], Any], tmp_path: Path) -> None:
    tensors = {"conv.weight": torch.ones(2), "module_list.0.bias": torch.zeros(1)}
    torch.save(wrap(tensors), tmp_path / "m.pth")
    assert read_weights(tmp_path / "m.pth").keys() == tensors.keys()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.ones(1)], "must hold a state dict"),
        (torch.ones(1), "must hold a state dict"),
        ({"a": 1.5}, "must hold a state dict"),
        ({1: torch.ones(1)}, "must hold a state dict"),
        ({"state_dict": {"a": torch.ones(1), "b": None}}, "must hold a state dict"),
        ({"a": torch.ones(1), "module.a": torch.zeros(1)}, "holds a tensor twice"),
    ],
)
def test_a_pickle_of_something_else_is_refused(content: Any, says: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(BundleError, match=says):
        read_weights(tmp_path / "m.pth")


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns that sparse tensors are slow
def test_sparse_weights_are_refused(bundle: Path) -> None:
    tensors = load_file(bundle / WEIGHTS)
    tensors[HEAD] = tensors[HEAD].to_sparse()
    (bundle / WEIGHTS).unlink()
    torch.save(tensors, bundle / "model.pth")
    message = refusal(bundle, allow_pth=True)
    assert message == "model.pth: holds tensors that are not plain numbers"
