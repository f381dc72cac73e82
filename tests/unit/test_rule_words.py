"""Lines of a batch: read fast, and as the command line would read them."""

import pytest

from mcr.cli import batch

LINE = "--input-interface eth0 --input-group 239.1.1.1 --input-port 5000 --outputs 239.2.2.2:5001:eth1"


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        f"{LINE} --outputs 239.9.9.9:1:eth3 --rule-id one --name two",
        f"--name two {LINE}",
        "--outputs 239.9.9.9:1:eth3",
    ],
)
def test_plain_lines_of_a_batch_are_read_as_click_would(line: str) -> None:
    words = line.split()
    assert batch._plain_options(words) == batch._batch_line.make_context("mcrctl add", words).params


@pytest.mark.parametrize("end", ["--name", "--name=x", "--name -x", "--nam x", "x", "--name a --name b"])
def test_other_lines_are_left_to_click(end: str) -> None:
    assert batch._plain_options([*LINE.split(), *end.split()]) is None
