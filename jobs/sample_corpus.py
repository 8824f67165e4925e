"""Make a sample corpus: speak a file of sentences with espeak-ng into an LJSpeech folder."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("sample-corpus")
