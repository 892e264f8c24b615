"""Users' own networks, by file, by module, and at hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from edgecnn import zoo
from edgecnn.errors import SpecError, WeightsError
from edgecnn.zoo_user import user_spec

NET = """
import torch
from torch import nn
from neighbour import CHANNELS

class Net(nn.Module):
    def __init__(self, num_classes=6):
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, 4, 3, padding=1)
        self.fc = nn.Linear(4, num_classes)
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

class Two(Net):
    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return {"logits": self.fc(y), "features": y}

def build(): return Net()
def sized(num_classes=6): return Net(num_classes)
def anything(**arguments): return Net(**arguments)
def two(): return Two()
def not_a_net(): return 3
def not_a_classifier(): return nn.Conv2d(3, 4, 3)
def needs(x): return Net()
def fails(): raise ValueError("no such luck")
ready = Net()
number = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "neighbour.py").write_text("CHANNELS = 3\n")
    (tmp_path / "broken.py").write_text("import does_not_exist_anywhere\n")
    (tmp_path / "wrong.py").write_text("def build(:\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "userpackage").mkdir()
    (tmp_path / "userpackage" / "__init__.py").write_text("")
    (tmp_path / "userpackage" / "nets.py").write_text(
        "import torch\ndef tiny(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))\n"
    )
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - modules:
        if name.startswith(("edgecnn_user_", "userpackage", "neighbour")):
            del sys.modules[name]


def test_a_file_of_a_user_becomes_a_model(folder: Path) -> None:
    spec = zoo.find("net.py:build")
    assert (spec.name, spec.family, spec.builder) == ("net", "user", "net.py:build")
    torch.manual_seed(1)
    built = zoo.build(spec)
    torch.manual_seed(1)
    again = zoo.build(zoo.find(str(folder / "net.py") + ":build"))
    assert built.spec.num_classes == 6
    assert built.spec.outputs[0].shape == ("batch", 6)
    assert zoo.labels(built.spec) == tuple(f"class {i}" for i in range(6))
    assert not built.module.training
    assert (built.weights.name, built.weights.source, built.weights.untrained) == ("as built", "net.py:build", False)
    assert built.weights.sha256 == again.weights.sha256


def test_a_module_in_the_working_directory_becomes_a_model(folder: Path) -> None:
    spec = user_spec("userpackage.nets:tiny", input_size=(3, 2, 2))
    assert spec.name == "nets_tiny"
    assert zoo.build(spec).spec.num_classes == 4


@pytest.mark.parametrize("target", ["net.py:Net", "net.py:ready", "net.py:sized", "net.py:anything"])
def test_a_class_an_instance_and_a_function_will_do(folder: Path, target: str) -> None:
    assert zoo.build(zoo.find(target)).spec.num_classes == 6


def test_the_number_of_classes_is_handed_over_and_checked(folder: Path) -> None:
    for target in ("net.py:sized", "net.py:anything", "net.py:Net"):
        assert zoo.build(user_spec(target, num_classes=9)).spec.num_classes == 9
        assert zoo.build(zoo.find(target), num_classes=9).spec.num_classes == 9
        assert zoo.create(target, 9)(torch.zeros(1, 3, 8, 8)).shape == (1, 9)
    with pytest.raises(SpecError, match=r"the 9 classes asked for; .* returned \(1, 6\)"):
        zoo.build(user_spec("net.py:build", num_classes=9))
    assert zoo.build(user_spec("net.py:build", num_classes=6)).spec.num_classes == 6


def test_outputs_of_several_lengths_need_a_word(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"--num-classes.*\(1, 6\), \(1, 4\)"):
        zoo.build(zoo.find("net.py:two"))
    assert zoo.build(user_spec("net.py:two", num_classes=6)).spec.num_classes == 6


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("none.py:build", r"there is no file none\.py"),
        ("net.py", r"names no function: write path/to/net\.py:build.*net\.py defines Net, Two, build, sized"),
        ("net.py:", "names no function"),
        (":build", "names no function"),
        ("net.py:a b", "names no function"),
        ("net.py:bild", "bild does not exist; the module defines Net, Two, build, sized"),
        ("net.py:number", "number is not callable"),
        ("net.py:not_a_net", r"returned int, not a torch\.nn\.Module"),
        ("net.py:not_a_classifier", r"logits of shape \(N, classes\).*returned \(1, 4, 222, 222\)"),
        ("net.py:needs", r"needs\(\) raised TypeError: .*'x'"),
        ("net.py:fails", r"fails\(\) raised ValueError: no such luck"),
        ("broken.py:build", "importing broken.py raised ModuleNotFoundError: .*does_not_exist_anywhere"),
        ("wrong.py:build", "importing wrong.py raised SyntaxError"),
        ("exits.py:build", "importing exits.py raised SystemExit: 3"),
        ("no_such_package.nets:build", "raised ModuleNotFoundError: No module named 'no_such_package'"),
        ("userpackage.nets:build", "build does not exist; the module defines tiny"),
        ("userpackage:build", "nothing callable"),
    ],
)
def test_what_is_wrong_with_a_users_network_is_said(folder: Path, target: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        zoo.build(zoo.find(target))


def test_a_wrong_input_size_is_seen_before_export(folder: Path) -> None:
    with pytest.raises(
        SpecError, match=r"userpackage\.nets:tiny: the network on an input of shape \(1, 3, 5, 5\) raised RuntimeError"
    ):
        zoo.build(user_spec("userpackage.nets:tiny", input_size=(3, 5, 5)))


def test_the_description_of_a_users_network() -> None:
    spec = user_spec("a.b:build", input_size=(3, 64, 96), mean=(0.1, 0.2, 0.3), std=(1, 1, 1), num_classes=4)
    assert spec.name == "b"
    assert spec.inputs[0].shape == ("batch", 3, 64, 96)
    assert (spec.preprocess.size, spec.preprocess.resize) == ((64, 96), 110)
    assert (spec.preprocess.mean, spec.preprocess.std) == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert (spec.num_classes, spec.outputs[0].shape) == (4, ("batch", 4))
    assert user_spec("a.b:other").name == "b_other"
    assert user_spec("a.b:build").preprocess.mean == (0.485, 0.456, 0.406)
    grey = user_spec("a:build", input_size=(1, 28, 28), mean=(0.13,), std=(0.31,))
    assert (grey.preprocess.colour, grey.inputs[0].shape) == ("L", ("batch", 1, 28, 28))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_size": (1, 28, 28)}, "grey input .* give its mean and std"),
        ({"input_size": (4, 28, 28)}, r"3 channels \(RGB\) or 1"),
        ({"input_size": (3, 0, 28)}, "size"),
        ({"mean": (0.5,)}, "mean has 1"),
        ({"std": (0.0, 1.0, 1.0)}, "std"),
        ({"num_classes": 0}, "0 is neither"),
    ],
)
def test_an_impossible_description_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        user_spec("a:build", **given)  # type: ignore[arg-type]


