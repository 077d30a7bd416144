import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kitspipe"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
INITS = sorted([*PACKAGE.rglob("__init__.py"), ROOT / "plans" / "__init__.py"])
MOST_LINES = 350
DISTRIBUTED = "training/distributed.py"

each_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)


def settings(section: str, key: str) -> list[str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser[section][key].split("\n")[1:]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted_names(path: Path) -> set[str]:
    """Names and attributes that a module uses or imports, as written: `os.environ`, `print`."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Name | ast.Attribute):
            names.add(ast.unparse(node))
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def public_functions(path: Path) -> set[str]:
    return {
        node.name
        for node in tree(path).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def test_setup_cfg_lists_every_folder():
    folders = {f"kitspipe.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    assert set(settings("options", "packages")) == folders | {"kitspipe", "kitspipe.plans"}


def test_every_folder_with_modules_is_a_package():
    assert {path.parent for path in MODULES} <= {path.parent for path in INITS}


def test_commands_console_scripts_and_pipeline_are_the_same():
    from kitspipe import cli

    scripts = dict(
        line.split(" = ") for line in settings("options.entry_points", "console_scripts")
    )
    assert set(scripts) == {"kitspipe"} | {f"kitspipe_{command}" for command in cli.COMMANDS}
    assert set(scripts.values()) == {"kitspipe.cli:main"}
    assert public_functions(PACKAGE / "pipeline.py") == set(cli.COMMANDS)


@each_module
def test_no_module_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@each_module
def test_only_console_prints(path):
    printing = {"print", "sys.stdout", "sys.stderr", "sys.stdout.write", "sys.stderr.write"}
    if path.name != "console.py":
        assert dotted_names(path) & printing == set()


@each_module
def test_only_torchruns_variables_are_read_from_the_environment(path):
    reading = {"os.environ", "os.getenv", "os.environ.get"}
    if path.relative_to(PACKAGE).as_posix() != DISTRIBUTED:
        assert dotted_names(path) & reading == set()


@each_module
def test_nothing_is_unpickled_or_executed(path):
    # ForkingPickler and copies inside a process are not meant: what is read from outside is.
    running = {"pickle", "pickle.load", "pickle.loads", "torch.load", "joblib.load", "eval", "exec"}
    assert dotted_names(path) & running == set()


@each_module
def test_imports_are_absolute(path):
    nodes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom)]
    assert [node.module for node in nodes if node.level > 0] == []


@each_module
def test_no_module_is_a_bag_of_leftovers(path):
    assert path.stem not in {"utils", "util", "helpers", "common", "misc", "base"}


@pytest.mark.parametrize("path", INITS, ids=lambda path: path.parent.name)
def test_inits_hold_a_docstring_only(path):
    body = tree(path).body
    rest = body[1:] if ast.get_docstring(tree(path)) else body
    allowed = ["__version__"] if path.parent == PACKAGE else []
    assert [ast.unparse(node).split(" = ")[0] for node in rest] == allowed


def test_tests_mirror_the_package():
    modules = {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in MODULES}
    folders = [path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]
    tested = {
        f"{folder}/{path.stem.removeprefix('test_')}"
        for folder in folders
        for path in (ROOT / "tests" / folder).glob("test_*.py")
    }
    assert tested <= modules


@pytest.mark.parametrize("module", ["prediction.predict", "evaluation.report"])
def test_commands_that_only_find_record_and_show_do_not_wait_for_torch(module):
    code = f"import kitspipe.{module}, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("module", ["cli", "planning.plan", "console", "workspace", "errors"])
def test_what_answers_help_imports_nothing_heavy(module):
    heavy = {"torch", "SimpleITK", "scipy", "numpy", "matplotlib", "joblib"}
    code = f"import kitspipe.{module}, sys; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []
