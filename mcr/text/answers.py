"""What is said of hosts that do not answer."""

from typing import Final

NO_ANSWER: Final = "does not answer"
"""Of a host, in the reason of an output that waits for it: by that the reason is known wherever it is shown."""
