"""A preparation that is killed, in whichever part of it, ends as one that nobody disturbed."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path
from select import select

import pytest
from faults.prepare_killed import (
    CHUNK,
    DRIVER,
    POOL_WORKER,
    RAYLET,
    SECOND_RUN,
    WORKER,
    prepare_corpus,
    started,
)
from faults.prepare_runs import (
    Run,
    contents,
    disturb,
    end_what_is_left,
    events,
    extracted_again,
    make_corpus,
)

from benchmarks.prepare_faults import table
from data_prep.store import Store
from dimts.core.lock import locked

N_UTTERANCES = 40
MAX_FINISHED = 5 * CHUNK  # by two workers, while their run did not come to it
PATIENCE_S = 120
GO_ON = "give the same command again, it goes on where it stopped"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("killed") / "corpus", N_UTTERANCES)


@pytest.fixture(scope="module")
def undisturbed(corpus: Path) -> Path:
    features = corpus.with_name("undisturbed")
    prepare_corpus(corpus, features, "local")
    return features


@pytest.fixture
def places() -> random.Random:
    """Where to kill; a test that fails shows the seed."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture(autouse=True)
def dead_node_is_noticed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")


def n_safe(features: Path) -> int:
    """Utterances whose features a kill did not take, all runs together."""
    return sum(event["n"] for event in events(features, "safe"))


def finish(corpus: Path, features: Path, undisturbed: Path) -> None:
    """The same command again: all that is left is extracted, and nothing else.

    What workers had finished, and the run had not yet taken from them, is not extracted again.
    """
    before = n_safe(features)
    done: list[int] = []
    prepare_corpus(corpus, features, "local", done.append)
    assert N_UTTERANCES - MAX_FINISHED <= before + sum(done) <= N_UTTERANCES
    assert contents(features) == contents(undisturbed)


@pytest.mark.integration
def test_ray_loses_a_worker_and_then_its_driver(
    corpus: Path, undisturbed: Path, tmp_path: Path, places: random.Random
) -> None:
    features = tmp_path / "features"
    worker, driver = sorted(places.sample(range(1, N_UTTERANCES // 2), 2))
    status, words = Run(corpus, features, "ray", f"{WORKER}@{worker},{DRIVER}@{driver}").result()
    assert status == -9
    assert words.endswith(GO_ON)
    with locked(features / Store.LOCK, ""):  # what is left of Ray does not hold it
        assert len(events(features, "kill")) == 2
    end_what_is_left(features)
    assert driver <= n_safe(features) < N_UTTERANCES
    finish(corpus, features, undisturbed)


@pytest.mark.slow
def test_killed_pool_leaves_no_process_and_goes_on(
    corpus: Path, undisturbed: Path, tmp_path: Path, places: random.Random
) -> None:
    features = tmp_path / "features"
    place = places.randrange(1, N_UTTERANCES // 2)
    assert Run(corpus, features, "pool", f"{DRIVER}@{place}").result()[0] == -9
    (killed,) = events(features, "kill")
    assert len(killed["others"]) >= 2
    for pid, start in killed["others"]:
        if started(pid) == start:
            with suppress(ProcessLookupError):
                assert select([os.pidfd_open(pid)], [], [], PATIENCE_S)[0], f"{pid} goes on"
    assert place <= n_safe(features) < N_UTTERANCES
    finish(corpus, features, undisturbed)


@pytest.mark.slow
def test_pool_that_loses_a_process_ends_in_one_line_and_goes_on(
    corpus: Path, undisturbed: Path, tmp_path: Path, places: random.Random
) -> None:
    place = places.randrange(1, N_UTTERANCES // 2)
    features = tmp_path / "features"
    outcome = disturb(corpus, features, undisturbed, "pool", f"{POOL_WORKER}@{place}")
    assert outcome.survived, outcome
    assert outcome.words.startswith("error: ") and outcome.words.endswith(GO_ON)
    assert outcome.lost <= MAX_FINISHED


@pytest.mark.slow
def test_ray_loses_its_raylet(
    corpus: Path, undisturbed: Path, tmp_path: Path, places: random.Random
) -> None:
    features = tmp_path / "features"
    place = places.randrange(1, N_UTTERANCES // 2)
    status, words = Run(corpus, features, "ray", f"{RAYLET}@{place}").result()
    assert status != 0
    assert words.startswith("error: ") and words.endswith(GO_ON)
    end_what_is_left(features)
    finish(corpus, features, undisturbed)


@pytest.mark.integration
def test_second_run_is_refused_and_a_kill_loses_nothing_that_was_safe(
    corpus: Path, undisturbed: Path, tmp_path: Path
) -> None:
    features = tmp_path / "features"
    kills = f"{SECOND_RUN}@{CHUNK},{DRIVER}@{3 * CHUNK}"
    assert Run(corpus, features, "local", kills).result()[0] == -9
    assert len(events(features, "kill")) == 2
    assert n_safe(features) == 3 * CHUNK
    assert extracted_again(features) == []
    finish(corpus, features, undisturbed)


@pytest.mark.slow
def test_what_fails_beside_ray_stops_it_and_is_not_blamed_on_it(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray

    def full(n: int) -> None:
        raise OSError("no space left")

    was_running = ray.is_initialized()
    with pytest.raises(OSError, match="no space left"):
        prepare_corpus(corpus, tmp_path / "features", "ray", full)
    assert ray.is_initialized() == was_running
    assert GO_ON not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("victim", [DRIVER, WORKER, RAYLET])
@pytest.mark.parametrize("repetition", range(3))
def test_a_kill_on_ray_costs_what_was_under_way(
    corpus: Path, undisturbed: Path, tmp_path: Path, places: random.Random, victim: str,
    repetition: int,
) -> None:  # fmt: skip
    place = places.randrange(1, N_UTTERANCES // 2)
    outcome = disturb(corpus, tmp_path / "features", undisturbed, "ray", f"{victim}@{place}")
    assert outcome.survived, outcome
    assert outcome.lost <= (CHUNK if victim == WORKER else N_UTTERANCES - place)
    assert f"| a kill | 1 | 1 | {outcome.lost} " in table({"a kill": [outcome]}, N_UTTERANCES)
