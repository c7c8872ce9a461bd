"""Changes with -S: as DVC makes them in params.yaml, and one line where it would refuse them."""

from pathlib import Path

import pytest

from nightshift.config import params
from nightshift.config.yaml_io import read_yaml, value_at
from nightshift.console.errors import UserError

FILE = Path("params.yaml")


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ("train.epochs=4", "train.epochs", 4),
        ("train.learning_rate=1e-5", "train.learning_rate", 1e-5),
        ("train.seeds=[3,4]", "train.seeds", [3, 4]),
        ("use={data: angiograms}", "use", {"encoder": "tiny", "data": "angiograms", "external": "none"}),
        ("arms.lora.blocks={last:1}", "arms.lora.blocks", {"last": 1}),
        ("arms.lora.blocks=[0,2]", "arms.lora.blocks", [0, 2]),
        ("arms.lora={rank: 4}", "arms.lora.alpha", 16.0),
        ("+arms.lora={epochs: 4}", "arms.lora.rank", 8),
        ("+arms.lora.epochs=4", "arms.lora.epochs", 4),
        ("++arms.lora.epochs=4", "arms.lora.epochs", 4),
        ("++arms.lora.rank=4", "arms.lora.rank", 4),
        ("+arms.wide={kind: lora, rank: 32}", "arms.wide", {"kind": "lora", "rank": 32}),
        ("+arms.other.kind=frozen", "arms.other", {"kind": "frozen"}),
        ("~arms.lora", "arms.lora", None),
        ("encoder.weights=C:\\my models\\sam3.pt", "encoder.weights", "C:\\my models\\sam3.pt"),
        ("encoder.weights='a, b=c.pt'", "encoder.weights", "a, b=c.pt"),
    ],
)
def test_a_change_is_made_as_dvc_makes_it(checkout, change, key, value):
    from dvc.utils.hydra import apply_overrides

    ours = read_yaml(FILE, [change])
    assert value_at(ours, key) == value
    apply_overrides(FILE, [change])
    assert read_yaml(FILE) == ours
    assert read_yaml(FILE, [change] if change[0] not in "+~" else []) == ours


def test_changes_are_made_one_after_the_other(checkout):
    settings = params.read(["+arms.wide={kind: lora, rank: 32}", "arms.wide.rank=64", "~arms.lora", "train.epochs=1"])
    assert list(settings.arms) == ["frozen", "wide"] and settings.arms["wide"].rank == 64
    assert settings.arm("wide").train.epochs == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("train.epoch=4", "params.yaml has no key 'train.epoch'; did you mean 'epochs'?"),
        ("lora.rank=4", "params.yaml has no section 'lora'; did you mean 'arms.lora'?"),
        ("arms.lroa.rank=4", "params.yaml has no section 'arms.lroa'; did you mean 'arms.lora'?"),
        ("arms.wide={kind: lora}", "params.yaml has no key 'arms.wide'; valid: frozen, lora; to add it: -S '+"),
        ("train.epochs.x=4", "params.yaml has no section 'train.epochs'"),
        ("+train.epochs=4", "params.yaml has this key already; leave out the +"),
        ("~train.epoch", "params.yaml has no key 'train.epoch'; did you mean 'epochs'?"),
        ("~arms.wide", "params.yaml has no key 'arms.wide'; valid: frozen, lora"),
        ("arms.lora.rank=4,8", "expected one value"),
        ("arms.lora.rank", "expected SECTION.KEY=VALUE, as `dvc exp run -S` takes it"),
        ("arms.lora.rank={", "expected SECTION.KEY=VALUE, as `dvc exp run -S` takes it"),
        ("rank=4", "params.yaml has no key 'rank'; did you mean 'arms.lora.rank'?"),
        ("trian={epochs: 4}", "params.yaml has no key 'trian'; did you mean 'train'?"),
    ],
)  # fmt: skip
def test_a_change_that_dvc_refuses_is_one_line(checkout, change, told):
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    with pytest.raises(UserError) as caught:
        params.read([change])
    assert str(caught.value).startswith(f"-S {change}: {told}") and "\n" not in str(caught.value)
    if "," not in change:  # DVC takes a sweep apart before
        with pytest.raises(DvcException):
            apply_overrides(FILE, [change])


def test_a_key_below_a_value_is_refused(checkout):
    """DVC would put a mapping in the value's place, and the stages would refuse it."""
    with pytest.raises(UserError, match=r"^-S \+train.epochs.x=4: params.yaml has no section 'train.epochs'; did you"):
        params.read(["+train.epochs.x=4"])


def test_a_value_is_checked_as_that_of_the_file(checkout):
    with pytest.raises(UserError, match=r"^params.yaml: arms.wide.kind: no kind 'lroa'; did you mean 'lora'\?"):
        params.read(["+arms.wide={kind: lroa}"])
