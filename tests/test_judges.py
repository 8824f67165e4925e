"""Judges of speech order what people order: recordings, copies, robots, other texts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.recipes import espeak_library, hibari_voice
from data_prep.recipes.espeak_library import Speech
from dimts.audio.files import write_wav
from dimts.audio.griffin_lim import griffin_lim
from dimts.audio.mel import MelConfig, log_mel
from dimts.cli import run_job
from dimts.commands import judge
from dimts.core.config import build_config
from dimts.core.errors import ConfigError, UserError
from dimts.evaluation.judges.config import PRETRAINED, JudgesConfig
from dimts.evaluation.judges.judge import Clip, Judge
from dimts.evaluation.judges.metrics import OF_JUDGE, RIGHT_SPEAKER, WEIGHTS
from dimts.evaluation.judges.panel import Verdicts, judge_clips, load_judges
from dimts.evaluation.judges.recognition import comparable
from dimts.evaluation.judges.report import Report, judge_voices, table, to_json
from dimts.evaluation.judges.speaker import Speaker

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SENTENCES = (
    "The children walked along the river until the evening.",
    "She bought fresh bread and three apples at the market.",
    "Please close the window before the rain begins.",
    "The old train arrived late, but nobody complained.",
    "A quiet garden lies behind the yellow house.",
    "He opened the letter slowly and began to read.",
)
NATURAL, COPIES, ROBOT, SHUFFLED = "natural", "Griffin-Lim", "espeak", "shuffled"


def wave_of(speech: Speech) -> np.ndarray:
    return speech.samples.astype(np.float32) / 32768


def copy_of(wave: np.ndarray, rate: int) -> np.ndarray:
    """Through a mel and back."""
    config = MelConfig(sample_rate=rate)
    return griffin_lim(log_mel(wave, config), config)


@pytest.fixture(scope="module")
def voices() -> dict[str, list[Clip]]:
    """The sentences by a natural voice, which stands for recordings, its Griffin-Lim copies, a
    robot, and the natural voice with the texts of other sentences."""
    natural = [hibari_voice.speak(text, "en") for text in SENTENCES]
    waves = [wave_of(speech) for speech in natural]
    rate = natural[0].sample_rate

    def clips(spoken: Sequence[np.ndarray], texts: Sequence[str] = SENTENCES) -> list[Clip]:
        return [
            Clip(wave, rate, text, "en", recorded, f"{n}")
            for n, (wave, text, recorded) in enumerate(zip(spoken, texts, waves, strict=True))
        ]

    robots = []
    for text in SENTENCES:
        speech = espeak_library.speak(text, "en")
        samples = np.interp(
            np.arange(0, len(speech.samples), speech.sample_rate / rate),
            np.arange(len(speech.samples)), wave_of(speech),
        )  # fmt: skip
        robots.append(samples.astype(np.float32))
    return {
        NATURAL: clips(waves),
        COPIES: clips([copy_of(wave, rate) for wave in waves]),
        ROBOT: clips(robots),
        SHUFFLED: clips(waves, [*SENTENCES[1:], SENTENCES[0]]),
    }


@pytest.fixture(scope="module")
def judges() -> list[Judge]:
    return load_judges(JudgesConfig(names=PRETRAINED), CPU, threads=2)


@pytest.fixture(scope="module")
def report(judges: list[Judge], voices: dict[str, list[Clip]]) -> Report:
    return judge_voices(PRETRAINED, voices, partial(judge_clips, judges, threads=2))


def means(report: Report, metric: str) -> dict[str, float]:
    found = {voice: report.mean(voice, metric) for voice in report.scores}
    return {voice: mean.mean for voice, mean in found.items() if mean}


@pytest.mark.integration
def test_naturalness_falls_from_a_person_over_copies_to_a_robot(report: Report) -> None:
    score = means(report, "naturalness")
    assert score[NATURAL] > score[COPIES] + 0.3 > score[ROBOT] + 0.6
    assert score[NATURAL] > 4
    assert score[SHUFFLED] == score[NATURAL], "it does not read"


@pytest.mark.integration
def test_error_rates_rise_with_a_robot_and_with_other_texts(report: Report) -> None:
    cer, wer = means(report, "cer"), means(report, "wer")
    assert cer[NATURAL] <= cer[COPIES] + 1 <= 6
    assert cer[NATURAL] <= cer[ROBOT] < 30
    assert cer[SHUFFLED] > 60 and wer[SHUFFLED] > 80


@pytest.mark.integration
def test_second_opinion_hears_the_copies(report: Report) -> None:
    score = means(report, "dnsmos")
    assert score[NATURAL] > score[COPIES]
    assert all(1 < value < 5 for value in score.values())


@pytest.mark.integration
def test_another_speaker_is_less_similar(report: Report) -> None:
    score = means(report, "speaker_similarity")
    assert score[NATURAL] > score[COPIES] > score[ROBOT] + 0.1
    assert score[NATURAL] > 0.8


@pytest.mark.integration
def test_of_two_speakers_each_is_nearest_to_the_own_recordings(
    voices: dict[str, list[Clip]],
) -> None:
    judge = Speaker(JudgesConfig(), CPU)
    person = [replace(clip, speaker="person") for clip in voices[NATURAL]]
    robot = [replace(c, speaker="robot", reference=c.wave) for c in voices[ROBOT]]
    assert {s["right_speaker"] for s in judge.score([*person, *robot])} == {1.0}
    in_the_others_voice = replace(person[0], wave=robot[0].wave)
    first, *others = judge.score([in_the_others_voice, *person[1:], *robot])
    assert first["right_speaker"] == 0
    assert {scores["right_speaker"] for scores in others} == {1.0}
    assert "right_speaker" not in judge.score(person)[0]


@pytest.mark.integration
def test_pitch_of_a_copy_is_that_of_the_recording_and_a_robots_is_not(report: Report) -> None:
    error, hertz = means(report, "log_f0_rmse"), means(report, "f0_mean")
    assert error[NATURAL] == 0
    assert error[COPIES] < 0.1 < error[ROBOT]
    assert hertz[COPIES] == pytest.approx(hertz[NATURAL], rel=0.05)
    distortion = means(report, "wave_mcd")
    assert distortion[NATURAL] == pytest.approx(0, abs=1e-3)
    assert distortion[COPIES] < distortion[ROBOT]


@pytest.mark.integration
def test_same_clips_get_the_same_scores_alone_or_among_others(
    judges: list[Judge], voices: dict[str, list[Clip]], report: Report
) -> None:
    assert judge_clips(judges, voices[ROBOT]).scores == report.scores[ROBOT]
    alone = [judge for judge in judges if judge.per_clip]
    third = judge_clips(alone, voices[ROBOT][2:3]).scores[0]
    assert third == {key: report.scores[ROBOT][2][key] for key in third}


def test_parts_on_ray_get_the_scores_of_the_whole(
    voices: dict[str, list[Clip]], report: Report, ray_session: None
) -> None:
    from dimts.launch.judging import judge_on_ray

    config = JudgesConfig(names=("pitch", "speaker", "distortion"))
    found = judge_on_ray(config, voices[COPIES], workers=2)
    assert found.objections == []
    for scores, expected in zip(found.scores, report.scores[COPIES], strict=True):
        assert scores == {key: expected[key] for key in scores}
        assert {"speaker_similarity", "log_f0_rmse", "wave_mcd"} <= scores.keys()


@pytest.mark.integration
def test_table_and_json_hold_every_metric(report: Report) -> None:
    lines = table(report).splitlines()
    assert lines[0].split() == [
        *["judged,", "6", "sentences", "natural", "Griffin-Lim", "espeak", "shuffled"],
        *["shuffled", "-", "natural", "(95", "%)"],
    ]
    assert RIGHT_SPEAKER in report.metrics  # measured of several speakers alone
    assert len(lines) == len(report.metrics)
    values = json.loads(json.dumps(to_json(report)))
    assert values["voices"][ROBOT]["naturalness"]["n"] == len(SENTENCES)
    assert values["difference_from_natural"][ROBOT]["naturalness"]["high"] < 0
    assert values["metrics"]["f0_mean"]["better"] is None
    assert values["metrics"]["naturalness"]["better"] == "maximize"


@pytest.mark.integration
def test_recogniser_says_which_language_it_does_not_know(
    judges: list[Judge], voices: dict[str, list[Clip]]
) -> None:
    clip = voices[NATURAL][0]
    amharic = [Clip(clip.wave, clip.sample_rate, "ሰላም", "am", clip.reference, "a")]
    verdicts = judge_clips(judges[:2], amharic)
    assert verdicts.objections == ["recognition: the recogniser does not know am"]
    assert verdicts.scores[0].keys() == {"naturalness"}


@pytest.mark.integration
def test_a_folder_is_judged_beside_its_recordings(
    voices: dict[str, list[Clip]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def judged(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["judge.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_job(judge.main)
        return int(ended.value.code or 0), *capsys.readouterr()

    for voice in (NATURAL, COPIES):
        for clip in voices[voice][:2]:
            write_wav(tmp_path / voice / f"{clip.name}.wav", clip.wave, clip.sample_rate)
    (tmp_path / "texts.csv").write_text(f"0|{SENTENCES[0]}\n1|{SENTENCES[1]}\n", encoding="utf-8")
    command = ["--waves", str(tmp_path / COPIES)]
    command += ["--texts", str(tmp_path / "texts.csv"), "--language", "en"]
    command += ["--recordings", str(tmp_path / NATURAL), "--json", str(tmp_path / "report.json")]
    code, out, err = judged(*command, "--judges", "recognition,pitch")
    assert (code, err) == (0, "")
    assert "waves - recordings (95 %)" in out
    values = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert values["sentences"] == 2
    assert values["voices"]["recordings"]["log_f0_rmse"]["mean"] == 0
    (tmp_path / COPIES / "1.wav").unlink()
    missing = f"error: {tmp_path / COPIES / '1'}.wav: no such file\n"
    assert judged(*command) == (2, "", missing)


@pytest.mark.parametrize("n", ["-1", "two"])
def test_workers_are_counted_from_none_on(
    n: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["judge.py", "--workers", n])
    with pytest.raises(SystemExit):
        judge.main()
    assert f"argument --workers: {n}: must be 0 or more" in capsys.readouterr().err


@pytest.mark.slow
def test_benchmark_times_every_judge(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/judges.py", "--sentences", "2", "--threads", "2",
         "--json", str(tmp_path / "judges.json")],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "judges.json").read_text(encoding="utf-8"))["rows"]
    assert [row["judge"] for row in rows] == [*PRETRAINED, "all at once"]
    assert all(f"| {row['judge']} |" in done.stdout for row in rows)


def test_judges_that_are_not_installed_are_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("distillmos", "faster_whisper", "swift_f0", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in ("naturalness", "recognition", "dnsmos", "pitch"):
        with pytest.raises(UserError, match=rf"judge {name} needs .*'dimts\[judges\]'$"):
            load_judges(JudgesConfig(names=(name,)), CPU)


def test_settings_of_judges_are_checked() -> None:
    with pytest.raises(ConfigError, match="no judge 'ear'; there are recognition, naturalness"):
        build_config(JudgesConfig, {"names": ["ear"]})
    with pytest.raises(ConfigError, match="no effect without recogniser"):
        build_config(JudgesConfig, {"recogniser_languages": ["am"]})
    with pytest.raises(
        ConfigError, match=r"decides: none of the judges measures 'cer'; .* natural"
    ):
        build_config(JudgesConfig, {"names": ["naturalness"], "decides": "cer"})
    with pytest.raises(ConfigError, match=r"not_worse: none .* 'f0_mean'; .* log_f0_rmse"):
        build_config(JudgesConfig, {"names": ["pitch"], "not_worse": {"f0_mean": 1.0}})


@pytest.mark.integration
def test_every_judge_measures_what_the_list_of_metrics_says(
    judges: list[Judge], voices: dict[str, list[Clip]]
) -> None:
    for one in judges:
        clips = [replace(c, speaker=c.name) for c in voices[COPIES][:2]]
        scores = one.score(clips)[0]
        assert scores.keys() - {*WEIGHTS.values()} == {m.name for m in OF_JUDGE[one.name]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hello, World!  ", "hello world"),
        ("It's a well-known Straße…", "its a well known strasse"),
        ("¿Dónde está—aquí?", "dónde está aquí"),
        ("ሰላም፣ ነው።", "ሰላም ነው"),
        ("ﬁne ②", "fine 2"),
        ("...", ""),
    ],
)
def test_texts_are_compared_without_case_and_punctuation(text: str, expected: str) -> None:
    assert comparable(text) == expected


def test_error_rates_weigh_by_the_length_of_the_text() -> None:
    wave = np.zeros(8000, np.float32)
    clips = [Clip(wave, 16000, text) for text in ("a", "bbb")]

    def listen(clips: Sequence[Clip]) -> Verdicts:
        return Verdicts([{"cer": n, "characters": n} for n in (1.0, 3.0)], [])

    report = judge_voices(["recognition"], {"one": clips, "other": clips}, listen)
    mean = report.mean("one", "cer")
    assert mean and mean.mean == pytest.approx((1 * 1 + 3 * 3) / 4)
    assert mean.n == 2
    assert report.mean("one", "wer") is None
    apart = report.difference("other", "one", "cer")
    assert apart and (apart.mean, apart.utterances) == (0, 2)
    assert report.difference("other", "one", "wer") is None


def test_a_clip_that_is_no_sound_is_refused() -> None:
    with pytest.raises(UserError, match="first: too short to be judged"):
        Clip(np.zeros(10, np.float32), 16000, name="first")
    with pytest.raises(UserError, match="NaN or infinite"):
        Clip(np.full(8000, np.nan, np.float32), 16000)
