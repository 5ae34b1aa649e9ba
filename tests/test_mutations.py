"""A small run of the mutants; `python tests/mutations.py 10000` makes many."""

from pathlib import Path

import pytest
from mutations import FILES, troubles


@pytest.mark.filterwarnings("ignore")
def test_no_damaged_file_ends_in_anything_but_px_or_a_sentence(tmp_path: Path) -> None:
    assert troubles(range(4 * len(FILES)), tmp_path) == []
