"""What a bound key may sign: pure rules over content, marks and limits, without any I/O."""

from keyd.rules.case import Asked, Grave, History, Verdict
from keyd.rules.judging import judge, read

__all__ = ["Asked", "Grave", "History", "Verdict", "judge", "read"]
