"""Every kind of pydantic error becomes one clause with the key as the file has it."""

from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from nightshift.config.explain import explain
from nightshift.config.presets import Section


def _even(value: int) -> int:
    if value % 2:
        raise ValueError(f"{value} is odd")
    return value


class Inner(Section):
    number: Annotated[int, Field(ge=1)]
    text: str = ""
    either: Annotated[int, Field(ge=1)] | Literal["all"] | None = Field(default=None, description="a number, or all")
    even: Annotated[int, AfterValidator(_even)] = 0
    items: list[Literal["a", "b"]] = Field(default_factory=list)
    table: dict[Literal["last"], int] | None = None


class One(Section):
    kind: Literal["one"]
    sub: Inner


class Two(Section):
    kind: Literal["two"]
    parts: str | Inner = Field(default="", description="a text, or numbers")


Any = Annotated[One | Two, Field(discriminator="kind")]


class Outer(Section):
    inner: Inner
    named: dict[str, Any] = Field(default_factory=dict)
    source: Any | None = None

    @model_validator(mode="after")
    def check(self):
        if self.inner.text == "wrong":
            raise ValueError("inner.text does not fit the rest")
        return self


GOOD = {"number": 1}
TWO = {"kind": "two", "parts": {"number": 0}}


@pytest.mark.parametrize(
    ("values", "clause"),
    [
        ({}, "key 'inner' is missing"),
        ([], "the file: expected keys and values, got []"),
        ({"inner": GOOD, "iner": 1}, "unknown key 'iner'; did you mean 'inner'?"),
        ({"inner": None}, "inner: expected keys and values, got None"),
        ({"inner": {}}, "key 'inner.number' is missing"),
        ({"inner": GOOD | {"numbr": 1}}, "unknown key 'inner.numbr'; did you mean 'number'?"),
        ({"inner": GOOD | {"q": 1}}, "unknown key 'inner.q'; valid: either, even, items, number, table, text"),
        ({"inner": {"number": "1"}}, "inner.number: expected a whole number, got '1'"),
        ({"inner": {"number": 0}}, "inner.number: Input should be greater than or equal to 1, got 0"),
        ({"inner": GOOD | {"either": "some"}}, "inner.either: expected a number, or all"),
        ({"inner": GOOD | {"either": 0}}, "inner.either: expected a number, or all"),
        ({"inner": GOOD | {"even": 3}}, "3 is odd"),
        ({"inner": GOOD | {"items": ["c"]}}, "inner.items: Input should be 'a' or 'b', got 'c'"),
        ({"inner": GOOD | {"table": {"first": 1}}}, "inner.table: Input should be 'last', got 'first'"),
        ({"inner": GOOD | {"text": "wrong"}}, "inner.text does not fit the rest"),
        ({"inner": GOOD, "named": []}, "named: expected keys and values, got []"),
        ({"inner": GOOD, "named": {"x": {}}}, "key 'named.x.kind' is missing; valid: one, two"),
        ({"inner": GOOD, "named": {"x": None}}, "named.x: expected keys and values, got None"),
        ({"inner": GOOD, "named": {"x": {"kind": "ones"}}}, "named.x.kind: no kind 'ones'; did you mean 'one'?"),
        ({"inner": GOOD, "named": {"x": {"kind": 3}}}, "named.x.kind: no kind '3'; valid: one, two"),
        ({"inner": GOOD, "named": {3: {"kind": "two"}}}, "named: expected text for a name, got 3"),
        ({"inner": GOOD, "named": {"one": {"kind": "one"}}}, "key 'named.one.sub' is missing"),
        ({"inner": GOOD, "named": {"two": {"kind": "one", "sub": {}}}}, "key 'named.two.sub.number' is missing"),
        ({"inner": GOOD, "named": {"x": TWO}}, "named.x.parts: expected a text, or numbers"),
        ({"inner": GOOD, "named": {"x": {"kind": "two", "p": ""}}}, "unknown key 'named.x.p'; valid: kind, parts"),
        ({"inner": GOOD, "source": {"kind": "one", "sub": {}}}, "key 'sub.number' is missing"),
        ({"inner": GOOD, "source": {"kind": "onne"}}, "kind: no kind 'onne'; did you mean 'one'?"),
    ],
)  # fmt: skip
def test_an_error_is_one_clause(values, clause):
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    assert dict.fromkeys(explain(error, Outer) for error in caught.value.errors()).keys() == {clause}


def test_a_long_value_is_shortened():
    class Model(BaseModel):
        number: int

    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"number": "x" * 1000})
    assert len(explain(caught.value.errors()[0], Model)) < 200
