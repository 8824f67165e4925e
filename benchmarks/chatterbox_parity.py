"""Our T3 beside that of the published package: keys, logits, gradients, generation, folders.

    .venv/bin/python benchmarks/chatterbox_parity.py
    .venv/bin/python benchmarks/chatterbox_parity.py --size full

The package (chatterbox-light, with the keys and shapes of chatterbox-tts) gets an environment of
its own in --env, made where it is missing: on top of this one's packages, so that both compute with
the same torch. Weights are drawn. Full size takes 15 GB of memory, and 7 GB of disk in --work for
a folder as it is published, which is extended by Amharic and loaded by the package's own loader.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dimts.families.chatterbox.model.config import (
    N_SPEECH,
    START_SPEECH,
    START_TEXT,
    STOP_SPEECH,
    STOP_TEXT,
    T3Config,
)
from dimts.families.chatterbox.model.generation import generate
from dimts.families.chatterbox.model.sampling import Sampling
from dimts.families.chatterbox.model.t3 import T3

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "chatterbox-light==1.0.2", "transformers==5.24.0", "regex", "einops", "conformer",
    "s3tokenizer==0.3.0", "onnx", "ml_dtypes", "diffusers==0.29.0", "omegaconf",
    "antlr4-python3-runtime==4.9.3", "resemble-perth", "pyloudnorm",
)  # fmt: skip
"""Without what they ask for: their pins are not ours, and not needed."""
SIZES = {"tiny": T3Config.tiny(), "full": T3Config.full_multilingual()}
TOLERANCE, CACHED_TOLERANCE = 1e-5, 1e-4
N_TOKENS = {"tiny": 50, "full": 4}
SAMPLING = {"cfg_weight": 0.5, "temperature": 0.8, "min_p": 0.01, "top_p": 0.95}
PENALTY = 1.2
SEED = 3


def main() -> None:
    """Compare in the package's environment, and exit with an error where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--env", type=Path, default=ROOT / "output" / "chatterbox-env")
    parser.add_argument("--work", type=Path, help="folder for large files (default: temporary)")
    parser.add_argument("--store", type=Path, help="write the package's logits of the tiny model")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(compare(arguments.size, arguments.store, arguments.work), indent=1))
        return
    python = environment(arguments.env)
    with tempfile.TemporaryDirectory(dir=arguments.work) as work:
        command = [str(python), __file__, "--inside", "--size", arguments.size, "--work", work]
        command += ["--store", str(arguments.store)] if arguments.store else []
        # Safe: this folder has a chatterbox.py, too.
        paths = {"PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}", "PYTHONSAFEPATH": "1"}
        paths["HF_HUB_OFFLINE"] = "1"
        sys.exit(subprocess.run(command, env={**os.environ, **paths}).returncode)


def environment(folder: Path) -> Path:
    """The Python of an environment that has the package, made unless it is there."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        ours = [sysconfig.get_path("purelib"), *(p for p in sys.path if "site-packages" in p)]
        paths = folder / "lib" / version / "site-packages" / "ours.pth"
        paths.write_text("\n".join(dict.fromkeys(ours)) + "\n", encoding="utf-8")
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES]
        subprocess.run(install, check=True)
        (folder / "ready").touch()
    return python


def drawn_weights(model: nn.Module) -> dict[str, Tensor]:
    """Values for a model's tensors, the same wherever they are drawn; norms are about 1."""
    generator = torch.Generator().manual_seed(SEED)
    return {
        name: torch.randn(tensor.shape, generator=generator) * 0.05 + name.endswith("norm.weight")
        for name, tensor in sorted(model.state_dict().items())
    }


def drawn_row(config: T3Config) -> dict[str, Tensor]:
    """A text, speech, a speaker and a prompt, as `T3.forward` names them."""
    generator = torch.Generator().manual_seed(SEED)

    def ids(first: int, size: int) -> Tensor:
        drawn = torch.randint(2, config.text_vocab, (1, size), generator=generator)
        drawn[:, 0] = first
        return drawn

    text = ids(START_TEXT, 20)
    text[:, -1] = STOP_TEXT
    return {
        "text_ids_BN": text,
        "text_lengths_B": torch.tensor([20]),
        "speech_ids_BS": ids(START_SPEECH, 50),
        "speech_lengths_B": torch.tensor([50]),
        "speaker_emb_BE": torch.rand(1, 256, generator=generator),
        "prompt_ids_BP": ids(1, 75),
        "prompt_lengths_B": torch.tensor([75]),
        "emotion_B": torch.tensor([0.5]),
    }


def stored_logits(text_BNV: Tensor, speech_BSV: Tensor) -> dict[str, Any]:
    """A few logits of a row, and a mean over all, to be stored."""
    return {
        "text": text_BNV[0, ::5, ::100].tolist(),
        "speech": speech_BSV[0, ::10, ::1000].tolist(),
        "mean_magnitude": float(speech_BSV.abs().mean()),
    }


