"""What the tests of data sets start from."""

import pytest


@pytest.fixture(autouse=True)
def no_data_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPCNET_DATA", raising=False)
