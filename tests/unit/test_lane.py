"""How tests are shared out between processes."""

from lane import Lane, shares


class Config:
    """As much of pytest's as a scheduler looks at before it has any test."""

    def getvalue(self, name: str) -> object:
        return {"tx": ["2*popen"], "maxprocesses": None}[name]


def test_tests_that_share_what_their_file_sets_up_go_to_one_process() -> None:
    lane = Lane(Config())
    of = lane._split_scope  # what it gives goes to one process
    assert of("tests/packaging/test_deb.py::test_a") == of("tests/packaging/test_deb.py::test_b[1]")
    assert of("tests/packaging/test_deb.py::test_a") != of("tests/packaging/test_wheel.py::test_a")
    assert of("tests/e2e/test_trains.py::test_a[1]") != of("tests/e2e/test_trains.py::test_a[2]")


def test_it_is_known_which_files_do() -> None:
    shared = ("packaging/test_deb", "packaging/test_wheel", "e2e/test_come_and_go", "e2e/test_why_flow")
    assert all(shares(f"tests/{each}.py") for each in shared)
    assert not any(shares(f"tests/{each}.py") for each in ("native/test_native", "e2e/test_trains"))