def compare(size: str, store: Path | None, work: Path) -> dict[str, Any]:
    """Differences between both models; raises an `AssertionError` where one is too large."""
    config = SIZES[size]
    theirs, ours = _package(config), T3(config)
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in ours.state_dict().items()}
    weights = drawn_weights(ours)
    ours.load_state_dict(weights)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    del weights
    ours.eval()
    theirs.eval()
    row = drawn_row(config)
    text, speech = ours(**row)
    out = theirs(
        t3_cond=_conditions(row),
        text_tokens=row["text_ids_BN"],
        text_token_lens=row["text_lengths_B"],
        speech_tokens=row["speech_ids_BS"],
        speech_token_lens=row["speech_lengths_B"],
        training=True,
    )
    found: dict[str, Any] = {"keys": len(shapes)}
    found["logits"] = max(_apart(text, out.text_logits), _apart(speech, out.speech_logits))
    if store:
        stored = stored_logits(out.text_logits, out.speech_logits)
        store.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    for logits in ((text, speech), (out.text_logits, out.speech_logits)):
        sum(x.logsumexp(-1).mean() - x[..., 7].mean() for x in logits).backward()
    found["gradients"] = max(
        _apart(mine.grad, other.grad)
        for (name, mine), other in zip(
            sorted(ours.named_parameters()),
            (parameter for _, parameter in sorted(theirs.named_parameters())),
            strict=True,
        )
        if name != "tfmr.embed_tokens.weight" and mine.grad is not None
    )
    ours.zero_grad()
    theirs.zero_grad()
    print(found, file=sys.stderr)
    found |= _generation(ours, theirs, row, N_TOKENS[size])
    assert found["logits"] <= TOLERANCE and found["gradients"] <= TOLERANCE, found
    assert found["cached"] <= CACHED_TOLERANCE and found["same_ids"], found
    print(found, file=sys.stderr)
    found["texts"] = _texts()
    if size == "full":
        del theirs
        found["folder"] = _folder(ours, work)
    return found


def _package(config: T3Config) -> Any:
    """The package's T3 of some sizes; its perceiver is as wide as the model is."""
    from chatterbox.models.t3 import llama_configs, t3
    from chatterbox.models.t3.modules import cond_enc
    from chatterbox.models.t3.modules.perceiver import Perceiver
    from chatterbox.models.t3.modules.t3_config import T3Config as TheirConfig

    llama_configs.LLAMA_CONFIGS["drawn"] = {
        **llama_configs.LLAMA_CONFIGS["Llama_520M"],
        "hidden_size": config.hidden,
        "intermediate_size": config.feed_forward,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": config.hidden // config.heads,
    }
    cond_enc.Perceiver = lambda: Perceiver(32, config.hidden, config.hidden, 4)
    sizes = TheirConfig(config.text_vocab)
    sizes.llama_config_name = "drawn"
    return t3.T3(sizes)


def _conditions(row: Mapping[str, Tensor]) -> Any:
    from chatterbox.models.t3.modules.cond_enc import T3Cond

    return T3Cond(
        speaker_emb=row["speaker_emb_BE"],
        cond_prompt_speech_tokens=row["prompt_ids_BP"],
        emotion_adv=row["emotion_B"][:, None, None],
    )


def _generation(ours: T3, theirs: Any, row: Mapping[str, Tensor], n_tokens: int) -> dict[str, Any]:
    """Whether both draw the same ids, and how far cached logits are from those of one pass.

    Of drawn weights the package says ids that S3 does not know, ours never: they are made unlikely.
    """
    torch.manual_seed(SEED)
    known = theirs.speech_head.register_forward_hook(_unlikely)
    expected = theirs.inference(
        t3_cond=_conditions(row),
        text_tokens=row["text_ids_BN"].expand(2, -1),
        max_new_tokens=n_tokens,
        repetition_penalty=PENALTY,
        **SAMPLING,
    )[0]
    known.remove()
    sampling = Sampling(max_tokens=n_tokens, repetition_penalty=PENALTY, **SAMPLING)
    parts = (row["text_ids_BN"][0], row["speaker_emb_BE"][0], row["prompt_ids_BP"][0])
    ids = generate(ours, *parts, sampling=sampling, seed=SEED).ids
    cached = _cached(ours, theirs, row, n_tokens)
    return {"same_ids": ids.tolist() == expected.tolist(), "cached": cached}


def _unlikely(module: nn.Module, inputs: object, logits: Tensor) -> Tensor:
    row_V = torch.arange(logits.shape[-1])
    return logits.masked_fill((row_V >= N_SPEECH) & (row_V != STOP_SPEECH), -1e4)