def test_a_users_labels_are_checked(folder: Path) -> None:
    (folder / "six.txt").write_text("a\nb\nc\nd\ne\nf\n")
    built = zoo.build(user_spec("net.py:build", labels="six.txt"))
    assert zoo.labels(built.spec) == tuple("abcdef")
    (folder / "five.txt").write_text("a\nb\nc\nd\ne\n")
    for labels in ("five.txt", "imagenet-1k"):
        with pytest.raises(SpecError, match="6 classes"):
            zoo.build(user_spec("net.py:build", labels=labels))


def test_weights_of_a_users_network(folder: Path) -> None:
    trained = zoo.create("net.py:build")
    torch.save(trained.state_dict(), folder / "mine.pth")
    built = zoo.build(zoo.find("net.py:build"), "mine.pth")
    assert torch.equal(built.module.state_dict()["fc.bias"], trained.state_dict()["fc.bias"])
    assert built.weights.name == "mine.pth"
    one, other = (zoo.build(zoo.find("net.py:build"), "random:4") for _ in range(2))
    assert one.weights == other.weights
    assert one.weights.untrained
    for text in ("package", "IMAGENET1K_V1", "nothing.pth"):
        with pytest.raises(WeightsError):
            zoo.build(zoo.find("net.py:build"), text)


def test_a_network_at_hand_is_taken_as_it_is(tmp_path: Path) -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))
    spec = zoo.find("resnet18")
    built = zoo.build(spec, module=module)
    assert built.module is module
    assert (built.spec.num_classes, built.spec.labels, built.weights.name) == (5, "", "as built")
    state = {key: value + 1 for key, value in module.state_dict().items()}
    torch.save(state, tmp_path / "x.pth")
    built = zoo.build(spec, str(tmp_path / "x.pth"), module=module)
    assert torch.equal(module.state_dict()["2.bias"], state["2.bias"])
    with pytest.raises(WeightsError, match="there already"):
        zoo.build(spec, "random", module=module)
    with pytest.raises(SpecError, match="the 4 classes asked for"):
        zoo.build(spec, module=module, num_classes=4)


def test_a_network_without_values_needs_a_file(tmp_path: Path) -> None:
    spec, state = zoo.find("resnet18"), zoo.create("resnet18", 5).state_dict()
    torch.save(state, tmp_path / "x.pth")
    with torch.device("meta"):
        module = zoo.create("resnet18", 5)
    with pytest.raises(WeightsError, match=r"conv1\.weight and 121 more are on the meta device .* --weights FILE"):
        zoo.build(spec, module=module)
    built = zoo.build(spec, str(tmp_path / "x.pth"), module=module)
    assert torch.equal(built.module.state_dict()["fc.bias"], state["fc.bias"])


def test_a_network_in_training_mode_with_auxiliary_heads_is_counted_by_its_logits() -> None:
    module = zoo.create("googlenet", 7)
    assert module.training
    assert zoo.build(zoo.find("googlenet"), module=module).spec.num_classes == 7
