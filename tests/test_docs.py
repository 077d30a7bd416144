import re
from pathlib import Path

import pytest

from kitspipe import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def section(title: str) -> str:
    """Text below a heading of any level, up to the next heading."""
    parts = re.split(r"^#+ (.+)$", README, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def files_in_readme() -> set[str]:
    """Paths below kitspipe/ in the README's tree; depth is told by indentation."""
    tree = section("Files").split("```")[1].strip().splitlines()
    found, folder = set(), ""
    for line in tree[1 : tree.index(next(line for line in tree if line.startswith("plans/")))]:
        depth = len(line) - len(line.lstrip())
        name = line.split()[0]
        if name.endswith("/"):
            folder = name
            found.add(name)
        else:
            found.add(name if depth == 2 else folder + name)
    return found


def files_on_disk() -> set[str]:
    package = ROOT / "kitspipe"
    modules = [path for path in package.rglob("*.py") if path.name != "__init__.py"]
    folders = {f"{path.parent.name}/" for path in modules if path.parent != package}
    return {path.relative_to(package).as_posix() for path in modules} | folders


def test_the_readmes_tree_is_the_files():
    assert files_in_readme() == files_on_disk()


def test_every_line_of_the_tree_says_what_the_file_is_for():
    tree = section("Files").split("```")[1].strip().splitlines()
    assert [line for line in tree[1:] if len(line.split()) < 3] == []


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_a_section_with_its_usage(command):
    assert f"\n`kitspipe_{command}" in section(command)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert f"kitspipe {command}" in shown
    assert cli.COMMANDS[command][0][1:20] in shown


def test_no_section_is_about_a_command_that_is_not_there():
    commands = README.split("\n## Commands\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^### (\w+)$", commands, re.MULTILINE)) == set(cli.COMMANDS)


@pytest.mark.parametrize("line", sorted(set(re.findall(r"\bkitspipe_[a-z_]+[^`\n&)]*", README))))
def test_options_in_the_readme_exist(line):
    # Only the arguments are parsed; nothing is run.
    command, *arguments = line.removeprefix("kitspipe_").split()
    parser = cli._parser(command, command)
    known = {option for action in parser._actions for option in action.option_strings}
    assert {word for word in arguments if word.startswith("-")} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_dependency_has_a_line_in_decisions():
    given = {"torch", "simpleitk", "batchgenerators", "numpy", "scipy", "joblib"}
    given |= {"connected-components-3d"}
    names = re.findall(r"^ {4}([A-Za-z0-9-]+)>=", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    lines = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8").splitlines()
    explained = {line.split("`")[1].lower() for line in lines if line.startswith("- `")}
    assert {name.lower() for name in names} - given <= explained


def test_decisions_are_dated_newest_first():
    text = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    dates = re.findall(r"^## (\S+)$", text, re.MULTILINE)
    assert dates == sorted(dates, reverse=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates)
