#!/bin/sh
# Makes bases/natural anew, from the root of the repository: sh bases/natural/make.sh
# Needs what bases/vocoder/README.md names for the voices of Kokoro; PYTHON is what runs dimts.
set -e
dimts="${PYTHON:-.venv/bin/python} -m dimts"
mkdir -p corpora/texts

[ -d corpora/asterisk_en ] || $dimts asterisk-corpus --out corpora/asterisk_en
for voice in alpha_es kumo_sw nezumi_de; do
    name=${voice%_*} language=${voice#*_}
    xzcat data_prep/base_texts/$language.txt.xz | head -50 > corpora/texts/$language.txt
    $dimts sample-corpus --engine kokoro-$name --voice $language \
        --sentences corpora/texts/$language.txt --out corpora/kokoro-${name}_$language
done

$dimts pretrain --config jobs/configs/mix/natural.yaml --export bases/natural
