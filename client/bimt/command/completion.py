"""Completion for bash, zsh and fish, made from the very parser that reads the command line."""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "fish")
# Verbs after which files are offered, and what the file is.
FILES = {"upload": "file", "submit": "spec", "publish": "card", "pull": "folder", "film": "file", "onnx": "file"}

BASH = """\
# bash completion of bimt:  eval "$(bimt completion bash)"
_bimt() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" verb="${{COMP_WORDS[1]}}" words=""
    case "$verb $before" in
{choices}
    esac
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{verbs}"
    else
        case "$verb" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    case "$verb" in {files}) [ "$COMP_CWORD" -gt 1 ] && COMPREPLY+=($(compgen -f -- "$word"));; esac
}}
complete -F _bimt bimt"""


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """What a user of this shell evaluates once."""
    verbs = {name: _words(below) for name, below in _verbs(parser).items()}
    meanings = _meanings(parser)
    if shell == "bash":
        cases = "\n".join(f'            {name}) words="{" ".join(words)}";;' for name, words in verbs.items())
        choices = "\n".join(
            f'        "{name} {option}") COMPREPLY=($(compgen -W "{" ".join(known)}" -- "$word")); return;;'
            for name, below in _verbs(parser).items()
            for option, known in _choices(below).items()
        )
        return BASH.format(verbs=" ".join(verbs), cases=cases, choices=choices, files="|".join(FILES))
    if shell == "zsh":
        # zsh reads bash's functions once its bash mode is loaded.
        bash = script("bash", parser).partition("\n")[2]
        head = '# zsh completion of bimt:  eval "$(bimt completion zsh)"\nautoload -U +X compinit && compinit -u'
        return f"{head}\nautoload -U +X bashcompinit && bashcompinit\n{bash}"
    lines = ["# fish completion of bimt:  bimt completion fish | source"]
    for name, words in verbs.items():
        said = meanings[name].replace("'", r"\'")
        lines.append(f"complete -c bimt -n __fish_use_subcommand -f -a {name} -d '{said}'")
        here = f"complete -c bimt -n '__fish_seen_subcommand_from {name}'"
        if name not in FILES:
            lines.append(f"{here} -f")
        choices_of = _choices(_verbs(parser)[name])
        for word in words:
            known = f" -x -a '{' '.join(choices_of[word])}'" if word in choices_of else ""
            lines.append(f"{here} -l {word[2:]}{known}" if word.startswith("--") else f"{here} -f -a {word}")
    return "\n".join(lines)


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    below = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(below.choices)


def _meanings(parser: argparse.ArgumentParser) -> dict[str, str]:
    below = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {action.dest: action.help or "" for action in below._choices_actions}


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """The options of a verb, and the choices of its arguments."""
    words: list[str] = []
    for action in parser._actions:
        words += [name for name in action.option_strings if name.startswith("--")]
        if not action.option_strings and action.choices:
            words += [str(choice) for choice in action.choices]
    return words


def _choices(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Option → the words that may follow it, where only some may."""
    return {
        name: [str(choice) for choice in action.choices]
        for action in parser._actions
        for name in action.option_strings
        if action.choices
    }
