"""CML's tables of images: a tiny run of each on random images, from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from draws import generator
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from rulesearch.errors import ConfigError, DataError, GrammarError
from rulesearch.networks import ConvNet
from rulesearch.outer.averaged import Averaged
from rulesearch.outer.bilevel import (
    SGD,
    BilevelTraining,
    ConjugateGradient,
    Contrastive,
    Descent,
    Identity,
    Implicit,
    MetaParameters,
    UnrolledDescent,
)
from rulesearch.outer.seeds import NETWORK, TEST, generators
from rulesearch.reproduce import make_plan, reproduce, resume_reproduction
from rulesearch.reproduce.cml_cifar import Cifar, CifarSettings
from rulesearch.reproduce.cml_few_shot import rotated
from rulesearch.reproduce.cml_table1 import SharedStrength
from rulesearch.tasks import ImageData, OnlineFewShot

pytestmark = pytest.mark.usefixtures("one_thread")


def write_images(folder: Path, classes: int, each: int, size: int, seed: int = 0) -> None:
    """Class folders of noise around a colour of their own."""
    for k in range(classes):
        place = folder / f"class{k}"
        place.mkdir(parents=True)
        for n in range(each):
            colour = torch.randint(256, (1, 1, 3), generator=generator(k))
            noise = torch.randint(
                -60, 60, (size, size, 3), generator=generator(10_000 * seed + 100 * k + n)
            )
            pixels = (colour + noise).clamp(0, 255).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(place / f"{n}.png")


def left(run: Path) -> dict[str, list[Any]]:
    """Everything that a run found, but for the time that it took."""
    return {
        f"{file.stem}: {key}": tensor.tolist()
        for file in sorted((run / "jobs").iterdir())
        for key, tensor in load_file(file).items()
        if key != "seconds"
    }


# -- Table 1 --


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar")
    write_images(folder / "train", 3, 8, 32)
    write_images(folder / "test", 3, 4, 32, seed=1)
    return folder


METHODS = ("cml", "t1_t2", "cg", "rbp", "tbptl")


def table1(folder: Path, *overrides: str, rows: tuple[str, ...] = ()) -> Any:
    few = "{steps: 3, rate: 0.02, strength: 0.01, meta_rate: 0.005}"
    tiny = (
        f"data={json.dumps(str(folder))}", "updates=2", "examples=12", "judged=9", "tested=10",
        "batch=6", "channels=[2, 3]", "hidden=[5]", "nudged_steps=2", "iterations=2", "terms=2",
        "window=2", "shared=[0, 0.1]", *(f"{method}={few}" for method in METHODS),
    )  # fmt: skip
    return make_plan("cml-table1", "small", (*tiny, *overrides), rows)


def test_a_tiny_run_of_table_1(cifar: Path, tmp_path: Path) -> None:
    rows = ("cml", "t1-t2", "cg", "rbp-control", "tbptl", "no-meta")
    plan = table1(cifar, rows=rows)
    content = reproduce(plan, tmp_path / "run").content
    found = {row["row"]: row["ours"] for row in content["rows"]}
    assert set(found) == set(rows)
    for ours in found.values():
        for condition, images in (("evaluation", 9), ("test", 10)):
            for accuracy in ours[condition]["seeds"]:
                right = accuracy / 100 * images
                assert abs(right - round(right)) < 1e-4
                assert 0 <= round(right) <= images
    jobs = left(tmp_path / "run")
    for row in found:
        learnt, tested = (
            {k.split(": ")[1]: v for k, v in jobs.items() if k.startswith(f"{row}-{condition}: m")
             and "model" in k}
            for condition in ("evaluation", "test")
        )  # fmt: skip
        assert learnt == tested
        assert learnt
    # Adam's first step is the rate for all strengths: two of them, and none below zero.
    strengths = torch.tensor(jobs["cml-evaluation: model.named.lambda/conv0/W"])
    assert strengths.shape == (2, 2, 3, 5, 5)
    assert (strengths >= 0).all()
    assert ((strengths - 0.01).abs() <= 0.0101).all()
    assert strengths.unique().numel() > 100


def test_rows_of_table_1_differ_by_their_meta_gradients(cifar: Path) -> None:
    """T1-T2 takes the Hessian for the identity, unscaled; CML nudges forward."""
    jobs = {job.row: job for job in table1(cifar).jobs() if job.condition == "evaluation"}
    gradients: dict[str, Any] = {
        row: job.begin({}).meta_gradient  # type: ignore[attr-defined]
        for row, job in jobs.items()
        if not row.startswith("no-meta")
    }
    learner = Descent(3, SGD(0.02, 0.9, nesterov=True))
    for control in ("", "-control"):
        assert gradients["t1-t2" + control] == Implicit(learner, Identity(1.0))
        assert gradients["cg" + control] == Implicit(learner, ConjugateGradient(2, False))
        assert gradients["rbp" + control].inverse.terms == 2
        assert gradients["tbptl" + control] == UnrolledDescent(learner, 2)
    nudged = Descent(2, SGD(1.3e-3, 0.9, nesterov=True))
    assert gradients["cml"] == Contrastive(learner, nudged, 10.0, "forward")


def test_cml_as_born_and_no_meta_learning_with_its_learner(cifar: Path) -> None:
    plan = table1(cifar, "cml={steps: 4, rate: 0.1, strength: 0.7, meta_rate: 0.3}")
    jobs = {job.name: job for job in plan.jobs()}
    born, cml = (jobs[f"{row}-evaluation"] for row in ("cml-born", "cml"))
    assert (born.updates, cml.updates) == (0, plan.settings.updates)
    start = born.begin({})
    assert all((p == 0.7).all() for p in start.model.parameters())
    untaught = cml.begin({})
    assert torch.equal(born.measure(start)["error"], cml.measure(untaught)["error"])
    for row, steps, rate in (("no-meta", 3, 0.02), ("no-meta-control", 4, 0.1)):
        learner: Any = jobs[f"{row}-evaluation"].begin({}).learner  # type: ignore[attr-defined]
        assert (learner.steps, learner.optimiser.rate) == (steps, rate)


def test_interrupted_it_ends_in_the_same_bits(cifar: Path, tmp_path: Path) -> None:
    rows, updates = ("cml", "no-meta"), 0
    plan = table1(cifar, "seeds=1", "checkpoint_every=1", rows=rows)
    reproduce(plan, tmp_path / "whole")

    def interrupt(event: object) -> None:
        nonlocal updates
        updates += isinstance(event, dict) and event["event"] == "update"
        if updates in (2, 5):  # within each job
            updates += 1
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reproduce(plan, tmp_path / "run", [interrupt])
    resume_reproduction(tmp_path / "run")
    assert left(tmp_path / "run") == left(tmp_path / "whole")


def test_controls_begin_as_cml_and_nothing_else_differs(cifar: Path) -> None:
    plan = table1(cifar, "cml={steps: 4, rate: 0.1, strength: 0.7, meta_rate: 0.3}")
    jobs = {job.name: job for job in plan.jobs()}
    plain, control = (jobs[f"tbptl{end}-evaluation"].begin({}) for end in ("", "-control"))
    for training, strength, rate in ((plain, 0.01, 0.005), (control, 0.7, 0.3)):
        assert isinstance(training, BilevelTraining)
        assert training.rate == rate
        assert all((p == strength).all() for p in training.model.parameters())
        gradient = training.meta_gradient
        assert isinstance(gradient, UnrolledDescent)
        assert (gradient.learner.steps, gradient.last) == (3, 2)


def test_solvers_may_be_told_to_be_strict(cifar: Path) -> None:
    for overrides, strict in (((), False), (("strict=true", "tolerance=0.5"), True)):
        jobs = {job.name: job for job in table1(cifar, *overrides).jobs()}
        for row in ("cg", "rbp-control"):
            training: Any = jobs[f"{row}-evaluation"].begin({})
            assert training.meta_gradient.inverse.strict is strict
            assert training.meta_gradient.tolerance == (0.5 if strict else None)


def test_the_best_shared_strength_is_kept() -> None:
    """Losses of two seeds by strength are made up: the least wins, what diverged never."""
    losses = iter(([3.0, 2.0], [1.0, float("nan")], [2.0, 1.5]))
    settings = CifarSettings(updates=1, seeds=2, shared=(0.1, 0.2, 0.3))
    born = {"a": torch.zeros(2, 4)}

    class Told:
        def start(self, theta: object) -> dict[str, Tensor]:
            return born

        def eval_loss(self, phi: object, theta: object) -> Tensor:
            return torch.tensor(next(losses))

    class Stub(Cifar):
        def problem(self, update: int) -> Any:
            return Told()

    stub: Any = Stub(settings, None, born, None, None, ())  # type: ignore[arg-type]
    training = SharedStrength(stub, Descent(0), MetaParameters(stub.strengths(0.0)))
    rejected = [training.update().rejected.tolist() for _ in range(3)]
    assert rejected == [[False, False], [False, True], [False, False]]
    (kept,) = training.model.theta().values()
    torch.testing.assert_close(kept.detach(), torch.tensor([[0.2] * 4, [0.3] * 4]))


def test_panel_b_of_figure_1_on_table_1s_network(cifar: Path, tmp_path: Path) -> None:
    panel = (
        f"cifar={{data: {json.dumps(str(cifar))}, examples: 12, judged: 8, batch: 4, shorter: 250}}"
    )
    plan = make_plan("cml-figure1", "full", ("updates=2", "seeds=2", panel), ("beta-1", "beta-30"))
    jobs = {job.name: job for job in plan.jobs()}
    training: Any = jobs["beta-1-cifar-500"].begin({})
    contrast = training.meta_gradient
    assert contrast.free == Descent(2, SGD(3e-4 * 250, 0.9, nesterov=True))
    assert contrast.nudged == Descent(1, contrast.free.optimiser)  # for the nudge is weak
    strong: Any = jobs["beta-30-cifar-5000"].begin({})
    assert strong.meta_gradient.free.steps == 20
    assert strong.meta_gradient.nudged.optimiser.rate == pytest.approx(250 * 1e-4 * 11 / 31)
    reproduce(plan, tmp_path / "run")
    numbers = json.loads((tmp_path / "run" / "figures" / "numbers.json").read_text())
    assert set(numbers["loss"]) == {"2", "6", "20"}  # as they were taken
    assert set(numbers["without"]) == set(numbers["loss"])
    begun: Any = jobs["beta-1-cifar-1500"].begin({})
    begun.updates = 2  # the order of images goes by them
    without = jobs["beta-1-cifar-1500"].measure(begun)["error"].mean()  # nothing is learnt yet
    assert numbers["without"]["6"] == pytest.approx(float(without), rel=1e-4)
    assert numbers["betas"] == [1.0, 30.0]
    found = left(tmp_path / "run")
    for name, values in found.items():
        if "cifar" in name and "model" in name:  # two steps of Adam from 0.2
            moved = (torch.tensor(values) - 0.2).abs()
            assert 0 < float(moved.max()) < 0.121


def test_data_and_settings_that_do_not_fit(cifar: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        table1(tmp_path / "nothing").jobs()
    with pytest.raises(ConfigError, match=r"25 train images are asked for .* there are 24"):
        table1(cifar, "examples=16").jobs()
    with pytest.raises(GrammarError, match=r"beta.*greater than 0"):
        table1(cifar, "beta=0")
    with pytest.raises(ConfigError, match=r"^window is 9 steps, of tbptl\.steps=3$"):
        table1(cifar, "window=9").jobs()
    with pytest.raises(ConfigError, match=r"^batch is 13 images, of examples=12$"):
        reproduce(table1(cifar, "batch=13"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- Tables 2 and 3 --

ONE = "{shots: 1, steps: 3, nudged_steps: 2, beta: 0.1, strength: 0.3, meta_rate: 0.01}"
FIVE = "{shots: 5, steps: 3, nudged_steps: 2, beta: 0.1, strength: 0.3, meta_rate: 0.01}"
FEW = (
    "updates=2", "seeds=2", "episodes=2", "lifetimes=3", "ways=3", "queries=2", "size=8",
    "channels=[3, 4]",
)  # fmt: skip


def characters(split: str) -> ImageData:
    """As many drawings of as many classes, all noise."""
    seed = {"background": 10, "evaluation": 11}[split]
    images = torch.randint(256, (40, 64), generator=generator(seed)).to(torch.uint8)
    names = tuple(f"character{k}" for k in range(5))
    return ImageData(images, torch.arange(40) // 8, 5, names, "omniglot", (8, 8), split)


@pytest.fixture
def omniglot(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *, split: str, size: int) -> ImageData:
        assert (name, size) == ("omniglot", 8)
        return characters(split)

    monkeypatch.setattr("rulesearch.reproduce.cml_table3.load", load)


@pytest.mark.usefixtures("omniglot")
def test_a_tiny_run_of_table_3(tmp_path: Path) -> None:
    plan = make_plan("cml-table3", "small", (*FEW, f"one_shot={ONE}", f"five_shot={FIVE}"))
    content = reproduce(plan, tmp_path / "run").content
    check_few_shot(content, ("1-shot", "5-shot"))
    model = {k: torch.tensor(v) for k, v in left(tmp_path / "run").items() if "model" in k}

    def of(row: str) -> dict[str, Tensor]:
        start = f"{row}-1-shot: model.named."
        return {k.removeprefix(start): v for k, v in model.items() if k.startswith(start)}

    synaptic, modulatory = of("synaptic"), of("modulatory")
    layers = [f"conv{k}/{part}" for k in range(2) for part in ("W", "bias", "gain", "shift")]
    layers += ["head/W", "head/bias"]
    assert set(synaptic) == {f"omega/{name}" for name in layers}
    slow = {name for name in layers if name.startswith("conv") and name.endswith(("W", "bias"))}
    fast = {f"omega/{name}" for name in set(layers) - slow}
    assert set(modulatory) == slow | fast
    # Two updates of Adam have moved both: a gain was 1.
    for found in (synaptic, modulatory):
        moved = (found["omega/conv0/gain"] - 1).abs()
        assert 0 < moved.max() < 0.021


def check_few_shot(content: dict[str, Any], conditions: tuple[str, ...]) -> None:
    rows = ["synaptic", "synaptic-untrained", "modulatory", "modulatory-untrained"]
    assert [row["row"] for row in content["rows"]][:4] == rows
    for row in content["rows"][:4]:
        for condition in conditions:
            ours = row["ours"][condition]
            assert ours["lifetimes"] == 3
            assert ours["diverged"] == 0
            assert len(ours["seeds"]) == 2
            for accuracy in ours["seeds"]:  # of 3 tasks with 6 queries each
                right = accuracy / 100 * 18
                assert abs(right - round(right)) < 1e-4
                assert 0 <= right <= 18


def test_a_tiny_run_of_table_2(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        write_images(tmp_path / "mini" / split, 4, 3, 8, seed)
    data = f"data={json.dumps(str(tmp_path / 'mini'))}"
    plan = make_plan("cml-table2", "small", (*FEW, data, f"one_shot={ONE}"))
    check_few_shot(reproduce(plan, tmp_path / "run").content, ("1-shot",))
    with pytest.raises(DataError, match="there is no"):
        make_plan("cml-table2", "small", (f"data={tmp_path / 'none'}",)).jobs()


def test_classes_are_turned_by_quarters() -> None:
    data = characters("background")
    turned = rotated(data)
    assert (turned.n_classes, len(turned.labels)) == (20, 160)
    assert turned.class_names[7] == "character2, 90 degrees"
    assert turned.labels[47] == 5
    assert turned.labels[159] == 19
    square = data.images[7].reshape(8, 8)
    found = turned.images[47].reshape(8, 8)
    for i in range(8):
        for j in range(8):
            assert found[7 - j, i] == square[i, j]


@pytest.mark.usefixtures("omniglot")
def test_learning_few_shots_is_that_of_anchored_descent() -> None:
    """One task by hand: Nesterov on cross-entropy and lambda/2 of the way from omega."""
    plan = make_plan("cml-table3", "small", (*FEW, f"one_shot={ONE}", f"five_shot={FIVE}"))
    job = plan.jobs()[0]
    averaged = job.begin({})
    assert isinstance(averaged, Averaged)
    training = averaged.training
    problem = training.problems(0)
    theta = {k: t.detach().repeat_interleave(2, 0) for k, t in training.model.theta().items()}
    gradient = training.meta_gradient
    assert isinstance(gradient, Contrastive)
    assert isinstance(gradient.nudged, Descent)
    learner = gradient.free
    assert (learner.steps, gradient.nudged.steps) == (3, 2)
    found = learner(problem, theta, problem.start(theta))
    network, (x, label) = problem.inner.learn.network, problem.inner.learn.source(0)
    at = [t.clone().requires_grad_() for t in theta.values()]
    optimiser = torch.optim.SGD(at, lr=0.03, momentum=0.9, nesterov=True)
    for _ in range(3):
        optimiser.zero_grad()
        logits = network(dict(zip(found, at, strict=True)), x)
        loss = torch.nn.functional.cross_entropy(logits[1], label[1])
        for value, omega in zip(at, theta.values(), strict=True):
            loss = loss + 0.15 * (value[1] - omega[1]).square().sum()
        loss.backward()
        optimiser.step()
    for value, expected in zip(found.values(), at, strict=True):
        torch.testing.assert_close(value[1], expected[1].detach())


@pytest.mark.usefixtures("omniglot")
def test_the_control_learns_the_same_tasks_from_birth() -> None:
    """By hand: the weights as drawn, which are also what they are drawn to."""
    plan = make_plan("cml-table3", "small", (*FEW, f"one_shot={ONE}", f"five_shot={FIVE}"))
    jobs = {job.name: job for job in plan.jobs()}
    control = jobs["synaptic-untrained-1-shot"]
    assert control.updates == 0
    found = control.measure(control.begin({}))["error"]
    network = ConvNet((1, 8, 8), 3, (3, 4))
    born = network.init(generators(0, 0, NETWORK, [(row, 0) for row in range(2)]))
    pairs = [(row, k) for row in range(2) for k in range(3)]
    family = OnlineFewShot(characters("evaluation"), ways=3, shots=1, queries=2, order="iid")
    task = family.sample(generators(0, 0, TEST, pairs))
    x = task.x[:]
    for life, (row, member) in enumerate(pairs):
        start = {name: w[row : row + 1].clone() for name, w in born.items()}
        at = {name: w.clone().requires_grad_() for name, w in start.items()}
        optimiser = torch.optim.SGD(at.values(), lr=0.03, momentum=0.9, nesterov=True)
        for _ in range(3):
            optimiser.zero_grad()
            logits = network(at, x[:, life][None])[0]
            loss = torch.nn.functional.cross_entropy(logits, task.label[:, life])
            for name, value in at.items():
                loss = loss + 0.15 * (value - start[name]).square().sum()
            loss.backward()
            optimiser.step()
        answer = network(at, task.x_query[life][None])[0].argmax(-1)
        right = answer.eq(task.label_query[life]).float().mean()
        torch.testing.assert_close(found[row, member], 100 * right)
