"""The capability table: whole, without contradictions, in step with what each version's API has."""

from __future__ import annotations

import fake_tensorrt
import pytest

from edgecnn.engine.capabilities import FACTS, FEATURES, KNOWN_BAD, RTX_GPUS, check, known_bad, look_up
from edgecnn.engine.config import FLAVOURS, BuildConfig
from edgecnn.errors import UserError

VERSIONS = {
    "tensorrt": [
        (10, 0, 0),
        (10, 3, 0),
        (10, 7, 0),
        (10, 9, 0),
        (10, 16, 1),
        (11, 0, 0),
        (11, 4, 0),
        (11, 4, 1),
        (12,),
    ],
    "tensorrt-rtx": [(1, 0), (1, 7, 1, 116)],
}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("feature", FEATURES)
def test_one_fact_holds_for_every_version(flavour: str, feature: str) -> None:
    for version in VERSIONS[flavour]:
        held = [
            fact
            for fact in FACTS
            if (fact.flavour, fact.feature) == (flavour, feature) and fact.since <= version < fact.before
        ]
        assert len(held) == 1, (version, held)
        assert look_up(flavour, version, feature) is held[0]  # type: ignore[arg-type]


def test_every_row_has_a_source_and_every_refusal_a_reason() -> None:
    assert all(fact.source for fact in FACTS)
    assert all(fact.why for fact in FACTS if not fact.has or fact.needs_gpu)
    assert all(bad.what and bad.todo and bad.source for bad in KNOWN_BAD)


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_the_table_agrees_with_the_recorded_names(version: str) -> None:
    names = fake_tensorrt.recorded(version)
    numbers = tuple(int(part) for part in version.split("."))

    def has(feature: str) -> bool:
        return look_up("tensorrt", numbers, feature).has  # type: ignore[arg-type]

    assert has("strip_weights") == ("STRIP_PLAN" in names["BuilderFlag"])
    assert has("version_compatible") == ("VERSION_COMPATIBLE" in names["BuilderFlag"])
    assert has("hardware_compatibility") == ("AMPERE_PLUS" in names["HardwareCompatibilityLevel"])
    assert has("same_compute_capability") == ("SAME_COMPUTE_CAPABILITY" in names["HardwareCompatibilityLevel"])
    assert has("gpu_targets") == ("ComputeCapability" in names)
    assert has("timing_cache") == ("create_timing_cache" in names["IBuilderConfig"])
    assert has("plugins") == ("load_library" in names["IPluginRegistry"])


def test_the_gpus_of_rtx_are_those_of_its_enumeration() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    theirs = {name for name in rtx.ComputeCapability.__members__ if name.startswith("SM")}
    assert theirs == {"SM" + gpu.replace(".", "") for gpu in RTX_GPUS}


@pytest.mark.parametrize(
    ("version", "options", "gpu", "said"),
    [
        ((10, 8), {"dla": 0}, True, r"TensorRT 10\.8 has no DLA: the last TensorRT 10 with DLA is 10\.7"),
        ((11, 3, 0), {"dla": 0}, True, r"TensorRT 11\.3\.0 has no DLA"),
        ((10, 3), {}, False, r"has no way to build without an NVIDIA GPU.*build on the device"),
        ((10, 3), {"gpus": ("8.6",)}, True, r"has no choice of GPUs.*--hardware ampere"),
        ((10, 3), {"hardware": "same-compute-capability"}, True, r"came with TensorRT 10\.9"),
        ((1, 7), {"target": "tensorrt-rtx", "dla": 0}, False, r"TensorRT-RTX 1\.7 has no DLA.*on the Jetson"),
        ((1, 7), {"target": "tensorrt-rtx", "strip_weights": True}, False, r"needs an NVIDIA GPU, and there is none"),
        ((1, 7), {"target": "tensorrt-rtx", "hardware": "ampere+"}, False, r"name the GPUs to build for with --gpu"),
        ((1, 7), {"target": "tensorrt-rtx", "version_compatible": True}, False, r"no lean runtime"),
        ((1, 7), {"target": "tensorrt-rtx", "gpus": ("9.0",)}, False, r"cannot build for compute capability 9\.0.*12\.1"),
    ],
)  # fmt: skip
def test_what_is_lacking_is_refused_with_the_reason(
    version: tuple[int, ...], options: dict, gpu: bool, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check(BuildConfig(**{"target": "tensorrt", **options}), version, gpu=gpu)


@pytest.mark.parametrize(("version", "gpu"), [((10, 7, 0), True), ((11, 4, 1), True)])
def test_dla_is_granted_where_it_is(version: tuple[int, ...], gpu: bool) -> None:
    check(BuildConfig(target="tensorrt", dla=0, strip_weights=True), version, gpu=gpu)


def test_known_bad_versions() -> None:
    assert [bad.level for bad in known_bad("tensorrt", (10, 2, 0), jetson=False)] == ["warning"]
    assert known_bad("tensorrt", (10, 3, 0), jetson=True) == ()
    assert [bad.level for bad in known_bad("tensorrt", (11, 2, 0), jetson=True)] == ["error"]
    assert known_bad("tensorrt", (11, 2, 0), jetson=False) == ()
    assert [bad.level for bad in known_bad("tensorrt", (8, 6, 1), jetson=False)] == ["error"]
