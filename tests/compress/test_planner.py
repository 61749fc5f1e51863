import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.compress.calibration import Calibration
from ondevice.compress.plan import Plan, describe
from ondevice.compress.planner import Choice, Format, Limit, Menu, frontier, predicted_loss, smallest, solve
from ondevice.compress.quantize.quantize import Quantize
from ondevice.errors import BadInput, BudgetNotMet
from ondevice.layers.banded import BandedEmbedding
from ondevice.layers.store import stored_bytes
from ondevice.models.load import load


def storage(most):
    return Limit("storage", most, lambda choice: choice.nbytes)


menus = st.lists(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 1000)), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


@settings(max_examples=80, deadline=None)
@given(menus, st.integers(1, 240))
def test_solve_finds_what_trying_everything_finds(options, most):
    choices = {
        f"layer {n}": [
            Choice(f"layer {n}", Format(bits, 32), size, damage / 1000)
            for bits, (size, damage) in enumerate(each)
        ]
        for n, each in enumerate(options)
    }
    plans = [p for p in itertools.product(*choices.values()) if sum(c.nbytes for c in p) <= most]
    if not plans:
        with pytest.raises(BudgetNotMet) as error:
            solve(choices, [storage(most)])
        assert error.value.limit == "storage"
        assert sum(c.nbytes for c in error.value.nearest) == sum(
            min(c.nbytes for c in o) for o in choices.values()
        )
        return
    best = min(map(predicted_loss, plans))
    plan = solve(choices, [storage(most)])
    assert sum(c.nbytes for c in plan) <= most
    assert predicted_loss(plan) <= best * 1.002 + 1e-9


def test_two_limits_that_cannot_be_met_together():
    choices = {"a": [Choice("a", Format(2, 32), 10, 0.0), Choice("a", Format(8, 32), 90, 0.0)]}
    slow = Limit("latency", 5.0, lambda choice: 100.0 / choice.nbytes)
    with pytest.raises(BudgetNotMet) as error:
        solve(choices, [storage(50), slow])
    assert error.value.limit == "storage and latency"


def test_solve_prints_nothing(capfd):
    rng = np.random.default_rng(0)
    choices = {
        str(n): [
            Choice(str(n), Format(b, 32), int(1e4 * b * rng.uniform(1, 2)), float(rng.random() * 4.0**-b))
            for b in (2, 3, 4, 5, 6, 8)
        ]
        for n in range(40)
    }
    solve(choices, [storage(2.6e6)])
    assert capfd.readouterr().out == ""


@pytest.fixture
def planned(tiny_checkpoint, sentences):
    model = load(tiny_checkpoint("bert"))
    return model, Menu(model, Calibration(sentences), [Format(2, 32), Format(4, 32), Format(8, 128)])


def test_choices_state_what_the_built_layers_take(planned):
    _, menu = planned
    for pick in (0, -1):
        plan = [options[pick] for options in menu.choices.values()]
        built = {row["layer"]: row["bytes"] for row in describe(menu.build(plan).module)}
        bias = {name: 4 * layer.out_features for name, layer in menu.linears.items()}
        for choice in plan:
            assert built[choice.part] == choice.nbytes + bias.get(choice.layer, 0)
        assert stored_bytes(menu.sketch(plan).module) == stored_bytes(menu.build(plan).module)


def test_more_bytes_never_expect_more_loss(planned):
    _, menu = planned
    plans = frontier(menu.choices, [])
    sizes, losses = [sum(c.nbytes for c in p) for p in plans], [predicted_loss(p) for p in plans]
    assert len(plans) > 3
    assert sizes == sorted(sizes)
    assert all(later <= earlier * 1.002 for earlier, later in itertools.pairwise(losses))


def test_the_plan_beats_the_uniform_one_of_its_size(tiny_checkpoint, sentences):
    """Measured, not modelled: against rounding every layer to as many bits."""
    model = load(tiny_checkpoint("bert"))
    menu = Menu(model, Calibration(sentences))
    uniform = Quantize(bits=4, method="rtn", smooth=0, activations="float").apply(model)
    budget = stored_bytes(uniform.module) - stored_bytes(menu.sketch(smallest(menu.choices)).module)
    budget += sum(c.nbytes for c in smallest(menu.choices))
    plan = solve(menu.choices, [storage(budget)])
    fitted = menu.build(plan)
    assert stored_bytes(fitted.module) <= stored_bytes(uniform.module)
    original = model.predict(sentences)
    loss = [1 - float((each.predict(sentences) * original).sum(axis=1).mean()) for each in (fitted, uniform)]
    assert loss[0] < 0.8 * loss[1]


def test_the_original_is_untouched(planned, sentences):
    model, menu = planned
    before = model.predict(sentences)
    menu.build(smallest(menu.choices))
    np.testing.assert_array_equal(model.predict(sentences), before)


def test_a_large_table_gets_bands_by_frequency(tiny_checkpoint, sentences):
    model = load(tiny_checkpoint("bert", vocab_size=5000))
    menu = Menu(model, Calibration(sentences), [Format(2, 32), Format(4, 32), Format(8, 32)])
    parts = [part for part in menu.choices if "word_embeddings" in part]
    assert [part.rpartition(".")[2] for part in parts] == ["0", "1", "2", "3"]
    plan = [
        menu.choices[part][-1 - (part == parts[-1]) * 2] if part in parts else menu.choices[part][-1]
        for part in menu.choices
    ]
    fitted = menu.build(plan)
    table = fitted.module.embeddings.word_embeddings
    assert isinstance(table, BandedEmbedding)
    used = torch.tensor(sorted({token for tokens in model.tokens(sentences) for token in tokens}))
    assert (table.bands[used] < 3).all()  # all that calibration saw is in the finer bands
    original = model.module.embeddings.word_embeddings.weight
    error = (table.weight - original).abs().mean(dim=1)
    assert error[table.bands < 3].max() < error[table.bands == 3].mean()


def test_a_model_with_nothing_to_quantise_is_refused(planned, sentences):
    _, menu = planned
    done = menu.build(smallest(menu.choices))
    done = Quantize(bits=8, method="rtn", smooth=0).apply(done)
    with pytest.raises(BadInput, match="no linear layer"):
        Menu(done, Calibration(sentences))


def test_a_plan_of_techniques_applies_them_in_order(tiny_checkpoint, sentences):
    model = load(tiny_checkpoint("bert"))
    steps = [
        Quantize(bits=8, method="rtn", smooth=0, layers="*query*"),
        Quantize(bits=2, method="rtn", smooth=0),
    ]
    rows = {row["layer"]: row for row in describe(Plan(steps).apply(model, Calibration(sentences)).module)}
    bits = {row["settings"].get("bits") for name, row in rows.items() if name.endswith("query")}
    assert bits == {8}
    assert rows["encoder.layer.0.attention.self.key"]["settings"]["bits"] == 2