@torch.inference_mode()
def _cached(ours: T3, theirs: Any, row: Mapping[str, Tensor], n_tokens: int) -> float:
    """Largest difference of logits: ours with a cache, the package's of the whole row at once."""
    text, speech = row["text_ids_BN"].expand(2, -1), row["speech_ids_BS"].expand(2, -1)
    speech = speech[:, :n_tokens]
    bos = speech[:, :1]
    embeds, _ = theirs.prepare_input_embeds(
        t3_cond=_conditions(row), text_tokens=text, speech_tokens=bos, cfg_weight=0.5
    )
    tokens = theirs.speech_emb(speech) + theirs.speech_pos_emb(speech)
    hidden = theirs.tfmr(inputs_embeds=torch.cat((embeds, tokens), dim=1)).last_hidden_state
    expected = theirs.speech_head(hidden[:, embeds.shape[1] :])
    conditions = ours.condition(
        row["speaker_emb_BE"], row["prompt_ids_BP"], row["prompt_lengths_B"], row["emotion_B"]
    )
    start = (
        conditions.expand(2, -1, -1),
        ours.embed_text(text, torch.tensor([False, True])),
        ours.embed_speech(bos),
        ours.embed_speech(bos),
    )
    x = torch.cat(start, dim=1)
    caches = ours.tfmr.new_caches(2, x.shape[1] + speech.shape[1])
    apart = 0.0
    for number in range(speech.shape[1]):
        logits = ours.speech_head(ours.tfmr(x, caches)[:, -1])
        apart = max(apart, _apart(logits, expected[:, number]))
        if number + 1 < speech.shape[1]:
            x = ours.embed_speech(speech[:, number + 1 : number + 2], start=number + 1)
    return apart


def _texts() -> int:
    """How many texts were read; each has the ids that the package gives it."""
    from chatterbox.models.tokenizers import MTLTokenizer
    from chatterbox.mtl_tts import punc_norm

    from data_prep.recipes.espeak import read_sentences
    from dimts.families.chatterbox.stock import MULTILINGUAL
    from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer

    file = ROOT / "tests" / "data" / "chatterbox" / MULTILINGUAL
    theirs, ours = MTLTokenizer(str(file)), StockTokenizer.load(file)
    odd = ["Hello  there", "so: this; that...", "«é» – ﬁn?", "wait…", "one - two ,three", "№ 5 ½"]
    texts = [("en", text) for text in odd]
    for code in ("de", "es", "sw", "tr"):
        sentences = read_sentences(ROOT / "data_prep" / "base_texts" / f"{code}.txt.xz")
        texts += [(code, text) for text in sentences]
    for code, text in texts:
        expected = theirs.encode(punc_norm(text), language_id=code)
        assert ours.encode_any(text, code)[1:-1] == expected, (code, text)
    return len(texts)


def _folder(ours: T3, work: Path) -> dict[str, Any]:
    """A folder as published, with drawn weights: extended by Amharic, loaded by the package."""
    from chatterbox.models.s3gen import S3Gen
    from chatterbox.models.voice_encoder import VoiceEncoder
    from chatterbox.mtl_tts import ChatterboxMultilingualTTS, punc_norm

    from dimts.families.chatterbox.stock import MULTILINGUAL, open_stock, write_stock
    from dimts.families.chatterbox.vocabulary.tokenizer import StockTokenizer

    stock, out = work / "stock", work / "am"
    stock.mkdir()
    tokenizer = StockTokenizer.load(ROOT / "tests" / "data" / "chatterbox" / MULTILINGUAL)
    torch.save(VoiceEncoder().state_dict(), stock / "ve.pt")
    torch.save(S3Gen().state_dict(), stock / "s3gen.pt")
    (stock / "Cangjie5_TC.json").write_text("[]", encoding="utf-8")
    name = "t3_mtl23ls_v2.safetensors"
    write_stock(stock, ours.state_dict(), ours.config, tokenizer, name, beside=None)
    command = [sys.executable, "-m", "dimts", "extend", "--base", str(stock), "--language", "am"]
    subprocess.run([*command, "--related", "ar", "--out", str(out)], check=True, stdout=sys.stderr)
    loaded = ChatterboxMultilingualTTS.from_local(out, "cpu")
    weights = open_stock(out).weights()
    text = "ሰላም ለሁሉም። ዛሬ ጥሩ ቀን ነው፣ አይደል?"
    theirs = loaded.tokenizer.encode(punc_norm(f"[am]{text}"))
    extended = open_stock(out).tokenizer.encode(text, "am")
    state = loaded.t3.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in weights.items())
    assert [START_TEXT, *theirs, STOP_TEXT] == extended and 1 not in theirs, (theirs, extended)
    return {"loaded": True, "amharic_ids": len(theirs), "unknown": theirs.count(1)}


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max())


if __name__ == "__main__":
    main()
