"""Project rules that linters do not check: import layers, light imports, file lengths."""

from __future__ import annotations

import ast
import functools
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "bertfit"
SOURCE_FILES = sorted(SOURCE.rglob("*.py"))
CHECKED_FILES = [
    file
    for folder in ("src", "tests", "benchmarks")
    for file in sorted((ROOT / folder).rglob("*.py"))
]

# A part of bertfit may import itself and the rows below its own: never a row above, and never
# another part of its own row. docs/architecture.md draws the same picture.
ROWS = (
    ("__main__",),
    ("cli",),
    ("workflow",),
    ("reporting", "training"),
    ("inference",),  # below training: validation scores with the forward pass of prediction
    ("run_directory",),
    ("killed_trainings",),
    ("run_files",),
    ("modeling", "data", "evaluation"),
    ("config",),
    ("setting_problems",),
    (
        *("labels", "assets", "environment", "progress", "text_encoding", "threshold_aim"),
        "wording",
    ),
    (
        *("files", "garbage", "leftovers", "record_entries", "second_process", "setting_types"),
        "word_pattern",
    ),
    ("errors", "places", "process_wide"),
)
ROW_OF_PART = {part: number for number, row in enumerate(ROWS) for part in row}
ARROWS_FORBIDDEN_BESIDES = {
    ("reporting", "inference"): "a report is made of numbers on disk, not of a model",
}
LIBRARIES_FORBIDDEN = {
    "reporting": {"torch", "transformers"},
    "evaluation": {"torch", "transformers"},
}
SLOW_LIBRARIES = {
    *("matplotlib", "pandas", "pyarrow", "scipy", "sklearn", "torch", "torch._dynamo"),
    "transformers",
}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

VAGUE_MODULES = re.compile(r"^_?(utils?|helpers?|common|misc|tools?)$")
VAGUE_CLASSES = re.compile(r"(Manager|Handler|Helper|Processor|Utils?)$|^_?Base[A-Z]")

NOQA = re.compile(r"#\s*noqa\b", re.IGNORECASE)
NOQA_WITH_REASON = re.compile(r"#\s*noqa: [A-Z]+[0-9]+(, ?[A-Z]+[0-9]+)* +\(.{3,}\)")
TYPE_IGNORE = re.compile(r"#\s*type:\s*ignore\b")
TYPE_IGNORE_WITH_REASON = re.compile(r"#\s*type: ignore\[[a-z, -]+\] +(# *|\().{3,}")


def _name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def _part_of(file: Path) -> str:
    """Return the subpackage or root module that a file of src/bertfit belongs to."""
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


