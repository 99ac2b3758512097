"""The result shown: a table in the terminal, figures, and one self-contained page.

Nothing is gathered here: most who import a part of it have no use for matplotlib, which takes
longer to load than a small search to run.
"""
