"""New tokens on old rows: the base's stay, the new ones start as they are told to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dimts.core.config import build_config
from dimts.core.errors import ConfigError
from dimts.families.acoustic.bundle import build_model
from dimts.families.acoustic.extension.rows import (
    FACTOR,
    TOKEN,
    Extension,
    extend_rows,
    not_covered,
    std_of,
)
from dimts.families.acoustic.model.config import EncoderConfig, ModelConfig
from dimts.families.acoustic.model.t3 import T3
from dimts.families.acoustic.settings import StartMethod
from dimts.text.language import Language, load_language
from dimts.text.merging import merge
from dimts.text.normaliser import TextConfig
from dimts.text.tokenizer import Tokenizer
from dimts.text.transliteration import Transliteration, load_transliteration

WIDTH = 64
Extend = Callable[..., dict[str, Tensor]]
METHODS: tuple[StartMethod, ...] = ("transliteration", "mean", "nearest", "random")


def text_of(code: str) -> TextConfig:
    return TextConfig(language=code)


def model_of(tokenizer: Tokenizer, **encoder: object) -> T3:
    values = {"layers": 1, "heads": 2, "feed_forward": 16, "dropout": 0.0, **encoder}
    config = ModelConfig(width=WIDTH, encoder=build_config(EncoderConfig, values))
    torch.manual_seed(1)
    model = build_model(config, tokenizer, torch.zeros(5), torch.ones(5)).eval()
    torch.nn.init.normal_(model.duration.out.weight, std=0.3)
    return model


@pytest.fixture(scope="module")
def amharic() -> Language:
    return load_language("am")


@pytest.fixture(scope="module")
def spelling(amharic: Language) -> Transliteration:
    return load_transliteration("am", amharic)


@pytest.fixture(scope="module")
def base() -> Tokenizer:
    return Tokenizer.from_languages(
        [(load_language(code), text_of(code)) for code in ("es", "tr", "de")]
    )


@pytest.fixture(scope="module")
def merged(base: Tokenizer, amharic: Language) -> Tokenizer:
    return merge(base, amharic, text_of("am"))


@pytest.fixture(scope="module")
def weights(base: Tokenizer) -> dict[str, Tensor]:
    """Of a base whose letters have a mean and a spread of their own in each channel."""
    weights = dict(model_of(base).state_dict())
    generator = torch.Generator().manual_seed(2)
    draw = torch.randn(2, WIDTH, generator=generator)
    weights[TOKEN] = weights[TOKEN] * (1 + draw[0].abs()) + 0.3 * draw[1]
    weights[TOKEN][0] = 0.0
    return weights


@pytest.fixture(scope="module")
def extend(
    weights: dict[str, Tensor],
    base: Tokenizer,
    merged: Tokenizer,
    spelling: Transliteration,
) -> Extend:
    """``extend("mean")``: the base's weights with Amharic's rows."""

    def by(
        method: StartMethod, table: Transliteration | None = spelling, seed: int = 0
    ) -> dict[str, Tensor]:
        return extend_rows(weights, Extension(base, merged, method, table, seed))

    return by


def vectors(weights: dict[str, Tensor], tokenizer: Tokenizer) -> Tensor:
    """[V, D]: own row plus factors' rows."""
    factors_VF = torch.from_numpy(tokenizer.factors.copy())
    total = weights[TOKEN].clone()
    for i in range(factors_VF.shape[1]):
        total += weights[FACTOR.format(i)][factors_VF[:, i]]
    return total


def letters_of(base: Tokenizer, weights: dict[str, Tensor]) -> Tensor:
    return weights[TOKEN][[i for i, t in enumerate(base.tokens) if t.isalpha()]]


def rows(weights: dict[str, Tensor], tokenizer: Tokenizer, tokens: str) -> Tensor:
    return vectors(weights, tokenizer)[[tokenizer.tokens.index(t) for t in tokens]]


# What every start has in common


@pytest.mark.parametrize("method", METHODS)
def test_base_says_the_same_after_it_was_extended(
    extend: Extend,
    base: Tokenizer,
    merged: Tokenizer,
    weights: dict[str, Tensor],
    method: StartMethod,
) -> None:
    """Bit for bit: the weights fit a model of the merged vocabulary, and base texts sound alike."""
    extended = extend(method)
    assert torch.equal(extended[TOKEN][: base.n_vocab], weights[TOKEN])
    assert all(torch.equal(extended[n], weights[n]) for n in weights.keys() - {TOKEN})
    before, after = model_of(base), model_of(merged)
    before.load_state_dict(weights)
    after.load_state_dict(extended)
    ids = torch.tensor([base.encode("Guten Tag, wie geht es dir?", "de")])
    n = torch.tensor([ids.shape[1]])
    assert torch.equal(before(ids, n).mel_BTM, after(ids, n).mel_BTM)


