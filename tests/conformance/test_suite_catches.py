"""The conformance suite fails for a backend that is broken in any of many ways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

from resilient.engine.backend import CAPABILITIES
from resilient.testing import conformance
from tests.conformance.broken import BROKEN, EXAMPLES, MODEL

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

PLUGINS = ("-p", "no:cacheprovider", "-p", "no:asyncio")

SUITES = {
    "locks": conformance.LockConformance,
    "circuits": conformance.CircuitConformance,
    "cache": conformance.CacheConformance,
    "idempotency": conformance.IdempotencyConformance,
    "checkpoints": conformance.CheckpointConformance,
}
WHICH = {MODEL: "answers_like_the_model", EXAMPLES: "not answers_like_the_model"}


@pytest.fixture(autouse=True)
def _without_shrinking() -> Iterator[None]:
    """That there is a failing history is enough: it need not be the shortest."""
    before = settings()
    settings.register_profile("found is enough", phases=[Phase.generate])
    settings.load_profile("found is enough")
    yield
    settings.register_profile("as before", before)
    settings.load_profile("as before")


def run(pytester: pytest.Pytester, module: str, which: str) -> pytest.RunResult:
    """Run some of a suite's tests on sync callers, up to the first failure."""
    pytester.makepyfile(test_it=module)
    chosen = ("-k", f"{WHICH[which]} and not async")
    # The same histories each time: whether they notice a fault is no matter of luck.
    return pytester.runpytest_inprocess("-x", "-q", *PLUGINS, "--hypothesis-seed=0", *chosen)


def suite(capability: str, source: str, backend: str) -> str:
    """A test module of somebody who tests a backend."""
    return f"""
        from resilient.engine.clock import ManualClock
        from resilient.testing.conformance import {SUITES[capability].__name__}
        {source}

        class TestIt({SUITES[capability].__name__}):
            clock = ManualClock()
            examples = 200

            def backend(self):
                return {backend}
        """


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_whole_backend_passes(pytester: pytest.Pytester, capability: str) -> None:
    """What the others are broken from passes: so a failure of theirs is the fault's."""
    source = "from resilient.backends.memory import MemoryBackend"
    module = suite(capability, source, "MemoryBackend()")
    for which in WHICH:
        assert run(pytester, module, which).ret == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("name", "which"),
    [(name, which) for name, broken in BROKEN.items() for which in broken.noticed_by],
)
def test_broken_backend_fails(pytester: pytest.Pytester, name: str, which: str) -> None:
    """A backend with one fault fails, by the model and by the examples."""
    source = "from tests.conformance.broken import BROKEN"
    module = suite(BROKEN[name].capability, source, f"BROKEN[{name!r}].backend()")
    result = run(pytester, module, which)
    assert result.ret == pytest.ExitCode.TESTS_FAILED, f"nobody noticed: {BROKEN[name].__doc__}"
    assert result.parseoutcomes() == {"failed": 1, **_passed(result)}


def _passed(result: pytest.RunResult) -> dict[str, int]:
    return {k: v for k, v in result.parseoutcomes().items() if k in ("passed", "deselected")}


@pytest.mark.process
@pytest.mark.parametrize(
    "test",
    ["exact_counter", "one_of_64_claims", "so_many_probes", "all_outcomes", "woken_by_another"],
)
def test_unshared_backend_fails(pytester: pytest.Pytester, test: str) -> None:
    """Processes that share nothing are noticed: each has a memory of its own here."""
    pytester.makepyfile(
        test_it="""
        from resilient.testing.conformance import ProcessConformance

        class TestIt(ProcessConformance):
            processes = 2

            def url(self):
                return "memory://"
        """
    )
    for _ in range(3):  # two processes that never meet in time lose nothing by it
        result = pytester.runpytest_inprocess("-x", "-q", *PLUGINS, "-k", test)
        if result.ret == pytest.ExitCode.TESTS_FAILED:
            break
    assert result.ret == pytest.ExitCode.TESTS_FAILED
