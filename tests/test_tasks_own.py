"""Tasks and examples of one's own: what they have to be, and what is said where they are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import assert_refused

import rulesearch as rs
from rulesearch.outer import FLPSettings, MetaTraining, Stage, flp_model
from rulesearch.tasks import ImageData, TaskBatch

POOL = rs.Grammar.from_string("terms: {F0: {expr: -e_post * y_pre.T, init: 1.0e-3}}").enumerate()
SETTINGS = FLPSettings(widths=(3, 4, 2), plastic_layers=2, output="softmax")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a search without a folder takes one of its own."""
    monkeypatch.chdir(tmp_path)


class Halves:
    """On which side of a plane an example lies."""

    name, n_in, n_out, steps = "halves", 3, 2, 6

    def describe(self) -> dict[str, object]:
        return {"family": self.name}

    def sample(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> TaskBatch:
        x = torch.stack([torch.randn(10, 3, generator=g, dtype=dtype) for g in generators])
        label = (x.sum(-1) > 0).long()
        return TaskBatch(x[:, :6].transpose(0, 1), label[:, :6].T, x[:, 6:], label[:, 6:])


def drawing(change: Callable[[TaskBatch], Any]) -> Halves:
    """Like the above, but for what it draws."""

    class Other(Halves):
        def sample(
            self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
        ) -> Any:
            return change(super().sample(generators, dtype))

    return Other()


def search(
    tasks: Any, out: Path | None = None, activation: str = "tanh", pool: rs.TermPool = POOL,
    **settings: Any,
) -> rs.Result:  # fmt: skip
    network = rs.PlasticNetwork([3, 4, 2], activation=activation)
    return rs.search(pool, network=network, tasks=tasks, episodes=2, seeds=1, refit_episodes=0,
                     controls=False, out=out, **settings)  # fmt: skip


def test_tasks_of_ones_own_are_searched_and_meta_trained_on(tmp_path: Path) -> None:
    assert search(Halves(), tmp_path / "run").history["search"].theta.shape == (1, 2, 1)
    training = MetaTraining(flp_model(SETTINGS), Halves(), stages=[Stage(1, Halves())])
    assert training.update().loss.isfinite().all()


class Lacking:
    n_in = 3

    def sample(self, generators: Sequence[torch.Generator]) -> None: ...


class Dtypeless(Halves):
    def sample(self, generators: Sequence[torch.Generator]) -> Any:  # type: ignore[override]
        return super().sample(generators)


class Indescribable(Halves):
    def describe(self) -> dict[str, object]:
        return {"width": torch.ones(1)}


REFUSED = [
    (drawing(lambda b: (b.x, b.label)), "returns should be a rulesearch.tasks.TaskBatch, not of"),
    (drawing(lambda b: replace(b, x=b.x[:4])),
     ", 3), of steps, lifetimes and n_in"),
    (drawing(lambda b: replace(b, x_query=b.x_query[0])),
     "x_query has shape (4, 3); it should be ("),
    (drawing(lambda b: replace(b, label=b.label[:4])),
     "label has shape (4, "),
    (drawing(lambda b: replace(b, label=b.label.float())),
     "as targets it should be (6, "),
    (drawing(lambda b: replace(b, label_query=b.label_query.T)),
     "label_query has shape (4, "),
    (drawing(lambda b: replace(b, x_query=b.x_query[:, :0], label_query=b.label_query[:, :0])),
     "there are no queries; draw some"),
    (drawing(lambda b: replace(b, x=b.x[:, :, None][:, :, :0], label=b.label[..., None][..., :0])),
     "there are no examples to learn from; draw some"),
    (drawing(lambda b: replace(b, label_query=b.label_query + 2)), "label_query runs from 2 to 3"),
    (drawing(lambda b: replace(b, label=b.label.int())), "label is torch.int32; give classes as"),
    (drawing(lambda b: replace(b, x=b.x.double())), "x is torch.float64; give torch.float32"),
    (drawing(lambda b: replace(b, x_query=b.x_query.half())),
     "x_query is torch.float16; give torch.float32"),
]  # fmt: skip


@pytest.mark.parametrize(("tasks", "message"), REFUSED)
def test_what_a_family_does_not_keep_is_told_before_anything_is_learnt(
    tasks: Any, message: str
) -> None:
    assert_refused(lambda: search(tasks), rs.ConfigError, message)
    assert_refused(lambda: search(tasks, scaling=False), rs.ConfigError, message)
    staged = [Stage(1, tasks)]
    for own, stages in ((tasks, []), (Halves(), staged)):
        refused = partial(MetaTraining, flp_model(SETTINGS), own, stages=stages)
        assert_refused(refused, rs.ConfigError, message)


def answering(targets: Callable[[torch.Tensor], torch.Tensor]) -> Halves:
    """The same examples, asked for targets that are made of the one-hot code of their side."""

    def given(label: torch.Tensor) -> torch.Tensor:
        return targets(torch.eye(2)[label])

    return drawing(lambda b: replace(b, label=given(b.label), label_query=given(b.label_query)))


NO_CLASSES = {
    "real": answering(lambda hot: 3 * hot - 1),
    "of sum 2": answering(lambda hot: 2 * hot),
    "none": answering(torch.zeros_like),
    "NaN": answering(lambda hot: hot / 0),
    "queries": drawing(lambda b: replace(b, label_query=5 * torch.eye(2)[b.label_query])),
}


@pytest.mark.parametrize("tasks", NO_CLASSES.values(), ids=NO_CLASSES)
def test_targets_of_regression_want_a_linear_output(tasks: Any, tmp_path: Path) -> None:
    """Whose cross-entropy would mean nothing, and of one output be zero whatever is learnt."""
    message = "of 'halves' holds targets that are no probabilities of classes"
    assert_refused(lambda: search(tasks, tmp_path / "run"), rs.ConfigError, message)
    assert not (tmp_path / "run").exists()
    model, staged = flp_model(SETTINGS), [Stage(1, tasks)]
    assert_refused(lambda: MetaTraining(model, tasks), rs.ConfigError, message)
    assert_refused(lambda: MetaTraining(model, Halves(), stages=staged), rs.ConfigError, message)
    batch = tasks.sample([torch.Generator().manual_seed(0)])
    assert_refused(lambda: model(batch), rs.LearnerError, "for regression give the network output=")
    linear = partial(MetaTraining, flp_model(replace(SETTINGS, output="linear")), tasks)
    if batch.label.isfinite().all():
        assert linear().updates == 0
    else:
        assert_refused(linear, rs.ConfigError, "label holds numbers that are not finite")


def test_targets_that_are_probabilities_are_classes() -> None:
    found = []
    for tasks in (Halves(), answering(lambda hot: hot)):
        training = MetaTraining(flp_model(SETTINGS), tasks)
        found.append([training.update().loss.item() for _ in range(2)])
    assert found[0] == pytest.approx(found[1])
    soft = answering(lambda hot: 0.8 * hot + 0.1)
    assert MetaTraining(flp_model(SETTINGS), soft).update().loss.isfinite().all()
    assert search(soft).history["search"].theta.shape == (1, 2, 1)


def test_sines_want_a_linear_output() -> None:
    model, sines = flp_model(replace(SETTINGS, widths=(4, 4, 1))), rs.tasks.IncrementalSines(3, 2)
    assert_refused(
        lambda: MetaTraining(model, sines),
        rs.ConfigError,
        "'sines-3-continual' holds targets that are no",
    )
    network = rs.PlasticNetwork([3, 1], activation="tanh")
    learner = rs.PlasticityLearner(network, rs.Rule(POOL, {"F0": 0.1}))
    x, target = torch.ones(2, 1, 3), torch.full((2, 1, 1), -4.0)
    message = "label holds targets that are no probabilities"
    assert_refused(lambda: learner.live(learner.init(), None, x, target), rs.LearnerError, message)


EHEBB = rs.Grammar.from_yaml("ehebb").enumerate()
BELOW = "are below zero, down to -"
REMEDY = "scale inputs to [0, 1], or use activation='tanh'"


def seen(change: Callable[[torch.Tensor], Any]) -> Halves:
    return drawing(lambda batch: replace(batch, x=change(batch.x)))


def indexed(x: torch.Tensor, unused: float) -> rs.Indexed:
    """Examples of a table that has one more, which no lifetime sees."""
    table = torch.cat([x.flatten(0, 1), torch.full((1, 3), unused)])
    return rs.Indexed(table, torch.arange(len(table) - 1).reshape(x.shape[:2]))


@pytest.mark.parametrize("scaling", [True, False])
@pytest.mark.parametrize("tasks", [Halves(), seen(lambda x: indexed(x, 0.5))], ids=["x", "indexed"])
def test_inputs_below_zero_are_told_where_an_error_of_them_explodes(
    tasks: Halves, scaling: bool
) -> None:
    """Softplus' derivative, with the input in the place of y: a search finds nonsense."""
    heard: list[Mapping[str, Any]] = []
    result = search(tasks, activation="softplus", pool=EHEBB, scaling=scaling, sinks=[heard.append])
    note = result.notes[0]
    for part in (BELOW, "derivative of softplus, written in y, explodes", REMEDY):
        assert part in note
    assert note in " ".join(str(result).split())  # which breaks it into lines
    assert heard[0] == {"event": "note", "text": note.removeprefix("Note: ").removesuffix(".")}


def test_inputs_below_zero_are_welcome_where_nothing_explodes() -> None:
    calm = [search(Halves(), activation="softplus"), search(Halves(), pool=EHEBB)]
    for change in (torch.abs, lambda x: x.abs() - 0.01, lambda x: indexed(x.abs(), -3.0)):
        calm.append(search(seen(change), activation="softplus", pool=EHEBB))
    assert not any(BELOW in note for result in calm for note in result.notes)


@pytest.mark.parametrize("part", ["x", "x_query"])
def test_examples_that_are_not_finite_are_told_before_a_search(part: str) -> None:
    tasks = drawing(lambda b: replace(b, **{part: getattr(b, part) / 0}))
    message = f"Other.sample returns: {part} holds numbers that are not finite; leave such examples"
    assert_refused(lambda: search(tasks), rs.ConfigError, message)


class Drawn(Halves):
    """What `values` makes of the generators, and of how many numbers there are."""

    def __init__(self, values: Callable[[Sequence[torch.Generator], int], torch.Tensor]) -> None:
        self.values = values

    def sample(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> TaskBatch:
        x = self.values(generators, 30).reshape(-1, 10, 3).to(dtype)
        label = (x.sum(-1) > 0).long()
        return TaskBatch(x[:, :6].transpose(0, 1), label[:, :6].T, x[:, 6:], label[:, 6:])


GLOBAL = {
    "torch": lambda given, size: torch.randn(len(given), size),
    "numpy": lambda given, size: torch.tensor(np.random.randn(len(given), size)),  # noqa: NPY002
}


@pytest.mark.parametrize("values", GLOBAL.values(), ids=GLOBAL)
@pytest.mark.parametrize("output", ["softmax", "linear"])
def test_lifetimes_that_depend_on_more_than_their_generators_are_told(
    values: Any, output: Any
) -> None:
    tasks, message = Drawn(values), "tasks: Drawn.sample draws another x from the same generators; "
    network = rs.PlasticNetwork([3, 4, 2], activation="tanh", output=output)
    rules = {"a": rs.Rule(POOL, {"F0": 0.1})}
    for call in (
        lambda: rs.search(POOL, network=network, tasks=tasks, episodes=2, seeds=1),
        lambda: rs.evaluate(rules, network=network, tasks=tasks, lifetimes=2),
        lambda: MetaTraining(flp_model(replace(SETTINGS, output=output)), tasks),
    ):
        assert_refused(call, rs.ConfigError, message + "draw all that is random of the i-th")


def test_labels_that_depend_on_more_than_their_generator_are_told() -> None:
    noisy = drawing(lambda b: replace(b, label_query=torch.randint(2, b.label_query.shape)))
    assert_refused(lambda: search(noisy), rs.ConfigError, "Other.sample draws another label_query")


def test_what_is_no_family_is_told_when_it_is_given() -> None:
    message = "Lacking lacks n_out, steps, name, describe"
    assert_refused(lambda: search(Lacking()), rs.ConfigError, message)
    wrong: Any = Lacking()
    assert_refused(lambda: MetaTraining(flp_model(SETTINGS), wrong), rs.ConfigError, message)
    assert_refused(lambda: Stage(1, wrong), rs.ConfigError, message)


def test_a_search_asks_for_what_it_uses() -> None:
    assert search(Dtypeless()).history["search"].terms == ("F0",)
    message = "Indescribable.describe() should return what JSON can hold"
    assert_refused(lambda: search(Indescribable()), rs.ConfigError, message)


def test_meta_training_asks_for_what_it_uses() -> None:
    assert MetaTraining(flp_model(SETTINGS), Indescribable()).update().loss.isfinite().all()
    message = "Dtypeless.sample should take (generators, dtype), not (generators: "
    assert_refused(lambda: MetaTraining(flp_model(SETTINGS), Dtypeless()), rs.ConfigError, message)
    assert_refused(lambda: Stage(1, Dtypeless()), rs.ConfigError, message)


def test_a_batch_is_of_tensors() -> None:
    parts = (torch.zeros(1, 1, 3), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, 3))
    assert_refused(lambda: TaskBatch(*parts, np.zeros((1, 1))), rs.DataError,  # type: ignore[arg-type]
                   "label_query should be a torch tensor, not of type ndarray")  # fmt: skip


def test_arrays_are_a_data_set() -> None:
    x = np.arange(24.0).reshape(8, 3)
    data = ImageData.from_arrays(x, ["b", "a", "c", "a", "b", "c", "a", "b"], "letters")
    assert repr(data).startswith("ImageData('letters', 8 examples of 3 classes, shape=")
    assert (data.name, data.shape, data.class_names) == ("letters", (1, 3), ("a", "b", "c"))
    assert data.labels.tolist() == [1, 0, 2, 0, 1, 2, 0, 1]
    assert data.examples(torch.tensor([2]), torch.float64).tolist() == [[6.0, 7.0, 8.0]]
    tasks = rs.tasks.FewShot(data, ways=2, shots=1, queries=1)
    assert (tasks.n_in, tasks.n_out, tasks.steps) == (3, 3, 2)
    x[0] = -1  # the data set has a copy
    assert data.images[0].tolist() == [0, 1, 2]


def test_arrays_of_images_and_tensors() -> None:
    grey = torch.full((4, 2, 3), 51, dtype=torch.uint8)
    data = ImageData.from_arrays(grey, torch.tensor([10, 2, 10, 2]))
    assert (data.shape, data.class_names, data.labels.tolist()) == (
        (2, 3),
        ("2", "10"),
        [1, 0, 1, 0],
    )
    assert data.examples(torch.tensor([0]), torch.float32)[0].tolist() == pytest.approx([0.2] * 6)
    assert ImageData.from_arrays(np.zeros((2, 3, 4, 5)), [0, 1]).shape == (3, 4, 5)


@pytest.mark.parametrize(
    "examples",
    [torch.ones(2, 3, requires_grad=True), torch.ones(2, 3).bfloat16(), [torch.ones(3)] * 2],
)
def test_tensors_of_any_kind_are_examples(examples: Any) -> None:
    data = ImageData.from_arrays(examples, np.array([10, 9], object))
    assert data.images.equal(torch.ones(2, 3))
    assert not data.images.requires_grad
    assert (data.class_names, data.labels.tolist()) == (("9", "10"), [1, 0])
    assert ImageData.from_arrays(examples, [b"b", b"a"]).class_names == ("a", "b")


@pytest.mark.parametrize(
    ("examples", "labels", "message"),
    [
        (np.zeros(3), [0, 1, 0], "examples have shape (3,) and type float64; they should be num"),
        (np.zeros((2, 3)), [0], "labels have shape (1,) and type int64; they should be whole numb"),
        (np.zeros((2, 3)), [0.5, 1], "labels have shape (2,) and type float64"),
        (np.array([["a"], ["b"]]), [0, 1], "examples have shape (2, 1) and type <U1"),
        (np.full((2, 3), np.nan), [0, 1], "examples hold numbers that are not finite"),
        (
            np.zeros((3, 2)),
            ["a", None, "a"],
            "labels are of type NoneType and str; they should all",
        ),
        (np.zeros((3, 2)), ["a", np.nan, "a"], "labels are of type float and str; they should all"),
        (np.zeros((3, 2)), [1, "1", 2], "labels are of type int and str; they should all be texts"),
        (np.zeros((3, 2)), np.array([1, "1", 2], object), "labels are of type int and str"),
        (np.zeros((2, 2)), np.array([0.5, 1.5], object), "labels are of type float; they should"),
        (np.zeros((2, 2)), np.array([True, False], object), "labels are of type bool; they should"),
        ([[1.0, 2.0], [3.0]], [0, 1], "data set 'mine': examples make no array (setting an array"),
        (np.zeros((2, 2)), [[0, 1], [1]], "data set 'mine': labels make no array (setting an arr"),
        ([torch.ones(2, requires_grad=True)] * 2, [0, 1], "examples make no array (Can't call num"),
        (np.ma.masked_equal([[1, 2], [3, -9]], -9), [0, 1], "some examples are masked; leave them"),
        (np.zeros((2, 2)), np.ma.masked_equal([0, -9], -9), "some labels are masked; leave them"),
        (
            torch.eye(2).to_sparse(),
            [0, 1],
            "examples is sparse, torch.sparse_coo; give examples.to",
        ),
    ],
)
def test_arrays_that_are_no_data_set(examples: Any, labels: Any, message: str) -> None:
    assert_refused(lambda: ImageData.from_arrays(examples, labels), rs.DataError, message)
