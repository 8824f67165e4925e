"""The house: the standard library's `platform` stays visible, and imports point one way."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "platform" / "dimts"
TORCH_ONLY = (
    "audio", "text", "features", "plotting", "bundles", "families", "training", "evaluation",
)  # fmt: skip
BELOW: dict[str, set[str]] = {
    # A room and what it may import; what is not listed stands at the edge and may import all.
    "core": set(),
    "audio": {"core"},
    "text": {"core"},
    "storage": {"core"},
    "runtime": {"core", "text"},
    "plotting": {"core", "storage"},
    "features": {"core", "storage", "audio", "text"},
    "bundles": {"core", "storage"},
    "training": {"core", "storage", "bundles"},
    "families": {"core", "audio", "storage", "training", "bundles", "features"},
    "evaluation": {"core", "audio", "text", "features", "families"},
    "acoustic": {
        "core", "audio", "text", "storage", "plotting", "features", "bundles", "training",
        "families", "evaluation",
    },
    "vocoder": {
        "core", "audio", "text", "storage", "plotting", "features", "bundles", "training",
        "families", "acoustic",
    },
    "recogniser": {
        "core", "audio", "text", "features", "bundles", "training", "families", "acoustic",
        "vocoder",
    },
    "chatterbox": {
        "core", "audio", "text", "storage", "features", "bundles", "training", "families",
        "acoustic",
    },
}  # fmt: skip
"""`families` is the protocol and the registry; a family is a room of its own."""
NO_FAMILY = ("training", "launch", "tuning", "tracking")
FAMILIES = {path.name for path in (LIBRARY / "families").iterdir() if path.is_dir()}
EDGE = ("commands", "cli", "studio")
CODE = ("platform/dimts", "data_prep", "jobs", "benchmarks")


def sources(folder: Path) -> list[Path]:
    files = [f for f in folder.rglob("*.py") if "__pycache__" not in f.parts]
    assert files, folder
    return sorted(files)


def imported(file: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module or ""
            if node.module == "dimts":
                yield from (f"dimts.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    """The room of a module of dimts."""
    _, first, *rest = name.split(".")
    is_family = first == "families" and rest and rest[0] not in ("protocol", "registry")
    return rest[0] if is_family else first


def module(file: Path) -> str:
    base = LIBRARY.parent if file.is_relative_to(LIBRARY) else ROOT
    parts = file.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def loaded(file: Path) -> Iterator[str]:
    """Every module that a file imports when it is imported itself."""
    waiting: list[ast.AST] = list(ast.parse(file.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def test_platform_folder_is_no_package() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_standard_library_platform_wins_with_the_root_on_the_path() -> None:
    code = "import platform, uuid, torch; print(platform.system(), platform.__file__)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    system, file = done.stdout.split(maxsplit=1)
    assert system == "Linux" or sys.platform != "linux"
    assert ROOT not in Path(file.strip()).parents


def test_standard_library_platform_wins_in_a_ray_worker(ray_session: None) -> None:
    import ray

    def look() -> tuple[list[str], str, str]:
        import platform
        import sys

        import dimts.families.acoustic.model.t3

        return sys.path, platform.system(), str(dimts.families.acoustic.model.t3.__file__)

    paths = {"env_vars": {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}"}}
    path, system, file = ray.get(ray.remote(look).options(runtime_env=paths).remote())
    assert str(ROOT) in path
    assert system
    assert Path(file).is_relative_to(LIBRARY)


@pytest.mark.parametrize("file", sources(LIBRARY), ids=lambda f: str(f.relative_to(LIBRARY)))
def test_library_imports_point_one_way(file: Path) -> None:
    names, own = set(imported(file)), module(file)
    packages = {name.split(".")[0] for name in names}
    assert not packages & {"jobs", "tests", "benchmarks"}
    if own == "dimts":
        return
    here = room(own)
    assert here in EDGE or "data_prep" not in packages
    if here in TORCH_ONLY:
        assert not packages & {"ray", "mlflow", "optuna"}
    rooms = {room(name) for name in names if name.startswith("dimts.") and name.count(".") > 0}
    if here in BELOW:
        assert rooms - {here, "__version__"} <= BELOW[here]
    if here in NO_FAMILY:
        assert not rooms & FAMILIES


def test_data_preparation_does_not_know_the_jobs() -> None:
    assert not {
        name
        for f in sources(ROOT / "data_prep")
        for name in imported(f)
        if name.startswith(("jobs", "dimts.commands"))
    }


def test_rooms_have_no_circles() -> None:
    order: list[str] = []
    waiting = dict(BELOW)
    while waiting:
        ready = [name for name, below in waiting.items() if below <= set(order)]
        assert ready, f"a circle among {sorted(waiting)}"
        order += ready
        waiting = {name: below for name, below in waiting.items() if name not in ready}


def test_modules_have_no_circles() -> None:
    files = {module(file): file for folder in CODE for file in sources(ROOT / folder)}
    waiting = {
        name: {other for other in loaded(file) if other in files and other != name}
        for name, file in files.items()
    }
    while waiting:
        ready = {name for name, needs in waiting.items() if not needs & waiting.keys()}
        assert ready, f"a circle among {sorted(waiting)}"
        waiting = {name: needs for name, needs in waiting.items() if name not in ready}


def test_torch_only_code_loads_neither_ray_nor_mlflow() -> None:
    code = (
        "import sys\n"
        "import dimts.training.trainer, dimts.families.acoustic.speaker\n"
        "import dimts.launch.training_run\n"
        "loaded = {m.split('.')[0] for m in sys.modules} & {'ray', 'mlflow', 'optuna'}\n"
        "sys.exit(f'loads {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module", ["cli", "commands.prepare", "commands.voice_config", "commands.mix_config"]
)
def test_settings_alone_do_not_wait_for_torch(module: str) -> None:
    slow = {"torch", "numba", "ray", "mlflow"}
    code = f"import sys, dimts.{module}; print({slow} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