@functools.cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def _imports(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of all that a file imports, also in functions and for types."""
    for node in ast.walk(_parse(file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(file)}:{node.lineno}: imports are absolute here"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _imported_parts(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and part for each import of bertfit; `bertfit.__version__` belongs to no part."""
    for line, name in _imports(file):
        package, _, rest = name.partition(".")
        part = rest.partition(".")[0]
        if package == "bertfit" and (part == "__main__" or not part.startswith("__")):
            yield line, part


def test_every_part_has_a_row() -> None:
    found = {_part_of(file) for file in SOURCE_FILES} - {"__init__"}
    assert found <= set(ROW_OF_PART), f"give each a row in ROWS: {found - set(ROW_OF_PART)}"


def test_imports_point_downwards() -> None:
    faults = []
    for file in SOURCE_FILES:
        importer = _part_of(file)
        if importer == "__init__":  # the package's face may show anything
            continue
        for line, imported in _imported_parts(file):
            where = f"{_name(file)}:{line}: {importer} imports {imported or 'bertfit itself'}"
            if imported not in ROW_OF_PART:
                faults.append(f"{where}, which has no row; name the module, not the package")
            elif (importer, imported) in ARROWS_FORBIDDEN_BESIDES:
                faults.append(f"{where}: {ARROWS_FORBIDDEN_BESIDES[importer, imported]}")
            elif importer != imported and ROW_OF_PART[imported] <= ROW_OF_PART[importer]:
                faults.append(f"{where}, which is not below it")
    assert not faults, "\n".join(faults)


def test_libraries_stay_in_their_part() -> None:
    faults = [
        f"{_name(file)}:{line}: {_part_of(file)} never imports {name.partition('.')[0]}"
        for file in SOURCE_FILES
        for line, name in _imports(file)
        if name.partition(".")[0] in LIBRARIES_FORBIDDEN.get(_part_of(file), set())
    ]
    assert not faults, "\n".join(faults)


def _slow_libraries_loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter and return which SLOW_LIBRARIES it loaded."""
    report = "import sys; print('LOADED', *sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", f"import atexit; atexit.register(exec, {report!r}, {{}})\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return SLOW_LIBRARIES & set(process.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("part", sorted(LIBRARIES_FORBIDDEN))
def test_parts_without_torch_do_not_load_it_through_others(part: str) -> None:
    modules = [
        ".".join(file.relative_to(SOURCE.parent).with_suffix("").parts)
        for file in SOURCE_FILES
        if _part_of(file) == part
    ]
    loaded = _slow_libraries_loaded_by(f"import {', '.join(modules)}")
    assert not loaded & LIBRARIES_FORBIDDEN[part]


def test_importing_bertfit_is_light() -> None:
    assert _slow_libraries_loaded_by("import bertfit") == set()


def test_help_is_light() -> None:
    code = "import sys; sys.argv = ['bertfit', '--help']\nfrom bertfit.cli.main import main; main()"
    assert _slow_libraries_loaded_by(code) == set()


def test_commands_that_need_no_model_load_none() -> None:
    code = (
        "import sys, bertfit.workflow.comparing\nassert 'torch' not in sys.modules, 'to compare'\n"
    )
    loaded = _slow_libraries_loaded_by(f"{code}import bertfit.workflow.checking")
    assert "torch._dynamo" not in loaded  # as long to import as torch itself


@pytest.mark.parametrize("more", [[], ["--seeds", "2"]], ids=["one seed", "two seeds"])
def test_training_reads_the_rows_before_it_loads_torch(tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nfine,\n", encoding="utf-8")
    code = f"""
import sys
sys.argv = ["bertfit", "train", {str(tmp_path / "rows.csv")!r}, "--output", "run", *{more!r}]
from bertfit.cli.main import main
try:
    main()
except SystemExit as end:
    assert end.code == 3, end.code
"""
    assert not {"torch", "transformers"} & _slow_libraries_loaded_by(code)


def test_files_are_short() -> None:
    lengths = {_name(file): len(file.read_text().splitlines()) for file in SOURCE_FILES}
    long = {name: length for name, length in lengths.items() if length > MAX_FILE_LINES}
    assert not long, f"more than {MAX_FILE_LINES} lines: {long}"


def _functions(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of lines (without decorators) of each function in a file."""
    for node in ast.walk(_parse(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_functions_are_short() -> None:
    faults = []
    for file in SOURCE_FILES:
        for function, length in _functions(file):
            name = f"{file.relative_to(SOURCE).as_posix()}:{function}"
            if length > MAX_FUNCTION_LINES:
                faults.append(f"{name} has {length} lines; {MAX_FUNCTION_LINES} is long")
    assert not faults, "\n".join(faults)


def test_names_say_what_is_owned() -> None:
    faults = [
        f"{_name(file)}: {part!r} says nothing about what the module owns"
        for file in SOURCE_FILES
        for part in file.relative_to(SOURCE).with_suffix("").parts
        if VAGUE_MODULES.match(part)
    ]
    faults += [
        f"{_name(file)}:{node.lineno}: class {node.name} is named after nothing"
        for file in SOURCE_FILES
        for node in ast.walk(_parse(file))
        if isinstance(node, ast.ClassDef) and VAGUE_CLASSES.search(node.name)
    ]
    assert not faults, "\n".join(faults)


def _comments(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each comment in a file that has an exemption."""
    text = file.read_text(encoding="utf-8")
    if not (NOQA.search(text) or TYPE_IGNORE.search(text)):  # splitting into tokens takes a while
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def test_every_exemption_gives_its_code_and_reason() -> None:
    faults = []
    for file in CHECKED_FILES:
        for line, comment in _comments(file):
            if NOQA.search(comment) and not NOQA_WITH_REASON.search(comment):
                faults.append(f"{_name(file)}:{line}: write `noqa: CODE (reason)`, not {comment!r}")
            if TYPE_IGNORE.search(comment) and not TYPE_IGNORE_WITH_REASON.search(comment):
                shape = "type: ignore[code]  # reason"
                faults.append(f"{_name(file)}:{line}: write `{shape}`, not {comment!r}")
    assert not faults, "\n".join(faults)