@pytest.mark.parametrize("method", METHODS)
def test_start_depends_on_seed_alone(extend: Extend, method: StartMethod) -> None:
    one, same, other = (extend(method, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert all(t.isfinite().all() and t.dtype == torch.float32 for t in one.values())
    differs = any(not torch.equal(one[name], other[name]) for name in one)
    assert differs == (method in ("mean", "random")), "nothing that is covered is drawn"


@pytest.mark.parametrize("method", METHODS)
def test_new_language_starts_between_the_base_languages(
    extend: Extend,
    base: Tokenizer,
    merged: Tokenizer,
    weights: dict[str, Tensor],
    method: StartMethod,
) -> None:
    extended = extend(method)
    assert merged.start_ids["am"] >= base.n_vocab
    starts = weights[TOKEN][list(base.start_ids.values())]
    assert torch.equal(extended[TOKEN][merged.start_ids["am"]], starts.mean(0))
    for i in range(2):
        assert not extended[FACTOR.format(i)][0].any(), "row 0 is 'none'"


# One by one


def test_mean_has_the_mean_and_spread_of_the_base_letters(
    extend: Extend,
    base: Tokenizer,
    merged: Tokenizer,
    weights: dict[str, Tensor],
    amharic: Language,
) -> None:
    new = rows(extend("mean", None), merged, "".join(amharic.syllables.factors))  # type: ignore[union-attr]
    old = letters_of(base, weights)
    assert torch.corrcoef(torch.stack((new.mean(0), old.mean(0))))[0, 1] > 0.8
    assert torch.corrcoef(torch.stack((new.std(0), old.std(0))))[0, 1] > 0.5
    assert std_of(new).item() == pytest.approx(std_of(old).item(), rel=0.15)


def test_random_is_an_untrained_model(extend: Extend, merged: Tokenizer, base: Tokenizer) -> None:
    extended = extend("random", None)
    new = extended[TOKEN][base.n_vocab + 1 :]
    assert new.std().item() == pytest.approx(WIDTH**-0.5, rel=0.05)
    assert abs(new.mean().item()) < 0.01
    assert extended[FACTOR.format(0)][1:].std().item() == pytest.approx(WIDTH**-0.5, rel=0.1)


def test_nearest_copies_the_first_letter(
    extend: Extend, base: Tokenizer, merged: Tokenizer, weights: dict[str, Tensor]
) -> None:
    extended = extend("nearest")
    assert torch.equal(rows(extended, merged, "ሰሱጸሸ።፣"), rows(weights, base, "sstş.,"))


def test_transliteration_sounds_like_its_letters(
    extend: Extend,
    base: Tokenizer,
    merged: Tokenizer,
    weights: dict[str, Tensor],
    amharic: Language,
) -> None:
    """Each syllable is nearest, of all the letters, to those that spell it."""
    extended = extend("transliteration")
    mean = letters_of(base, weights).mean(0)
    for syllable, spelled in {"ሰ": "se", "ሙ": "mu", "ላ": "la", "ሺ": "şi", "ኞ": "ño"}.items():
        vector = rows(extended, merged, syllable)[0] - mean
        alphabet = [t for t in base.tokens if t.isalpha()]
        likeness = torch.cosine_similarity(vector, rows(weights, base, "".join(alphabet)) - mean)
        nearest = {alphabet[i] for i in likeness.topk(2).indices.tolist()}
        assert nearest == set(spelled), syllable
    assert not extended[TOKEN][merged.tokens.index("ሰ")].any(), "all of it is in its factors"
    assert torch.equal(rows(extended, merged, "።፣"), rows(weights, base, ".,"))
    new = rows(extended, merged, "".join(amharic.syllables.factors))  # type: ignore[union-attr]
    assert std_of(new).item() == pytest.approx(std_of(letters_of(base, weights)).item(), rel=0.02)
    assert (new.mean(0) - mean).abs().mean() < 0.5 * mean.abs().mean()


def test_silent_consonant_leaves_the_vowel_alone(
    extend: Extend, base: Tokenizer, merged: Tokenizer, weights: dict[str, Tensor]
) -> None:
    """ኢ is spelled i."""
    mean = letters_of(base, weights).mean(0)
    vectors = rows(extend("transliteration"), merged, "ኢኡ") - mean
    letters = rows(weights, base, "iu") - mean
    assert torch.cosine_similarity(vectors, letters).min() > 0.99


# What is not covered


def partial(spelling: Transliteration) -> Transliteration:
    """Without the consonant l, the vowel o and the full stop."""
    return Transliteration(
        language="am",
        consonants={k: v for k, v in spelling.consonants.items() if k != "l"},
        vowels={k: v for k, v in spelling.vowels.items() if k != "o"},
        letters={k: v for k, v in spelling.letters.items() if k != "።"},
    )


def test_what_is_not_covered_is_named(
    base: Tokenizer, merged: Tokenizer, spelling: Transliteration
) -> None:
    assert not_covered(base, merged, spelling) == ()
    missing = not_covered(base, merged, partial(spelling))
    assert {"።", "ላ", "ሎ", "ሶ"} <= set(missing)
    assert not {"ሰ", "፣", "<am>"} & set(missing)


@pytest.mark.parametrize("method", ["transliteration", "nearest"])
def test_what_is_not_covered_starts_by_the_mean(
    extend: Extend,
    merged: Tokenizer,
    base: Tokenizer,
    spelling: Transliteration,
    method: StartMethod,
) -> None:
    whole, less, drawn = extend(method), extend(method, partial(spelling)), extend("mean")
    assert torch.equal(rows(less, merged, "።"), rows(drawn, merged, "።"))
    assert not torch.equal(rows(less, merged, "ላ"), rows(whole, merged, "ላ"))
    assert rows(less, merged, "ላ").abs().sum() > 0
    if method == "transliteration":
        row = int(merged.factors[merged.tokens.index("ላ")][0])
        assert torch.equal(less[FACTOR.format(0)][row], drawn[FACTOR.format(0)][row])
    else:
        assert torch.equal(rows(less, merged, "ሰ፣"), rows(whole, merged, "ሰ፣"))


# Further languages, sub-words, other widths


def test_further_language_shares_the_rows_of_the_first(
    extend: Extend, base: Tokenizer, merged: Tokenizer
) -> None:
    """Tigrinya after Amharic: shared consonants and vowels stay, its own are added."""
    tigrinya = load_language("ti")
    third = merge(merged, tigrinya, text_of("ti"))
    before = extend("transliteration")
    table = load_transliteration("ti", tigrinya)
    after = extend_rows(before, Extension(merged, third, "transliteration", table, 0))
    assert third.n_vocab > merged.n_vocab
    for name in (TOKEN, FACTOR.format(0), FACTOR.format(1)):
        assert torch.equal(after[name][: len(before[name])], before[name])
    assert len(after[FACTOR.format(0)]) == third.factor_sizes[0] > merged.factor_sizes[0]
    model_of(third).load_state_dict(after)
    assert not_covered(merged, third, table) == ()


def test_subword_starts_as_all_of_its_letters(
    base: Tokenizer, amharic: Language, spelling: Transliteration, weights: dict[str, Tensor]
) -> None:
    longer = merge(base, amharic, text_of("am"), 3, ["ሰላም ሰላም", "ሰላም ሙሉ"])
    subword = next(t for t in longer.tokens[base.n_vocab :] if len(t) == 2)
    extended = extend_rows(weights, Extension(base, longer, "transliteration", spelling, 0))
    spelled = "".join(spelling.spell(c, amharic) or "" for c in subword)
    own = extended[TOKEN][longer.tokens.index(subword)]
    assert torch.allclose(own, rows(weights, base, spelled).mean(0), atol=1e-6)


def test_rows_of_another_width_are_extended_in_it(
    base: Tokenizer, merged: Tokenizer, spelling: Transliteration
) -> None:
    wide = dict(model_of(base, embedding_width=96).state_dict())
    extended = extend_rows(wide, Extension(base, merged, "transliteration", spelling, 0))
    assert extended[TOKEN].shape == (merged.n_vocab, 96)
    model_of(merged, embedding_width=96).load_state_dict(extended)


def test_projected_embedding_is_as_spread_as_a_plain_one(base: Tokenizer) -> None:
    ids = torch.arange(1, base.n_vocab)[None]
    with torch.no_grad():
        for width in (16, 256):
            vectors = model_of(base, embedding_width=width).encoder.embedding(ids)
            assert vectors.shape == (1, base.n_vocab - 1, WIDTH)
            assert vectors.std().item() == pytest.approx(1.0, rel=0.15)


def test_width_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"embedding_width \(192\) has no effect"):
        build_config(ModelConfig, {"width": 192, "encoder": {"embedding_width": 192}})


@torch.no_grad()
def test_language_is_heard_at_every_token(base: Tokenizer) -> None:
    """With it, two languages differ at each token before any attention; without, at the first."""
    tokens = torch.tensor([base.encode("la casa", "es")] * 2)
    tokens[1, 0] = base.start_ids["tr"]
    heard: dict[bool, list[bool]] = {}
    for everywhere in (False, True):
        encoder = model_of(base, language_everywhere=everywhere).encoder
        encoder.blocks = torch.nn.ModuleList()
        x_BND = encoder(tokens, torch.ones_like(tokens, dtype=torch.bool))
        heard[everywhere] = (x_BND[0] != x_BND[1]).any(-1).tolist()
    n = tokens.shape[1]
    assert heard == {False: [True] + [False] * (n - 1), True: [True] * n}
