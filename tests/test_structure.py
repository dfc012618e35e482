"""The layout holds: imports point one way, and the README says what the code says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from sb3_trpo.algorithms.metrics import markdown_table

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sb3_trpo"
# What each part may import of the package, and which parts may import a library at all.
ALLOWED = {
    "__main__": {"zoo"},
    "core": {"core"},
    "algorithms": {"algorithms", "extensions", "distributed", "saving", "core"},
    "extensions": {"extensions", "core"},
    "callbacks": {"callbacks", "algorithms", "saving", "files", "core"},
    "evaluation": {"evaluation", "files"},
    "files": set(),
    "saving": {"saving", "files"},
    "distributed": {"distributed"},
    "zoo": {"zoo", "algorithms", "callbacks", "extensions", "distributed", "evaluation", "saving", "files", "core"},
    "__init__": {"algorithms"},
}
LIBRARIES = {
    "stable_baselines3": {"algorithms", "callbacks", "saving", "zoo"},
    "sb3_contrib": {"algorithms", "callbacks", "zoo"},
    "optuna": {"zoo"},
    "rl_zoo3": {"zoo"},
    "gymnasium": {"algorithms", "callbacks", "zoo"},
    "torch.distributed": {"distributed"},
}


def imports(file):
    """Every module that a file imports, in dotted form."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_one_way(file):
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imports(file):
        if module.startswith("sb3_trpo."):
            assert module.split(".")[1] in ALLOWED[part], f"{part} imports {module}"
        for library, users in LIBRARIES.items():
            if module == library or module.startswith(library + "."):
                assert part in users, f"{part} imports {module}"


@pytest.mark.parametrize("file", sorted((PACKAGE / "core").glob("*.py")), ids=lambda f: f.name)
def test_the_core_needs_torch_and_the_standard_library_only(file):
    allowed = {*sys.stdlib_module_names, "torch", "numpy", "sb3_trpo"}
    assert {module.split(".")[0] for module in imports(file)} <= allowed


def test_the_core_does_not_load_stable_baselines3():
    code = "import sb3_trpo.core.natural_step, sys; print('stable_baselines3' in sys.modules)"
    package = (
        "import sys, types; p = types.ModuleType('sb3_trpo'); p.__path__ = [sys.argv[1]]; sys.modules['sb3_trpo'] = p;"
    )
    output = subprocess.run(
        [sys.executable, "-c", package + code, str(PACKAGE)], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "False"


def test_the_readme_has_the_table_of_metrics_that_the_code_has():
    assert markdown_table() in (ROOT / "README.md").read_text(), "run `make readme`"


def test_the_example_of_the_readme_runs(tmp_path):
    """The first Python block of the README, word for word, on a shorter training."""
    block = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "learn(1e6)" in block
    code = block.replace("1e6", "2048").replace("1e5", "2048").replace("HalfCheetah-v5", "Pendulum-v1")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda file: file.name)
def test_examples_have_help(script):
    output = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    assert "--seed" in output.stdout
    assert len(script.read_text().splitlines()) < 60


def test_the_training_example_trains_evaluates_and_saves(tmp_path):
    command = [sys.executable, ROOT / "examples" / "train.py", "--env", "Pendulum-v1", "--steps", "2048"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert "return over 20 episodes: -" in output
    assert (tmp_path / "model.zip").is_file()
