"""Corpora that can be had: one file each, which fetches and makes an LJSpeech folder."""
