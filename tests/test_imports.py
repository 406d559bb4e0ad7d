"""What tests share stands in `tests/support`."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
IMPORT = re.compile(
    r"^\s*(?:from|import)\s+tests\.(?:\w+\.)*test_\w+|^\s*from\s+tests(?:\.\w+)*\s+import\s.*\btest_", re.MULTILINE
)


def test_no_test_module_imports_another() -> None:
    modules = {path: path.read_text() for path in TESTS.rglob("*.py") if path != Path(__file__)}
    assert len(modules) > 80
    assert IMPORT.search("from tests.data.test_images import png")
    assert [str(path) for path, text in modules.items() if IMPORT.search(text)] == []
