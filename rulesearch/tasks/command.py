"""What ``rulesearch data`` does: list, fetch."""

from __future__ import annotations

from rulesearch.tasks.registry import data_sets, fetch

__all__ = ["fetch_data_set", "list_data_sets"]


def list_data_sets() -> None:
    """Print the data sets, and where they were found."""
    rows = [("name", "classes", "size", "licence", "found")]
    for d in data_sets():
        classes = "-" if d.classes is None else str(d.classes)
        where = d.found or ("with root=FOLDER" if d.address == "-" else f"no; {d.address}")
        rows.append((d.name, classes, d.size, d.licence, where))
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    for row in rows:
        cells = [c.ljust(w) for c, w in zip(row[:4], widths, strict=True)]
        print("  ".join([*cells, row[4]]).rstrip())


def fetch_data_set(name: str) -> None:
    """Fetch a data set and print where its files are."""
    paths = fetch(name)
    for path in paths:
        print(path)
    if not paths:
        print(f"{name} comes with scikit-learn; there is nothing to fetch")
