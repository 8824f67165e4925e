#!/bin/sh
# Makes bases/vocoder anew, from the root of the repository: sh bases/vocoder/make.sh
# Needs apt-get, ffmpeg and the packages that README.md beside this names; PYTHON is what runs dimts.
set -e
dimts="${PYTHON:-.venv/bin/python} -m dimts"
mkdir -p corpora/texts
texts=corpora/texts

$dimts asterisk-corpus --out corpora/asterisk_en
cut -d'|' -f2 corpora/asterisk_en/metadata.csv > $texts/en.txt
head -70 $texts/en.txt > $texts/en_first.txt
tail -60 $texts/en.txt > $texts/en_last.txt
xzcat data_prep/sample_am/sentences.txt.xz | head -220 > $texts/am.txt
tail -40 $texts/am.txt > $texts/am_last.txt
for language in es de sw; do
    xzcat data_prep/base_texts/$language.txt.xz | head -50 > $texts/$language.txt
done

speak() { # engine, language, texts
    $dimts sample-corpus --engine $1 --voice $2 --sentences $texts/$3.txt --out corpora/$1_$2
}
speak hibari en en
speak hibari am am
speak kokoro-alpha es es
speak kokoro-gongitsune am am_last
speak kokoro-kumo en en_first
speak kokoro-kumo sw sw
speak kokoro-nezumi de de
speak kokoro-tebukuro en en_last

for name in asterisk_en hibari_en hibari_am kokoro-alpha_es kokoro-gongitsune_am kokoro-kumo_en \
    kokoro-kumo_sw kokoro-nezumi_de kokoro-tebukuro_en; do
    language=${name##*_}
    $dimts prepare --config vocoder/universal --set corpus.path=corpora/$name \
        --set corpus.language=$language --set text.language=$language \
        --set prepare.features=features/vocoder/$name
done

$dimts train --config vocoder/universal
${PYTHON:-.venv/bin/python} -c 'from pathlib import Path
from dimts.families.vocoder.bundle import export_bundle
export_bundle(Path("runs/vocoder_universal"), Path("bases/vocoder"))'
