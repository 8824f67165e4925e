"""Make an LJSpeech corpus of a real English speaker from Debian's Asterisk prompts."""

from dimts.cli import run_command

if __name__ == "__main__":
    run_command("asterisk-corpus")
