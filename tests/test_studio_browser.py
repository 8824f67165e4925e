"""The studio in a real Chromium on a phone's width, by the keyboard alone; its microphone is a
file."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from voice_fixtures import untrained, write_voice

pytestmark = pytest.mark.slow
PHONE = {"width": 360, "height": 700}
SENTENCE = "ሰላም! እኔ ከድምፅ የተማርኩ አዲስ አማርኛ ተናጋሪ ነኝ።"


@pytest.fixture
def studio(voice_file: Path, spoken_corpus: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a studio with all its pages, which asks for a token."""
    shutil.copytree(spoken_corpus, tmp_path / "corpus")
    settings = yaml.safe_load(voice_file.read_text(encoding="utf-8"))
    settings["corpus"]["path"] = str(tmp_path / "corpus")
    (tmp_path / "voice.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (tmp_path / "sentences.txt").write_text(f"{SENTENCE}\n", encoding="utf-8")
    for seed, name in enumerate("ab"):
        write_voice(tmp_path / name, untrained(seed))
    command = [sys.executable, "-m", "dimts", "studio", "--token", "--port", "17860"]
    command += ["--config", "voice.yaml", "--model", "a", "--model", "b", "--trials", "2"]
    command += ["--record", "mine", "--sentences", "sentences.txt", "--answers", "answers.jsonl"]
    command += ["--ratings", "ratings.jsonl"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found
            yield found[0]
        finally:
            server.terminate()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """A page of a Chromium that hears a tone of two seconds, again and again."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("no Chromium is installed")
    tone = 0.4 * np.sin(np.arange(2 * 48_000) / 30)
    tone[-48_000:] = 0  # speech has pauses, noise has none
    soundfile.write(tmp_path / "tone.wav", tone, 48_000)
    microphone = [
        "--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={tmp_path / 'tone.wav'}",
    ]  # fmt: skip
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=microphone)
        page = browser.new_page(viewport=PHONE)
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def open_tab(page: Any, name: str) -> None:
    """By the keyboard."""
    page.get_by_role("navigation").get_by_role("button", name=name).focus()
    page.keyboard.press("Enter")
    page.locator(f"#{name.lower()}").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def until(page: Any, condition: str) -> None:
    """Wait for an expression to be true; the page's policy lets nobody compile one in it."""
    look = f"() => {condition} ? done() : requestAnimationFrame(look)"
    page.evaluate(f"() => new Promise(done => {{ const look = {look}; look(); }})")


def test_all_pages_work_on_a_phone_by_keyboard(studio: str, page: Any, tmp_path: Path) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    with page.expect_response(re.compile(r"Ethiopic-Regular\.ttf$")) as font:
        page.goto(studio)
        page.locator("#speak textarea").fill(SENTENCE)
    assert font.value.ok

    open_tab(page, "Speak")
    for n in (1, 2):
        page.get_by_role("button", name="One more voice").press("Enter")
        page.locator("#speak [name=model]").nth(n).select_option("ab"[n % 2])
    page.locator("#speak form > button").first.press("Enter")
    page.locator("#speak .spoken img").nth(2).wait_for()
    assert page.locator("#speak .normalised").all_inner_texts() == [SENTENCE] * 3
    assert page.get_by_alt_text("mel with its tokens").count() == 3
    # A wave that the page may not load has no length.
    until(page, "[...document.querySelectorAll('.spoken audio')].every(a => a.duration > 0)")
    assert page.locator("#speak a").first.get_attribute("download") == "speech.wav"

    open_tab(page, "Listen")
    page.locator("#listen").get_by_label("Your name").fill("hana")
    page.keyboard.press("Enter")
    progress = page.locator("#listen .quiet")
    progress.filter(has_text="1 of").wait_for()
    n_trials = int(progress.inner_text().split()[-1])
    for n in range(1, n_trials + 1):
        progress.filter(has_text=f"{n} of").wait_for()
        until(page, "[...document.querySelectorAll('.trial audio')].every(a => a.duration > 0)")
        page.locator("#listen [value=second]").press("Enter")
    page.locator("#listen").get_by_text("Thank you").wait_for()
    page.locator("#listen summary").press("Enter")
    page.locator("#listen .show").press("Enter")
    page.get_by_text("1 listeners").wait_for()
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["choice"] for line in lines] == ["second"] * n_trials

    open_tab(page, "Rate")
    page.locator("#rate").get_by_label("Your name").fill("hana")
    page.keyboard.press("Enter")
    progress = page.locator("#rate .quiet")
    progress.filter(has_text="1 of").wait_for()
    n_screens = int(progress.inner_text().split()[-1])
    for n in range(1, n_screens + 1):
        progress.filter(has_text=f"{n} of").wait_for()
        until(page, "[...document.querySelectorAll('.clips audio')].every(a => a.duration > 0)")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "A"
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        page.keyboard.press("Space")  # plays
        for clip in range(3):
            slider = page.locator("#rate [type=range]").nth(clip)
            if clip:
                page.locator("#rate audio").nth(clip).press("Space")
            until(page, f"!document.querySelectorAll('#rate [type=range]')[{clip}].disabled")
            assert page.locator("#rate .next").is_disabled()
            slider.press("End")
            slider.press("ArrowLeft")
        page.locator("#rate .next").press("Enter")
        if n == 1:  # goes on where they were
            page.reload()
            open_tab(page, "Rate")
            page.locator("#rate").get_by_label("Your name").fill("hana")
            page.keyboard.press("Enter")
    page.locator("#rate").get_by_text("Thank you").wait_for()
    page.locator("#rate summary").press("Enter")
    page.locator("#rate .show").press("Enter")
    page.get_by_text("they do not hear the recording: hana").wait_for()
    lines = (tmp_path / "ratings.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["points"] for line in lines] == [[99, 99, 99]] * n_screens

    open_tab(page, "Record")
    page.locator("#record .text").filter(has_text=SENTENCE).wait_for()
    page.locator("#record .start").press("Enter")
    until(page, "document.querySelector('#record meter').value > 0.3")
    page.get_by_text(re.compile(r"^[1-9]\d*\.\d s$")).wait_for()
    page.locator("#record .start").press("Enter")
    until(page, "document.querySelector('#record audio').duration > 1")
    page.locator("#record .keep").press("Enter")
    page.get_by_text("All sentences are recorded").wait_for()
    with (tmp_path / "mine" / "metadata.csv").open(encoding="utf-8") as table:
        assert list(csv.reader(table, delimiter="|")) == [["00001", SENTENCE]]
    wave, rate = soundfile.read(tmp_path / "mine" / "wavs" / "00001.wav")
    assert len(wave) > rate and 0.3 < np.abs(wave).max() < 0.5

    open_tab(page, "Corpus")
    player = page.locator("#corpus audio").first
    player.wait_for()
    assert player.bounding_box()["width"] > 200
    with page.expect_response(re.compile("/api/mark")):
        page.locator("#corpus [type=checkbox]").first.press("Space")
    assert len((tmp_path / "corpus" / "left_out.ids").read_text(encoding="utf-8").split()) == 1
    assert errors == []
