"""A run folder made of plausible curves: what a search of the ten-term pool leaves behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rulesearch import Grammar, Rule
from rulesearch.files import sealed

# a name that no page, formula or file may take at its word
HOSTILE = "<script>alert(1)</script>\"'{{ 7*7 }}$\\end{document}"

W, Y, E = r"\mathbf{W}_{\ell-1,\ell}", r"\mathbf{y}_{\ell}", r"\mathbf{e}_{\ell}"
Y0, E0, ONE = r"\mathbf{y}_{\ell-1}", r"\mathbf{e}_{\ell-1}", r"\mathbf{1}_{\ell}"

# name, LaTeX, locality, what it is, as in a grammar, final coefficient, share kept
TERMS: list[tuple[str, str, str, str, str, float, float]] = [
    (
        "F0",
        rf"-{E}{Y0}^{{T}}",
        "synapse",
        "pseudo-gradient",
        "-e_post * y_pre.T",
        8.4e-3,
        1.0,
    ),
    ("F1", rf"-{Y}{E0}^{{T}}", "synapse", "", "-y_post * e_pre.T", 2e-5, 0.0),
    (
        "F2",
        rf"-{E}{E0}^{{T}}",
        "synapse",
        "error-based Hebbian (eHebb)",
        "-e_post * e_pre.T",
        -29e-3,
        1.0,
    ),
    ("F3", f"-{W}", "synapse", "decay", "-W", -8e-4, 0.4),
    ("F4", rf"-{ONE}{E0}^{{T}}", "synapse", "", "-ones_post * e_pre.T", -1e-5, 0.0),
    (
        "F5",
        rf"-{E}{ONE}^{{T}}{Y}{Y0}^{{T}}",
        "layer",
        "",
        "-e_post * ones_post.T * y_post * y_pre.T",
        3e-5,
        0.05,
    ),
    (
        "F6",
        rf"-{Y}{Y}^{{T}}{W}{E0}{E0}^{{T}}",
        "layer",
        "",
        "-y_post * y_post.T * W * e_pre * e_pre.T",
        1e-5,
        0.0,
    ),
    (
        "F7",
        rf"-{E}{Y}^{{T}}{W}{E0}{Y0}^{{T}}",
        "layer",
        "",
        "-e_post * y_post.T * W * e_pre * y_pre.T",
        -4e-5,
        0.1,
    ),
    (
        "F8",
        rf"-{Y}{Y0}^{{T}}{W}^{{T}}{E}{E0}^{{T}}",
        "layer",
        "",
        "-y_post * y_pre.T * W.T * e_post * e_pre.T",
        -2e-5,
        0.0,
    ),
    (
        "F9",
        rf"{Y}{Y0}^{{T}}-{Y}{Y}^{{T}}{W}",
        "layer",
        "Oja's subspace rule",
        "y_post * y_pre.T - y_post * y_post.T * W",
        2.3e-3,
        0.95,
    ),
]
KEPT = ("F0", "F2", "F9")
PLATEAU = {"search": 0.655, "refit": 0.668, "backprop": 0.66, "feedback_alignment": 0.23}


def synthetic_run(
    folder: Path,
    *,
    seeds: int = 20,
    updates: int = 600,
    lambdas: Sequence[float] = (10.0,),
    finished: bool = True,
    name: str = "pool10 on EMNIST",
    layers: int = 5,
    labels: bool = True,
) -> Path:
    """Write a run folder whose curves look like those of the rule-discovery paper.

    Refits are half as long, with rows for every set of terms that a penalty left. Without
    labels there is no accuracy, as in a regression, and there are no controls.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"seed": s, "lam": lam} for lam in lambdas for s in range(seeds)]
    pick = lambdas[len(lambdas) // 2]
    lines: list[str] = []
    final: dict[str, dict[str, list[float | None]]] = {"accuracy": {}, "loss": {}}
    lam_of_set = {_kept(lam / pick): lam for lam in reversed(lambdas)}
    sets = sorted(lam_of_set, key=lambda terms: (len(terms), terms))
    of_phase = {
        "search": [row["lam"] for row in rows],
        "refit": [lam_of_set[terms] for terms in sets for _ in range(seeds)],
    }
    for phase in PLATEAU if labels else ("search", "refit"):
        lams = np.array(of_phase.get(phase, [pick] * seeds))
        length = max(1, updates // 2) if phase == "refit" else updates
        accuracy, theta = _curves(rng, phase, lams / pick, length)
        losses = 3.2 - 3.4 * accuracy
        lost = rng.random(accuracy.shape) < 0.003
        for measure, values in (("accuracy", accuracy), ("loss", losses)):
            ends = values[lams == pick, -30:].mean(axis=1).tolist()
            final[measure][phase] = ends if labels or measure == "loss" else [None] * seeds
        for u in range(length):
            loss = losses[:, u]
            lines.append(
                json.dumps(
                    {
                        "event": "update",
                        "phase": phase,
                        "update": u,
                        "accuracy": _nulled(accuracy[:, u], lost[:, u] | (not labels)),
                        "loss": _nulled(loss, lost[:, u]),
                        "theta": theta[:, u].round(8).tolist(),
                        "rejected": lost[:, u].astype(int).tolist(),
                    }
                )
            )
            if u % 10 == 0:
                lines.append(json.dumps(_probe(rng, phase, u, len(lams), layers)))
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    _write(folder / "manifest.json", _manifest(name, rows, updates))
    (folder / "config.yaml").write_text(
        "grammar: pool10\nnetwork: [784, 170, 130, 100, 70, 47]\ntasks: emnist\n"
        f"episodes: {updates}\nseeds: {seeds}\npenalty: {{l1: {list(lambdas)}}}\n"
    )
    if finished:
        _write(folder / "result.json", result(final, lambdas, pick))
    return folder


def _kept(ratio: float) -> tuple[str, ...]:
    """Names of the terms that survive a penalty so many times the picked one."""
    return tuple(t[0] for t in TERMS if abs(t[5]) > 1e-3 * ratio**2)


def result(
    final: dict[str, dict[str, list[float | None]]], lambdas: Sequence[float], pick: float
) -> dict[str, Any]:
    """Return what ``result.json`` holds."""
    front = []
    for lam in lambdas:
        ratio = lam / pick
        share = {t[0]: float(np.clip(t[6] if ratio == 1 else t[6] / ratio, 0, 1)) for t in TERMS}
        entry = {"lam": lam, "terms": list(_kept(ratio)), "share": share}
        known = final["accuracy"]["search"][0] is not None
        entry.update(accuracy=0.67 - 0.02 * ratio if known else None, loss=1.0 + 0.07 * ratio)
        entry["refit_terms"] = [name for name in _kept(ratio) if name != "F3"]
        entry.update(refit_accuracy=0.68 if known else None, refit_loss=0.9 + 0.01 * ratio)
        entry.update(held_out_loss=0.92 + 0.01 * ratio, held_out_error=0.02)
        entry["coefficients"] = {t[0]: t[5] / ratio for t in TERMS if t[0] in entry["refit_terms"]}
        front.append(entry)
    pool = Grammar.from_yaml("pool10").enumerate()
    rule = Rule(pool, {t[0]: t[5] for t in TERMS if t[0] in KEPT})
    table = [
        {
            "name": name,
            "latex": latex,
            "coefficient": value if share else None,
            "spread": abs(value) * 0.08 if share else None,
            "share": share,
            "refit_share": float(name in KEPT),
            "locality": locality,
            "kept": name in KEPT,
        }
        for name, latex, locality, _, _, value, share in TERMS
    ]
    return {
        "schema": 1,
        "pick": {"lam": pick, "terms": list(KEPT)},
        "front": front,
        "table": table,
        **final,
        "rule": rule.to_json(),
    }


def _curves(
    rng: np.random.Generator, phase: str, strength: NDArray[Any], updates: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Accuracy (rows, updates) and coefficients (rows, updates, terms)."""
    u = np.arange(updates)
    top = PLATEAU[phase] * (1 - 0.05 * (strength - 1).clip(0))
    onset, pace = {"search": (60, 45), "refit": (5, 25)}.get(phase, (0, 40))
    start = 0.21 if phase != "backprop" else 0.45
    rise = 1 / (1 + np.exp(-(u - onset - rng.normal(0, 12, (len(strength), 1))) / pace))
    mean = start + (top[:, None] - start) * rise
    accuracy = np.clip(mean + rng.normal(0, 0.06, mean.shape), 0.02, 1.0)
    finals = np.array([t[5] for t in TERMS] if phase in ("search", "refit") else [8e-3])
    initial = np.zeros_like(finals)
    initial[0] = 1e-3
    goal = finals * (1 + 0.08 * rng.normal(size=(len(strength), len(finals))))
    grown = 1 - np.exp(-u[None, :, None] / rng.uniform(60, 160, (len(strength), 1, len(finals))))
    hump = np.exp(-(((u - 90) / 60) ** 2))[None, :, None] * rng.normal(0, 8e-4, (1, 1, len(finals)))
    jitter = np.cumsum(rng.normal(0, 6e-6, (*mean.shape, len(finals))), axis=1)
    theta = initial + (goal - initial)[:, None] * grown + jitter + (hump if len(finals) > 1 else 0)
    return accuracy, theta


def _probe(rng: np.random.Generator, phase: str, u: int, rows: int, layers: int) -> dict[str, Any]:
    learnt = 1 - np.exp(-u / 90)
    depth = np.arange(layers)
    gain = {"search": 45, "refit": 48, "backprop": 90, "feedback_alignment": 6}[phase]
    angle = 88 - gain * learnt * (0.4 + 0.6 * depth / max(layers - 1, 1))
    angles = angle + rng.normal(0, 3, (rows, layers))
    if phase == "backprop":
        angles = np.zeros((rows, layers))
    drop = {"search": 2.2, "refit": 2.4, "backprop": -0.4, "feedback_alignment": -0.2}[phase]
    error = np.exp(rng.normal(0, 0.15, (rows, layers)) + 5 - 0.8 * depth - drop * learnt)
    return {
        "event": "probe",
        "phase": phase,
        "update": u,
        "angles": angles.clip(0, 180).round(3).tolist(),
        "orthonormality": error.round(5).tolist(),
    }


def _manifest(name: str, rows: list[dict[str, float]], updates: int) -> dict[str, Any]:
    keys = ("name", "latex", "locality", "about", "text")
    return {
        "schema": 1,
        "rulesearch": "0.1.0",
        "name": name,
        "grammar": "pool10",
        "terms": [dict(zip(keys, term[:5], strict=True)) for term in TERMS],
        "rows": rows,
        "network": {
            "sizes": [784, 170, 130, 100, 70, 47],
            "activation": "softplus",
            "beta": 10.0,
            "feedback": "random",
        },
        "tasks": {"name": "FewShot", "data": "emnist", "ways": 5, "shots": 50, "queries": 10},
        "episodes": updates,
        "scales": [1.0, 1.3, 3.0, 0.16, 1.1, 0.08, 3.0, 3.0, 3.0, 0.9],
        "software": {"python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6"},
        "created": "2025-05-17T09:30:00+00:00",
    }


def _nulled(values: NDArray[Any], lost: NDArray[Any]) -> list[float | None]:
    return [None if gone else round(float(v), 5) for v, gone in zip(values, lost, strict=True)]


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(sealed(content), indent=2) + "\n")
