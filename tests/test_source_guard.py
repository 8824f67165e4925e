"""No line of ours unpickles, evaluates, unpacks or hands a shell what came from a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("platform", "data_prep", "jobs", "benchmarks", "tests/faults")
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
ALLOWED_IMPORTS = {("pickle", "UnpicklingError"), ("pickle", "dumps"), ("joblib", "cpu_count")}
"""To tell of what was refused; to send our own objects between our own processes; no pickle."""
RUN_TEXT = {"eval", "exec", "compile", "__import__"}
UNPACKING = {"extractall", "unpack_archive"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
SAFE_LOADERS = {"_Loader", "SafeLoader", "CSafeLoader"}
UNSAFE_YAML = {"yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all"}


def findings(source: str) -> list[str]:
    """What of a source text is not allowed, with its line."""
    return [f"{line}: {what}" for node in ast.walk(ast.parse(source)) for line, what in _bad(node)]


def _bad(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] in PICKLES or alias.name.endswith("cloudpickle"):
                yield node.lineno, f"import {alias.name}"
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        for alias in node.names:
            pickles = module.split(".")[0] in PICKLES or alias.name in PICKLES
            if pickles and (module, alias.name) not in ALLOWED_IMPORTS:
                yield node.lineno, f"from {module} import {alias.name}"
    elif isinstance(node, ast.Call):
        name, keywords = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
        yield from ((node.lineno, what) for what in _bad_call(name, keywords, node.args))


def _bad_call(name: str, keywords: dict[str | None, ast.expr], args: list[ast.expr]) -> list[str]:
    last = name.rpartition(".")[2]
    found = []
    if name in RUN_TEXT or last in UNPACKING or name in SHELLS | UNSAFE_YAML:
        found.append(name)
    if name in ("torch.load", "torch.jit.load", "torch.hub.load") and not (
        name == "torch.load" and _is(keywords.get("weights_only"), True)
    ):
        found.append(f"{name} without weights_only=True")
    if "allow_pickle" in keywords and not _is(keywords["allow_pickle"], False):
        found.append(f"{name} with allow_pickle")
    if "shell" in keywords and not _is(keywords["shell"], False):
        found.append(f"{name} with shell")
    if name == "yaml.load":
        loader = keywords.get("Loader", args[1] if len(args) > 1 else None)
        if loader is None or ast.unparse(loader).rpartition(".")[2] not in SAFE_LOADERS:
            found.append("yaml.load with another loader")
    return found


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_source_of_ours_runs_what_it_reads(folder: str) -> None:
    files = [f for f in (ROOT / folder).rglob("*.py") if "__pycache__" not in f.parts]
    assert len(files) > 5
    found = {str(f.relative_to(ROOT)): findings(f.read_text(encoding="utf-8")) for f in files}
    assert not {file: lines for file, lines in found.items() if lines}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import ray.cloudpickle as p",
        "from pickle import loads",
        "from ray import cloudpickle",
        "import joblib",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=flag)",
        "torch.jit.load(f)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(t)",
        "yaml.load(t, yaml.Loader)",
        "yaml.load(t, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(t)",
        "subprocess.run(c, shell=True)",
        "os.system(c)",
        "eval(t)",
        "exec(t)",
        "tarfile.open(f).extractall(d)",
        "shutil.unpack_archive(f)",
    ],
)
def test_guard_sees_what_is_not_allowed(line: str) -> None:
    assert findings(line)


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(f, weights_only=True)",
        "model.eval()",
        "re.compile(p)",
        "yaml.load(t, _Loader)",
        "np.load(f)",
        "subprocess.run([c], shell=False)",
        "from pickle import UnpicklingError",
    ],
)
def test_guard_lets_pass_what_is(line: str) -> None:
    assert not findings(line)
