"""`nox`: the tests on each Python, style, types and documentation, each in a fresh environment."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.11", "3.12", "3.13"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The whole suite; arguments go to pytest: `nox -s tests-3.13 -- tests/unit`."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "tests", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and layers."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def types(session: nox.Session) -> None:
    """Both type checkers, as on that Python."""
    session.install("-e", ".[dev]")
    session.run("mypy", "--python-version", str(session.python))
    session.run("pyright", "--warnings", "--pythonversion", str(session.python))


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, where every warning is an error."""
    session.install("-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", "--site-dir", session.create_tmp())
