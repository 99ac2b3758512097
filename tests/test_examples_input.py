"""Examples, tables and indices that do not fit: one clear error each."""

from __future__ import annotations

import pytest
import torch
from test_examples import POOL, SIZES, THETA, indexed, lives
from torch import Tensor

import rulesearch as rs
from rulesearch.errors import ConfigError, LearnerError
from rulesearch.learners import Indexed, PlasticityLearner
from rulesearch.networks import PlasticNetwork

pytestmark = pytest.mark.usefixtures("one_thread")


TABLE = torch.zeros(5, 7, dtype=torch.float64)
INDEX = torch.zeros(4, 2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("table", "index", "message"),
    [
        (TABLE[0], INDEX, r"the table has shape \(7,\).*should be \(n, n_in\)"),
        (TABLE[:0], INDEX, r"the table has shape \(0, 7\)"),
        (TABLE.long(), INDEX, "the table has .* type torch.int64"),
        (TABLE, INDEX.int(), "the index has .* type torch.int32"),
        (TABLE, INDEX[0, 0], r"the index has shape \(3,\).*\(steps, lifetimes, examples\)"),
        (TABLE, INDEX[:, :, :0], r"the index has shape \(4, 2, 0\)"),
        (TABLE, INDEX + 5, "indices run from 5 to 5; the table has 5 rows"),
        (TABLE, INDEX - 1, "indices run from -1 to -1"),
        (TABLE, INDEX.to("meta"), "the table is on cpu, the index on meta"),
    ],
)
def test_tables_and_indices_that_do_not_fit(table: Tensor, index: Tensor, message: str) -> None:
    with pytest.raises(LearnerError, match=message):
        rs.Indexed(table, index)


LABEL = torch.zeros(4, 2, 3, dtype=torch.int64)
DENSE = torch.zeros(4, 2, 3, 7, dtype=torch.float64)


@pytest.mark.parametrize(
    ("x", "label", "message"),
    [
        (Indexed(TABLE.float(), INDEX), LABEL, "x is torch.float32"),
        (Indexed(TABLE[:, :6], INDEX), LABEL, r"should be \(steps, 2, 7\), or \(steps, 2, exam"),
        (Indexed(TABLE, INDEX[:, :1]), LABEL, r"x has shape \(4, 1, 3, 7\)"),
        (DENSE[:, :, :0], LABEL[:, :, :0], r"\(4, 2, 0, 7\); a lifetime needs a step, and a"),
        (DENSE[:, :, None], LABEL, r"x has shape \(4, 2, 1, 3, 7\)"),
        (DENSE, LABEL[:, :, 0], r"label has shape \(4, 2\); it should be \(4, 2, 3\)"),
        (DENSE[:, :, 0], LABEL, r"label has shape \(4, 2, 3\); it should be \(4, 2\)"),
        (DENSE, LABEL.double(), r"as targets it should be \(4, 2, 3, 4\)"),
        (DENSE, LABEL + 4, "labels run from 4 to 4; the output has 4 units"),
        (DENSE, LABEL.to("meta"), "label is on meta, the weights are on cpu"),
    ],
)
def test_examples_that_do_not_fit(x: Tensor | Indexed, label: Tensor, message: str) -> None:
    network = PlasticNetwork(SIZES)
    state, *_ = lives(network, 1)
    with pytest.raises(LearnerError, match=message):
        PlasticityLearner(network, POOL, engine="torch").live(state, THETA, x, label)


def test_an_index_that_changed_later_is_found() -> None:
    network, state, x, label = indexed(3)
    x.index[0, 0, 0] = 5
    with pytest.raises(LearnerError, match="indices run from 0 to 5; the table has 5 rows"):
        PlasticityLearner(network, POOL, engine="torch").live(state, THETA, x, label)


def test_reductions_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match="reduction is one of mean, sum, not 'median'"):
        PlasticityLearner(PlasticNetwork(SIZES), POOL, reduction="median")
